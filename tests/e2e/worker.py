"""A `guardline monitor` process under test, and what it published."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from tests.fixtures_kafka import Broker

CHECKOUT = Path(__file__).resolve().parents[2]
OUTPUTS = ("flags", "review", "verdicts", "deadletter")


@dataclass
class Topics:
    """The topics of one test, by role."""

    names: dict[str, str] = field(default_factory=dict)

    @classmethod
    async def create(cls, broker: Broker, partitions: int = 2) -> Topics:
        names = {"outputs": await broker.topic("llm.outputs", partitions)}
        for role in OUTPUTS:
            names[role] = await broker.topic(f"safety.{role}", 1)
        return cls(names)

    def environment(self) -> dict[str, str]:
        return {f"GUARDLINE_TOPIC_{role.upper()}": name for role, name in self.names.items()}


class Worker:
    """Runs `guardline monitor` as a user would: a process with an environment."""

    def __init__(self, broker: Broker, model: Path, topics: Topics, log: Path, **settings: str) -> None:
        self._environment = {
            **os.environ,
            "GUARDLINE_KAFKA_BOOTSTRAP": broker.bootstrap,
            "GUARDLINE_SESSION_TIMEOUT": str(broker.session),
            "GUARDLINE_MODEL": str(model),
            "GUARDLINE_GROUP": topics.names["outputs"],
            "GUARDLINE_EMIT_VERDICTS": "true",
            "GUARDLINE_DRAIN_TIMEOUT": "10",
            "GUARDLINE_ONNX_THREADS": "1",
            **topics.environment(),
            **{f"GUARDLINE_{name.upper()}": value for name, value in settings.items()},
        }
        self.log = log
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as file:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "monitor",
                "monitor",
                env=self._environment,
                cwd=CHECKOUT,
                stdout=file,
                stderr=file,
            )

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            return await self.process.wait()

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


async def collect(
    bootstrap: str, topics: Topics, expected: int, worker: Worker, *, settle: bool = True, patience: float = 60
) -> dict[str, list[ConsumerRecord]]:
    """Return all output records by role once `expected` audit records are there, and what comes a little after.

    Raises:
        AssertionError: the worker ended, or nothing came for `patience` seconds.
    """
    roles = {name: role for role, name in topics.names.items() if role in OUTPUTS}
    result: dict[str, list[ConsumerRecord]] = {role: [] for role in OUTPUTS}
    consumer = AIOKafkaConsumer(*roles, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        silent, wait = 0, 500 if settle else 20
        while len(result["verdicts"]) < expected or (settle and silent < 3):
            batch = await consumer.getmany(timeout_ms=wait)
            silent = 0 if batch else silent + 1
            for partition, records in batch.items():
                result[roles[partition.topic]] += records
            assert worker.process is not None
            assert worker.process.returncode is None, worker.log.read_text()[-3000:]
            assert silent * wait < patience * 1000, (
                f"{len(result['verdicts'])} of {expected}\n" + worker.log.read_text()[-3000:]
            )
    finally:
        await consumer.stop()
    return result


async def committed(bootstrap: str, group: str, topic: str, partitions: int) -> int:
    """Return the sum of the committed offsets of a topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        offsets = [await consumer.committed(TopicPartition(topic, p)) for p in range(partitions)]
    finally:
        await consumer.stop()
    return sum(offset or 0 for offset in offsets)
