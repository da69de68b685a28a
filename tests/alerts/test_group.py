"""`guardline alerts` as a process in a consumer group, on both brokers: killed, stopped, joined by another."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiokafka import AIOKafkaConsumer

from monitor.alerts.worker import AlertsWorker
from monitor.memory import MemoryStore
from tests.alerts.flags import Clock, RecordingSink, make_config, make_flag
from tests.alerts.servers import receiving
from tests.fixtures_kafka import CHECKOUT, Broker, committed_offsets, consume_all, produce
from tests.fixtures_services import LocalRedis, free_ports
from tests.monitor.fakes import RecordingPublisher

#: As a terminal would run it; entry points are looked up in what is installed, which may be an older checkout.
COMMAND = "from monitor.alerts.command import command; command(prog_name='alerts')"


async def until(condition: Callable[[], bool], log: Path | None = None) -> None:
    """Wait until something is so."""
    try:
        async with asyncio.timeout(120):
            while not condition():  # noqa: ASYNC110 - conditions are of any kind
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(log.read_text()[-3000:] if log else "in vain") from None  # noqa: ASYNC240 - it is over


@dataclass
class Alerts:
    """Runs `guardline alerts` as a user would."""

    broker: Broker
    folder: Path
    url: str
    topic: str
    deadletter: str
    group: dict[str, Any]
    settings: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> Path:
        return self.folder / "alerts.log"

    async def start(self) -> None:
        sink = {"type": "webhook", "url": {"env": "HOOK"}, "retry": {"attempts": 3, "first": 0.1, "most": 0.2}}
        config = {
            "deadletter": self.deadletter,
            "stale_after": "36500d",
            "sinks": {"hook": sink},
            "routes": [{"name": "all", "sinks": ["hook"], "group": self.group}],
        }
        path = self.folder / "alerts.yaml"
        path.write_text(yaml.safe_dump(config))
        environment = {
            **os.environ,
            "HOOK": self.url,
            "GUARDLINE_KAFKA_BOOTSTRAP": self.broker.bootstrap,
            "GUARDLINE_SESSION_TIMEOUT": str(self.broker.session),
            "GUARDLINE_TOPIC_FLAGS": self.topic,
            "GUARDLINE_GROUP": self.topic,
            **self.settings,
        }
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                COMMAND,
                "--config",
                str(path),
                cwd=CHECKOUT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            return await self.process.wait()

    async def __aenter__(self) -> Alerts:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(signal.SIGKILL)


async def made(broker: Broker, folder: Path, url: str, group: dict[str, Any], **settings: str) -> Alerts:
    topic = await broker.topic("safety.flags", 2)
    return Alerts(broker, folder, url, topic, await broker.topic("safety.alerts.deadletter", 1), group, settings)


def values(*numbers: int) -> list[bytes]:
    return [make_flag(n).model_dump_json().encode() for n in numbers]


async def committed(alerts: Alerts) -> int:
    """Return the sum of the group's committed offsets."""
    return sum((await committed_offsets(alerts.broker.bootstrap, f"{alerts.topic}.alerts", alerts.topic, 2)).values())


def messages(bodies: list[dict[str, Any]]) -> set[str]:
    return {alert["labels"]["message_id"] for body in bodies for alert in body["alerts"]}


async def test_a_worker_that_is_killed_loses_nothing_and_repeats_what_the_receiver_can_tell(
    broker: Broker, redis_server: LocalRedis, tmp_path: Path
) -> None:
    store = {"GUARDLINE_STORE": "redis", "GUARDLINE_REDIS_URL": redis_server.url}
    hang: list[Any] = [(200, {})] * 25 + [None]
    async with receiving(*hang) as receiver:
        alerts = await made(broker, tmp_path, receiver.url, {"wait": 0, "suppress": 0}, **store)
        await produce(broker.bootstrap, alerts.topic, values(*range(60)), 2)
        async with alerts:
            await until(lambda: len(receiver.bodies) == 26, alerts.log)  # the last of them without an answer
            await alerts.stop(signal.SIGKILL)
            await alerts.start()
            await until(lambda: len(receiver.taken) == 60, alerts.log)
            assert await alerts.stop() == 0, alerts.log.read_text()[-3000:]
        assert len(receiver.bodies) == 61  # only the alert on its way at the kill came twice
        assert messages(receiver.taken) == {f"message-{n}" for n in range(60)}
        assert await committed(alerts) == 60
    log = alerts.log.read_text()
    assert not any(word in log for word in ("hush-hush", "Maria", "400 mg"))


async def flags_read(port: int) -> float:
    """Return how many flags the worker has routed, as its metrics say."""
    async with aiohttp.ClientSession() as client:
        try:
            async with client.get(f"http://127.0.0.1:{port}/metrics") as answer:
                text = await answer.text()
        except aiohttp.ClientError:
            return 0
    found = re.search(r'guardline_alerts_flags_total\{outcome="routed"\} (\S+)', text)
    return float(found[1]) if found else 0


async def test_sigterm_sends_what_waits_in_a_window_and_commits_it(broker: Broker, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with receiving() as receiver:
        alerts = await made(broker, tmp_path, receiver.url, {"wait": "1h"}, GUARDLINE_METRICS_PORT=str(port))
        await produce(broker.bootstrap, alerts.topic, values(*range(30), *range(10)), 2)
        async with alerts:
            async with asyncio.timeout(120):
                while await flags_read(port) < 40:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
            assert await committed(alerts) == 0
            assert await alerts.stop() == 0, alerts.log.read_text()[-3000:]
        (body,) = receiver.bodies
        assert body["truncatedAlerts"] + len(body["alerts"]) == 30  # ten came twice upstream
        assert await committed(alerts) == 40


async def test_a_receiver_that_refuses_leaves_dead_letters_and_the_stream_goes_on(
    broker: Broker, tmp_path: Path
) -> None:
    async with receiving((400, {})) as receiver:
        alerts = await made(broker, tmp_path, receiver.url, {"wait": 0, "suppress": 0})
        await produce(broker.bootstrap, alerts.topic, [b"no flag", *values(*range(1, 4))])
        async with alerts:
            await until(lambda: len(receiver.taken) == 2, alerts.log)
            assert await alerts.stop() == 0, alerts.log.read_text()[-3000:]
        assert await committed(alerts) == 4
    letters = await consume_all(broker.bootstrap, alerts.deadletter)
    assert [letter.value for letter in letters] == [b"no flag", *values(1)]
    assert [dict(letter.headers)["guardline.reason"] for letter in letters] == [b"invalid_field", b"refused"]


@pytest.mark.connected
async def test_partitions_that_move_to_another_worker_lose_nothing_and_repeat_nothing(kafka_broker: Broker) -> None:
    broker = kafka_broker  # the embedded one refuses a commit, and at times a SyncGroup, during a rebalance
    topic = await broker.topic("safety.flags", 2)
    store, sink = MemoryStore(), RecordingSink()
    config = make_config(stale_after="36500d")

    async def work(stop: asyncio.Event) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=broker.bootstrap,
            group_id=topic,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(broker.session * 1000),
            heartbeat_interval_ms=200,
        )
        worker = AlertsWorker(config, sinks={"out": sink}, store=store, publisher=RecordingPublisher(), clock=Clock())
        await consumer.start()
        try:
            await worker.run(consumer, [topic], stop, 30)
        finally:
            await consumer.stop()

    def more_than(count: int) -> Callable[[], bool]:
        return lambda: len(sink.sent) > count

    stops = [asyncio.Event() for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        try:
            group.create_task(work(stops[0]))
            for wave in range(3):  # a second worker joins, then a third, while flags come in
                await produce(broker.bootstrap, topic, values(*range(wave * 40, wave * 40 + 40)), 2)
                if wave < 2:
                    await until(more_than(wave * 40))
                    group.create_task(work(stops[wave + 1]))
            await until(lambda: len(set(sink.messages)) == 120)
        finally:
            for stop in stops:
                stop.set()
    assert len(sink.messages) == 120
    assert sum((await committed_offsets(broker.bootstrap, topic, topic, 2)).values()) == 120
