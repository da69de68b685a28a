"""Read a text from Kafka while somebody looks at it.

The message is read at its origin and judged by its hash: a record that another message has taken the place of is not
shown. The flag's own record may quote the statement, and lives longer than the message.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from aiokafka import ConsumerRecord, TopicPartition

from monitor import intake
from monitor.alerts.reading import read_flag
from monitor.console.store import Item
from monitor.errors import GuardlineError, InvalidMessage
from monitor.records import FlagRecord, Origin
from monitor.replay.reading import opened
from monitor.settings import Settings

_SECONDS = 10.0


class Missing(StrEnum):
    """Why the whole message is not shown."""

    UNKNOWN = "The flag does not say where its message lies."
    ELSEWHERE = "The message lies in a topic that this console does not read."
    GONE = "Kafka no longer keeps the message: it is older than the topic's retention."
    UNREADABLE = "The record at the message's place cannot be read as a message."
    CHANGED = "The record at the message's place is not the message that was flagged: its statement differs."
    AWAY = "Kafka does not answer now. Try again in a moment."


@dataclass(frozen=True, slots=True)
class Shown:
    """A text as it is shown: `before`, the flagged `statement`, `after`; `missing` says why there is less."""

    statement: str | None
    before: str = ""
    after: str = ""
    reason: str | None = None
    missing: Missing | None = None


class RecordReader(Protocol):
    """Reads single records."""

    async def read(self, place: Origin) -> ConsumerRecord | None:
        """Return the record that lies there, or none where Kafka keeps none any more.

        Raises:
            GuardlineError: Kafka does not answer.
        """
        ...


class KafkaReader:
    """Reads records of the given topics with a consumer for each; reviewers read one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def read(self, place: Origin) -> ConsumerRecord | None:
        """See `RecordReader.read`."""
        partition = TopicPartition(place.topic, place.partition)
        try:
            async with asyncio.timeout(_SECONDS), opened(self._settings) as consumer:
                first = (await consumer.beginning_offsets([partition]))[partition]
                end = (await consumer.end_offsets([partition]))[partition]
                if not first <= place.offset < end:
                    return None
                consumer.assign([partition])
                consumer.seek(partition, place.offset)
                while await consumer.position(partition) <= place.offset:
                    found = await consumer.getmany(partition, timeout_ms=200, max_records=1)
                    if records := found.get(partition):
                        return records[0] if records[0].offset == place.offset else None
                return None  # compacted away, or the marker of a transaction
        except TimeoutError as error:
            raise GuardlineError("Kafka does not answer in time") from error


class Messages:
    """Shows the text behind a flag."""

    def __init__(self, reader: RecordReader, topics: Collection[str]) -> None:
        """Read messages of `topics` only: where a message lies is said by a header that anyone may have written."""
        self._reader = reader
        self._topics = topics

    async def published(self, item: Item) -> FlagRecord:
        """Return the flag as it was published, or as it is kept, without text, where that is gone.

        Raises:
            GuardlineError: Kafka does not answer.
        """
        if item.place is None:
            return item.flag
        record = await self._reader.read(item.place)
        try:
            flag = read_flag(record.value) if record is not None else item.flag
        except InvalidMessage:
            return item.flag
        return flag if flag.id == item.flag.id else item.flag

    async def show(self, item: Item) -> Shown:
        """Return the message with the statement marked, or as much of it as is left."""
        try:
            flag = await self.published(item)
        except GuardlineError:
            return Shown(None, missing=Missing.AWAY)
        found = await self._message(item)
        if isinstance(found, Missing):
            return Shown(flag.statement, reason=flag.reason, missing=found)
        start, end = flag.start, flag.end
        return Shown(found[start:end], before=found[:start], after=found[end:], reason=flag.reason)

    async def _message(self, item: Item) -> str | Missing:
        if item.origin is None:
            return Missing.UNKNOWN
        if item.origin.topic not in self._topics:
            return Missing.ELSEWHERE
        try:
            record = await self._reader.read(item.origin)
            if record is None:
                return Missing.GONE
            place = f"{record.topic}-{record.partition}-{record.offset}"
            text = intake.parse(record.value, record.headers, origin=place).text
        except InvalidMessage:
            return Missing.UNREADABLE
        except GuardlineError:
            return Missing.AWAY
        statement = text[item.flag.start : item.flag.end]
        if hashlib.sha256(statement.encode()).hexdigest() != item.flag.statement_sha256:
            return Missing.CHANGED
        return text
