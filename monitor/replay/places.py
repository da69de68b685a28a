"""From where to where to read: what a user may say, and the offsets that it means.

A place is `earliest`, `latest`, a time (ISO 8601; UTC where it names no zone), or a list of exact offsets,
`topic/partition:offset,...`. A span begins with its first offset and ends before its last, so that the end of one is
the beginning of the next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

import click
from aiokafka import AIOKafkaConsumer, TopicPartition

from monitor.errors import ConfigurationError

Offsets = dict[TopicPartition, int]
Place = Literal["earliest", "latest"] | datetime | Offsets

#: Kafka's own rule for names of topics; neither `/` nor `:` nor `,` can be in one.
_OFFSET = re.compile(r"([A-Za-z0-9._-]{1,249})/(\d{1,9}):(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets `start` to `end` of one partition; `end` is the first that is not read."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def parse_place(text: str) -> Place:
    """Return the place that a user wrote.

    Raises:
        ValueError: it is none; the message says what would be.
    """
    if text in ("earliest", "latest"):
        return cast("Place", text)
    matches = [_OFFSET.fullmatch(item.strip()) for item in text.split(",")]
    if all(matches):
        offsets = {TopicPartition(m[1], int(m[2])): int(m[3]) for m in matches if m}
        if len(offsets) < len(matches):
            raise ValueError(f"{text}: names a partition twice")
        return offsets
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text}: give earliest, latest, a time such as 2026-03-01T12:00:00Z, or topic/partition:offset,..."
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def format_offsets(offsets: Mapping[TopicPartition, int]) -> str:
    """Return offsets as `parse_place` reads them."""
    return ",".join(f"{p.topic}/{p.partition}:{offset}" for p, offset in sorted(offsets.items()))


class PlaceType(click.ParamType):
    """A place as an option of the command line."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        """See `parse_place`."""
        if not isinstance(value, str):
            return cast("Place", value)
        try:
            return parse_place(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


async def resolve(
    consumer: AIOKafkaConsumer, known: Sequence[TopicPartition], start: Place, end: Place
) -> dict[TopicPartition, Span]:
    """Return what is to be read of each of the `known` partitions of one topic.

    A list of offsets also chooses partitions: others are not read. Two lists must choose the same.

    Raises:
        ConfigurationError: a partition or an offset is not there, or the end lies before the start.
    """
    partitions = _chosen(known, start, end)
    first = await consumer.beginning_offsets(partitions)
    last = await consumer.end_offsets(partitions)
    starts = await _offsets(consumer, partitions, start, first, last)
    ends = await _offsets(consumer, partitions, end, first, last)
    spans = {}
    for partition in partitions:
        name = f"{partition.topic}/{partition.partition}"
        for offset in (starts[partition], ends[partition]):
            if not first[partition] <= offset <= last[partition]:
                raise ConfigurationError(
                    f"{name}:{offset} is not in the topic, which holds {first[partition]} to {last[partition]}: "
                    "older records are gone by its retention; give --from earliest, or offsets in between"
                )
        if isinstance(start, dict) and isinstance(end, dict) and ends[partition] < starts[partition]:
            raise ConfigurationError(f"{name}: --to {ends[partition]} lies before --from {starts[partition]}")
        spans[partition] = Span(starts[partition], max(starts[partition], ends[partition]))
    return spans


def _chosen(known: Sequence[TopicPartition], start: Place, end: Place) -> list[TopicPartition]:
    lists = [set(place) for place in (start, end) if isinstance(place, dict)]
    if len(lists) == 2 and lists[0] != lists[1]:
        raise ConfigurationError("--from and --to name different partitions: list the same ones in both")
    chosen = lists[0] if lists else {*known}
    if strange := sorted(chosen - {*known}):
        where = strange[0]
        raise ConfigurationError(
            f"{where.topic}/{where.partition}: not of the topic that is read, {known[0].topic}, "
            f"which has {len(known)} partitions"
        )
    return sorted(chosen)


async def _offsets(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], place: Place, first: Offsets, last: Offsets
) -> Offsets:
    if isinstance(place, dict):
        return place
    if isinstance(place, datetime):
        moment = max(int(place.timestamp() * 1000), 0)
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, moment))
        return {p: found[p].offset if found[p] is not None else last[p] for p in partitions}
    return first if place == "earliest" else last
