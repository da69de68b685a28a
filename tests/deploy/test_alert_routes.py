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


def test_what_alertmanager_groups_is_not_held_back_before() -> None:
    config = load_config(DEPLOY / "compose/alerts.yaml")
    assert {(route.group.wait, route.group.suppress) for route in config.routes} == {(0, 0)}
