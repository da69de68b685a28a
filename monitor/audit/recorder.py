"""The consumer group that writes the audit log: flags, reviews, decisions and actions in, linked entries out.

The log itself says how far it has come: each entry names the record that it came of, and each segment begins with the
offsets of all partitions. So a recorder that starts reads the log (and checks its chain), and goes on where the log
ends, wherever the group's committed offsets may be; those tell monitoring of the lag and nothing else. An event that
the log has is not appended again, however often it comes; one that says something else under the same id is.

Fails closed: while the log cannot be written nothing is committed and nothing more is read. A log whose chain is broken
is not continued at all.

Memory: about 100 bytes for each event of the segments that are there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any
from uuid import uuid4

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from monitor.audit import metrics
from monitor.audit.chain import SEGMENT, ChainBroken, Draft, Follower, Head, NotCanonical, canonical, link
from monitor.audit.entries import Drafts, gap, genesis, repair, segment
from monitor.audit.log import AuditLog, LogUnavailable
from monitor.backoff import delays
from monitor.connections.kafka import denied, ensure_readable
from monitor.errors import ConfigurationError, GuardlineError, InvalidMessage
from monitor.health import Progress
from monitor.heartbeat import HEARTBEAT

_log = structlog.get_logger(__name__)
_POLL = 0.25  # seconds
_BATCH = 500
#: Details that differ where the same message was sent, and flagged, twice.
_OF_THE_WAY = frozenset({"source", "origin", "received_at"})
#: Seconds between two log lines that say how far a long log was read.
_TELL = 10.0
#: Seconds between two checkpoints while entries come in.
_CHECKPOINT = 300.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """`monitor.health.Progress` of the log."""

    lag: int


def _key(kind: str, details: Mapping[str, Any]) -> bytes:
    """Return what an event is known by: its id and all that it says, but for where it lies and when it came.

    Raises:
        NotCanonical: it has no canonical JSON.
    """
    said = {name: value for name, value in details.items() if name not in _OF_THE_WAY}
    return hashlib.sha256(kind.encode() + canonical(said)).digest()[:16]


class Recorder(ConsumerRebalanceListener):  # type: ignore[misc]
    """Writes one log."""

    def __init__(self, log: AuditLog, drafts: Drafts, clock: Callable[[], datetime]) -> None:
        """Append to `log`; `clock` tells the time, in UTC. The recorder closes nothing that it is given."""
        self._log = log
        self._drafts = drafts
        self._clock = clock
        self._head = Head()
        self._seen: set[bytes] = set()
        self._offsets: dict[TopicPartition, int] = {}
        self._waiting = 0
        self._appending = asyncio.Lock()  # a rebalance may find a gap while records are appended
        self._failure: Exception | None = None
        self._checkpointed = (Head(), -_CHECKPOINT)

    @property
    def head(self) -> Head:
        """The last entry."""
        return self._head

    def progress(self) -> Sequence[Progress]:
        """Return how many records wait for the log, for `/live`."""
        return [_Waiting(self._waiting)]

    async def open(self) -> None:
        """Become the log's writer, check its chain, and learn from it what was recorded.

        Raises:
            ConfigurationError: the log cannot be had.
            GuardlineError: its chain is broken, or another process writes to it.
        """
        torn = await self._log.open()
        follower = Follower(begin_with_segment=True)
        told = monotonic()
        with suppress(ConfigurationError):  # a folder without segments: a new log
            async for lines in self._log.read():
                for line in lines:
                    try:
                        self._learn(follower.follow(line.value))
                    except ChainBroken as error:
                        raise GuardlineError(
                            f"{line.place}: {error}. The audit log is not continued: keep it as it is, find out what "
                            "happened, and begin another one in an empty folder or topic"
                        ) from error
                if monotonic() - told > _TELL:
                    told = monotonic()
                    _log.info("audit_log_reading", entry=follower.head.seq)
        self._head = follower.head
        _log.info("audit_log_read", entries=self._head.seq + 1, events=len(self._seen), head=self._head.hash)
        if torn is not None:
            _log.warning("audit_line_torn", place=torn.place, bytes=torn.size, action="cut off; an entry says so")
            await self._append([repair(torn, self._head)])

    def _learn(self, entry: Mapping[str, Any]) -> None:
        details = entry["details"]
        if entry["kind"] == SEGMENT:
            for place, offset in details["offsets"].items():
                topic, _, number = place.rpartition("/")
                self._offsets[TopicPartition(topic, int(number))] = offset
        if "event" in details:
            self._note(_key(entry["kind"], details), details["source"])

    def _note(self, key: bytes, source: Mapping[str, Any]) -> None:
        self._seen.add(key)
        self._offsets[TopicPartition(source["topic"], source["partition"])] = source["offset"] + 1

    async def run(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        """Record until `stop` is set.

        Raises:
            GuardlineError: the broker refuses this consumer for good, or another process writes to the log.
        """
        self._consumer, self._stop = consumer, stop
        consumer.subscribe(self._drafts.topics, listener=self)
        try:
            while not stop.is_set():
                HEARTBEAT.beat()
                ensure_readable(consumer)
                found = await consumer.getmany(timeout_ms=int(_POLL * 1000), max_records=_BATCH)
                if self._failure is not None:  # the consumer may stand elsewhere than the log
                    raise self._failure
                records = [record for part in found.values() for record in part]
                if not await self.take(records, stop):
                    return
                if records:
                    await self._commit(consumer, records)
                self.checkpoint()
        except KafkaError as error:
            raise denied(error) or GuardlineError(f"Kafka: {error!r}") from error
        finally:
            self.checkpoint(at_once=True)

    async def take(self, records: Sequence[ConsumerRecord], stop: asyncio.Event) -> bool:
        """Append an entry for each record whose event is new; False when `stop` was set while the log was away."""
        self._waiting = len(records)
        fresh: dict[bytes, Draft] = {}
        for record in records:
            draft, key = self._read(record)
            if key in self._seen or key in fresh:
                metrics.REPEATS.inc()
            else:
                fresh[key] = draft
        if fresh:
            if not await self._append(fresh.values(), stop):
                return False
            for key, draft in fresh.items():
                self._note(key, draft.details["source"])
        self._waiting = 0
        return True

    def _read(self, record: ConsumerRecord) -> tuple[Draft, bytes]:
        """Return the draft of a record and what its event is known by."""
        draft = self._drafts.of(record)
        try:
            return draft, _key(draft.kind, draft.details)
        except NotCanonical:
            error = InvalidMessage("not_canonical", "a number is too large for JSON")
            draft = self._drafts.unreadable(record, error)
            return draft, _key(draft.kind, draft.details)

    async def _append(self, drafts: Iterable[Draft], stop: asyncio.Event | None = None) -> bool:
        """Link drafts and append them, waiting as long as the log is away; False when `stop` was set first."""
        async with self._appending:
            return await self._append_next(list(drafts), stop)

    async def _append_next(self, drafts: list[Draft], stop: asyncio.Event | None) -> bool:
        begin = None
        if self._log.due:
            begin = self._head.seq + 1
            first = genesis(uuid4().hex) if begin == 0 else segment(self._offsets)
            drafts = [first, *drafts]
        head, lines = self._head, []
        for draft in drafts:
            line, head = link(draft, head, self._clock())
            lines.append(line)
        for delay in delays():
            try:
                await self._log.append(lines, segment=begin)
                break
            except LogUnavailable as error:
                metrics.FAILURES.inc()
                HEARTBEAT.beat()  # starting again would not bring the log back
                _log.error("audit_log_unavailable", error=str(error), action=f"nothing is committed; {delay:.1f} s")
            if stop is None:
                await asyncio.sleep(delay)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await stop.wait()
                return False
        self._head = head
        for draft in drafts:
            metrics.ENTRIES.labels(draft.kind).inc()
        metrics.LAST_SEQ.set(head.seq)
        metrics.LAST_TIME.set(self._clock().timestamp())
        return True

    async def _commit(self, consumer: AIOKafkaConsumer, records: Sequence[ConsumerRecord]) -> None:
        """Tell the group how far the log has come. What the broker does not take is told again with what comes next."""
        offsets: dict[TopicPartition, int] = {}
        for record in records:
            offsets[TopicPartition(record.topic, record.partition)] = record.offset + 1
        try:
            await consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError, KafkaError) as error:
            _log.warning("commit_failed", error=repr(error), action="none is needed: the log knows its offsets")

    def checkpoint(self, *, at_once: bool = False) -> None:
        """Log the head, and show it as a metric, if it has moved and the last time is long enough ago."""
        before, when = self._checkpointed
        if self._head == before or (not at_once and monotonic() - when < _CHECKPOINT):
            return
        self._checkpointed = (self._head, monotonic())
        metrics.CHECKPOINT.info({"seq": str(self._head.seq), "hash": self._head.hash})
        _log.info("audit_checkpoint", seq=self._head.seq, hash=self._head.hash)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Go on where the log ends. aiokafka would log a failure of this and read on: so the loop raises it."""
        try:
            await self._resume(sorted(assigned))
        except Exception as error:
            self._failure = error

    async def _resume(self, assigned: Sequence[TopicPartition]) -> None:
        """Seek to where the log ends; say so in the log where records are gone that it has not seen."""
        first = await self._consumer.beginning_offsets(list(assigned)) if assigned else {}
        for partition in assigned:
            begin = first[partition]
            known = self._offsets.get(partition, begin)
            if known < begin:
                _log.error("audit_gap", topic=partition.topic, partition=partition.partition, records=begin - known)
                if not await self._append([gap(partition, known, begin - 1)], self._stop):
                    return
                self._offsets[partition] = begin
            self._consumer.seek(partition, max(known, begin))
        _log.info("partitions_assigned", partitions=[f"{p.topic}-{p.partition}" for p in assigned])

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Nothing to do: what is being appended is known again when somebody reads it again."""
