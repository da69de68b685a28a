"""One consumer of `tests.benchmarks.stream`, in a process of its own: aiokafka, faust-take, guardline, guardline-64.

In: a JSON `Task` as the only argument. Out: one line of JSON, the CPU and wall seconds from the `warm`-th message to
the last one, with all flags acknowledged. Each reads the same 500-byte records in batches of 64 (guardline: in chunks
whose size it finds itself, see `monitor.pace`), parses them with orjson, flags those that say so (1%) and commits every
second; the event loop is uvloop for all.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faust
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord

from monitor.agents import ScreenAgent
from monitor.app import build_app
from monitor.publisher import Event, KafkaPublisher
from monitor.settings import Settings
from monitor.turns import Turn
from monitor.worker import settle_garbage_collection

BATCH = 64
COMMIT_SECONDS = 1.0
LINGER_MS = 5  # as `KafkaPublisher`


@dataclass(frozen=True)
class Task:
    """What to read, how much of it, and where flags go; `warm` messages are read before measuring begins."""

    consumer: str
    bootstrap: str
    group: str
    source: str
    flags: str
    messages: int
    warm: int


@dataclass
class Meter:
    """Counts messages, and takes CPU (user and system, all threads) and wall seconds between two counts."""

    task: Task
    done: int = 0
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    _begun: tuple[float, float, int] | None = None
    _cpu: float = 0.0
    _seconds: float = 0.0
    _counted: int = 0

    def count(self, messages: int) -> None:
        """Note that this many more are done."""
        self.done += messages
        if self._begun is None and self.done >= self.task.warm:
            self._begun = (cpu_seconds(), time.perf_counter(), self.done)
        if self.done >= self.task.messages:
            self.finished.set()

    def stop(self) -> None:
        """End the measured stretch."""
        assert self._begun is not None
        cpu, clock, before = self._begun
        self._cpu, self._seconds = cpu_seconds() - cpu, time.perf_counter() - clock
        self._counted = self.done - before

    def line(self) -> str:
        """Return what was measured, as JSON."""
        return json.dumps({"cpu_s": self._cpu, "seconds": self._seconds, "messages": self._counted, "done": self.done})


def cpu_seconds() -> float:
    """Return the CPU that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def flag_of(value: bytes) -> bytes | None:
    """The null model: parse the record, and return a flag when the record itself asks for one."""
    record = orjson.loads(value)
    return orjson.dumps({"message_id": record["id"], "score": 1.0}) if record["flag"] else None


async def aiokafka(task: Task, meter: Meter) -> None:
    """Plain `getmany` and `send`; before each commit all flags sent so far are acknowledged."""
    consumer = AIOKafkaConsumer(
        task.source,
        bootstrap_servers=task.bootstrap,
        group_id=task.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=task.bootstrap, acks="all", enable_idempotence=True, linger_ms=LINGER_MS
    )
    await producer.start()
    await consumer.start()
    sent: list[asyncio.Future[Any]] = []
    committed = time.monotonic()
    while not meter.finished.is_set():
        for records in (await consumer.getmany(timeout_ms=1000, max_records=BATCH)).values():
            for record in records:
                if (flag := flag_of(record.value)) is not None:
                    sent.append(await producer.send(task.flags, flag))  # noqa: PERF401
            meter.count(len(records))
        if meter.finished.is_set() or time.monotonic() - committed > COMMIT_SECONDS:
            await asyncio.gather(*sent)
            sent.clear()
            await consumer.commit()
            committed = time.monotonic()
    meter.stop()
    await consumer.stop()
    await producer.stop()


class _App(faust.App):
    async def on_first_start(self) -> None:
        """Make no folders: there are no tables."""


async def faust_take(task: Task, meter: Meter) -> None:
    """The textbook agent: `take`, then send and await."""
    app = _App(
        task.group,
        broker=f"kafka://{task.bootstrap}",
        broker_commit_interval=COMMIT_SECONDS,
        consumer_auto_offset_reset="earliest",
        datadir=Path(tempfile.gettempdir()) / task.group,
        key_serializer="raw",
        value_serializer="raw",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    flags = app.topic(task.flags, value_serializer="raw")

    async def screen(stream: Any) -> None:
        async for values in stream.take(BATCH, within=0.1):
            found = [flag for value in values if (flag := flag_of(value)) is not None]
            await asyncio.gather(*[await flags.send(value=flag) for flag in found])
            meter.count(len(values))

    app.agent(app.topic(task.source, value_serializer="raw", value_type=bytes), name="screen")(screen)
    await app.start()
    await meter.finished.wait()
    meter.stop()
    await app.stop()


class NullHandler:
    """Stands where `ChunkHandler` does: parses, flags what asks for it, returns when the broker has the flags."""

    def __init__(self, task: Task, meter: Meter) -> None:
        self._task, self._meter = task, meter

    async def handle(self, records: Sequence[ConsumerRecord], turn: Turn) -> None:
        """See `ChunkHandler.handle`."""
        events = [Event(self._task.flags, None, flag) for r in records if (flag := flag_of(r.value)) is not None]
        await turn.publish(events)
        self._meter.count(len(records))


async def guardline(task: Task, meter: Meter) -> None:
    """The app, transport, agent and publisher of the monitor, as the worker wires them."""
    await _guardline(Settings(kafka_bootstrap=task.bootstrap, group=task.group, topic_outputs=task.source), task, meter)


async def guardline_64(task: Task, meter: Meter) -> None:
    """The same in chunks of no more than the others' batches."""
    own = {"kafka_bootstrap": task.bootstrap, "group": task.group, "topic_outputs": task.source}
    await _guardline(Settings(**own, chunk_records=BATCH), task, meter)


async def _guardline(settings: Settings, task: Task, meter: Meter) -> None:
    settle_garbage_collection()
    app = build_app(settings)
    publisher = KafkaPublisher(settings.kafka_bootstrap)
    handler: Any = NullHandler(task, meter)

    async def fail(error: BaseException) -> None:
        raise error

    agent = ScreenAgent(
        handler,
        publisher,
        pace=app.transport.pace,
        in_flight=settings.chunks_in_flight,
        max_bytes=settings.bytes_in_flight,
        on_failure=fail,
    )

    async def screen(stream: Any) -> None:
        await agent(stream)

    app.agent(app.topic(settings.topic_outputs, value_type=None), name="screen")(screen)
    await publisher.start()
    await app.start()
    await meter.finished.wait()
    meter.stop()
    await app.stop()
    await publisher.close()


CONSUMERS = {"aiokafka": aiokafka, "faust-take": faust_take, "guardline": guardline, "guardline-64": guardline_64}


async def run(task: Task) -> None:
    """Consume, then print what it cost."""
    meter = Meter(task)
    await CONSUMERS[task.consumer](task, meter)
    print(meter.line(), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(Task(**json.loads(sys.argv[1]))))
