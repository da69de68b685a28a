"""The consumer group: flags in, alerts out, and the commit of what is done with.

One loop reads, plans, hands over and commits; one task a sink delivers. The loop never waits for a sink: when a queue
is full it stops reading (Kafka's heartbeats go on) and what was planned for the other sinks still goes out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from monitor.alerts import metrics
from monitor.alerts.config import AlertsConfig
from monitor.alerts.dead_letters import letter, letters_of, publish_letters
from monitor.alerts.delivery import Delivery
from monitor.alerts.fingerprint import fingerprint
from monitor.alerts.lanes import Item, Lane, Outgoing
from monitor.alerts.marks import Marks, Store
from monitor.alerts.offsets import OffsetLedger
from monitor.alerts.reading import read_flag
from monitor.alerts.routing import routes_of
from monitor.alerts.sinks import Sink
from monitor.backoff import delays
from monitor.canary.identity import is_canary
from monitor.connections.kafka import denied, ensure_readable
from monitor.errors import AccessDenied, GuardlineError, InvalidMessage
from monitor.health import Progress
from monitor.heartbeat import HEARTBEAT
from monitor.publisher import Publisher

_log = structlog.get_logger(__name__)
_POLL = 0.25  # seconds; windows and digests are as punctual as this
_BATCH = 500
#: Seconds in which the deliveries under way may finish before partitions are given to another worker.
_HAND_OVER = 5.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """`monitor.health.Progress` of one sink."""

    lag: int


class AlertsWorker(ConsumerRebalanceListener):  # type: ignore[misc]
    """Runs the lanes of a configuration."""

    def __init__(
        self,
        config: AlertsConfig,
        *,
        sinks: Mapping[str, Sink],
        store: Store,
        publisher: Publisher,
        clock: Callable[[], float],
    ) -> None:
        """Route flags to `sinks`; `clock` tells seconds since the epoch. The worker closes nothing that it is given."""
        self._config = config
        self._publisher = publisher
        self._clock = clock
        self._marks = Marks(store)
        self._ledger = OffsetLedger()
        self._lanes = {
            (route.name, sink): Lane(route, sink, zone=config.zone, link=config.link, stale_after=config.stale_after)
            for route in config.routes
            for sink in route.sinks
        }
        self._finished = asyncio.Event()
        self._deliveries = {
            name: Delivery(
                sink,
                retry=config.sinks[name].retry,
                timeout=config.sinks[name].timeout,
                capacity=config.sinks[name].queue,
                settle=self._settle,
                finished=self._finished,
                clock=clock,
            )
            for name, sink in sinks.items()
        }
        self._lock = asyncio.Lock()  # reading, and giving partitions away, exclude each other
        self._rebalancing = False
        self._planned: dict[str, deque[Outgoing]] = {name: deque() for name in sinks}

    @property
    def lanes(self) -> Collection[Lane]:
        """All lanes."""
        return self._lanes.values()

    def progress(self) -> Sequence[Progress]:
        """Return what waits, sink by sink, for `/live`."""
        return [_Waiting(len(d.unfinished) + len(self._planned[name])) for name, d in self._deliveries.items()]

    async def run(self, consumer: AIOKafkaConsumer, topics: Collection[str], stop: asyncio.Event, drain: float) -> bool:
        """Work until `stop` is set, then send all that waits; return whether that was done within `drain` seconds.

        What was not is uncommitted and will be read again.

        Raises:
            GuardlineError: the broker refuses this consumer for good.
        """
        consumer.subscribe(list(topics), listener=self)
        self._consumer = consumer
        delivering = [asyncio.create_task(delivery.run()) for delivery in self._deliveries.values()]
        try:
            while not stop.is_set():
                self._surface(delivering)
                ensure_readable(consumer)
                await self._step(consumer)
            for lane in self.lanes:
                self._plan(lane.flush(self._clock()))
            drained = await self._finish(drain, delivering)
            await self._commit(consumer)
            return drained
        except KafkaError as error:
            raise denied(error) or GuardlineError(f"Kafka: {error!r}") from error
        finally:
            for task in delivering:
                task.cancel()
            await asyncio.gather(*delivering, return_exceptions=True)

    @staticmethod
    def _surface(delivering: Sequence[asyncio.Task[None]]) -> None:
        """Raise what ended a delivery: none ends by itself, and without it its alerts would wait for ever."""
        for task in delivering:
            if task.done():
                task.result()

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        HEARTBEAT.beat()
        if any(self._planned.values()):  # some queue is full
            await self._until_one_finished()
        else:
            await self._read(consumer)
        self.tick()
        await self._commit(consumer)
        metrics.PENDING.set(self._ledger.pending)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        async with self._lock:
            if not self._rebalancing:  # else what is handed out now may be read again from an earlier place
                await self.take(await self._fetched(consumer))
                return
        await asyncio.sleep(_POLL)

    @staticmethod
    async def _fetched(consumer: AIOKafkaConsumer) -> list[ConsumerRecord]:
        """Return the next records, none when a rebalance begins while they are waited for.

        `getmany` would then wait for its end, which waits for the lock that is held here. Giving it up loses nothing:
        between taking records from its buffer and returning them it does not wait.
        """
        try:
            async with asyncio.timeout(2 * _POLL):
                found = await consumer.getmany(timeout_ms=int(_POLL * 1000), max_records=_BATCH)
        except TimeoutError:
            return []
        return [record for records in found.values() for record in records]

    def tick(self) -> None:
        """Plan what has become due, and hand over what has room."""
        now = self._clock()
        for lane in self.lanes:
            self._plan(lane.due(now))
        self._hand_over()

    async def take(self, records: Sequence[ConsumerRecord]) -> None:
        """Route records that were read."""
        now = self._clock()
        flags: list[tuple[Item, list[Lane]]] = []
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            self._ledger.read(partition, record.offset)
            epoch = self._ledger.hold(partition, record.offset)  # until its own routing is done
            try:
                flag = read_flag(record.value)
            except InvalidMessage as error:
                await self._unreadable(record, error)
                self._ledger.release(partition, record.offset, epoch)
                continue
            lanes = [self._lanes[route.name, sink] for route in routes_of(self._config, flag) for sink in route.sinks]
            passed_by = "canary" if is_canary(flag.tenant, flag.message_id) else "unrouted"
            metrics.FLAGS.labels("routed" if lanes else passed_by).inc()
            flags.append((Item(flag, record, epoch), lanes))
        done = await self._marks.delivered([(lane, item.flag.id) for item, lanes in flags for lane in lanes])
        fresh = [(lane, item) for item, lanes in flags for lane in lanes if (lane.name, item.flag.id) not in done]
        await self._marks.restore([(lane, fingerprint(item.flag)) for lane, item in fresh], now)
        for lane, item in fresh:
            new, out = lane.add(item, now)
            if new:
                self._ledger.hold(item.place.partition, item.place.offset)
            self._plan(out)
        for item, _ in flags:
            self._ledger.release(item.place.partition, item.place.offset, item.epoch)

    async def _unreadable(self, record: ConsumerRecord, error: InvalidMessage) -> None:
        metrics.FLAGS.labels("unreadable").inc()
        metrics.DEAD_LETTERS.labels("-", error.reason).inc()
        _log.warning(
            "flag_unreadable",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=error.reason,
            detail=error.detail,
        )
        full, bare = (
            [letter(self._config.deadletter, record, error.reason, error.detail, payload=payload)]
            for payload in (True, False)
        )
        await publish_letters(self._publisher, full, bare)

    def _plan(self, out: Sequence[Outgoing]) -> None:
        for outgoing in out:
            self._planned[outgoing.notification.sink].append(outgoing)

    def _hand_over(self) -> None:
        for name, planned in self._planned.items():
            while planned and self._deliveries[name].has_room:
                self._deliveries[name].offer(planned.popleft())

    async def _settle(self, sent: Outgoing, given_up: tuple[str, str] | None) -> None:
        """Write down what became of an alert, and only then let its offsets be committed."""
        if given_up is None:
            await self._marks.write(sent)
        else:
            reason, detail = given_up
            full, bare = (
                letters_of(self._config.deadletter, sent, reason, detail, payload=payload) for payload in (True, False)
            )
            await publish_letters(self._publisher, full, bare)
            metrics.DEAD_LETTERS.labels(sent.notification.sink, reason).inc(len(full))
            sent.lane.forget(place.id for place in sent.places)
        for place in sent.places:
            self._ledger.release(place.partition, place.offset, place.epoch)

    async def _until_one_finished(self) -> None:
        """Wait, not for long, until a sink is done with an alert; look at the queues after it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL):
                await self._finished.wait()
        self._finished.clear()

    async def _finish(self, seconds: float, delivering: Sequence[asyncio.Task[None]]) -> bool:
        """Hand over and deliver what is planned; tell whether all of it is done with in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(p.lag for p in self.progress()):
                    self._surface(delivering)
                    self._hand_over()
                    await self._until_one_finished()
                return True
        _log.warning("alerts_not_drained", seconds=seconds, action="uncommitted flags will be read again")
        return False

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        offsets = self._ledger.to_commit()
        if not offsets:
            return
        try:
            await consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError) as error:  # partitions have moved meanwhile
            _log.warning("commit_refused", error=repr(error), action="flags may be alerted again elsewhere")
        except KafkaError as error:
            _log.warning("commit_failed", error=repr(error), action="with the next one")
        else:
            self._ledger.committed(offsets)

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Finish what can be finished soon, commit it, and leave the rest to the next worker."""
        partitions = set(revoked)
        if not partitions:
            return
        async with self._lock:
            self._rebalancing = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HAND_OVER):
                    while any(place.partition in partitions for sent in self._unfinished() for place in sent.places):
                        self._hand_over()
                        await self._until_one_finished()
            for lane in self.lanes:
                lane.revoke(partitions)
            for sent in self._unfinished():  # if they come back to this worker, their flags must be let in again
                sent.lane.forget(place.id for place in sent.places if place.partition in partitions)
            await self._commit(self._consumer)
            self._ledger.revoke(partitions)
        _log.info("partitions_revoked", partitions=[f"{p.topic}-{p.partition}" for p in sorted(partitions)])

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Read on."""
        self._rebalancing = False
        _log.info("partitions_assigned", partitions=[f"{p.topic}-{p.partition}" for p in sorted(assigned)])

    def _unfinished(self) -> list[Outgoing]:
        planned = [sent for queue in self._planned.values() for sent in queue]
        return planned + [sent for delivery in self._deliveries.values() for sent in delivery.unfinished]


async def start(
    consumer_of: Callable[[], AIOKafkaConsumer],
    refused: Callable[[], Awaitable[AccessDenied | None]],
    stop: asyncio.Event,
) -> AIOKafkaConsumer | None:
    """Return a connected consumer, waiting as long as it takes; None when `stop` was set first.

    Raises:
        AccessDenied: `refused` says after a failure that waiting is no help.
    """
    for delay in delays():
        if stop.is_set():
            return None
        consumer = consumer_of()
        try:
            await consumer.start()
            await asyncio.sleep(0)  # aiokafka's own tasks must have begun before they can be stopped
            return consumer
        except (KafkaError, OSError) as error:
            await consumer.stop()
            if (reason := denied(error) or await refused()) is not None:
                raise reason from error
            _log.warning("broker_unreachable", error=repr(error), action=f"again in {delay:.1f} s")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await stop.wait()
    return None
