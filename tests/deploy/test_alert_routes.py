"""The routes that the deployments bring are ones that `guardline alerts` takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.alerts.config import load_config

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("path", ["compose/alerts.yaml", "kubernetes/base/alerts/routes.yaml", "examples/alerts.yaml"])
def test_routes_are_valid_and_catch_every_flag(path: str) -> None:
    config = load_config(DEPLOY / path)
    assert config.routes[-1].match == type(config.routes[-1].match)()
