"""`guardline canary` beside a real worker and broker: all is well, then the worker dies, then it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from monitor.package import ModelPackage
from tests.alerts.schemas import PostableAlerts
from tests.alerts.servers import receiving
from tests.e2e.worker import CHECKOUT, Topics, Worker
from tests.fixtures_kafka import Broker
from tests.fixtures_services import free_ports

pytestmark = [pytest.mark.model, pytest.mark.connected]
COMMAND = "from monitor.canary.command import command; command(prog_name='canary')"


@asynccontextmanager
async def canary(
    broker: Broker, topics: Topics, model: Path, log: Path, port: int, **settings: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `guardline canary` as a user would, in quick rounds."""
    environment = {
        **os.environ,
        **topics.environment(),
        "GUARDLINE_KAFKA_BOOTSTRAP": broker.bootstrap,
        "GUARDLINE_GROUP": topics.names["outputs"],
        "GUARDLINE_MODEL": str(model),
        "GUARDLINE_METRICS_PORT": str(port),
        "GUARDLINE_CANARY_EVERY": "0.4",
        "GUARDLINE_EMIT_VERDICTS": "true",
        **{f"GUARDLINE_{name.upper()}": value for name, value in settings.items()},
    }
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", COMMAND, cwd=CHECKOUT, env=environment, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def figures(port: int) -> dict[str, float]:
    """Return what `/metrics` says, by name with labels; nothing before it answers."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            text = await answer.text()
    except aiohttp.ClientError:
        return {}
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


async def until(port: int, condition: Callable[[dict[str, float]], bool], log: Path) -> dict[str, float]:
    """Wait until the figures are so."""
    found: dict[str, float] = {}
    try:
        async with asyncio.timeout(90):
            while not condition(found := await figures(port)):  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{found}\n{log.read_text()[-3000:]}") from None  # noqa: ASYNC240 - it is over
    return found


def outcome(name: str) -> str:
    return f'guardline_canary_outcomes_total{{outcome="{name}"}}'


def alarm(name: str) -> str:
    return f'guardline_canary_alarm{{alarm="{name}"}}'


async def test_canaries_come_back_until_the_worker_dies_and_again_when_another_takes_over(
    kafka_broker: Broker, model_package: ModelPackage, tmp_path: Path
) -> None:
    broker = kafka_broker
    topics, (port, own_port), log = await Topics.create(broker), free_ports(2), tmp_path / "canary.log"
    worker = Worker(broker, model_package.path, topics, tmp_path / "worker.log", metrics_port=str(own_port))
    settings = {"canary_within": "4", "canary_backlog": "3"}
    async with receiving() as receiver, worker:
        await until(own_port, lambda f: any(name.startswith("guardline_lag_records{") for name in f), worker.log)
        async with canary(
            broker, topics, model_package.path, log, port, canary_alertmanager=receiver.url, **settings
        ) as process:
            # Eight unsafe canaries and more others, dealt over two partitions.
            well = await until(port, lambda f: f.get(outcome("ok"), 0) >= 32, log)
            assert well[alarm("wrong")] == well[alarm("foreign")] == well[alarm("lost")] == 0
            assert well['guardline_canary_sent_total{verdict="unsafe"}'] >= 16
            assert well[outcome("wrong")] == 0
            assert well["guardline_canary_return_seconds_count"] >= 16

            await worker.stop(signal.SIGKILL)
            dead = await until(port, lambda f: f[alarm("overdue")] == f[alarm("backlog")] == 1, log)
            assert sum(v for name, v in dead.items() if name.startswith("guardline_canary_overdue{")) > 0
            assert sum(v for name, v in dead.items() if name.startswith("guardline_canary_backlog_records{")) > 0

            await worker.start()
            again = await until(port, lambda f: f[alarm("overdue")] == f[alarm("backlog")] == 0, log)
            assert again[outcome("late")] > 0
            assert again[outcome("lost")] == 0
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0, log.read_text()
    posted = [alert for body in receiver.bodies for alert in PostableAlerts.model_validate(body).root]
    assert {alert.labels["alertname"] for alert in posted} >= {"GuardlineCanaryOverdue", "GuardlineCanaryBacklog"}
    assert all("remdesivir" not in (alert.annotations["summary"] + log.read_text()).lower() for alert in posted)
