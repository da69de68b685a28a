"""Load for whole workers: the shipped answers, every statement of every message different, and a worker to read them.

Each statement carries a reference of its own (`(ref ka be du)`), so that neither the cache of scores nor the
joining of equal statements within a batch saves a forward pass: a stream in which nothing repeats is the dearest one.
Syllables, because a number would be read as a claim. Only answers that the scope gate lets in are used: dismissing a
message that concerns another subject costs next to nothing and would flatter every rate.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from monitor.factory import build_screening
from monitor.memory import MemoryStore
from monitor.package import ModelPackage
from monitor.screening import Screening
from monitor.segmentation import segment
from monitor.settings import Settings
from monitor.types import Message
from tests.e2e.worker import Topics, Worker
from tests.fixtures_kafka import Broker

CORPUS = Path(__file__).parents[2] / "trainer" / "data" / "corpus"
FILES = ("messages.jsonl", "messages_p.jsonl", "messages_q.jsonl")
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvwz" for vowel in "aeiou"]


def reference(number: int) -> str:
    """Return a number as three syllables of 75; few words, so that caches of words behave as in ordinary text."""
    syllables = []
    for _ in range(3):
        number, digit = divmod(number, len(_SYLLABLES))
        syllables.append(_SYLLABLES[digit])
    return " ".join(syllables)


def with_references(text: str, numbers: Iterator[int]) -> str:
    """Return the text with a reference before the full stop of every statement."""
    for statement in reversed(segment(text)):
        end = statement.end - (text[statement.end - 1] in ".!?")
        text = f"{text[:end]} (ref {reference(next(numbers))}){text[end:]}"
    return text


def scored_texts(screening: Screening, texts: Sequence[str]) -> list[str]:
    """Return what the models are asked about these messages: in scope, asserted, with its context."""
    prepared = screening._prepare([Message(id="m", text=text) for text in texts])
    return [reading.text for own in prepared for reading in own.readings if reading]


class Answers:
    """Endless distinct messages from the shipped answers in scope, in the corpus' order."""

    def __init__(self, settings: Settings, package: ModelPackage) -> None:
        self.screening = build_screening(settings, package, MemoryStore())
        rows = [orjson.loads(line) for name in FILES for line in (CORPUS / name).open("rb")]
        self._texts = [row["text"] for row in rows if scored_texts(self.screening, [row["text"]])]
        self._numbers = count()
        self._next = 0

    def take(self, messages: int) -> list[str]:
        """Return the next texts; no statement of them was ever returned before."""
        start, self._next = self._next, self._next + messages
        chosen = [self._texts[i % len(self._texts)] for i in range(start, self._next)]
        return [with_references(text, self._numbers) for text in chosen]


def record(number: int, text: str) -> bytes:
    """Return the native record of one message."""
    return orjson.dumps({"id": f"bench-{number:08d}", "text": text, "tenant": "bench", "model": "recorded"})


@dataclass
class Running:
    """A worker at work and a reader of its verdicts."""

    topics: Topics
    worker: Worker
    verdicts: AIOKafkaConsumer

    @property
    def pid(self) -> int:
        """The worker's process."""
        assert self.worker.process is not None
        return self.worker.process.pid

    async def read(self, timeout_ms: int = 100) -> list[ConsumerRecord]:
        """Return the verdict records that have come.

        Raises:
            SystemExit: the worker has ended; with the end of its log.
        """
        batches: dict[Any, list[ConsumerRecord]] = await self.verdicts.getmany(timeout_ms=timeout_ms)
        if self.worker.process is not None and self.worker.process.returncode is not None:
            raise SystemExit(f"the worker ended:\n{self.worker.log.read_text()[-3000:]}")
        return [one for batch in batches.values() for one in batch]

    async def read_until(self, expected: int, seconds: float) -> list[ConsumerRecord]:
        """Return at least `expected` verdict records.

        Raises:
            TimeoutError: they did not come in time.
        """
        found: list[ConsumerRecord] = []
        async with asyncio.timeout(seconds):
            while len(found) < expected:
                found += await self.read()
        return found

    def cpu_seconds(self) -> float:
        """Return the CPU, user and system, of the worker so far (Linux: /proc/PID/stat)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Return the worker's resident memory (Linux: /proc/PID/statm)."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def running(broker: Broker, package: ModelPackage, **settings: str) -> AsyncIterator[Running]:
    """Start `guardline monitor` as a process with audit records on, and stop it by SIGTERM after."""
    topics = await Topics.create(broker, partitions=4)
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(broker, package.path, topics, Path(folder) / "worker.log", **settings)
        verdicts = AIOKafkaConsumer(
            topics.names["verdicts"],
            bootstrap_servers=broker.bootstrap,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=20,
        )
        await verdicts.start()
        try:
            async with worker:
                own = Running(topics, worker, verdicts)
                yield own
                await worker.stop()
        finally:
            await verdicts.stop()
