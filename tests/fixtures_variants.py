"""A second model for tests that switch: a package with slightly other weights, whole or with something wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf import text_format
from onnx import numpy_helper
from tritonclient.grpc import model_config_pb2

from monitor.package import MANIFEST, SCHEMA_VERSION, VERIFIER, CanarySpec, ModelPackage, sha256_file


def _other_weights(path: Path, factor: float) -> None:
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 100:
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(factor), tensor.name))
    onnx.save(model, str(path))


def variant(
    package: ModelPackage,
    path: Path,
    version: str,
    *,
    factor: float = 1.001,
    canaries: Sequence[CanarySpec] = (),
    **changes: Any,
) -> ModelPackage:
    """Return a copy of a package with its weights times `factor`, another version, and `changes` of its manifest."""
    shutil.copytree(package.path, path)
    manifest = json.loads((path / "manifest.json").read_text())
    for name in [name for name in manifest["files"] if name.endswith(".onnx")]:
        _other_weights(path / name, factor)
        digest = sha256_file(path / name)
        manifest["files"][name] = digest
        folder = (path / name).parents[1]
        for config in (folder / "config.pbtxt", folder / "configs" / "cpu.pbtxt"):
            own = text_format.Parse(config.read_text(), model_config_pb2.ModelConfig())
            own.parameters["onnx_sha256"].string_value = digest
            config.write_text(text_format.MessageToString(own))
            manifest["files"][config.relative_to(path).as_posix()] = sha256_file(config)
    manifest |= {"version": version, "canaries": [c.model_dump(mode="json") for c in canaries], **changes}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return ModelPackage.load(path)


def without_verifier(package: ModelPackage, path: Path) -> ModelPackage:
    """Return a copy of a package whose encoder decides alone, at the thresholds that the package has for that."""
    shutil.copytree(package.path, path, ignore=lambda _, names: [name for name in names if name.startswith(VERIFIER)])
    manifest = json.loads((path / MANIFEST).read_text())
    manifest |= {
        "schema_version": SCHEMA_VERSION,
        "version": f"{manifest['version']}.encoder",
        "verifier": None,
        "combination": None,
        "canaries": [],  # they were decided by both
        "files": {name: digest for name, digest in manifest["files"].items() if not name.startswith(VERIFIER)},
    }
    (path / MANIFEST).write_text(json.dumps(manifest))
    return ModelPackage.load(path)
