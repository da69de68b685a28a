"""Read spans of a topic once, in batches, without joining a group; stop in good order when asked to."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from monitor.connections.kafka import denied, ensure_kafka, kafka_options, refusal
from monitor.errors import GuardlineError
from monitor.replay.places import Span
from monitor.settings import Settings

#: Seconds without a record, where there should be some, after which the broker is given up.
_SILENCE = 60.0
_POLL = 500  # milliseconds


@asynccontextmanager
async def opened(
    settings: Settings, *, group: str | None = None, fetch_bytes: int = 1_048_576, committed: bool = False
) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a connected consumer. `group` is where offsets may be committed; no partitions are asked of it.

    Fetches `fetch_bytes` of a partition at once, or one batch that is larger; with `committed` nothing of transactions
    that were not.

    Raises:
        GuardlineError: the broker does not answer, now or later, or refuses this client.
    """
    await ensure_kafka(settings)
    options = kafka_options(settings)
    consumer = AIOKafkaConsumer(
        **options,
        client_id="guardline-replay",
        group_id=group,
        max_partition_fetch_bytes=fetch_bytes,
        isolation_level="read_committed" if committed else "read_uncommitted",
        enable_auto_commit=False,
        auto_offset_reset="none",
    )
    try:
        async with _translated(options):
            await consumer.start()
            # aiokafka's own tasks must have begun: `stop` would raise the cancellation of one that has not.
            await asyncio.sleep(0)
            yield consumer
    finally:
        await consumer.stop()


async def topics_of(settings: Settings) -> dict[str, list[TopicPartition]]:
    """Return the topics of the broker and their partitions, in order. Asks for all, so that none is made by asking.

    Raises:
        GuardlineError: the broker does not answer, or refuses this client.
    """
    await ensure_kafka(settings)
    options = kafka_options(settings)
    client = AIOKafkaClient(**options, client_id="guardline-replay")
    try:
        async with _translated(options):
            await client.bootstrap()
            cluster = await client.fetch_all_metadata()
    finally:
        await client.close()
    return {
        topic: [TopicPartition(topic, number) for number in sorted(cluster.partitions_for_topic(topic) or ())]
        for topic in cluster.topics()
    }


@asynccontextmanager
async def _translated(options: Mapping[str, Any]) -> AsyncIterator[None]:
    try:
        yield
    except OffsetOutOfRangeError as error:
        raise GuardlineError(
            "records vanished while they were read, by the topic's retention: begin again with --from earliest"
        ) from error
    except KafkaError as error:
        if (reason := denied(error) or await refusal(options)) is not None:
            raise reason from error
        raise GuardlineError(
            f"Kafka at {options['bootstrap_servers']} does not answer ({error!r}): set GUARDLINE_KAFKA_BOOTSTRAP, or "
            "start a broker"
        ) from error


async def batches(
    consumer: AIOKafkaConsumer, spans: Mapping[TopicPartition, Span], *, most: int, stop: asyncio.Event
) -> AsyncIterator[list[ConsumerRecord]]:
    """Yield the records of the spans, up to `most` at once, in order within each partition, until `stop` is set.

    Bounded in memory by what the consumer fetches ahead: a megabyte a partition, or one record that is larger.

    Raises:
        GuardlineError: nothing came for a minute.
    """
    unread = {partition for partition, span in spans.items() if len(span)}
    if not unread:
        return
    consumer.assign(sorted(spans))  # all of them: only of assigned partitions may offsets be committed
    for partition, span in spans.items():
        consumer.seek(partition, span.start)
    consumer.pause(*(spans.keys() - unread))
    heard = monotonic()
    while unread and not stop.is_set():
        fetched = await consumer.getmany(*unread, timeout_ms=_POLL, max_records=most)
        records = [r for p, found in fetched.items() for r in found if r.offset < spans[p].end]
        if fetched:
            heard = monotonic()
        elif monotonic() - heard > _SILENCE:
            raise GuardlineError(
                f"no record came for {_SILENCE:.0f} s: is the broker overloaded, or a partition offline?"
            )
        # By position and not by the last record: compaction and transaction markers leave offsets without a record.
        unread -= {p for p in unread if await consumer.position(p) >= spans[p].end}
        consumer.pause(*(spans.keys() - unread))
        if records:
            yield records


async def record_at(consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int) -> ConsumerRecord | None:
    """Return the record at an offset; None where there is none (any more).

    Raises:
        GuardlineError: nothing came for a minute.
    """
    first = (await consumer.beginning_offsets([partition]))[partition]
    end = (await consumer.end_offsets([partition]))[partition]
    if not first <= offset < end:
        return None
    span = {partition: Span(offset, offset + 1)}
    async for records in batches(consumer, span, most=1, stop=asyncio.Event()):
        return records[0]
    return None  # compacted away, or the marker of a transaction


@contextmanager
def stopping_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` on the first SIGINT or SIGTERM; a second one ends the process as usual."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def restore() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    def on_signal() -> None:
        stop.set()
        restore()

    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        restore()
