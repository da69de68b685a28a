"""A Faust transport that hands agents chunks of records and never commits past unfinished work.

From the broker come records; to the agent goes one Faust event per up to `pace.records` records of
one partition, its value being the list of aiokafka `ConsumerRecord`s. Back comes `event.ack()`, in
any order and from any later task of the same loop; to the broker goes the lowest offset that was
delivered and not acknowledged.

Why not Faust's own consumer: it costs 90 microseconds a record, drops what was acknowledged when
partitions are revoked, and records failed commits as done. Here delivery and commit rest on one
`PartitionLedger` per assigned partition, so Faust's gap lists, acked lists and read offsets have no
say; its agents, rebalancing and lifecycle stay.

What the agent must do: `async for event in stream.noack().events()`, never raise, and acknowledge
only when the broker has acknowledged every event that came of the chunk. A chunk that is never
acknowledged holds the commit of its partition (and is delivered again after a rebalance or
restart); it is not lost. No tables, no transactions: their hooks are bypassed.

Private names leaned on, pinned by `tests/monitor/test_transport_canary.py`: Faust's
`Consumer._wait_next_records`, `_drain_messages` (a read offset of `None` switches off its gaps and
drops), `_read_offset`, `_unacked_messages` (what streams have taken), `_thread` with
`_ensure_consumer` and `_consumer`, `Producer._settings_extra`, `_new_consumer_thread`; mode's
`ServiceThread._close_thread_loop_on_stop`; aiokafka's
`AIOKafkaConsumer._subscription` with `fetch_context`, and `_coordinator` with `check_errors` and `_coordination_task`;
`monitor.connections.kafka` leans on `_client.cluster.unauthorized_topics`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar, cast

import uvloop
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Producer, Transport
from faust.types import TP, AppT, ConsumerMessage, Message
from faust.types.transports import TPorTopicSet
from mode import Service
from yarl import URL

from monitor.connections.kafka import denied, ensure_readable
from monitor.pace import ChunkPace

DRAIN_POLL = 0.02  # seconds: short against any batch, and nothing else runs while draining
MOST_DENIALS = 3  # checks in a row: a grant that was just made takes a moment to reach every broker
GROUP_CHECK = 1.0  # seconds: how long a refused join goes unreported

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One chunk in the agent's care: its lowest offset, its size, and when it was handed over (monotonic)."""

    first: int
    records: int
    since: float


class PartitionLedger:
    """What became of the records of one partition since it was assigned; one ledger per assignment.

    Deliveries are known by their message object, not by offset: after a rebalance the same offsets
    come again as new messages in a new ledger, and a late acknowledgement of an old one finds
    nothing here.
    """

    def __init__(self) -> None:
        self.committed: int | None = None
        self._position: int | None = None
        self._pending: dict[object, Delivery] = {}

    def deliver(self, message: object, first: int, last: int, records: int) -> None:
        """Note that a chunk is on its way to the agent."""
        self._pending[message] = Delivery(first, records, monotonic())
        self._position = last + 1

    def acknowledge(self, message: object) -> bool:
        """Note that a chunk is finished; false if it is not of this assignment or was acknowledged before."""
        return self._pending.pop(message, None) is not None

    @property
    def acknowledged(self) -> int | None:
        """The lowest delivered offset that is not acknowledged: everything below is done."""
        return min((delivery.first for delivery in self._pending.values()), default=self._position)

    @property
    def to_commit(self) -> int | None:
        """The offset a commit should write now, or none when the broker already has it.

        The first commit writes where reading began, so that a group that started at `latest` finds
        the place again.
        """
        done = self.acknowledged
        return None if done is None or done <= (-1 if self.committed is None else self.committed) else done

    @property
    def position(self) -> int | None:
        """The next offset the agent will get; none before the first delivery."""
        return self._position

    @property
    def in_flight(self) -> int:
        """Records delivered and not acknowledged."""
        return sum(delivery.records for delivery in self._pending.values())

    @property
    def oldest(self) -> float | None:
        """When the longest waiting chunk was delivered, in monotonic seconds."""
        return min((delivery.since for delivery in self._pending.values()), default=None)


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """A snapshot for metrics and liveness: Faust's own sensors count chunks, this counts records.

    `end` is the broker's next offset as last fetched, `position` the next one to deliver,
    `acknowledged` the lowest one not finished, `committed` what this worker last wrote, `oldest`
    the monotonic time of the longest waiting delivery.
    """

    topic: str
    partition: int
    end: int | None
    position: int | None
    acknowledged: int | None
    committed: int | None
    in_flight: int
    oldest: float | None

    @property
    def lag(self) -> int:
        """Records that are in the partition and not finished; 0 while that is unknown."""
        return 0 if self.end is None or self.acknowledged is None else max(0, self.end - self.acknowledged)


def round_robin(fetched: Mapping[TP, Sequence[Item]], pace: ChunkPace) -> Iterator[tuple[TP, list[Item]]]:
    """Cut each partition's records into chunks of the size that fits just then, one chunk of each partition in turn."""
    waiting = deque((tp, records, 0) for tp, records in fetched.items() if records)
    while waiting:
        tp, records, start = waiting.popleft()
        end = start + pace.records
        yield tp, list(records[start:end])
        if end < len(records):
            waiting.append((tp, records, end))


class ChunkConsumer(Consumer):
    """Faust's consumer with delivery in chunks and commits from the ledgers."""

    logger = logging.getLogger("faust.transport")

    transport: "ChunkTransport"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._ledgers: dict[TP, PartitionLedger] = {}
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        """Return the thread that fetches and parses, with a loop like that of the process: Faust's own is slower."""
        thread = AIOKafkaConsumerThread(self, loop=self.loop, beacon=self.beacon, thread_loop=uvloop.new_event_loop())
        thread._close_thread_loop_on_stop = True  # it closes only what it made
        return thread

    # Delivery

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ASYNC109
        """Fetch once and yield the records as chunks; Faust's fetcher calls this in a loop.

        A rebalance may pass while a chunk waits for room in the agent's buffer. The rest of the
        fetch is then dropped: the new assignment reads on from the committed offset, and delivering
        old records as well would unsettle its ledger.
        """
        fetched, _ = await self._wait_next_records(timeout)
        if not fetched:
            return
        ends = {tp: records[-1].offset for tp, records in fetched.items()}
        for tp, records in round_robin(fetched, self.transport.pace):
            if self.should_stop or not self.flow_active:
                return
            if self._stands_behind(tp, ends[tp]):
                yield TP(*tp), self._deliver(TP(*tp), records)

    def _stands_behind(self, tp: TP, offset: int) -> bool:
        """Whether Kafka's position is still past `offset`; a reset since the fetch has moved it back."""
        state = self._partition_state(tp)
        return state is not None and state.has_valid_position and state.position > offset

    def _partition_state(self, tp: TP) -> Any:
        subscription = self._thread._ensure_consumer()._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        kafka_tp = TopicPartition(tp[0], tp[1])
        return assignment.state_value(kafka_tp) if assignment and kafka_tp in assignment.tps else None

    def _deliver(self, tp: TP, records: list[ConsumerRecord]) -> ConsumerMessage:
        first, last = records[0], records[-1]
        message = ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=last.offset,
            timestamp=(last.timestamp or 0) / 1000,
            timestamp_type=last.timestamp_type,
            headers=None,
            key=None,
            value=cast("bytes", records),  # the raw codec passes any object on
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )
        self._read_offset[tp] = None
        self._ledgers.setdefault(tp, PartitionLedger()).deliver(message, first.offset, last.offset, len(records))
        return message

    def on_buffer_full(self, tp: TP) -> None:
        """Leave the partition active: the full buffer blocks the fetcher; Faust would sleep for seconds."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Nothing was switched off, so nothing is switched on again."""

    # Acknowledgement and commit

    def ack(self, message: Message) -> bool:
        """Note that a chunk is finished; acknowledgements from before the last rebalance change nothing."""
        message.acked = True
        self._unacked_messages.discard(message)
        ledger = self._ledgers.get(message.tp)
        return ledger is not None and ledger.acknowledge(message)

    async def force_commit(
        self,
        topics: TPorTopicSet | None = None,
        start_new_transaction: bool = True,  # noqa: ARG002 - no transactions here
    ) -> bool:
        """Commit what is finished, for Faust's timer, drains and stop; note it once the broker has it."""
        due = {
            tp: (ledger, offset)
            for tp, ledger in self._ledgers.items()
            if (offset := ledger.to_commit) is not None and (not topics or tp in topics or tp.topic in topics)
        }
        if not due or not await self._commit({tp: offset for tp, (_, offset) in due.items()}):
            return False
        for ledger, offset in due.values():
            ledger.committed = offset
        return True

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Write offsets to the group. A failure is reported, not raised: the next interval tries again."""
        kafka = self._thread._ensure_consumer()
        written = {TopicPartition(tp.topic, tp.partition): offset for tp, offset in offsets.items()}
        try:
            await self._in_thread(lambda: kafka.commit(written))
        except (KafkaError, TimeoutError) as error:
            self.log.warning("Commit failed and will be tried again: %r", error)
            return False
        return True

    async def _in_thread(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a call in the loop of aiokafka's thread, with the commit deadline.

        Not through Faust's method queue: it has two workers, and a call that retries without end
        would starve the fetches.
        """
        loop = self._thread.thread_loop
        if not loop.is_running():
            raise TimeoutError("the consumer thread has ended")
        future = asyncio.run_coroutine_threadsafe(call(), loop)
        try:
            await asyncio.wait_for(asyncio.wrap_future(future), self.transport.commit_timeout)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The thread ended and took the call with it; this task, which may be stopping the app, is to go on.
            raise TimeoutError("the consumer thread has ended") from None

    # Membership of the group

    @Service.task
    async def _watch_group(self) -> None:
        """Read aiokafka's group errors, which wait to be read before it tries to join again.

        Faust never reads them, so that one refused join would leave the worker without partitions
        for ever, in silence.
        """
        denials = 0
        while not self.should_stop:
            await self.sleep(GROUP_CHECK)
            try:
                await self._in_thread(self._raise_group_error)
                denials = 0
            except TimeoutError:
                continue  # a busy or ending thread is not a group error
            except KafkaError as error:
                self.log.error("Reading as a member of the group failed: %r", error)
                reason, consumer = denied(error), self._thread._ensure_consumer()
                denials = 0 if reason is None else denials + 1
                if denials == MOST_DENIALS or consumer._coordinator._coordination_task.done():
                    await self.crash(reason or error)  # no use to try again, or nobody is left to: replace the process
                    return

    async def _raise_group_error(self) -> None:
        consumer = self._thread._ensure_consumer()
        # Full agents stop the fetches, and after `max_poll_interval` without one aiokafka leaves the group and waits
        # for the next before it joins again, while Faust fetches nothing until it has partitions: neither would move.
        # This worker waits on purpose, and this task shows that its loop is alive, so it counts as a fetch.
        with consumer._subscription.fetch_context():
            pass
        consumer._coordinator.check_errors()
        ensure_readable(consumer)

    # Rebalance and shutdown

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish and commit what agents hold, then forget everything.

        The next assignment starts from the commits. All ledgers go, not only the revoked ones: Faust
        empties the buffers of every partition and fetches again.
        """
        if self.app.should_stop:  # the app then returns at once instead of draining
            await self.wait_empty()
        await super().on_partitions_revoked(revoked)  # stops intake, empties buffers, calls wait_empty
        self._ledgers.clear()
        self._unacked_messages.clear()

    async def wait_empty(self) -> None:
        """Wait for the chunks that agents hold, up to the drain deadline, and commit.

        What is not finished by then stays uncommitted and is delivered again to whoever has the
        partition next.
        """
        deadline = monotonic() + self.transport.drain_timeout
        # A poll: Faust's own way of waiting for an acknowledgement lasts a second and swallows cancellation.
        while self._unacked_messages and not self.should_stop and monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL)
        if self._unacked_messages:
            self.log.warning("%d chunks unfinished, to be delivered again", len(self._unacked_messages))
        await self.maybe_wait_for_commit_to_finish()  # a commit under way may lack the last acknowledgements
        await self.commit()

    def close(self) -> None:
        """Do nothing: on a rebalance during shutdown Faust would close the sockets under the final commit."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: Faust's livelock check expects an event per record; judge liveness from `progress`."""

    def progress(self) -> list[PartitionProgress]:
        """Where each assigned partition stands; empty before the consumer has started."""
        if self._thread._consumer is None:
            return []
        return [self._partition_progress(tp) for tp in sorted(self.assignment())]

    def _partition_progress(self, tp: TP) -> PartitionProgress:
        state, ledger = self._partition_state(tp), self._ledgers.get(tp)
        start = state.position if state is not None and state.has_valid_position else None
        return PartitionProgress(
            topic=tp.topic,
            partition=tp.partition,
            end=None if state is None else state.highwater,
            position=ledger.position if ledger else start,
            acknowledged=ledger.acknowledged if ledger else start,
            committed=ledger.committed if ledger else None,
            in_flight=ledger.in_flight if ledger else 0,
            oldest=ledger.oldest if ledger else None,
        )


class IdempotentProducer(Producer):
    """Faust's producer with `acks=all` and idempotence, which Faust only switches on for transactions."""

    logger = logging.getLogger("faust.transport")

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class ChunkTransport(Transport):
    """The transport to install on an app before its first agent is declared.

    `app.transport = app.producer_transport = ChunkTransport(app.conf.broker_consumer, app)`.
    `drain_timeout` bounds how long a revocation or shutdown waits for agents and must stay below
    `broker_rebalance_timeout`, else the group goes on without this worker; `commit_timeout` bounds
    one commit.
    """

    Consumer = ChunkConsumer
    Producer = IdempotentProducer

    def __init__(
        self,
        url: list[URL],
        app: AppT,
        *,
        pace: ChunkPace,
        drain_timeout: float = 20.0,
        commit_timeout: float = 5.0,
    ) -> None:
        super().__init__(url, app)
        self.pace = pace
        self.drain_timeout = drain_timeout
        self.commit_timeout = commit_timeout
