"""The Faust agent: chunks of records in, events out, and only then the acknowledgement.

A chunk (records of one partition, see `transport`) is parsed, screened and published by one task. Several are in
flight; those of one partition publish in turn (see `turns`), and the transport commits only below the lowest
unacknowledged offset.
What fails:

- an unreadable record: dead letter with the reason, the stream goes on;
- the scorer away: the chunk waits and tries again, its slot stays taken, intake stops (fails closed);
- the store away: no cache, no de-duplication, the stream goes on (fails open);
- a fault of our own on one message: retried alone, then a dead letter; too many a minute stop the worker.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Any, Protocol

import structlog
from aiokafka import ConsumerRecord

from monitor import metrics
from monitor.backoff import delays
from monitor.errors import DeadLetterLimit, InvalidMessage, ModelMismatch, ScorerUnavailable, StoreUnavailable
from monitor.heartbeat import HEARTBEAT
from monitor.intake import parse
from monitor.models.switch import Serving
from monitor.pace import ChunkPace
from monitor.publisher import Event, Publisher
from monitor.records import MAX_STATEMENTS, ModelReference, event_id
from monitor.screening import VerdictStore
from monitor.tracing import ChunkTrace, NoTracing, Tracing
from monitor.turns import OrderedPublisher, Turn
from monitor.types import Message, MessageVerdict, Verdict

_log = structlog.get_logger(__name__)
_Readable = tuple[ConsumerRecord, Message]


class FailureLimit:
    """Stops a broken deployment from dead-lettering the stream: at most `most` failures of our own in a minute."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: deque[float] = deque()

    def count(self, now: float) -> None:
        """Count one failure at `now` (seconds).

        Raises:
            DeadLetterLimit: it is one too many.
        """
        self._times.append(now)
        while self._times[0] < now - 60:
            self._times.popleft()
        if len(self._times) > self._most:
            raise DeadLetterLimit(
                f"more than {self._most} messages failed inside Guardline within a minute: not the messages' fault. "
                "Stopping before more of them become dead letters; see the errors logged above"
            )


class Models(Protocol):
    """Lends the model in use; see `models.switch.ModelSwitch`."""

    def use(self) -> AbstractAsyncContextManager[Serving]:
        """Hold the model in use until the chunk is done with."""
        ...


class Observer(Protocol):
    """Sees what was decided, and must neither raise nor wait; see `models.shadow`."""

    def offer(self, model: ModelReference, verdicts: Sequence[MessageVerdict]) -> None:
        """Take note of what a model decided."""
        ...


class ChunkHandler:
    """Turns one chunk of records into events that the broker has acknowledged."""

    def __init__(
        self,
        *,
        models: Models,
        store: VerdictStore,
        publisher: Publisher,
        attempts: int,
        failures: FailureLimit,
        observer: Observer | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._models = models
        self._store = store
        self._publisher = publisher
        self._observer = observer
        self._attempts = attempts
        self._failures = failures
        self._tracing = tracing or NoTracing()

    async def handle(self, records: Sequence[ConsumerRecord], turn: Turn) -> None:
        """Return when every event of every record was acknowledged by the broker; one model decides all of them.

        Raises:
            DeadLetterLimit: the worker has to stop; nothing of this chunk may be acknowledged.
        """
        async with self._models.use() as serving:
            with self._tracing.chunk() as trace:
                await self._handle(serving, records, turn, trace)

    async def _handle(self, serving: Serving, records: Sequence[ConsumerRecord], turn: Turn, trace: ChunkTrace) -> None:
        started = monotonic()
        fresh = await self._not_done(serving, records)
        readable: list[_Readable] = []
        outcome: list[tuple[ConsumerRecord, list[Event]]] = []
        for record in fresh:
            try:
                origin = f"{record.topic}-{record.partition}-{record.offset}"
                message = parse(record.value, record.headers, origin=origin)
            except InvalidMessage as error:
                outcome.append((record, self._invalid(serving, record, error, trace, stage="intake")))
            else:
                readable.append((record, message))
                trace.begin(record, message)
        verdicts = await self._screen(serving, readable)
        for (record, _), verdict in zip(readable, verdicts, strict=True):
            if isinstance(verdict, InvalidMessage):
                outcome.append((record, self._invalid(serving, record, verdict, trace, stage="screening")))
            else:
                trace.decided(record, verdict)
                outcome.append((record, self._decided(serving, record, verdict, trace, started)))
        trace.screened()
        if self._observer is not None:
            self._observer.offer(serving.model, [v for v in verdicts if isinstance(v, MessageVerdict)])
        await self._publish(serving, outcome, turn)
        await self._mark_done(serving, [record for record, _ in outcome])
        metrics.PROCESS_SECONDS.observe(monotonic() - started)

    def _decided(
        self, serving: Serving, record: ConsumerRecord, verdict: MessageVerdict, trace: ChunkTrace, started: float
    ) -> list[Event]:
        try:
            events = serving.events.of_verdict(record, verdict, trace.headers(record))
        except Exception as error:
            _log.exception("message_failed", message_id=verdict.message.id)
            self._failures.count(monotonic())
            reason = InvalidMessage("processing_error", f"{type(error).__name__} in making its events")
            return self._invalid(serving, record, reason, trace, stage="events")
        _report(record, verdict, monotonic() - started)
        return events

    def _invalid(
        self, serving: Serving, record: ConsumerRecord, error: InvalidMessage, trace: ChunkTrace, *, stage: str
    ) -> list[Event]:
        metrics.MESSAGES.labels("invalid").inc()
        metrics.DEAD_LETTERS.labels(error.reason).inc()
        _log.warning(
            "dead_letter",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            stage=stage,
            reason=error.reason,
            detail=error.detail,
        )
        trace.invalid(record, error.reason)
        return serving.events.of_invalid(record, error, stage=stage, trace=trace.headers(record))

    async def _screen(self, serving: Serving, readable: Sequence[_Readable]) -> list[MessageVerdict | InvalidMessage]:
        """Screen all messages together; when that fails for a reason of our own, each alone."""
        messages = [message for _, message in readable]
        if not messages:
            return []
        try:
            return list(await self._patiently(serving, messages))
        except ModelMismatch:
            raise  # the messages are fine, the deployment is not
        except Exception:
            _log.exception("screening_failed", messages=len(messages), action="trying each alone")
        return [await self._alone(serving, message) for message in messages]

    async def _alone(self, serving: Serving, message: Message) -> MessageVerdict | InvalidMessage:
        for attempt in range(1, self._attempts + 1):
            try:
                return (await self._patiently(serving, [message]))[0]
            except ModelMismatch:
                raise
            except Exception as error:
                _log.exception("message_failed", message_id=message.id, attempt=attempt)
                failure = error
            await asyncio.sleep(0.05 * attempt)
        self._failures.count(monotonic())
        return InvalidMessage("processing_error", f"{type(failure).__name__} after {self._attempts} attempts")

    async def _patiently(self, serving: Serving, messages: Sequence[Message]) -> list[MessageVerdict]:
        """Screen, waiting as long as it takes for a scorer that is away."""
        waits = delays()
        while True:
            try:
                return await serving.screening.screen(messages)
            except ScorerUnavailable as error:
                metrics.SCORER_FAILURES.inc()
                HEARTBEAT.beat()
                delay = next(waits)
                _log.warning("scorer_unavailable", error=str(error), action=f"intake waits, again in {delay:.1f} s")
            await asyncio.sleep(delay)

    async def _publish(
        self, serving: Serving, outcome: Sequence[tuple[ConsumerRecord, list[Event]]], turn: Turn
    ) -> None:
        refused = await turn.publish([event for _, events in outcome for event in events])
        if not refused:
            return
        error = InvalidMessage(
            "output_too_large", "the broker refused an event of this record: raise max.message.bytes"
        )
        lost = {id(event) for event in refused}
        substitutes = [
            serving.events.dead_letter(record, error, stage="publish", payload=False)
            for record, events in outcome
            if any(id(event) in lost for event in events)
        ]
        metrics.DEAD_LETTERS.labels(error.reason).inc(len(substitutes))
        if await self._publisher.publish(substitutes):
            raise DeadLetterLimit("the broker refuses even dead letters without payload: check the topic's limits")

    async def _not_done(self, serving: Serving, records: Sequence[ConsumerRecord]) -> list[ConsumerRecord]:
        """Leave out records that were done with before a crash kept their offset from being committed."""
        try:
            done = await self._store.get([_done_key(serving.model, record) for record in records])
        except StoreUnavailable:
            metrics.STORE_FAILURES.inc()
            return list(records)
        fresh = [record for record, mark in zip(records, done, strict=True) if mark is None]
        metrics.DUPLICATES.inc(len(records) - len(fresh))
        return fresh

    async def _mark_done(self, serving: Serving, records: Sequence[ConsumerRecord]) -> None:
        try:
            await self._store.put({_done_key(serving.model, record): b"1" for record in records})
        except StoreUnavailable:
            metrics.STORE_FAILURES.inc()


def _done_key(model: ModelReference, record: ConsumerRecord) -> str:
    digest = event_id(record.key, record.timestamp)
    return f"done:{model.name}@{model.version}:{record.topic}:{record.partition}:{record.offset}:{digest}"


def _report(record: ConsumerRecord, verdict: MessageVerdict, seconds: float) -> None:
    """Write the one line per message, and count it."""
    metrics.MESSAGES.labels(verdict.verdict.value).inc()
    metrics.CACHE_HITS.inc(verdict.cached)
    counts = Counter(judged.verdict for judged in verdict.statements)
    for kind, count in counts.items():
        metrics.STATEMENTS.labels(kind.value).inc(count)
    withheld = sum(max(counts[kind] - MAX_STATEMENTS, 0) for kind in (Verdict.UNSAFE, Verdict.REVIEW))
    metrics.WITHHELD.inc(withheld)
    _log.info(
        "screened",
        message_id=verdict.message.id,
        tenant=verdict.message.tenant,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        verdict=verdict.verdict.value,
        score=round(verdict.score, 4),
        statements=len(verdict.statements),
        unsafe=counts[Verdict.UNSAFE],
        review=counts[Verdict.REVIEW],
        withheld=withheld,
        cached=verdict.cached,
        seconds=round(seconds, 4),
    )


class ByteBudget:
    """Bounds the bytes of records in work. A chunk larger than all of it is let in when it is alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._freed = asyncio.Event()

    async def acquire(self, size: int) -> None:
        """Wait until `size` bytes have room; those who wait are one at a time, so nobody is overtaken."""
        while self._used and self._used + size > self._most:
            self._freed.clear()
            await self._freed.wait()
        self._used += size

    def release(self, size: int) -> None:
        """Give back what was acquired."""
        self._used -= size
        self._freed.set()


def size_of(records: Sequence[ConsumerRecord]) -> int:
    """Return the bytes of the records' values."""
    return sum(len(record.value or b"") for record in records)


class ScreenAgent:
    """The agent's body: hands each chunk to `handler`, a few at once, and acknowledges it after.

    At most `in_flight` chunks and `max_bytes` of records are in work; the next chunk waits, then Faust's buffer is
    full, then Kafka is not asked for more.

    Chunks of one partition are screened together but published in turn, so that the flags of a conversation keep its
    order. A chunk whose handler raises stays unacknowledged, so its offset is never committed; `on_failure` is told.
    """

    def __init__(
        self,
        handler: ChunkHandler,
        publisher: Publisher,
        *,
        pace: ChunkPace,
        in_flight: int,
        max_bytes: int,
        on_failure: Callable[[BaseException], Awaitable[None]],
    ) -> None:
        self._handler = handler
        self._publisher = OrderedPublisher(publisher)
        self._pace = pace
        self._slots = asyncio.Semaphore(in_flight)
        self._bytes = ByteBudget(max_bytes)
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, stream: Any) -> None:
        """Work on the events of a Faust stream for as long as there are any."""
        async for event in stream.noack().events():
            size = size_of(event.value)
            await self._bytes.acquire(size)
            await self._slots.acquire()
            metrics.IN_FLIGHT.inc()
            task = asyncio.create_task(self._work(event, size, self._publisher.turn(event.message.tp)))
            self._tasks.add(task)  # the loop keeps only weak references to tasks
            task.add_done_callback(self._tasks.discard)

    async def _work(self, event: Any, size: int, turn: Turn) -> None:
        started = monotonic()
        try:
            await self._handler.handle(event.value, turn)
            event.ack()
            self._pace.observe(len(event.value), monotonic() - started)
            HEARTBEAT.beat()
        except Exception as error:
            await self._on_failure(error)
        finally:
            turn.leave()
            metrics.IN_FLIGHT.dec()
            self._slots.release()
            self._bytes.release(size)

    async def cancel(self) -> None:
        """Give up what is unfinished; it stays unacknowledged and will be delivered again."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
