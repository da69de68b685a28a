"""What each step of the monitor costs, for `docs/sizing.md`: `python -m tests.benchmarks.unit_costs`.

CPU of this process (user and system, all threads; ONNX Runtime with one), over the shipped answers in scope, a median
of rounds. The encoder's and the verifier's rows are without tokenizing, which has its own; the verifier is given the
pairs that it reads in service. Bytes are those of the Kafka records' values and headers, before compression.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from aiokafka import ConsumerRecord
from numpy.typing import NDArray

from monitor import claims
from monitor.context import read
from monitor.encoding import PairVerifier, TextEncoder
from monitor.events import EventFactory, Topics
from monitor.factory import build_limits, build_screening
from monitor.intake import parse
from monitor.memory import MemoryStore
from monitor.onnx_scorer import OnnxBackend
from monitor.package import ModelPackage
from monitor.publisher import Event
from monitor.segmentation import segment
from monitor.settings import DEFAULT_MODEL, Settings
from monitor.types import MessageVerdict
from tests.benchmarks.load import Answers, record, scored_texts
from tests.benchmarks.results import report

ROUNDS = 5


class Timed(OnnxBackend):
    """The in-process backend, adding up the CPU of its thread, which runs the graph alone, and its rows."""

    cpu = 0.0
    rows = 0

    def _run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[Any]]:
        before = time.thread_time()
        outputs = super()._run(input_ids, attention_mask)
        self.cpu += time.thread_time() - before
        self.rows += len(input_ids)
        return outputs


def microseconds(call: Callable[[], object], count: int) -> float:
    """Return CPU microseconds of one of `count` things that a call does: the median round."""
    rounds = []
    for _ in range(ROUNDS):
        before = time.process_time()
        call()
        rounds.append((time.process_time() - before) / count * 1e6)
    return statistics.median(rounds)


async def spent(call: Callable[[], Awaitable[object]]) -> float:
    """Return the CPU seconds of a call."""
    before = time.process_time()
    await call()
    return time.process_time() - before


def kafka_record(number: int, value: bytes) -> ConsumerRecord:
    """Return a message as aiokafka would hand it over."""
    return ConsumerRecord(
        topic="llm.outputs", partition=0, offset=number, timestamp=1_750_000_000_000, timestamp_type=0, key=None,
        value=value, checksum=None, serialized_key_size=-1, serialized_value_size=len(value), headers=(),
    )  # fmt: skip


def size(event: Event) -> int:
    """Return the bytes of an event's key, value and headers."""
    headers = sum(len(name) + len(value) for name, value in event.headers)
    return len(event.key or b"") + len(event.value or b"") + headers


async def measure(messages: int) -> list[dict[str, object]]:
    """Return one row a unit."""
    package = ModelPackage.load(DEFAULT_MODEL)
    manifest = package.manifest
    settings = Settings(onnx_threads=1)
    answers = Answers(settings, package)
    texts = answers.take(messages)
    values = [record(number, text) for number, text in enumerate(texts)]
    records = [kafka_record(number, value) for number, value in enumerate(values)]
    parsed = [parse(r.value, r.headers, origin="0") for r in records]
    sentences = [segment(text) for text in texts]
    scored = list(dict.fromkeys(scored_texts(answers.screening, texts)))
    scope, name = manifest.scope, manifest.guideline.treatment
    rows: list[dict[str, object]] = []

    def row(unit: str, value: float, per: str, of: str) -> None:
        rows.append({"unit": unit, "value": value, "measure": of, "per": per})

    def cost(unit: str, call: Callable[[], object], count: int, per: str) -> None:
        row(unit, microseconds(call, count), per, "CPU us")

    row("sentences", sum(map(len, sentences)) / messages, "message", "count")
    row("statements scored", len(scored) / messages, "message", "count")
    cost("parse", lambda: [parse(r.value, r.headers, origin="0") for r in records], messages, "message")
    cost("segment", lambda: [segment(text) for text in texts], messages, "message")
    cost(
        "context",
        lambda: [read(t, s, scope.terms, name, scope.names) for t, s in zip(texts, sentences, strict=True)],
        messages,
        "message",
    )
    cost("prepare (all before the models)", lambda: answers.screening._prepare(parsed), messages, "message")
    cost("claims", lambda: [claims.read(text) for text in scored], len(scored), "statement")

    backend = Timed(package, manifest.encoder, threads=1)
    encoder = TextEncoder(package, backend, limits=build_limits(settings))
    await encoder.score(scored[:64])
    backend.cpu, backend.rows = 0.0, 0
    whole = await spent(lambda: encoder.score(scored))
    row("encoder", 1e6 * backend.cpu / backend.rows, "statement", "CPU us")
    row("tokenize and batch", 1e6 * (whole - backend.cpu) / backend.rows, "statement", "CPU us")
    await encoder.close()
    if manifest.verifier is not None:
        rows += await verifier_rows(package, settings, scored)
    rows += await event_rows(package, settings, values, records)
    await answers.screening.close()
    return rows


async def verifier_rows(package: ModelPackage, settings: Settings, scored: Sequence[str]) -> list[dict[str, object]]:
    """Return what reading pairs costs, with as many pairs a statement as in service."""
    assert package.manifest.verifier is not None
    backend = Timed(package, package.manifest.verifier, threads=1)
    screening = build_screening(settings, package, MemoryStore())
    assessment = screening._assessment
    pairs: list[tuple[str, str]] = []
    verifier = PairVerifier(package, backend, limits=build_limits(settings))

    class Noting:
        async def verify(self, asked: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
            pairs.extend(asked)
            backend.cpu, backend.rows = 0.0, 0
            return await verifier.verify(asked)

        async def close(self) -> None:
            await verifier.close()

    await verifier.verify([("a", "b")] * 8)
    assessment._verifier = Noting()
    await assessment.assess(scored)
    await screening.close()
    return [
        {"unit": "pairs read", "value": len(pairs) / len(scored), "measure": "count", "per": "statement"},
        {"unit": "verifier", "value": 1e6 * backend.cpu / backend.rows, "measure": "CPU us", "per": "pair"},
    ]


async def event_rows(
    package: ModelPackage, settings: Settings, values: Sequence[bytes], records: Sequence[ConsumerRecord]
) -> list[dict[str, object]]:
    """Return what events weigh and cost."""
    screening = build_screening(settings, package, MemoryStore())
    factory = EventFactory(
        Topics(flags="flags", review="review", deadletter="dead", verdicts="verdicts"),
        model=screening.model,
        thresholds=screening.thresholds,
        include_text=True,
    )
    verdicts: list[MessageVerdict] = []
    for start in range(0, len(records), 32):
        part = [parse(r.value, r.headers, origin="0") for r in records[start : start + 32]]
        verdicts += await screening.screen(part)
    await screening.close()

    def make() -> list[Event]:
        return [e for r, v in zip(records, verdicts, strict=True) for e in factory.of_verdict(r, v)]

    by_topic: dict[str, list[int]] = {}
    for event in make():
        by_topic.setdefault(event.topic, []).append(size(event))
    rows: list[dict[str, object]] = [
        {"unit": "make events", "value": microseconds(make, len(records)), "measure": "CPU us", "per": "message"},
        {"unit": "message", "value": statistics.fmean(map(len, values)), "measure": "bytes", "per": "message"},
    ]
    for topic, unit in (("flags", "flag"), ("review", "review"), ("verdicts", "audit record")):
        own = by_topic.get(topic, [])
        if own:
            rows.append({"unit": unit, "value": statistics.fmean(own), "measure": "bytes", "per": unit})
            rows.append({"unit": f"{unit}s", "value": len(own) / len(values), "measure": "count", "per": "message"})
    return rows


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=96)
    report("unit_costs", asyncio.run(measure(parser.parse_args().messages)))


if __name__ == "__main__":
    main()
