"""An audit log in a topic of one partition: a record a line, a transaction a batch.

The producer has a transactional id made of the topic's name, so Kafka lets one writer live at a time: the last one to
come fences those before it, and what a killed one left unfinished is aborted, never seen by readers of committed
records. Where the answer to a commit was lost, the end of the topic says whether the batch is there.

The topic must keep everything: `cleanup.policy=delete`, `retention.ms=-1`, `retention.bytes=-1`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, KafkaError, MessageSizeTooLargeError, ProducerFenced

from monitor.audit.log import Line, LogUnavailable, Torn
from monitor.connections.kafka import denied, kafka_options, refusal
from monitor.errors import AccessDenied, ConfigurationError, GuardlineError
from monitor.replay.places import Span
from monitor.replay.reading import batches, opened, topics_of
from monitor.settings import Settings

_BATCH = 1000
#: Offsets before the end in which the last record is looked for first.
_TAIL = 64


def _heed(sent: asyncio.Future[object]) -> None:
    """Look at how a record fared, so that asyncio does not log it as overlooked: the commit says it for all of them."""
    if not sent.cancelled():
        sent.exception()


class TopicLog:
    """An `AuditLog` in the topic `settings.topic_audit`."""

    def __init__(self, settings: Settings) -> None:
        """Use the brokers and the topic that the settings name."""
        self._settings = settings
        self._partition = TopicPartition(settings.topic_audit, 0)
        self._producer: AIOKafkaProducer | None = None
        self._tail: bytes | None = None
        self._uncertain = False

    async def _check(self) -> None:
        topic = self._settings.topic_audit
        partitions = (await topics_of(self._settings)).get(topic)
        if partitions != [self._partition]:
            has = "there is none" if not partitions else f"it has {len(partitions)}"
            raise ConfigurationError(
                f"the audit log needs a topic {topic} of one partition, and {has}: create it with retention.ms=-1, or "
                "set GUARDLINE_TOPIC_AUDIT"
            )

    async def _extent(self, consumer: AIOKafkaConsumer) -> Span:
        first = await consumer.beginning_offsets([self._partition])
        end = await consumer.end_offsets([self._partition])
        return Span(first[self._partition], end[self._partition])

    async def _lines(self, consumer: AIOKafkaConsumer, span: Span) -> AsyncIterator[list[Line]]:
        async for records in batches(consumer, {self._partition: span}, most=_BATCH, stop=asyncio.Event()):
            yield [Line(f"{r.topic}/{r.partition}:{r.offset}", r.value or b"") for r in records]

    async def read(self) -> AsyncIterator[Sequence[Line]]:
        """See `AuditLog.read`."""
        await self._check()
        async with opened(self._settings, committed=True) as consumer:
            async for lines in self._lines(consumer, await self._extent(consumer)):
                yield lines

    async def open(self) -> Torn | None:
        """See `AuditLog.open`. The last process to come is the writer; those before it end at their next append."""
        await self._check()
        try:
            await self._start()
        except (KafkaError, OSError) as error:
            raise await self._denied(error) or GuardlineError(self._unwritable(error)) from error
        self._tail = await self._last()
        return None  # what a writer left unfinished was aborted

    async def _denied(self, error: KafkaError | OSError) -> GuardlineError | None:
        """Return what to raise where trying again is no help."""
        return denied(error) or await refusal(kafka_options(self._settings))

    def _unwritable(self, error: KafkaError | OSError) -> str:
        return f"the audit log's topic {self._settings.topic_audit} cannot be written: {error!r}"

    async def _start(self) -> AIOKafkaProducer:
        """Return the producer; a new one ends every older one with the same id, and its open transaction."""
        if self._producer is None:
            producer = AIOKafkaProducer(
                **kafka_options(self._settings),
                client_id="guardline-audit",
                transactional_id=f"guardline.audit.{self._settings.topic_audit}",
                max_request_size=self._settings.publish_max_bytes,
                request_timeout_ms=int(self._settings.publish_timeout * 1000),
            )
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    async def _last(self) -> bytes | None:
        """Return the last line of the topic, None where there is none."""
        async with opened(self._settings, committed=True) as consumer:
            span = await self._extent(consumer)
            reach = _TAIL
            while True:  # batches that were aborted, and the markers of transactions, may be at the end
                part = Span(max(span.start, span.end - reach), span.end)
                found = [lines[-1].value async for lines in self._lines(consumer, part)]
                if found or part.start == span.start:
                    return found[-1] if found else None
                reach *= 8

    @property
    def due(self) -> bool:
        """See `AuditLog.due`: a topic is one segment."""
        return self._tail is None

    async def append(self, lines: Sequence[bytes], *, segment: int | None = None) -> None:  # noqa: ARG002
        """See `AuditLog.append`."""
        try:
            producer = await self._start()
            if self._uncertain and await self._arrived(lines):
                return
            async with asyncio.timeout(self._settings.publish_timeout):
                await self._commit(producer, lines)
        except (ProducerFenced, InvalidProducerEpoch) as error:
            raise self._replaced() from error
        except MessageSizeTooLargeError as error:
            raise GuardlineError(
                f"an entry is larger than {self._settings.topic_audit} takes: raise its max.message.bytes"
            ) from error
        except (KafkaError, OSError) as error:  # a TimeoutError is an OSError
            self._uncertain = True
            await self._discard()  # the next one aborts what this one began
            raise await self._denied(error) or LogUnavailable(self._unwritable(error)) from error
        self._tail = lines[-1]

    async def _commit(self, producer: AIOKafkaProducer, lines: Sequence[bytes]) -> None:
        topic, number = self._partition
        await producer.begin_transaction()
        for line in lines:
            sent = await producer.send(topic, value=line, partition=number)
            sent.add_done_callback(_heed)
        await producer.commit_transaction()  # which sends what is waiting first, and fails where that does

    async def _arrived(self, lines: Sequence[bytes]) -> bool:
        """Tell whether the batch of an attempt whose outcome is not known is in the topic: all of it is, or nothing."""
        try:
            last = await self._last()
        except AccessDenied:
            raise
        except GuardlineError as error:
            raise LogUnavailable(str(error)) from error
        if last not in (self._tail, lines[-1]):
            raise self._replaced()
        self._uncertain = False
        if arrived := last == lines[-1]:
            self._tail = last
        return arrived

    def _replaced(self) -> GuardlineError:
        return GuardlineError(f"another process has become the writer of {self._settings.topic_audit}: it has one")

    async def _discard(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaError, OSError):
                async with asyncio.timeout(5):
                    await producer.stop()

    async def close(self) -> None:
        """See `AuditLog.close`."""
        await self._discard()
