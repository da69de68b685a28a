"""What the doctor says of the model and of Triton: one line each, with what to do; the server is the bundled one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from monitor import doctor, triton
from monitor.doctor import Finding, findings
from monitor.package import ModelPackage
from monitor.settings import Settings
from tests.fixtures_services import TRITON_VENV, LocalTriton, free_ports
from tests.fixtures_variants import variant
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

    async def infer(self, *_: object) -> list[object]:
        return []

    async def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _no_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(_: Settings) -> str:
        return "answers"

    monkeypatch.setattr(doctor, "_kafka", answers)


@pytest.fixture
def fake_triton(monkeypatch: pytest.MonkeyPatch) -> type[FakeTriton]:
    async def live(_: str) -> bool:
        return True

    monkeypatch.setattr(doctor, "_live", live)
    monkeypatch.setattr(triton, "TritonBackend", FakeTriton)
    monkeypatch.setattr(FakeTriton, "asked", [])
    return FakeTriton


def found(what: str, settings: Settings) -> Finding:
    finding = next(f for f in findings(settings) if f.what == what)
    assert "\n" not in finding.detail
    return finding


# The model


@pytest.mark.parametrize(
    ("verified", "verify", "said"),
    [(True, True, ", verifier,"), (True, False, "verifier switched off"), (False, True, "no verifier")],
)
def test_the_report_says_whether_the_model_verifies(tmp_path: Path, verified: bool, verify: bool, said: str) -> None:
    model = write_package(tmp_path, verified=verified)
    finding = found("model", Settings(model=model, verify=verify))
    assert finding.ok
    assert said in finding.detail


def spoil(field: str, value: object) -> Callable[[Path], None]:
    def change(package: Path) -> None:
        manifest = json.loads((package / "manifest.json").read_text())
        manifest[field] = value
        (package / "manifest.json").write_text(json.dumps(manifest))

    return change


@pytest.mark.parametrize(
    ("change", "wrong", "to_do"),
    [
        (lambda p: (p / "manifest.json").unlink(), "no model package", "run `guardline demo` or `guardline train`"),
        (lambda p: (p / "manifest.json").write_text("{"), "Invalid JSON", "export the package again"),
        (lambda p: (p / "tokenizer.json").write_text("{}"), "is not the file that was exported", "export the package"),
        (lambda p: (p / "tokenizer.json").unlink(), "tokenizer.json is missing", "export the package again"),
        (spoil("schema_version", 9), "manifest schema 9", "upgrade guardline"),
        (spoil("thresholds", {}), "thresholds.unsafe: Field required", "export the package again"),
        (spoil("combination", None), "belong together", "export the package again"),
    ],
)
def test_a_wrong_package_is_a_line_that_says_what_to_do(
    tmp_path: Path, change: Callable[[Path], None], wrong: str, to_do: str
) -> None:
    change(model := write_package(tmp_path, verified=True))
    finding = found("model", Settings(model=model))
    assert not finding.ok
    assert wrong in finding.detail
    assert to_do in finding.detail
    assert "GUARDLINE_MODEL" in finding.detail


# Triton


@pytest.mark.parametrize(
    ("verified", "verify", "asked"),
    [(True, True, ["encoder", "verifier"]), (True, False, ["encoder"]), (False, True, ["encoder"])],
)
def test_triton_is_asked_for_the_models_that_will_be_used(
    tmp_path: Path, fake_triton: type[FakeTriton], verified: bool, verify: bool, asked: list[str]
) -> None:
    model = write_package(tmp_path, verified=verified)
    assert found("triton", Settings(model=model, scorer="triton", verify=verify)).ok
    assert fake_triton.asked == asked


def test_a_wrong_package_is_not_put_on_triton(tmp_path: Path, fake_triton: type[FakeTriton]) -> None:
    settings = Settings(model=tmp_path, scorer="triton")
    assert not found("model", settings).ok
    finding = found("triton", settings)
    assert finding.ok
    assert "the package cannot be used" in finding.detail
    assert fake_triton.asked == []


def test_no_server_is_a_line_that_says_what_to_do() -> None:
    url = f"127.0.0.1:{free_ports(1)[0]}"
    finding = found("triton", Settings(scorer="triton", triton_url=url))
    assert not finding.ok
    assert f"{url} does not answer" in finding.detail
    assert finding.detail.endswith("set GUARDLINE_TRITON_URL (host:port of gRPC), or GUARDLINE_SCORER=onnx")


@pytest.mark.connected
def test_a_server_with_the_package_is_well(triton: LocalTriton, model_package: ModelPackage) -> None:
    finding = found("triton", Settings(scorer="triton", triton_url=triton.url))
    assert finding.ok, finding.detail
    assert f"serves encoder and verifier of {model_package.manifest.name}" in finding.detail


@pytest.mark.connected
def test_a_server_with_other_weights_is_a_mismatch(
    triton: LocalTriton, model_package: ModelPackage, tmp_path: Path
) -> None:
    other = variant(model_package, tmp_path / "other", "20990101.00000000")
    finding = found("triton", Settings(model=other.path, scorer="triton", triton_url=triton.url))
    assert not finding.ok
    assert "serves another encoder" in finding.detail
    assert other.sha256(other.manifest.encoder)[:12] in finding.detail
    assert "guardline promote" in finding.detail
    assert "does not answer" not in finding.detail


@pytest.mark.connected
def test_a_server_without_the_verifier_is_a_line_that_says_what_to_do(
    model_package: ModelPackage, tmp_path: Path
) -> None:
    if not (TRITON_VENV / "bin" / "python").exists():
        pytest.skip("no .venv-triton: `make test` makes it (deploy/triton/requirements.txt)")
    (tmp_path / "encoder").symlink_to(model_package.path / "encoder")
    with LocalTriton(tmp_path, venv=TRITON_VENV) as server:
        finding = found("triton", Settings(scorer="triton", triton_url=server.url))
    assert not finding.ok
    assert "answers, but its model `verifier` is not loaded: load it there" in finding.detail
    assert str(model_package.path) in finding.detail
