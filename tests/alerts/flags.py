"""Flags, routes and sinks for the tests of alerts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from aiokafka import ConsumerRecord

from monitor.alerts.config import AlertsConfig
from monitor.alerts.lanes import Item, Lane
from monitor.alerts.notification import Notification
from monitor.alerts.sinks import SinkUnavailable
from monitor.records import EvidenceRecord, FlagRecord, ModelReference, Thresholds, event_id
from tests.monitor.fakes import make_record

#: A Monday, 12:00 UTC.
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()
STATEMENT = "Give Maria 400 mg on day 1."


def make_flag(number: int = 0, **changes: Any) -> FlagRecord:
    """Return a flag; another number is another message."""
    recommendation = changes.pop("recommendation", "rem-1.2")
    statement = changes.pop("statement", STATEMENT)
    message = changes.pop("message_id", f"message-{number}")
    values: dict[str, Any] = {
        "id": event_id(message),
        "verdict": "unsafe",
        "message_id": message,
        "tenant": "north",
        "conversation_id": None,
        "source_model": "llm",
        "start": 0,
        "end": len(STATEMENT),
        "statement": statement,
        "statement_sha256": "0" * 64,
        "score": 0.93,
        "category": "dose",
        "reason": "400 mg stated, 200 mg recommended" if statement else None,
        "evidence": EvidenceRecord(
            guideline="covid", version="2026", recommendation=recommendation, section="1", text="Give 200 mg on day 1."
        ),
        "model": ModelReference(name="tiny", version="1"),
        "thresholds": Thresholds(unsafe=0.8, review=0.4, in_scope=0.5),
        "created_at": None,
        "received_at": datetime.fromtimestamp(NOON, UTC),
    }
    return FlagRecord(**values | changes)


def make_item(number: int = 0, *, partition: int = 0, **changes: Any) -> Item:
    """Return a flag in a record, whose offset is its number."""
    flag = make_flag(number, **changes)
    return Item(flag, flag_record_of(flag, offset=number, partition=partition))


def flag_record_of(flag: FlagRecord, *, offset: int, partition: int = 0, topic: str = "safety.flags") -> ConsumerRecord:
    """Return the record of a flag."""
    value = flag.model_dump_json().encode()
    return make_record(value, offset=offset, partition=partition, topic=topic, headers=(("ce_id", flag.id.encode()),))


def make_config(**changes: Any) -> AlertsConfig:
    """Return a configuration with one sink, `out`, and one route, `all`, which does not wait."""
    return AlertsConfig.model_validate(
        {
            "sinks": {"out": {"type": "terminal"}},
            "routes": [{"name": "all", "sinks": ["out"], "group": {"wait": 0, "suppress": 0}}],
        }
        | changes
    )


def make_lane(route: dict[str, Any], **changes: Any) -> Lane:
    """Return the lane of a route to the sink `out`."""
    config = make_config(routes=[{"name": "all", "sinks": ["out"]} | route], **changes)
    return Lane(config.routes[0], "out", zone=config.zone, link=config.link, stale_after=config.stale_after)


class Clock:
    """Tells the time that a test sets."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class RecordingSink:
    """Keeps what it is sent; `fail` may raise instead."""

    def __init__(self, name: str = "out", fail: Callable[[int], Exception | None] = lambda _: None) -> None:
        self.name = name
        self.tries = 0
        self.sent: list[Notification] = []
        self._fail = fail

    async def send(self, notification: Notification) -> None:
        self.tries += 1
        if (error := self._fail(self.tries)) is not None:
            raise error
        self.sent.append(notification)

    async def close(self) -> None:
        """Nothing is held."""

    @property
    def messages(self) -> list[str]:
        """The messages of all flags that were shown."""
        return [flag.message_id for notification in self.sent for flag in notification.shown]


def away(tries: Sequence[int] | range, retry_after: float | None = None) -> Callable[[int], Exception | None]:
    """Fail on these tries, numbered from 1."""
    return lambda n: SinkUnavailable("away", retry_after) if n in tries else None
