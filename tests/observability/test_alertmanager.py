"""Flags and alarms in a real Alertmanager, and the example of its routes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from monitor.alerts.sinks.alertmanager import Alertmanager, poster
from monitor.canary.alarms import Alarm, Announcer, Name
from tests.alerts.servers import receiving
from tests.alerts.test_sinks import HOSTILE, notification
from tests.observability.tools import DEPLOY, alertmanager, alerts_at, needs, tool

CONFIG = DEPLOY / "alertmanager" / "alertmanager.yml"
pytestmark = pytest.mark.connected


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("alertmanager")
    with alertmanager(CONFIG, folder) as url:
        yield url


def sink(url: str, *, resolve_after: float = 3600) -> Alertmanager:
    return Alertmanager("am", SecretStr(url), resolve_after=resolve_after, clock=lambda: datetime.now(UTC))


@needs("prometheus-alertmanager")
async def test_flags_are_alerts_once_each_and_repeats_are_none(running: str) -> None:
    own, storm = sink(running), notification(flags=3, received_at=datetime.now(UTC))
    try:
        await own.send(storm)
        await own.send(storm)
    finally:
        await own.close()
    held = [a for a in await alerts_at(running) if a["labels"]["alertname"] == "GuardlineFlag"]
    assert sorted(a["labels"]["message_id"] for a in held) == ["message-0", "message-1", "message-2"]
    for alert in held:
        assert alert["status"]["state"] == "active"
        assert alert["labels"].items() >= {"recommendation": "rem-1.2", "tenant": "north", "severity": "error"}.items()
        assert alert["annotations"]["count"] == "3"
        assert alert["annotations"]["statement"] == "Give Maria 400 mg on day 1."
        assert alert["generatorURL"].startswith("https://console.example.org/flags/")
        assert [receiver["name"] for receiver in alert["receivers"]] == ["reviewers"]
        lasts = datetime.fromisoformat(alert["endsAt"]) - datetime.now(UTC)
        assert timedelta(minutes=50) < lasts <= timedelta(hours=1)


@needs("prometheus-alertmanager")
async def test_what_a_producer_can_write_is_taken_whole(running: str) -> None:
    hostile = notification(
        statement=HOSTILE, reason=HOSTILE, tenant=HOSTILE, category="hostile", message_id=HOSTILE,
        recommendation=HOSTILE, received_at=datetime(9999, 12, 31, tzinfo=UTC),
    )  # fmt: skip
    own = sink(running)
    try:
        await own.send(hostile)
    finally:
        await own.close()
    (held,) = [a for a in await alerts_at(running) if a["labels"].get("category") == "hostile"]
    assert held["labels"]["tenant"] == HOSTILE
    assert held["annotations"]["statement"] == HOSTILE


@needs("prometheus-alertmanager")
async def test_the_canary_s_alarm_comes_and_goes(running: str) -> None:
    poster_ = poster(SecretStr(running))
    announcer = Announcer(poster_, group="g")
    try:
        await announcer.tell([Alarm(Name.LOST, "never came back")], datetime.now(UTC))
        (held,) = [a for a in await alerts_at(running) if a["labels"]["alertname"] == "GuardlineCanaryLost"]
        assert held["annotations"] == {"summary": "never came back"}
        assert [receiver["name"] for receiver in held["receivers"]] == ["on-call"]
        await announcer.tell([], datetime.now(UTC))
        assert [a for a in await alerts_at(running) if a["labels"]["alertname"] == "GuardlineCanaryLost"] == []
    finally:
        await poster_.close()


@needs("prometheus-alertmanager")
async def test_a_flag_arrives_at_the_receiver_of_its_route(tmp_path: Path) -> None:
    async with receiving() as receiver:
        config = CONFIG.read_text().replace("http://chat-bridge.example.org/reviewers", receiver.url)
        path = tmp_path / "alertmanager.yml"
        path.write_text(config.replace("group_wait: 30s", "group_wait: 300ms"))
        running = alertmanager(path, tmp_path)
        url = await asyncio.to_thread(running.__enter__)
        own = sink(url)
        try:
            await own.send(notification(flags=2, text=False, received_at=datetime.now(UTC)))
            async with asyncio.timeout(30):
                while not receiver.bodies:  # noqa: ASYNC110 - another process's doing
                    await asyncio.sleep(0.05)
        finally:
            await own.close()
            await asyncio.to_thread(running.__exit__, None, None, None)
    body = receiver.bodies[0]
    assert body["receiver"] == "reviewers"
    assert body["groupLabels"] == {"alertname": "GuardlineFlag", "tenant": "north", "recommendation": "rem-1.2"}
    assert sorted(alert["labels"]["message_id"] for alert in body["alerts"]) == ["message-0", "message-1"]


@needs("amtool")
def test_the_example_is_taken_and_routes_as_it_says() -> None:
    checked = tool("amtool", "check-config", CONFIG)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for labels, receivers in (
        (["alertname=GuardlineFlag", "severity=error"], "reviewers"),
        (["alertname=GuardlineFlag", "severity=critical"], "on-call,reviewers"),
        (["alertname=GuardlineScorerAway", "severity=critical"], "on-call"),
        (["alertname=GuardlineStoreAway", "severity=warning"], "platform"),
    ):
        routed = tool("amtool", "config", "routes", "test", f"--config.file={CONFIG}", *labels)
        assert routed.stdout.strip() == receivers, routed.stdout + routed.stderr
