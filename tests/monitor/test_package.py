import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monitor.errors import ConfigurationError, ModelMismatch
from monitor.package import ModelPackage
from tests.monitor.fakes import DIMENSION, manifest_dict, write_package


def test_a_package_that_fits_is_read(tmp_path: Path) -> None:
    package = ModelPackage.load(write_package(tmp_path))
    assert (package.reference.name, package.reference.version) == ("tiny", "1.0.0")
    assert package.tokenizer == tmp_path / "tokenizer.json"
    assert package.onnx == tmp_path / "encoder" / "1" / "model.onnx"
    assert package.manifest.encoder.inputs == ("input_ids", "attention_mask")


@pytest.mark.parametrize("where", ["nothing", "", "manifest.json"])
def test_without_a_package_the_error_says_how_to_get_one(tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigurationError, match=r"guardline train.*--model"):
        ModelPackage.load(tmp_path / where)


def _fields(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.update(changes)


def _without(field: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.pop(field)


def _head(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest[name].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_fields(schema_version=2), r"schema 2.*reads 1.*upgrade"),
        (_without("thresholds"), r"thresholds: Field required"),
        (_fields(encoder={"base": "x", "dimension": 0, "max_length": 8}), r"encoder\.dimension"),
        (_fields(encoder={"base": "x", "dimension": DIMENSION + 1, "max_length": 8}), r"alignment head"),
        (_head("alignment", classes=["1.1-loading", "2.1-kidney", "3.1-children"]), r"alignment's classes"),
        (_head("alignment", classes=["1.1-loading", "2.1-kidney", "other", "out_of_scope"]), r"alignment's classes"),
        (_head("alignment", bias=[0.0]), r"alignment head"),
        (_head("category", weights=[[0.0] * DIMENSION] * 2), r"category head"),
        (_head("category", bias=[]), r"category head"),
        (_fields(files={"encoder/1/model.onnx": "0" * 64}), r"encoder/1/model\.onnx is missing"),
        (_fields(files={"tokenizer.json": "0" * 64}), r"tokenizer\.json is not the file that was exported"),
    ],
)
def test_a_package_that_does_not_fit_is_refused_with_what_is_wrong(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    write_package(tmp_path)
    manifest = manifest_dict()
    change(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelMismatch, match=message):
        ModelPackage.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null"], ids=repr)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
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


def test_a_newer_manifest_may_have_more_fields(tmp_path: Path) -> None:
    write_package(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest_dict(verifier={"k": 3})))
    assert ModelPackage.load(tmp_path).manifest.name == "tiny"
