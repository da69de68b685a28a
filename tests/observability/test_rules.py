"""Rules against Prometheus' own tools, against the metrics in the code, and against the runbook."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import Counter, Histogram, MetricWrapperBase

from monitor.canary.alarms import Alarm, Name
from tests.fixtures_services import CHECKOUT
from tests.observability.tools import DEPLOY, needs, tool

ALERTS = DEPLOY / "prometheus" / "guardline.alerts.yml"
RECORDING = DEPLOY / "prometheus" / "guardline.recording.yml"
RUNBOOK = CHECKOUT / "docs" / "runbook.md"
#: Every module that declares metrics.
MODULES = sorted(
    ".".join(path.with_suffix("").relative_to(CHECKOUT).parts) for path in (CHECKOUT / "monitor").rglob("metrics.py")
)


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def exported() -> set[str]:
    """Return the names of all series that Guardline's processes export."""
    found: set[str] = set()
    for module in map(importlib.import_module, MODULES):
        for metric in vars(module).values():
            if not isinstance(metric, MetricWrapperBase):
                continue
            name = metric._name
            if isinstance(metric, Counter):
                found.add(f"{name}_total")
            elif isinstance(metric, Histogram):
                found |= {f"{name}_{part}" for part in ("bucket", "count", "sum")}
            else:
                found.add(name)
    return found


def used(expression: str) -> set[str]:
    """Return the names of Guardline's series in an expression, recorded ones left out."""
    return set(re.findall(r"(?<![:\w])guardline_\w+(?![:\w])", expression))


@needs("promtool")
def test_prometheus_takes_the_rules_and_its_example_configuration() -> None:
    for command in (
        ("check", "rules", "--lint-fatal", ALERTS, RECORDING),
        ("check", "config", ALERTS.with_name("prometheus.yml")),
    ):
        checked = tool("promtool", *command)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@needs("promtool")
def test_rules_fire_when_they_should_and_not_otherwise() -> None:
    checked = tool("promtool", "test", "rules", Path(__file__).with_name("rules.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_job_that_is_scraped_is_missed_when_it_is_gone() -> None:
    scraped = yaml.safe_load(ALERTS.with_name("prometheus.yml").read_text())["scrape_configs"]
    (down,) = [rule["expr"] for rule in rules(ALERTS) if rule["alert"] == "GuardlineDown"]
    assert sorted(down.split('"')[1].split("|")) == sorted(job["job_name"] for job in scraped)


@pytest.mark.parametrize("path", [ALERTS, RECORDING], ids=lambda path: path.stem)
def test_every_metric_in_a_rule_is_exported(path: Path) -> None:
    assert {name for rule in rules(path) for name in used(rule["expr"])} <= exported()


def test_every_recorded_series_in_an_alert_is_recorded_and_none_is_recorded_for_nobody() -> None:
    recorded = {rule["record"] for rule in rules(RECORDING)}
    dashboard = (DEPLOY / "grafana" / "dashboards" / "guardline.json").read_text()
    named = {name for rule in rules(ALERTS) for name in re.findall(r"\w+:\w+:\w+", rule["expr"])}
    assert named <= recorded
    assert {name for name in recorded - named if name not in dashboard} == set()


def test_every_alert_says_what_it_is_how_bad_and_where_to_read_on() -> None:
    headings = re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in rules(ALERTS)]
    for rule in rules(ALERTS):
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_every_alarm_of_the_canary_has_an_alert_of_its_name_and_severity() -> None:
    by_name = {rule["alert"]: rule for rule in rules(ALERTS)}
    for name in Name:
        rule = by_name[name.alert]
        assert f'alarm="{name.value}"' in rule["expr"]
        assert rule["labels"]["severity"] == Alarm(name, "").severity


def test_the_runbook_says_of_each_alert_what_to_do() -> None:
    for section in re.split(r"^### ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        title, body = section.split("\n", 1)
        for part in ("**What it means (", "**What to look at.**", "**What to do.**"):
            assert part in body, title


@pytest.mark.parametrize("name", ["guardline_no_such_total", "guardline_messages"])
def test_a_metric_that_nobody_exports_would_be_found(name: str) -> None:
    assert used(f"rate({name}[5m])") == {name}
    assert name not in exported()
