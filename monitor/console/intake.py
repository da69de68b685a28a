"""The consumer group `<group>.console`: flags, reviews and decisions from Kafka to the desk.

Offsets are committed after what they stand for is stored, so nothing is lost; repeats change nothing. Decisions are
read back as well, those of this console included: a store that failed between publishing and storing catches up, and
one that was empty (the memory store always is) is filled from the topics' beginning. Flags of canaries are left out:
there is nothing to review about them, and what nobody decides never reaches training.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from monitor.alerts.reading import read_flag
from monitor.backoff import delays
from monitor.canary.identity import is_canary
from monitor.connections.kafka import denied, ensure_readable
from monitor.console import metrics
from monitor.console.desk import Desk
from monitor.console.store import Item, Problem
from monitor.errors import GuardlineError, InvalidMessage, StoreUnavailable
from monitor.events import origin_of
from monitor.feedback.reading import read_feedback
from monitor.health import Progress
from monitor.heartbeat import HEARTBEAT
from monitor.records import Origin, timestamp

_log = structlog.get_logger(__name__)
_POLL = 500  # milliseconds
_BATCH = 500


class Kind(StrEnum):
    """What a topic holds."""

    FLAG = "flag"
    REVIEW = "review"
    DECISION = "decision"


def read_item(record: ConsumerRecord, kind: Kind) -> Item:
    """Return what the console keeps of a record.

    Raises:
        InvalidMessage: it cannot be read.
    """
    if kind is Kind.DECISION:
        return Item.of_decision(read_feedback(record.value))
    return Item.of(read_flag(record.value), origin=origin_of(record.headers), place=place_of(record))


def place_of(record: ConsumerRecord) -> Origin:
    """Return where a record lies."""
    return Origin(topic=record.topic, partition=record.partition, offset=record.offset)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """`monitor.health.Progress` of what was read and is not stored."""

    lag: int


class Intake(ConsumerRebalanceListener):  # type: ignore[misc]
    """Reads until it is told to stop."""

    def __init__(self, desk: Desk, topics: Mapping[str, Kind], *, from_beginning: bool) -> None:
        """Read `topics` into the desk; `from_beginning`: whatever was committed, since the store was empty."""
        self._desk = desk
        self._topics = topics
        self._from_beginning = from_beginning
        self._rewound: set[TopicPartition] = set()
        self._reading = 0

    def progress(self) -> Sequence[Progress]:
        """Return what waits to be stored, for `/live`."""
        return [_Waiting(self._reading)]

    async def run(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        """Read, store and commit until `stop` is set.

        Raises:
            GuardlineError: the broker refuses this consumer for good.
        """
        self._consumer = consumer
        consumer.subscribe(list(self._topics), listener=self)
        try:
            while not stop.is_set():
                HEARTBEAT.beat()
                ensure_readable(consumer)
                found = await consumer.getmany(timeout_ms=_POLL, max_records=_BATCH)
                records = [record for batch in found.values() for record in batch]
                if records and await self._insist(records, stop):
                    await self._commit({p: batch[-1].offset + 1 for p, batch in found.items() if batch})
        except KafkaError as error:
            raise denied(error) or GuardlineError(f"Kafka: {error!r}") from error

    async def _insist(self, records: Sequence[ConsumerRecord], stop: asyncio.Event) -> bool:
        """Take the records as soon as the store lets us; tell whether that was before `stop`."""
        self._reading = len(records)
        for delay in delays():
            try:
                await self.take(records)
            except StoreUnavailable as error:
                metrics.STORE_FAILURES.inc()
                HEARTBEAT.beat()
                _log.warning("store_unavailable", error=str(error), action=f"again in {delay:.1f} s")
                if stop.is_set():
                    return False
                await asyncio.sleep(delay)
            else:
                break
        self._reading = 0
        return True

    async def take(self, records: Sequence[ConsumerRecord]) -> None:
        """Store records that were read; those that cannot be read are reported.

        Raises:
            StoreUnavailable: some may not be stored; repeating changes nothing.
        """
        items: dict[str, Item] = {}
        problems = []
        for record in records:
            kind = self._topics[record.topic]
            try:
                item = read_item(record, kind)
            except InvalidMessage as error:
                problems.append(Problem(place_of(record), error.reason, error.detail, timestamp(record.timestamp)))
                continue
            if is_canary(item.flag.tenant, item.flag.message_id):
                continue
            known = items.get(item.flag.id)
            items[item.flag.id] = known.merged(item) if known else item
        await self._desk.put(list(items.values()))
        await self._desk.report(problems)
        for record in records:
            metrics.RECORDS.labels(self._topics[record.topic].value).inc()
        for problem in problems:
            metrics.RECORDS.labels("unreadable").inc()
            _log.warning(
                "record_unreadable", **problem.place.model_dump(), reason=problem.reason, detail=problem.detail
            )

    async def _commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        try:
            await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError) as error:  # partitions have moved meanwhile
            _log.warning("commit_refused", error=repr(error), action="records may be read again elsewhere")

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Nothing is held for a partition."""

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Go back to the beginning once, where the store was empty."""
        fresh = set(assigned) - self._rewound
        if self._from_beginning and fresh:
            await self._consumer.seek_to_beginning(*fresh)
            self._rewound |= fresh
