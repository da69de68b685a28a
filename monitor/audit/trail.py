"""How a part of Guardline says that somebody did something: as an event, which `guardline audit record` records.

The log has one writer, so that its chain has one order. Who acts (the console, `guardline promote`) publishes to the
topic of actions instead, and returns when the broker has it: the action is then as safe as a flag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol
from uuid import uuid4

from monitor.publisher import Event, Publisher
from monitor.records import ACTION_TYPE, ActionRecord, Detail


class AuditTrail(Protocol):
    """Takes note of actions. Fails closed: it returns when the action is safe, and waits as long as that takes.

    So note an action before its effect is shown: a text that is revealed first might be seen without a trace.
    """

    async def record(self, kind: str, *, actor: str, subject: str, details: Mapping[str, Detail] | None = None) -> None:
        """Note that `actor` did something of a `kind` (a slug: reveal, login, promotion) to `subject`.

        Neither subject nor details may hold text of a message.

        Raises:
            ValueError: a value is of another type or too long; see `monitor.records.ActionRecord`.
        """
        ...


def _now() -> datetime:
    return datetime.now(UTC)


class PublishedTrail:
    """An `AuditTrail` on the topic of actions."""

    def __init__(self, publisher: Publisher, topic: str, *, source: str, clock: Callable[[], datetime] = _now) -> None:
        """Publish to `topic`; `source` names the component in the events, as "guardline/console"."""
        self._publisher = publisher
        self._topic = topic
        self._source = source
        self._clock = clock

    async def record(self, kind: str, *, actor: str, subject: str, details: Mapping[str, Detail] | None = None) -> None:
        """See `AuditTrail.record`."""
        action = ActionRecord(
            id=uuid4().hex, kind=kind, actor=actor, subject=subject, details=dict(details or {}), at=self._clock()
        )
        attributes = {
            "ce_specversion": "1.0",
            "ce_id": action.id,
            "ce_source": self._source,
            "ce_type": ACTION_TYPE,
            "ce_time": action.at.isoformat(),
            "content-type": "application/json",
        }
        headers = tuple((name, value.encode()) for name, value in attributes.items())
        await self._publisher.publish([Event(self._topic, None, action.model_dump_json().encode(), headers)])
