"""Alerts that could not be delivered: each flag, as it was read, with the reason in headers.

The headers are those of the monitor's dead letters, so `guardline replay --dead-letters` sends the flags back to the
topic that they came from, where they are alerted again. Of a group, its first 100 flags; `guardline.alerts.count` says
how many there were.
"""

from __future__ import annotations

from aiokafka import ConsumerRecord

from monitor.alerts.lanes import Outgoing
from monitor.publisher import Event, Publisher


def letter(
    topic: str, record: ConsumerRecord, reason: str, detail: str, *, payload: bool = True, **more: object
) -> Event:
    """Return the dead letter of one flag: key, value and headers to the byte, and further headers.

    Without `payload` the record itself is left out, for one that the broker would refuse again.
    """
    own = {
        "__connect.errors.topic": record.topic,
        "__connect.errors.partition": record.partition,
        "__connect.errors.offset": record.offset,
        "__connect.errors.connector.name": "guardline-alerts",
        "__connect.errors.stage": "alerts",
        "__connect.errors.exception.message": detail,
        "guardline.reason": reason,
        "guardline.payload": "original" if payload else "omitted",
        "guardline.key": "absent" if record.key is None else "original" if payload else "omitted",
        **{f"guardline.alerts.{name}": value for name, value in more.items()},
    }
    headers = tuple((name, str(value).encode("utf-8", "replace")) for name, value in own.items())
    origin = f"{record.topic}-{record.partition}-{record.offset}".encode()
    if not payload:
        return Event(topic, origin, None, headers)
    key = origin if record.key is None and record.value is None else record.key
    return Event(topic, key, record.value, tuple(record.headers) + headers)


def letters_of(topic: str, sent: Outgoing, reason: str, detail: str, *, payload: bool = True) -> list[Event]:
    """Return the dead letters of an alert."""
    notification = sent.notification
    return [
        letter(
            topic,
            item.record,
            reason,
            detail,
            payload=payload,
            id=notification.id,
            kind=notification.kind,
            route=notification.route,
            sink=notification.sink,
            count=len(bundle.places),
        )
        for bundle in sent.bundles
        for item in bundle.kept
    ]


async def publish_letters(publisher: Publisher, letters: list[Event], bare: list[Event]) -> None:
    """Publish letters; one that the broker refuses as too large goes without the record (`bare`, in the same order)."""
    refused = {id(event) for event in await publisher.publish(letters)}
    await publisher.publish([small for full, small in zip(letters, bare, strict=True) if id(full) in refused])
