"""What waits to be screened, by what the broker says: a worker that hangs would say nothing, or what it last knew.

The age of a partition's backlog is that of its oldest record that the group has not committed, by the record's own time
stamp; so it is read, alone, and its content is not looked at. Connections are opened for each look and closed after it:
a broker that went away and came back needs no repair here.
"""

from __future__ import annotations

from asyncio import timeout
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

from monitor.errors import GuardlineError
from monitor.replay.reading import opened, topics_of
from monitor.settings import Settings

_SECONDS = 20.0  # that a look may take
_POLL = 200  # milliseconds
_FETCH = 1024  # bytes of each partition: one record is wanted


@dataclass(frozen=True, slots=True)
class PartitionBacklog:
    """One partition. Offsets as the broker tells them; `committed` is where the group will go on.

    `expired` counts records that retention deleted before the group had committed them; `oldest` is the time stamp of
    the oldest that waits, in milliseconds since the epoch, None where none does.
    """

    partition: int
    committed: int
    end: int
    expired: int
    oldest: int | None

    @property
    def records(self) -> int:
        """Records that wait."""
        return max(self.end - self.committed, 0)

    def age(self, now: float) -> float:
        """Return the seconds, at `now` (since the epoch), that the oldest has waited."""
        return 0.0 if self.oldest is None else max(now - self.oldest / 1000, 0.0)


async def partitions_of(settings: Settings) -> list[int]:
    """Return the partitions of the topic of outputs.

    Raises:
        GuardlineError: the broker does not answer, or there is no such topic.
    """
    found = [p.partition for p in (await topics_of(settings)).get(settings.topic_outputs, [])]
    if not found:
        raise GuardlineError(f"there is no topic {settings.topic_outputs}: make it, or set GUARDLINE_TOPIC_OUTPUTS")
    return found


async def measure(settings: Settings) -> list[PartitionBacklog]:
    """Return the backlog of each partition of the topic of outputs.

    Raises:
        GuardlineError: the broker does not answer, now or in time, or there is no such topic.
    """
    try:
        async with timeout(_SECONDS):
            partitions = [TopicPartition(settings.topic_outputs, p) for p in await partitions_of(settings)]
            async with opened(settings, group=settings.group, fetch_bytes=_FETCH) as consumer:
                consumer.assign(partitions)
                return await _look(consumer, partitions)
    except TimeoutError as error:
        raise GuardlineError(f"Kafka did not answer within {_SECONDS:.0f} s") from error


async def _look(consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> list[PartitionBacklog]:
    begins = await consumer.beginning_offsets(partitions)
    kept = {p: await consumer.committed(p) for p in partitions}
    committed = {p: begins[p] if kept[p] is None else kept[p] for p in partitions}
    ends = await consumer.end_offsets(partitions)  # last: no offset that was committed lies beyond them
    waiting = {p: max(committed[p], begins[p]) for p in partitions if committed[p] < ends[p]}
    oldest = await _oldest(consumer, {p: offset for p, offset in waiting.items() if offset < ends[p]}, ends)
    return [
        PartitionBacklog(
            partition=p.partition,
            committed=committed[p],
            end=ends[p],
            expired=max(begins[p] - committed[p], 0),
            oldest=oldest.get(p),
        )
        for p in partitions
    ]


async def _oldest(
    consumer: AIOKafkaConsumer, places: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Return the time stamp of the first record at or after each place; none where there are only markers."""
    consumer.pause(*consumer.assignment())
    for partition, offset in places.items():
        consumer.seek(partition, offset)
    consumer.resume(*places)
    found: dict[TopicPartition, int] = {}
    left = set(places)
    while left:
        for partition, records in (await consumer.getmany(*left, timeout_ms=_POLL, max_records=len(left))).items():
            found[partition] = records[0].timestamp
        # By position, too: a transaction leaves offsets without a record.
        left = {p for p in left - found.keys() if await consumer.position(p) < ends[p]}
        consumer.pause(*(places.keys() - left))
    return found
