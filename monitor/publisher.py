"""Publish events and wait until the broker has them.

In: events of one chunk. Out: nothing, once every one of them was acknowledged by all in-sync replicas. Faust's own
`topic.send` wraps an aiokafka producer in three layers of futures and lets a failed send pass at the next flush, so the
producer is used directly: idempotent, `acks=all`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from types import MappingProxyType
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    IllegalOperation,
    InvalidProducerEpoch,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    UnknownProducerId,
)

from monitor import metrics
from monitor.backoff import delays
from monitor.connections.kafka import denied, refusal
from monitor.errors import AccessDenied
from monitor.heartbeat import HEARTBEAT

_log = structlog.get_logger(__name__)
#: Seconds between two questions whether the brokers refuse us.
_ASK_EVERY = 5.0
#: After these a producer never works again; a new one does.
_FATAL = (
    IllegalOperation,
    InvalidProducerEpoch,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    UnknownProducerId,
)

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Event:
    """One record to publish."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    """None: by the key."""


class Publisher(Protocol):
    """Fails closed: it returns when the broker has every event, and waits as long as that takes."""

    async def publish(self, events: Sequence[Event]) -> list[Event]:
        """Return the events that the broker refuses for good (too large); all others are acknowledged.

        Raises:
            AccessDenied: the broker refuses this client, or does not let it write to a topic.
        """
        ...


class KafkaPublisher:
    """Publishes to Kafka."""

    def __init__(
        self,
        bootstrap: str,
        *,
        security: Mapping[str, Any] = MappingProxyType({}),
        timeout: float = 30.0,
        max_bytes: int = 20_000_000,
    ) -> None:
        """Publish to the brokers at `bootstrap`.

        Args:
            bootstrap: host:port, separated by commas.
            security: how to speak to them, see `monitor.connections.kafka.security_options`.
            timeout: seconds without an acknowledgement after which a log line says so.
            max_bytes: largest event that is sent at all.
        """
        self._bootstrap = bootstrap
        self._options = {"bootstrap_servers": bootstrap, **security}
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._refusal: AccessDenied | None = None
        self._asked = float("-inf")
        self._asking = asyncio.Lock()

    async def _ready(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._options,
                    client_id="guardline",
                    enable_idempotence=True,
                    acks="all",
                    linger_ms=5,
                    max_request_size=self._max_bytes,
                    request_timeout_ms=int(self._timeout * 1000),
                )
                try:
                    await producer.start()
                except BaseException as error:  # cancelled, too: aiokafka complains of every producer that is left open
                    await producer.stop()
                    if isinstance(error, KafkaError | OSError):
                        await self._ask_for_refusal(error)
                    raise
                self._producer = producer
            return self._producer

    async def _ask_for_refusal(self, error: Exception | None = None) -> None:
        """Raise when the brokers refuse this client, so that waiting is no help; events that wait together ask once.

        Raises:
            AccessDenied: they do.
        """
        async with self._asking:
            if monotonic() - self._asked > _ASK_EVERY:
                self._refusal = await refusal(self._options)
                self._asked = monotonic()
            if self._refusal is not None:
                raise self._refusal from error

    async def _discard(self, producer: AIOKafkaProducer) -> None:
        async with self._starting:
            if self._producer is producer:
                self._producer = None
        try:
            async with asyncio.timeout(5):
                await producer.stop()
        except (KafkaError, OSError) as error:  # a TimeoutError is an OSError
            _log.warning("producer_not_stopped", error=repr(error))

    async def _send(self, producer: AIOKafkaProducer, event: Event) -> asyncio.Future[object]:
        """Hand one event to the producer; what is returned is done when the broker has answered."""
        # A producer that is discarded meanwhile, for another event's error, never answers who waits for its metadata.
        async with asyncio.timeout(self._timeout):
            acknowledged: asyncio.Future[object] = await producer.send(
                event.topic, value=event.value, key=event.key, partition=event.partition, headers=list(event.headers)
            )
        return acknowledged

    async def _answered(self, waiting: Sequence[asyncio.Future[object]]) -> None:
        """Return when all are done, however long that takes.

        Raises:
            AccessDenied: the broker refuses this client now, so that waiting is no help.
        """
        pending = set(waiting)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=self._timeout)
            if pending:
                HEARTBEAT.beat()
                _log.warning("no_acknowledgement", events=len(pending), seconds=self._timeout, action="waiting on")
                await self._ask_for_refusal()

    async def _publish_together(self, producer: AIOKafkaProducer, events: Sequence[Event]) -> list[Event]:
        """Send all and wait once for all, without a task for each; return those that failed."""
        failed: list[Event] = []
        sent: list[tuple[Event, asyncio.Future[object]]] = []
        for index, event in enumerate(events):
            try:
                sent.append((event, await self._send(producer, event)))
            except (KafkaError, OSError):
                failed += events[index:]  # each of the others might wait as long
                break
        await self._answered([future for _, future in sent])
        return failed + [event for event, future in sent if future.exception() is not None]

    async def _publish_one(self, event: Event) -> bool:
        waits = delays()
        while True:
            producer = None
            try:
                producer = await self._ready()
                waiting = await self._send(producer, event)
                await self._answered([waiting])
                waiting.result()
            except MessageSizeTooLargeError:
                return False
            except (KafkaError, OSError) as error:
                if (reason := denied(error)) is not None:
                    raise reason from error
                await self._ask_for_refusal(error)
                metrics.PUBLISH_RETRIES.inc()
                HEARTBEAT.beat()
                delay = next(waits)
                _log.warning("publish_failed", topic=event.topic, error=repr(error), action=f"again in {delay:.1f} s")
                if producer is not None and isinstance(error, _FATAL):
                    await self._discard(producer)
                await asyncio.sleep(delay)
            else:
                return True

    async def publish(self, events: Sequence[Event]) -> list[Event]:
        """See `Publisher.publish`."""
        if not events:
            return []
        # What fails goes the careful way, which tells refusals from outages and a broken producer from a broken broker.
        careful = await self._publish_together(self._producer, events) if self._producer else events
        accepted = await asyncio.gather(*map(self._publish_one, careful))
        return [event for event, ok in zip(careful, accepted, strict=True) if not ok]

    async def start(self) -> None:
        """Connect, retrying while the broker is away.

        Raises:
            AccessDenied: it refuses this client.
        """
        waits = delays()
        while True:
            try:
                await self._ready()
            except (KafkaError, OSError) as error:
                delay = next(waits)
                _log.warning(
                    "broker_unreachable", bootstrap=self._bootstrap, error=repr(error), action=f"again in {delay:.1f} s"
                )
                await asyncio.sleep(delay)
            else:
                return

    async def close(self) -> None:
        """Flush and disconnect."""
        if self._producer is not None:
            await self._discard(self._producer)
