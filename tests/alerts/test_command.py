"""The command line without a broker: help, the check of the file, the test alert; and the example consumer."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from monitor.alerts.command import command
from monitor.errors import ConfigurationError
from tests.alerts.flags import make_flag
from tests.alerts.schemas import AlertmanagerWebhook
from tests.alerts.servers import receiving
from tests.fixtures_kafka import CHECKOUT, Broker, produce

FILE = """
link: https://console.example.org/flags/{id}
sinks:
  hook: {type: webhook, url: {env: HOOK}, timeout: 5}
  log: {type: file, path: LOG}
  unused: {type: terminal}
routes:
  - {name: grave, match: {score_at_least: 0.9}, sinks: [hook, log], budget: {per_day: 20}, include_text: true}
  - {name: rest, sinks: [log]}
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/hush-hush")
    path = tmp_path / "alerts.yaml"
    path.write_text(FILE.replace("LOG", str(tmp_path / "alerts.jsonl")))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments])


def test_check_says_where_flags_go_and_shows_no_secret(path: Path) -> None:
    result = run("--config", path, "--check")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "grave: hook (webhook), log (file); 20 a day, the rest in a digest; with message text",
        "rest: log (file); no limit; without message text",
    ]
    assert result.stderr == "guardline: no route leads to sink unused\n"


def test_check_finds_a_missing_secret(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK")
    assert isinstance(error := run("--config", path, "--check").exception, ConfigurationError)
    assert str(error) == "sink hook: the environment variable HOOK is empty or not set"


def test_a_test_alert_reaches_every_sink_of_its_route_and_says_what_it_is(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send() -> tuple[Result, list[dict[str, object]]]:
        async with receiving() as receiver:
            monkeypatch.setenv("HOOK", receiver.url)
            return await asyncio.to_thread(run, "--config", path, "--test", "grave"), receiver.bodies

    result, bodies = asyncio.run(send())
    assert (result.exit_code, result.stdout) == (0, "hook: delivered\nlog: delivered\n")
    AlertmanagerWebhook.model_validate_json(json.dumps(bodies[0]))
    assert "TEST of route grave" in json.dumps(bodies[0])
    assert json.loads((tmp_path / "alerts.jsonl").read_text())["kind"] == "test"


def test_a_test_alert_that_does_not_arrive_exits_with_1(path: Path, tmp_path: Path) -> None:
    result = run("--config", path, "--test", "grave")
    assert (result.exit_code, result.stdout) == (1, "hook: unavailable: ClientConnectorError\nlog: delivered\n")


def test_wrong_usage_is_said(path: Path) -> None:
    assert "no route gone: there are grave, rest" in str(run("--config", path, "--test", "gone").exception)
    assert run("--config", path, "--test", "grave", "--check").exit_code == 2
    assert "give --config" in str(run("--config", path.with_name("gone")).exception)


async def test_the_example_consumer_prints_each_flag_once(embedded: Broker) -> None:
    source = (CHECKOUT / "deploy/examples/flags.py").read_text()
    topic = await embedded.topic("safety.flags", 1)
    code = source.replace('"safety.flags"', repr(topic)).replace("group_id=", 'auto_offset_reset="earliest", group_id=')
    await produce(embedded.bootstrap, topic, [make_flag(n).model_dump_json().encode() for n in (1, 1, 2)])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", code, embedded.bootstrap, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            lines = [await process.stdout.readline() for _ in range(2)]
    finally:
        process.kill()
        await process.wait()
    assert lines == [b"0.93 north rem-1.2 Give Maria 400 mg on day 1.\n"] * 2
