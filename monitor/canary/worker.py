"""The loop: rounds of canaries out, flags and verdicts in, the backlog looked at, alarms told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from monitor.alerts.marks import Store
from monitor.canary import metrics
from monitor.canary.alarms import Alarm, Announcer, Name
from monitor.canary.backlog import PartitionBacklog
from monitor.canary.expected import Expected
from monitor.canary.ledger import CanaryLedger, Judgement, Outcome
from monitor.canary.messages import Rounds, event_of
from monitor.canary.watch import Watch, WatchState
from monitor.connections.kafka import denied, ensure_readable
from monitor.errors import AccessDenied, GuardlineError, StoreUnavailable
from monitor.heartbeat import HEARTBEAT
from monitor.publisher import Publisher
from monitor.settings import Settings

_log = structlog.get_logger(__name__)
_POLL = 0.25  # seconds
_MEASURE_EVERY = 15.0  # seconds at most; where rounds are more frequent, as often as those
#: Looks at the backlog that may fail in a row before the broker counts as away.
_FAILED_LOOKS = 4


@dataclass(frozen=True, slots=True)
class Broker:
    """What is asked of the broker; see `backlog`."""

    partitions: Callable[[], Awaitable[Sequence[int]]]
    measure: Callable[[], Awaitable[Sequence[PartitionBacklog]]]


class CanaryWorker:
    """Sends, watches and tells."""

    def __init__(
        self,
        settings: Settings,
        *,
        expected: Expected,
        publisher: Publisher,
        broker: Broker,
        announcer: Announcer,
        store: Store,
        clock: Callable[[], float],
    ) -> None:
        """`clock` tells seconds since the epoch. The worker closes nothing that it is given."""
        self._settings = settings
        self._expected = expected
        self._rounds = Rounds(expected.canaries)
        self._publisher = publisher
        self._broker = broker
        self._announcer = announcer
        self._store = store
        self._clock = clock
        self._ledger = CanaryLedger(settings.canary_within)
        self._watch = self._watching(None)
        self._key = f"canary:{settings.group}:{settings.topic_outputs}"
        self._saved = b""
        self._failed_looks = 0

    def _watching(self, state: WatchState | None) -> Watch:
        return Watch(self._ledger, backlog_age=self._settings.canary_backlog, now=self._clock(), state=state)

    async def run(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        """Work until `stop` is set. `consumer` reads the topics of flags and verdicts from their end on.

        Raises:
            AccessDenied: the broker refuses this client, or an operation.
            GuardlineError: it refuses to be read from for good.
        """
        await self.restore()
        beside = [
            asyncio.create_task(self._every(self._settings.canary_every, self.send_round, stop)),
            asyncio.create_task(self._every(min(_MEASURE_EVERY, self._settings.canary_every), self.measure, stop)),
        ]
        try:
            while not stop.is_set():
                HEARTBEAT.beat()
                ensure_readable(consumer)
                found = await consumer.getmany(timeout_ms=int(_POLL * 1000))
                self.take([record for records in found.values() for record in records])
                await self.tell()
                for task in beside:
                    if task.done():
                        task.result()  # none ends by itself
        except KafkaError as error:
            raise denied(error) or GuardlineError(f"Kafka: {error!r}") from error
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await self._save()

    @staticmethod
    async def _every(seconds: float, job: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        """Do a job, then again after so many seconds; one that takes longer delays the next."""
        while not stop.is_set():
            begun = asyncio.get_running_loop().time()
            await job()
            await asyncio.sleep(max(begun + seconds - asyncio.get_running_loop().time(), 0))

    async def send_round(self) -> None:
        """Send canaries to every partition, and wait until the broker has them.

        What waits for a broker that is away is overdue by and by; no further round is sent meanwhile.
        """
        if await self._expected.changed():
            self._ledger.expect(self._expected.canaries)
            self._rounds = Rounds(self._expected.canaries)
            _log.info("canaries_changed", action="a round is left out, until every worker has the new model")
            return
        try:
            partitions = await self._broker.partitions()
        except AccessDenied:
            raise
        except GuardlineError as error:
            self._failed("broker", error)
            return
        sent = list(self._rounds.deal(partitions, self._clock()))
        self._ledger.send(sent)
        await self._publisher.publish([event_of(one, self._settings.topic_outputs) for one in sent])
        self._watch.sent(len(sent))
        for one in sent:
            metrics.SENT.labels(one.canary.verdict.value).inc()

    async def measure(self) -> None:
        """Look at the backlog."""
        try:
            partitions = await self._broker.measure()
        except AccessDenied:
            raise
        except GuardlineError as error:
            self._failed_looks += 1
            self._failed("broker", error)
            return
        self._failed_looks = 0
        self._watch.backlog(partitions, self._clock())
        await self._save()

    def take(self, records: Sequence[ConsumerRecord]) -> None:
        """Read flags and verdicts."""
        now = self._clock()
        for record in records:
            read = self._watch.flag if record.topic == self._settings.topic_flags else self._watch.verdict
            if (judgement := read(record.value, now)) is not None:
                _report(judgement)

    async def tell(self) -> None:
        """Say what is wrong now."""
        now = self._clock()
        for judgement in self._ledger.due(now):
            _report(judgement)
        self._watch.publish_metrics(now)
        alarms = list(self._watch.alarms(now))
        if self._failed_looks >= _FAILED_LOOKS:
            alarms.append(Alarm(Name.BROKER, "the broker does not answer: what waits to be screened is not known"))
        await self._announcer.tell(alarms, datetime.fromtimestamp(now, UTC))

    @staticmethod
    def _failed(service: str, error: GuardlineError) -> None:
        metrics.FAILURES.labels(service).inc()
        _log.warning(f"{service}_unavailable", error=str(error), action="again with the next look")

    async def restore(self) -> None:
        """Go on with what was usual before a restart, where that is remembered."""
        try:
            (value,) = await self._store.get([self._key])
        except StoreUnavailable as error:
            self._failed("store", error)
            return
        if value is None:
            return
        try:
            self._watch = self._watching(WatchState.model_validate_json(value))
        except ValidationError:
            _log.warning("state_unreadable", action="gathering what is usual anew")

    async def _save(self) -> None:
        value = self._watch.state.model_dump_json().encode()
        if value == self._saved:
            return
        try:
            await self._store.put({self._key: value})
        except StoreUnavailable as error:
            self._failed("store", error)
        else:
            self._saved = value


def _report(judgement: Judgement) -> None:
    sent, outcome = judgement.sent, judgement.outcome
    metrics.OUTCOMES.labels(outcome.value).inc()
    if judgement.seconds is not None and sent.canary.flagged and outcome is not Outcome.WRONG:
        metrics.RETURN_SECONDS.observe(judgement.seconds)
    if outcome is not Outcome.OK:
        _log.error(
            "canary",
            canary=sent.id,
            outcome=outcome.value,
            expected=sent.canary.verdict.value,
            partition=sent.partition,
            seconds=judgement.seconds,
        )
