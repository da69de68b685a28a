"""The model that end-to-end tests use: the one that `make demo` left, or one trained now with the same profile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from monitor.errors import GuardlineError
from monitor.package import ModelPackage
from monitor.settings import DEFAULT_MODEL, DEFAULT_RUN
from trainer.artifacts import RunFolder

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def run_folder(request: pytest.FixtureRequest) -> RunFolder:
    """The run folder of the model, trained on first use (minutes)."""
    root = CHECKOUT / DEFAULT_RUN
    try:
        ModelPackage.load(CHECKOUT / DEFAULT_MODEL)
    except GuardlineError:
        reporter = request.config.pluginmanager.getplugin("terminalreporter")
        reporter.write_line("no model yet: training the quick profile (minutes) ...")
        command = [sys.executable, "-m", "monitor", "train", "--profile", "quick", "--run", str(root)]
        result = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-4000:]
    return RunFolder(root)


@pytest.fixture(scope="session")
def model_package(run_folder: RunFolder) -> ModelPackage:
    """The exported model package."""
    return ModelPackage.load(run_folder.package)
