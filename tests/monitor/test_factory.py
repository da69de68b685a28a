import pytest

from monitor.factory import build_store, build_thresholds
from monitor.memory import MemoryStore
from monitor.records import Thresholds
from monitor.settings import Settings
from tests.monitor.fakes import make_package


@pytest.mark.parametrize(
    ("unsafe", "review", "expected"),
    [
        (None, None, (0.8, 0.4)),
        (0.9, None, (0.9, 0.4)),
        (None, 0.5, (0.8, 0.5)),
        (0.3, None, (0.3, 0.3)),
        (0.9, 0.95, (0.9, 0.9)),
        (0.0, 0.0, (0.0, 0.0)),
        (1.0, 1.0, (1.0, 1.0)),
    ],
)
def test_thresholds_of_the_settings_win_and_the_band_is_never_upside_down(
    unsafe: float | None, review: float | None, expected: tuple[float, float]
) -> None:
    settings = Settings(threshold_unsafe=unsafe, threshold_review=review)
    built = build_thresholds(settings, make_package())
    assert built == Thresholds(unsafe=expected[0], review=expected[1], in_scope=0.5)


def test_the_store_is_in_memory_unless_asked_otherwise() -> None:
    assert isinstance(build_store(Settings(store="memory")), MemoryStore)
