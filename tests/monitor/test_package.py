"""What `tests/trainer/test_export.py` leaves open about reading a package."""

import json
from pathlib import Path
from typing import Any

import pytest

from monitor.errors import ConfigurationError, ModelMismatch
from monitor.package import ModelPackage
from tests.monitor.fakes import combination_dict, logistic_dict, manifest_dict, write_package


def test_a_package_knows_its_files(tmp_path: Path) -> None:
    package = ModelPackage.load(write_package(tmp_path))
    assert (package.reference.name, package.reference.version) == ("tiny", "1.0.0")
    assert package.tokenizer == tmp_path / "tokenizer.json"
    assert package.onnx(package.manifest.encoder) == tmp_path / "encoder" / "1" / "model.onnx"


@pytest.mark.parametrize("where", ["nothing", "", "manifest.json"])
def test_without_a_package_the_error_says_how_to_get_one(tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigurationError, match=r"guardline train.*--model"):
        ModelPackage.load(tmp_path / where)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"null"], ids=repr)
def test_a_manifest_that_is_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ModelMismatch, match=r"manifest\.json"):
        ModelPackage.load(tmp_path)


@pytest.mark.parametrize("name", ["alignment", "category"])
def test_heads_of_uneven_rows_are_refused(tmp_path: Path, name: str) -> None:
    write_package(tmp_path)
    manifest = manifest_dict()
    manifest[name]["weights"][0] = [0.0]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelMismatch, match=name):
        ModelPackage.load(tmp_path)


# With and without a verifier


@pytest.mark.parametrize("nulls", [False, True], ids=["absent", "null"])
def test_a_package_without_a_verifier_is_valid(tmp_path: Path, nulls: bool) -> None:
    write_package(tmp_path)
    fields = {"verifier": None, "combination": None} if nulls else {}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest_dict(**fields)))
    package = ModelPackage.load(tmp_path)
    assert (package.manifest.schema_version, package.manifest.verifier) == (1, None)
    assert package.thresholds(verified=True) == package.thresholds(verified=False) == package.manifest.thresholds


def test_a_package_with_a_verifier_has_its_files_and_thresholds(tmp_path: Path) -> None:
    package = ModelPackage.load(write_package(tmp_path, verified=True))
    spec = package.manifest.verifier
    assert package.manifest.schema_version == 2
    assert spec is not None
    assert package.onnx(spec) == tmp_path / "verifier" / "1" / "model.onnx"
    assert package.verifier_tokenizer == tmp_path / "verifier_tokenizer.json"
    assert package.thresholds(verified=True).unsafe == 0.7
    assert package.thresholds(verified=False).unsafe == 0.8


@pytest.mark.parametrize("missing", ["verifier", "combination"])
def test_verifier_and_combination_come_together(tmp_path: Path, missing: str) -> None:
    write_package(tmp_path, verified=True, **{missing: None})
    with pytest.raises(ModelMismatch, match="belong together"):
        ModelPackage.load(tmp_path)


@pytest.mark.parametrize("version", [0, 3, 99])
def test_an_unknown_schema_is_refused_and_the_known_ones_are_named(tmp_path: Path, version: int) -> None:
    write_package(tmp_path, verified=True, schema_version=version)
    with pytest.raises(ModelMismatch, match=f"schema {version}, this monitor reads 1 and 2"):
        ModelPackage.load(tmp_path)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        pytest.param(logistic_dict({"verifier": 1.0, "horoscope": 1.0}), "reads horoscope", id="unknown feature"),
        pytest.param(logistic_dict({"scope": 1.0}) | {"weights": [1.0, 2.0]}, "2 weights for 1", id="too long"),
        pytest.param(logistic_dict({"scope": 1.0}) | {"weights": []}, "0 weights for 1 features", id="too short"),
        pytest.param(
            {"features": ["scope"] * 2, "weights": [1.0, 2.0], "intercept": 0.0}, "2 weights for 1", id="twice"
        ),
    ],
)
@pytest.mark.parametrize("name", ["unsafe", "scope"])
def test_a_regression_that_does_not_fit_is_refused_at_load(
    tmp_path: Path, name: str, spec: dict[str, Any], said: str
) -> None:
    write_package(tmp_path, verified=True, combination=combination_dict(**{name: spec}))
    with pytest.raises(ModelMismatch, match=rf"combination\.{name} .*{said}"):
        ModelPackage.load(tmp_path)


@pytest.mark.parametrize("field", ["weights", "intercept"])
def test_a_regression_with_nonsense_for_numbers_is_refused(tmp_path: Path, field: str) -> None:
    write_package(tmp_path, verified=True)
    manifest = manifest_dict(verified=True)
    unsafe = manifest["combination"]["unsafe"]
    unsafe[field] = [1e999] * len(unsafe["weights"]) if field == "weights" else 1e999
    (tmp_path / "manifest.json").write_text(json.dumps(manifest).replace("Infinity", "1e999"))
    with pytest.raises(ModelMismatch, match=r"combination\.unsafe"):
        ModelPackage.load(tmp_path)


def test_a_graph_that_the_manifest_does_not_list_has_no_digest(tmp_path: Path) -> None:
    package = ModelPackage.load(write_package(tmp_path))
    with pytest.raises(ModelMismatch, match=r"encoder/1/model\.onnx"):
        package.sha256(package.manifest.encoder)
