"""Every query of the dashboard, put to a real Prometheus that scrapes a running monitor, alerts and canary."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.package import ModelPackage
from tests.alerts.servers import receiving
from tests.canary.test_worker import canary
from tests.e2e.test_worker import SAFE, UNSAFE, record
from tests.e2e.worker import Topics, Worker
from tests.fixtures_kafka import Broker, produce
from tests.fixtures_services import free_ports
from tests.observability.processes import alerts
from tests.observability.test_rules import exported, used
from tests.observability.tools import DEPLOY, get, needs, prometheus, prometheus_config

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "guardline.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
#: What Grafana would put in.
VARIABLES = {"$__rate_interval": "15s", "$instance": ".*", "$datasource": "prometheus"}
#: Queries about what does not run or does not happen here; they must be understood, and find nothing.
EMPTY = ("guardline_console_", "guardline_audit_")


def queries() -> list[str]:
    found = [target["expr"] for panel in PANELS for target in panel["targets"]]
    return found + [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


async def answers(url: str) -> dict[str, dict[str, Any]]:
    """Return Prometheus' answer to every query."""
    return {
        query: await asyncio.to_thread(get, f"{url}/api/v1/query", query=filled(query))
        for query in dict.fromkeys(queries())
    }


def unanswered(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return the queries that should find something and do not."""
    expected = [q for q in found if not any(name in q for name in EMPTY) and not q.startswith("ALERTS")]
    return [q for q in expected if not found[q]["data"]["result"]]


@pytest.mark.connected
@pytest.mark.model
@needs("prometheus")
async def test_every_query_is_understood_and_finds_what_happens(
    embedded: Broker, model_package: ModelPackage, tmp_path: Path
) -> None:
    topics = await Topics.create(embedded)
    ports = dict(zip(("monitor", "alerts", "canary"), free_ports(3), strict=True))
    worker = Worker(embedded, model_package.path, topics, tmp_path / "worker.log", metrics_port=str(ports["monitor"]))
    async with (
        receiving() as receiver,
        worker,
        alerts(embedded, topics, tmp_path, receiver.url, ports["alerts"]),
        canary(embedded, topics, model_package.path, tmp_path / "canary.log", ports["canary"]),
    ):
        server = prometheus(prometheus_config(tmp_path, ports), tmp_path)
        url = await asyncio.to_thread(server.__enter__)
        try:
            number, found, missing = 0, {}, ["all"]
            async with asyncio.timeout(120):
                while missing:  # what is counted must go on happening for as long as rates are asked for
                    values = [record(f"m{number + i}", text) for i, text in enumerate((SAFE, UNSAFE, "Hello."))]
                    await produce(embedded.bootstrap, topics.names["outputs"], [*values, b"{"])
                    number += 3
                    await asyncio.sleep(1)
                    found = await answers(url)
                    assert [(q, a) for q, a in found.items() if a["status"] != "success"] == []
                    missing = unanswered(found)
            targets = (await asyncio.to_thread(get, f"{url}/api/v1/targets"))["data"]["activeTargets"]
            rules = (await asyncio.to_thread(get, f"{url}/api/v1/rules"))["data"]["groups"]
        except TimeoutError:
            raise AssertionError(f"nothing found for: {missing}") from None
        finally:
            await asyncio.to_thread(server.__exit__, None, None, None)
    assert {target["health"] for target in targets} == {"up"}
    assert [rule["lastError"] for group in rules for rule in group["rules"] if rule["health"] != "ok"] == []
    assert [q for q in found if any(name in q for name in EMPTY) and found[q]["data"]["result"]] == []


def test_every_metric_on_the_dashboard_is_exported() -> None:
    assert {name for query in queries() for name in used(query)} <= exported()


def test_every_panel_says_what_it_shows_by_the_chosen_data_source_and_has_its_place() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "instance"}


def test_provisioning_names_the_folder_and_a_source() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    provider = yaml.safe_load((folder / "dashboards" / "guardline.yml").read_text())
    source = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())
    assert provider["providers"][0]["options"]["path"].startswith("/etc/grafana/")
    assert source["datasources"][0]["type"] == DASHBOARD["templating"]["list"][0]["query"] == "prometheus"
