"""From what was decided about a record to the events that leave Guardline.

Flags and reviews carry CloudEvents 1.0 attributes as headers (Kafka protocol binding, binary mode); dead letters carry
the original key, value and headers unchanged, and beside them Kafka Connect's `__connect.errors.*` headers, which
existing tools for dead letters read. The incoming `traceparent`, a header of the record or an attribute of the
CloudEvent in it, goes on to every event; where `tracing` is on, flags, reviews and verdicts carry our own span instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka import ConsumerRecord
from pydantic import BaseModel

from monitor.errors import InvalidMessage
from monitor.publisher import Event, Headers
from monitor.records import (
    FLAG_TYPE,
    REVIEW_TYPE,
    VERDICT_TYPE,
    ModelReference,
    Origin,
    Thresholds,
    VerdictRecord,
    event_id,
    flag_record,
    gravest_statements,
    statement_records,
    timestamp,
)
from monitor.tracing import incoming
from monitor.types import Message, MessageVerdict, Verdict

_SOURCE = "guardline/monitor"


@dataclass(frozen=True, slots=True)
class Topics:
    """Where each kind of event goes; `verdicts` is None when no audit records are wanted."""

    flags: str
    review: str
    deadletter: str
    verdicts: str | None


class EventFactory:
    """Makes events; deterministic, so that a redelivered record gives identical ones."""

    def __init__(self, topics: Topics, *, model: ModelReference, thresholds: Thresholds, include_text: bool) -> None:
        self._topics = topics
        self._model = model
        self._thresholds = thresholds
        self._include_text = include_text

    def of_verdict(self, record: ConsumerRecord, verdict: MessageVerdict, trace: Headers | None = None) -> list[Event]:
        """Return flags, reviews and, where wanted, the audit record of one input.

        They carry `trace` (W3C), by default the trace context that came in.
        """
        events = []
        message = verdict.message
        key = (message.conversation_id or message.id).encode("utf-8", "replace")
        for kind, topic, type_ in (
            (Verdict.UNSAFE, self._topics.flags, FLAG_TYPE),
            (Verdict.REVIEW, self._topics.review, REVIEW_TYPE),
        ):
            for statement in gravest_statements(verdict, (kind,)):
                flag = flag_record(
                    verdict,
                    statement,
                    model=self._model,
                    thresholds=self._thresholds,
                    received_at=timestamp(record.timestamp),
                    include_text=self._include_text,
                )
                events.append(_event(topic, key, flag, flag.id, type_, record, message, trace))
        return events + self._audit(record, verdict, None, trace)

    def of_invalid(
        self, record: ConsumerRecord, error: InvalidMessage, *, stage: str = "intake", trace: Headers | None = None
    ) -> list[Event]:
        """Return the dead letter and, where wanted, the audit record of an input that failed.

        `trace` as in `of_verdict`; a dead letter has its record's own headers, whatever they are.
        """
        return [self.dead_letter(record, error, stage=stage), *self._audit(record, None, error.reason, trace)]

    def dead_letter(self, record: ConsumerRecord, error: InvalidMessage, *, stage: str, payload: bool = True) -> Event:
        """Return the dead letter: original key, value and headers to the byte, and why, in further headers.

        Without `payload` all that came in is left out, for records that the broker would refuse again; topic, partition
        and offset in the headers say where the original is.
        """
        reasons = {
            "__connect.errors.topic": record.topic,
            "__connect.errors.partition": record.partition,
            "__connect.errors.offset": record.offset,
            "__connect.errors.connector.name": "guardline",
            "__connect.errors.stage": stage,
            "__connect.errors.exception.class.name": type(error).__name__,
            "__connect.errors.exception.message": error.detail,
            "guardline.reason": error.reason,
            "guardline.payload": "original" if payload else "omitted",
        }
        # aiokafka sends no record with neither key nor value, so such a letter gets its origin as key.
        origin = f"{record.topic}-{record.partition}-{record.offset}".encode()
        reasons["guardline.key"] = "absent" if record.key is None else "original" if payload else "omitted"
        why = tuple((name, str(value).encode()) for name, value in reasons.items())
        if not payload:
            return Event(self._topics.deadletter, origin, None, why)
        key = origin if record.key is None and record.value is None else record.key
        return Event(self._topics.deadletter, key, record.value, tuple(record.headers) + why)

    def _audit(
        self, record: ConsumerRecord, verdict: MessageVerdict | None, reason: str | None, trace: Headers | None
    ) -> list[Event]:
        if self._topics.verdicts is None:
            return []
        message = verdict.message if verdict else None
        audit = VerdictRecord(
            id=event_id(record.topic, record.partition, record.offset, self._model.name, self._model.version),
            message_id=message.id if message else None,
            tenant=message.tenant if message else None,
            verdict=verdict.verdict if verdict else Verdict.INVALID,
            score=round(verdict.score, 6) if verdict else 0.0,
            reason=reason,
            counts=Counter(s.verdict for s in verdict.statements) if verdict else {},
            statements=statement_records(verdict) if verdict else [],
            model=self._model,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            received_at=timestamp(record.timestamp),
        )
        key = message.id.encode("utf-8", "replace") if message else record.key
        return [_event(self._topics.verdicts, key, audit, audit.id, VERDICT_TYPE, record, message, trace)]


def _event(
    topic: str,
    key: bytes | None,
    model: BaseModel,
    id_: str,
    type_: str,
    record: ConsumerRecord,
    message: Message | None,
    trace: Headers | None,
) -> Event:
    attributes: dict[str, Any] = {
        "ce_specversion": "1.0",
        "ce_id": id_,
        "ce_source": _SOURCE,
        "ce_type": type_,
        "ce_time": timestamp(record.timestamp).isoformat(),
        # Extension attributes (CloudEvents 1.0, 3.2: lower-case letters and digits only).
        "ce_origintopic": record.topic,
        "ce_originpartition": record.partition,
        "ce_originoffset": record.offset,
        "content-type": "application/json",
    }
    headers: Headers = tuple((name, str(value).encode()) for name, value in attributes.items())
    return Event(
        topic, key, model.model_dump_json().encode(), headers + (incoming(record, message) if trace is None else trace)
    )


def origin_of(headers: Iterable[tuple[str, bytes | None]]) -> Origin | None:
    """Return where the message behind an event is, from the event's headers; None where they do not say."""
    found = {name: value for name, value in headers if name.startswith("ce_origin") and value is not None}
    try:
        return Origin(
            topic=found["ce_origintopic"].decode(),
            partition=int(found["ce_originpartition"]),
            offset=int(found["ce_originoffset"]),
        )
    except (KeyError, ValueError):  # of an older monitor, or of somebody else
        return None
