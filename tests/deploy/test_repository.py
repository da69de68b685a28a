"""The script that makes Triton's first repository: from the trained package, whole, and never over another."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "deploy/kubernetes/components/triton/repository.sh"
PACKAGE = Path(__file__).parents[2] / "monitor/default_package"


def run(package: Path, repository: Path) -> subprocess.CompletedProcess[str]:
    environment = {"GUARDLINE_MODEL": str(package), "GUARDLINE_TRITON_REPOSITORY": str(repository)}
    return subprocess.run(["/bin/sh", str(SCRIPT)], env=environment, capture_output=True, text=True)


def test_it_holds_the_package_s_graphs(tmp_path: Path) -> None:
    (tmp_path / "triton.new/rest").mkdir(parents=True)  # of a run that was killed
    assert run(PACKAGE, tmp_path / "triton").returncode == 0
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["triton"]
    assert sorted(p.name for p in (tmp_path / "triton").iterdir()) == ["encoder", "verifier"]
    for path in ("encoder/config.pbtxt", "verifier/1/model.onnx"):
        assert (tmp_path / "triton" / path).read_bytes() == (PACKAGE / path).read_bytes()


def test_what_was_promoted_into_it_stays(tmp_path: Path) -> None:
    promoted = tmp_path / "triton/encoder/2"
    promoted.mkdir(parents=True)
    assert run(PACKAGE, tmp_path / "triton").returncode == 0
    assert promoted.is_dir()
    assert not (tmp_path / "triton/verifier").exists()


def test_a_package_without_verifier_will_do(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE / "encoder", tmp_path / "package/encoder")
    assert run(tmp_path / "package", tmp_path / "triton").returncode == 0
    assert [p.name for p in (tmp_path / "triton").iterdir()] == ["encoder"]


def test_without_a_package_it_says_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path / "package", tmp_path / "triton")
    assert done.returncode == 1
    assert "train one first" in done.stderr
    assert not (tmp_path / "triton").exists()
