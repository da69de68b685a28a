"""Send dead letters back to where they came from: the same key, value and headers, and one header more.

A letter carries its reasons as the last of its headers (`monitor.events`); they come off, and what the producer sent
stays, to the byte. `guardline.replays` counts how often a record was sent back; a record that keeps failing is left
alone after `most` times, so that no loop runs for ever.

**State.** The place to go on from is committed for a consumer group of its own, `<group>.replay`, or
`<group>.replay.<reasons>` where only some reasons were asked for, so that a narrower run does not pass over letters
that a wider one has still to send. It is committed after the broker acknowledged every letter below it: a run that
dies sends at most one batch twice, and the monitor's ids make repeats recognisable. A run that is told where to begin
(`start`) neither reads nor writes that place, and a dry run only reads it.

Fails closed: a letter is passed over only for a reason that the report counts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from monitor.errors import GuardlineError
from monitor.publisher import Event, Headers, Publisher
from monitor.replay.places import Offsets, Place, Span, format_offsets, resolve
from monitor.replay.reading import batches

REPLAYS = "guardline.replays"
#: Letters published, and acknowledged, before the place is committed.
_BATCH = 256
#: Seconds for one batch to be acknowledged; the publisher itself would wait for ever.
_PATIENCE = 120.0


class Outcome(StrEnum):
    """What became of a letter."""

    REPLAYED = "replayed"
    OTHER_REASON = "other reason"
    NO_PAYLOAD = "no payload"
    TOO_MANY = "too many replays"
    NO_ORIGIN = "no origin"
    REFUSED = "too large"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are sent back: all reasons where none is named, and each record at most `most` times."""

    reasons: frozenset[str] = frozenset()
    most: int = 3

    def group(self, base: str) -> str:
        """Return the consumer group that keeps the place of this selection."""
        return ".".join([base, "replay", *(["+".join(sorted(self.reasons))] if self.reasons else [])])


@dataclass(slots=True)
class Report:
    """Letters by (reason, outcome); `resume` is where the next run goes on, `finished` whether all were read."""

    counts: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    resume: Offsets = field(default_factory=dict)
    finished: bool = False

    def of(self, outcome: Outcome) -> int:
        """Return how many letters had this outcome."""
        return sum(n for (_, other), n in self.counts.items() if other is outcome)

    @property
    def left(self) -> int:
        """Letters that were asked for and could not be sent back."""
        return sum(self.counts.values()) - self.of(Outcome.REPLAYED) - self.of(Outcome.OTHER_REASON)


def _split(headers: Headers) -> tuple[Headers, dict[str, bytes]]:
    """Return the headers that the producer sent, and the letter's own, which are the last, each name once.

    Whatever the producer sent under the same names, after failing elsewhere before, stays.
    """
    own: dict[str, bytes] = {}
    rest = list(headers)
    while rest:
        name = rest[-1][0]
        if name in own or name == REPLAYS or not name.startswith(("__connect.errors.", "guardline.")):
            break
        own[name] = rest.pop()[1] or b""
    return tuple(rest), own


def _count(value: bytes | None) -> int:
    """Return a count of replays; anything unreadable counts as none."""
    return int(value) if value and value.isdigit() and len(value) < 10 else 0


def reason_of(letter: ConsumerRecord) -> str:
    """Return why a letter is one: `guardline.reason`, else (another program's letter) the exception's class."""
    _, own = _split(tuple(letter.headers))
    reason = own.get("guardline.reason") or own.get("__connect.errors.exception.class.name") or b"unknown"
    return reason.decode("utf-8", "replace")


def plan(letter: ConsumerRecord, selection: Selection, topics: Collection[str]) -> Event | Outcome:
    """Return the record to send back, or why none is sent. Pure.

    Args:
        letter: the dead letter.
        selection: which letters are asked for.
        topics: those that records may go back to.
    """
    if selection.reasons and reason_of(letter) not in selection.reasons:
        return Outcome.OTHER_REASON
    sent, own = _split(tuple(letter.headers))
    key = None if own.get("guardline.key") == b"absent" else letter.key
    if own.get("guardline.payload") == b"omitted" or (key is None and letter.value is None):
        return Outcome.NO_PAYLOAD
    topic = own.get("__connect.errors.topic", b"").decode("utf-8", "replace")
    if topic not in topics:
        return Outcome.NO_ORIGIN
    replays = max((_count(value) for name, value in sent if name == REPLAYS), default=0)
    if replays >= selection.most:
        return Outcome.TOO_MANY
    kept = tuple((name, value) for name, value in sent if name != REPLAYS)
    return Event(topic, key, letter.value, (*kept, (REPLAYS, str(replays + 1).encode())))


async def spans_to_read(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition], start: Place | None, end: Place
) -> dict[TopicPartition, Span]:
    """Return what is to be read: from `start`, else from the committed place, else from the beginning.

    Raises:
        ConfigurationError: a place is not in the topic.
    """
    if start is not None:
        return await resolve(consumer, partitions, start, end)
    spans = await resolve(consumer, partitions, "earliest", end)
    last = await consumer.end_offsets(partitions)
    for partition, span in spans.items():
        committed = await consumer.committed(partition)
        # A place beyond the end is of a topic that was deleted and made anew.
        if committed is not None and span.start < committed <= last[partition]:
            spans[partition] = Span(committed, max(committed, span.end))
    return spans


async def replay(
    consumer: AIOKafkaConsumer,
    spans: dict[TopicPartition, Span],
    selection: Selection,
    publisher: Publisher | None,
    *,
    origins: Collection[str],
    commit: bool,
    stop: asyncio.Event,
    advance: Callable[[int], object],
) -> Report:
    """Send back the letters of the spans and return what became of each.

    Args:
        consumer: of the dead-letter topic, with the group that keeps the place.
        spans: what to read.
        selection: which letters.
        publisher: None for a dry run.
        origins: topics that records may go back to: not the dead-letter topic itself, or it would never end.
        commit: whether to keep the place after each batch.
        stop: set to end after the batch at hand.
        advance: is told how many letters were done.

    Raises:
        GuardlineError: the broker did not acknowledge a batch in time; the message says where to go on.
    """
    report = Report(resume={partition: span.start for partition, span in spans.items()})
    async for letters in batches(consumer, spans, most=_BATCH, stop=stop):
        planned = [(letter, plan(letter, selection, origins)) for letter in letters]
        refused = await _publish(publisher, [p for _, p in planned if isinstance(p, Event)], report)
        for letter, what in planned:
            outcome = (
                what if isinstance(what, Outcome) else Outcome.REFUSED if id(what) in refused else Outcome.REPLAYED
            )
            report.counts[reason_of(letter), outcome] += 1
            report.resume[TopicPartition(letter.topic, letter.partition)] = letter.offset + 1
        if commit:
            await consumer.commit(report.resume)
        advance(len(letters))
    report.finished = not stop.is_set()
    if report.finished:
        report.resume = {partition: span.end for partition, span in spans.items()}
        if commit and any(map(len, spans.values())):
            await consumer.commit(report.resume)
    return report


async def _publish(publisher: Publisher | None, events: list[Event], report: Report) -> set[int]:
    """Return the identities of the events that the broker refuses for good; all others are acknowledged."""
    if publisher is None:
        return set()
    try:
        async with asyncio.timeout(_PATIENCE):
            return {id(event) for event in await publisher.publish(events)}
    except TimeoutError:
        raise GuardlineError(
            f"no acknowledgement for {_PATIENCE:.0f} s, some of {len(events)} letters may have gone: "
            f"go on with --from {format_offsets(report.resume)} once the broker is well"
        ) from None
