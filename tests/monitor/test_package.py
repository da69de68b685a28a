"""What `tests/trainer/test_export.py` leaves open about reading a package."""

import json
from pathlib import Path

import pytest

from monitor.errors import ConfigurationError, ModelMismatch
from monitor.package import ModelPackage
from tests.monitor.fakes import manifest_dict, write_package


def test_a_package_knows_its_files(tmp_path: Path) -> None:
    package = ModelPackage.load(write_package(tmp_path))
    assert (package.reference.name, package.reference.version) == ("tiny", "1.0.0")
    assert package.tokenizer == tmp_path / "tokenizer.json"
    assert package.onnx == tmp_path / "encoder" / "1" / "model.onnx"


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
