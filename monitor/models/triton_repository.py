"""Put a package's graphs beside those that a Triton server has, as further versions of `encoder` and `verifier`.

Every package has its graphs as version 1. In a repository that serves several packages they get the next free number,
and the configuration names the SHA-256 of each version, by which the monitor finds the one that belongs to its package.
Triton loads a model again when it is asked to (explicit control): versions that stay answer on, requests in flight
finish, and a version that cannot be loaded leaves the others as they are.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from monitor.errors import ConfigurationError, ModelMismatch
from monitor.package import EncoderSpec, ModelPackage, VerifierSpec

#: Versions of one graph that are served side by side: the one in use, the next, and the one to go back to.
KEPT = 3
#: Parameter of the only version's digest, as a package is exported; of several, the number follows a full stop.
DIGEST = "onnx_sha256"


def served_version(config: model_config_pb2.ModelConfig, digest: str, default: int) -> int | None:
    """Return the version whose weights have this SHA-256; `default` is that of a package served as it is."""
    for key, value in config.parameters.items():
        if value.string_value == digest:
            name, _, number = key.partition(".")
            if name == DIGEST:
                return int(number) if number else default
    return None


def _parse(path: Path) -> model_config_pb2.ModelConfig:
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, text_format.ParseError) as error:
        raise ConfigurationError(f"{path}: {error}: export the package again") from error


def _digests(config: model_config_pb2.ModelConfig) -> dict[int, str]:
    return {
        int(key.partition(".")[2] or 1): value.string_value
        for key, value in config.parameters.items()
        if key.partition(".")[0] == DIGEST
    }


def _with_versions(config: model_config_pb2.ModelConfig, digests: dict[int, str]) -> str:
    """Return the configuration with these versions and nothing but these."""
    for key in [key for key in config.parameters if key.partition(".")[0] == DIGEST]:
        del config.parameters[key]
    for number, digest in digests.items():
        config.parameters[f"{DIGEST}.{number}"].string_value = digest
    config.version_policy.specific.versions[:] = sorted(digests)
    return str(text_format.MessageToString(config))


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def install(package: ModelPackage, spec: EncoderSpec | VerifierSpec, repository: Path) -> int:
    """Copy one graph into the repository, and return its version there; one that is there already stays.

    Older versions beyond `KEPT` leave the configuration, and their files go.

    Raises:
        ConfigurationError: the repository cannot be written, or holds something else.
        ModelMismatch: the package does not list the graph.
    """
    digest = package.sha256(spec)
    folder, source = repository / spec.model, package.path / spec.model
    configs = [Path("config.pbtxt"), Path("configs") / "cpu.pbtxt"]
    known = _digests(_parse(folder / configs[0])) if (folder / configs[0]).exists() else {}
    for number, own in known.items():
        if own == digest and (folder / str(number)).is_dir():
            return number
    taken = [int(d.name) for d in folder.iterdir() if d.name.isdigit()] if folder.is_dir() else []
    number = max([0, *known, *taken]) + 1
    try:
        beside = folder / f".{number}.{os.getpid()}"
        shutil.copytree(source / str(spec.model_version), beside)
        beside.replace(folder / str(number))
        kept = dict(sorted((known | {number: digest}).items())[-KEPT:])
        for name in configs:
            if (source / name).exists():
                _replace(folder / name, _with_versions(_parse(source / name), kept))
    except OSError as error:
        raise ConfigurationError(f"{folder}: {error}: can this user write there?") from error
    for old in known.keys() - kept.keys():
        shutil.rmtree(folder / str(old), ignore_errors=True)
    return number


def withdraw(spec: EncoderSpec | VerifierSpec, number: int, repository: Path) -> None:
    """Take a version out again, so that Triton's next start does not stumble over what it refused."""
    folder = repository / spec.model
    for name in (Path("config.pbtxt"), Path("configs") / "cpu.pbtxt"):
        if (folder / name).exists():
            config = _parse(folder / name)
            left = {n: d for n, d in _digests(config).items() if n != number}
            if not left:
                raise ModelMismatch(f"{folder}: version {number} is the only one and stays")
            _replace(folder / name, _with_versions(config, left))
    shutil.rmtree(folder / str(number), ignore_errors=True)
