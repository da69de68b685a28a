"""`guardline train` as a user runs it: the second guideline pack, killed again and again, always going on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from monitor.package import ModelPackage
from tests.trainer.conftest import make_tiny_bert
from trainer.guideline.guidelines import DEFAULT_PACK

PACK = DEFAULT_PACK.with_name("covid19-nirmatrelvir.yaml")
#: Killed while each of these is at work: as soon as the file of the stage before is there.
KILLS = {
    "corpus": "stamps/generate.json",
    "encoder": "encoder.checkpoint",
    "classifier": "stamps/encoder.json",
    "export": "stamps/classifier.json",
    "evaluate": "stamps/export.json",
}


@pytest.fixture(scope="module")
def small_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    return make_tiny_bert(tmp_path_factory.mktemp("models") / "tiny")


def start(run: Path, encoder: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "monitor.cli", "train", "--pack", str(PACK), "--run", str(run), "--profile", "smoke",
        "--encoder", str(encoder), "--epochs", "1000",
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment, cwd=run.parent
    )


def appeared(file: Path, process: subprocess.Popen[str]) -> bool:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if file.exists():
            return True
        if process.poll() is not None:
            return file.exists()
        time.sleep(0.005)
    return False


def test_killed_in_every_stage_it_goes_on_and_ends(tmp_path: Path, small_encoder: Path) -> None:
    run = tmp_path / "run"
    for stage, file in KILLS.items():
        process = start(run, small_encoder)
        there = appeared(run / file, process)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert there, f"before {stage}: {said}"
    last = start(run, small_encoder)
    _, said = last.communicate(timeout=600)
    assert last.returncode == 0, said
    done = dict(re.findall(r"^(\w+) +(is current|[\d.]+ s)", said, re.MULTILINE))
    current = [stage for stage, what in done.items() if what == "is current"]
    assert current[:6] == ["extract", "passages", "summaries", "generate", "corpus", "encoder"]
    assert done["evaluate"] != "is current"
    assert ModelPackage.load(run / "package").manifest.name == "covid19-nirmatrelvir"
    assert (run / "evaluation" / "report.html").exists()
    assert not (run / "encoder.checkpoint").exists()
