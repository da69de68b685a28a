from pathlib import Path

import pytest

from monitor import factory
from monitor.factory import build_assessment, build_screening, build_store, build_thresholds
from monitor.memory import MemoryStore
from monitor.microbatching import Backend
from monitor.package import EncoderSpec, ModelPackage, VerifierSpec
from monitor.records import Thresholds
from monitor.settings import Settings
from monitor.types import Message, Verdict
from tests.monitor.fakes import FakeBackend, FakePairBackend, make_package, make_tokenizer, write_package


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


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were opened, each with a fake in its place."""
    names: list[str] = []

    def build(_: Settings, __: ModelPackage, spec: EncoderSpec | VerifierSpec) -> Backend:
        names.append(spec.model)
        return (FakePairBackend if isinstance(spec, VerifierSpec) else FakeBackend)(make_tokenizer())

    monkeypatch.setattr(factory, "build_backend", build)
    return names


@pytest.mark.parametrize(
    ("verified", "switch", "models", "path", "unsafe"),
    [
        (True, "true", ["encoder", "verifier"], "verified", 0.7),
        (True, "", ["encoder", "verifier"], "verified", 0.7),
        (True, "false", ["encoder"], "fast", 0.8),
        (False, "true", ["encoder"], "fast", 0.8),
    ],
)
async def test_the_verifier_is_used_where_there_is_one_and_it_is_not_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str],
    verified: bool, switch: str, models: list[str], path: str, unsafe: float,
) -> None:  # fmt: skip
    monkeypatch.setenv("GUARDLINE_VERIFY", switch)
    settings, package = Settings(), ModelPackage.load(write_package(tmp_path, verified=verified))
    own = build_assessment(settings, package)
    assert (opened, own.path) == (models, path)
    assert build_thresholds(settings, package).unsafe == unsafe
    await own.close()


async def test_messages_go_through_both_models(tmp_path: Path, opened: list[str]) -> None:
    package = ModelPackage.load(write_package(tmp_path, verified=True))
    screening = build_screening(Settings(), package, MemoryStore())
    texts = ("The remdesivir loading is wrong.", "The remdesivir loading is filler.", "Remdesivir is of the filler.")
    results = await screening.screen([Message(str(i), text) for i, text in enumerate(texts)])
    assert [r.verdict for r in results] == [Verdict.UNSAFE, Verdict.SAFE, Verdict.OUT_OF_SCOPE]
    assert opened == ["encoder", "verifier"]
    await screening.close()
