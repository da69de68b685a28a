"""Judge past inputs with another model package and say which verdicts would change. Publishes nothing.

Each input is compared with what was decided when it passed (its audit record in the verdicts topic), and, where there
is none, with what another package says now. Only flips are kept, and of them only the first few: memory is bounded by
one batch and seven bytes for each offset of the spans.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index

import numpy as np
import orjson
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from numpy.typing import NDArray

from monitor.errors import ConfigurationError, InvalidMessage, ModelMismatch, ScorerUnavailable
from monitor.intake import parse
from monitor.replay.places import Offsets, Span
from monitor.replay.reading import batches
from monitor.screening import Screening
from monitor.types import Message, MessageVerdict, Verdict

_log = structlog.get_logger(__name__)
#: Inputs screened together, as a worker's chunk is.
_BATCH = 64
_AUDIT_BATCH = 2000
#: Offsets whose audit records are held at once: 1.4 GB.
_MOST_OFFSETS = 200_000_000
_VERDICTS = tuple(Verdict)
_UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Decision:
    """What was, or would be, decided of one input, and by which model; `text` is the statement that decides it."""

    verdict: Verdict
    score: float
    by: str
    message_id: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Flip:
    """One input whose verdict would change."""

    topic: str
    partition: int
    offset: int
    before: Decision
    after: Decision


@dataclass(slots=True)
class Report:
    """Inputs by (verdict before, verdict after), the first flips, and who decided before.

    `resume` is where a next run would go on, `finished` whether all were read.
    """

    counts: Counter[tuple[Verdict, Verdict]] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    flips: list[Flip] = field(default_factory=list)
    resume: Offsets = field(default_factory=dict)
    finished: bool = False

    @property
    def read(self) -> int:
        """Inputs that were judged."""
        return sum(self.counts.values())

    @property
    def flipped(self) -> int:
        """Inputs whose verdict would change."""
        return sum(n for (before, after), n in self.counts.items() if before is not after)


class Audits:
    """What the audit records of the spans say, in arrays by offset; the last record of an input counts."""

    def __init__(self, spans: Mapping[TopicPartition, Span]) -> None:
        """Make room for the spans.

        Raises:
            ConfigurationError: they are too long to be held.
        """
        offsets = sum(len(span) for span in spans.values())
        if offsets > _MOST_OFFSETS:
            raise ConfigurationError(
                f"{offsets} offsets are more than the audit records of {_MOST_OFFSETS} that fit: "
                "narrow --from and --to, or compare with a package, --against"
            )
        self._spans = spans
        self._verdicts: dict[TopicPartition, NDArray[np.int8]] = {
            p: np.full(len(span), _UNKNOWN, dtype=np.int8) for p, span in spans.items()
        }
        self._scores: dict[TopicPartition, NDArray[np.float32]] = {
            p: np.zeros(len(span), dtype=np.float32) for p, span in spans.items()
        }
        self._by: dict[TopicPartition, NDArray[np.uint16]] = {
            p: np.zeros(len(span), dtype=np.uint16) for p, span in spans.items()
        }
        self._models: dict[str, int] = {}

    def add(self, value: bytes | None) -> None:
        """Take note of one audit record; whatever is none, or of no input in the spans, is passed over."""
        try:
            record = orjson.loads(value or b"")
            partition = TopicPartition(record["topic"], record["partition"])
            place = index(record["offset"]) - self._spans[partition].start
            verdict = _VERDICTS.index(Verdict(record["verdict"]))
            score = min(max(float(record["score"]), 0.0), 1.0)
            model = f"{record['model']['name']}@{record['model']['version']}"
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return
        if 0 <= place < len(self._spans[partition]):
            self._verdicts[partition][place] = verdict
            self._scores[partition][place] = score
            self._by[partition][place] = self._models.setdefault(model, len(self._models))

    def of(self, record: ConsumerRecord) -> Decision | None:
        """Return what was decided of an input; None where no audit record says so."""
        partition = TopicPartition(record.topic, record.partition)
        place = record.offset - self._spans[partition].start
        verdict = int(self._verdicts[partition][place])
        if verdict == _UNKNOWN:
            return None
        model = list(self._models)[self._by[partition][place]]
        return Decision(_VERDICTS[verdict], round(float(self._scores[partition][place]), 6), model)


async def read_audits(
    consumer: AIOKafkaConsumer,
    spans: Mapping[TopicPartition, Span],
    audits: Audits,
    *,
    stop: asyncio.Event,
    advance: Callable[[int], object],
) -> None:
    """Read the audit records in `spans` of the verdicts topic into `audits`."""
    async for records in batches(consumer, spans, most=_AUDIT_BATCH, stop=stop):
        for record in records:
            audits.add(record.value)
        advance(len(records))


class Judge:
    """Decides on records as a worker would, with one model package."""

    def __init__(self, screening: Screening) -> None:
        self._screening = screening
        self.name = f"{screening.model.name}@{screening.model.version}"

    async def decide(self, records: Sequence[ConsumerRecord]) -> list[Decision]:
        """Return one decision a record, in order; `invalid` for what a worker would make a dead letter of.

        Raises:
            ScorerUnavailable, ModelMismatch: nothing can be said of any record.
        """
        read = [_read(record) for record in records]
        verdicts = iter(await self._screen([message for message in read if message is not None]))
        return [self._decision(message, next(verdicts) if message else None) for message in read]

    async def _screen(self, messages: Sequence[Message]) -> list[MessageVerdict | None]:
        try:
            return list(await self._screening.screen(messages))
        except (ScorerUnavailable, ModelMismatch):
            raise
        except Exception:
            if len(messages) == 1:  # a worker gives up such a message, too
                _log.exception("message_failed", message_id=messages[0].id)
                return [None]
        return [verdict for message in messages for verdict in await self._screen([message])]

    def _decision(self, message: Message | None, verdict: MessageVerdict | None) -> Decision:
        if message is None or verdict is None:
            return Decision(Verdict.INVALID, 0.0, self.name, message.id if message else None)
        gravest = max(verdict.of(verdict.verdict), key=lambda s: s.score, default=None)
        text = gravest.statement.text if gravest else None
        return Decision(verdict.verdict, round(verdict.score, 6), self.name, message.id, text)


def _read(record: ConsumerRecord) -> Message | None:
    try:
        return parse(record.value, record.headers, origin=f"{record.topic}-{record.partition}-{record.offset}")
    except InvalidMessage:
        return None


async def rescore(
    consumer: AIOKafkaConsumer,
    spans: Mapping[TopicPartition, Span],
    *,
    after: Judge,
    before: Callable[[], Awaitable[Judge]],
    audits: Audits | None,
    flips: int,
    stop: asyncio.Event,
    advance: Callable[[int], object],
) -> Report:
    """Judge the inputs in the spans and compare.

    Args:
        consumer: of the input topic.
        spans: what to read.
        after: the package in question.
        before: gives the package to compare with; asked once, and only when an input has no audit record.
        audits: what was decided, or None to compare with the package alone.
        flips: how many to keep.
        stop: set to end after the batch at hand.
        advance: is told how many inputs were done.
    """
    report = Report(resume={partition: span.start for partition, span in spans.items()})
    async for records in batches(consumer, spans, most=_BATCH, stop=stop):
        decided = await after.decide(records)
        known = [audits.of(record) if audits else None for record in records]
        unknown = [record for record, decision in zip(records, known, strict=True) if decision is None]
        missing = iter(await (await before()).decide(unknown) if unknown else [])
        for record, was, now in zip(records, known, decided, strict=True):
            _count(report, record, was or next(missing), now, flips)
        advance(len(records))
    report.finished = not stop.is_set()
    if report.finished:
        report.resume = {partition: span.end for partition, span in spans.items()}
    return report


def _count(report: Report, record: ConsumerRecord, before: Decision, after: Decision, flips: int) -> None:
    report.counts[before.verdict, after.verdict] += 1
    report.before[before.by] += 1
    report.resume[TopicPartition(record.topic, record.partition)] = record.offset + 1
    if before.verdict is not after.verdict and len(report.flips) < flips:
        report.flips.append(Flip(record.topic, record.partition, record.offset, before, after))
