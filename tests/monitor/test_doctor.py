"""What the doctor says of the model and of Triton; no service is started."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from monitor import doctor, triton
from monitor.doctor import Finding, findings
from monitor.settings import Settings
from tests.monitor.fakes import write_package


class FakeTriton:
    """Stands in for the backend: ready for the models in `loaded`, and remembers which it was asked about."""

    loaded: ClassVar[set[str]] = {"encoder", "verifier"}
    asked: ClassVar[list[str]] = []

    def __init__(self, _: object, spec: Any, **__: Any) -> None:
        self._model = spec.model

    async def ready(self) -> bool:
        self.asked.append(self._model)
        return self._model in self.loaded

    async def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _no_services(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(_: Settings) -> str:
        return "answers"

    monkeypatch.setattr(doctor, "_kafka", answers)
    monkeypatch.setattr(triton, "TritonBackend", FakeTriton)
    monkeypatch.setattr(FakeTriton, "asked", [])


def found(what: str, settings: Settings) -> Finding:
    return next(f for f in findings(settings) if f.what == what)


@pytest.mark.parametrize(
    ("verified", "verify", "said"),
    [(True, True, ", verifier,"), (True, False, "verifier switched off"), (False, True, "no verifier")],
)
def test_the_report_says_whether_the_model_verifies(tmp_path: Path, verified: bool, verify: bool, said: str) -> None:
    model = write_package(tmp_path, verified=verified)
    finding = found("model", Settings(model=model, verify=verify))
    assert finding.ok
    assert said in finding.detail


def test_a_package_that_does_not_fit_is_a_finding(tmp_path: Path) -> None:
    finding = found("model", Settings(model=write_package(tmp_path, verified=True, combination=None)))
    assert not finding.ok
    assert "belong together" in finding.detail


@pytest.mark.parametrize(
    ("verified", "verify", "asked"),
    [(True, True, ["encoder", "verifier"]), (True, False, ["encoder"]), (False, True, ["encoder"])],
)
def test_triton_is_asked_for_the_models_that_will_be_used(
    tmp_path: Path, verified: bool, verify: bool, asked: list[str]
) -> None:
    model = write_package(tmp_path, verified=verified)
    assert found("triton", Settings(model=model, scorer="triton", verify=verify)).ok
    assert FakeTriton.asked == asked


def test_a_triton_without_the_verifier_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTriton, "loaded", {"encoder"})
    finding = found("triton", Settings(model=write_package(tmp_path, verified=True), scorer="triton"))
    assert not finding.ok
    assert "`verifier` is not loaded" in finding.detail
