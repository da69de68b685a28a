"""The OpenTelemetry GenAI event `gen_ai.client.inference.operation.details`, as a log record in JSON.

After the GenAI semantic conventions since 1.37 (`gen_ai.output.messages`: one message per choice, with `role`, `parts`
and `finish_reason`; parts by `type`, of which `text` carries `content`) and OTLP 1.x in JSON (`resourceLogs`, lists of
key and `AnyValue`). Attributes may also be a JSON object, or a string of one, and so may the messages: SDKs and
collectors write all of these. The names in snake case are those of the SDKs' own JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter

from monitor.errors import InvalidMessage
from monitor.intake.pieces import join_choices, join_parts
from monitor.intake.problems import wrong_type
from monitor.records import timestamp

MESSAGES = "gen_ai.output.messages"
EVENT = "gen_ai.client.inference.operation.details"
#: Attributes nest, as messages in a list in a map do; nobody's go deeper.
_DEEPEST = 64


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


class MessagePart(_Part):
    """One part of a message: text, or what no reader sees as text (reasoning, tool calls, blobs, files)."""

    type: str
    content: Any = None

    def read(self) -> str:
        """Return its text; empty for parts of other types."""
        if self.type != "text":
            return ""
        if not isinstance(self.content, str):
            reason = "wrong_type" if "content" in self.model_fields_set else "missing_field"
            raise InvalidMessage(reason, f"{MESSAGES}: a part of type text needs content, a string")
        return self.content


class OutputMessage(_Part):
    """One choice of the answer."""

    parts: list[MessagePart]

    def read(self) -> str:
        """Return its text."""
        return join_parts(part.read() for part in self.parts)


_MESSAGES = TypeAdapter(list[OutputMessage])


class LogRecord(_Part):
    """What is read of a log record beside its attributes."""

    trace: str | None = Field(default=None, validation_alias=AliasChoices("traceId", "trace_id"))
    span: str | None = Field(default=None, validation_alias=AliasChoices("spanId", "span_id"))
    time: str | int | None = Field(default=None, validation_alias=AliasChoices("timeUnixNano", "time_unix_nano"))
    observed: str | int | None = Field(
        default=None, validation_alias=AliasChoices("observedTimeUnixNano", "observed_time_unix_nano")
    )

    @property
    def written(self) -> datetime | None:
        """When the event occurred, else when it was observed; zero means unknown."""
        return _time(self.time) or _time(self.observed)


class GenAiEvent:
    """One event: a log record and its attributes as plain values."""

    def __init__(self, record: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        self._record = record
        self._attributes = attributes

    def fields(self) -> dict[str, Any]:
        """Return its fields under the native record's names.

        Raises:
            InvalidMessage: it holds no messages, or not as the conventions say.
            ValidationError: likewise.
        """
        attributes = self._attributes
        if attributes.get(MESSAGES) is None:
            raise InvalidMessage(
                "missing_field", f"{MESSAGES}: not in the event; is the capture of content switched on?"
            )
        messages = _MESSAGES.validate_python(_from_json(attributes[MESSAGES], MESSAGES))
        text = join_choices(message.read() for message in messages)
        record = LogRecord.model_validate(dict(self._record))
        return {
            "id": attributes.get("gen_ai.response.id") or attributes.get("log.record.uid") or _span_id(record, text),
            "text": text,
            "model": attributes.get("gen_ai.response.model") or attributes.get("gen_ai.request.model"),
            "conversation_id": attributes.get("gen_ai.conversation.id"),
            "tenant": attributes.get("tenant"),
            "created_at": record.written or self._record.get("timestamp"),
        }


def find_event(value: Mapping[str, Any]) -> GenAiEvent | None:
    """Return the GenAI event that a JSON object is or holds; None where it is something else.

    Raises:
        InvalidMessage: an OTLP envelope holds no GenAI event, or several; attributes are not what OTLP has.
    """
    if "resourceLogs" in value:
        return _only_event(value)
    return _event(value)


def _event(record: Mapping[str, Any]) -> GenAiEvent | None:
    if MESSAGES in record:
        return GenAiEvent(record, record)
    for place in ("attributes", "body"):  # the body is where events were before 1.37
        candidate = _plain_attributes(record.get(place))
        if candidate is not None and (MESSAGES in candidate or candidate.get("event.name") == EVENT):
            return GenAiEvent(record, candidate)
    if EVENT in (record.get("eventName"), record.get("event_name")):
        return GenAiEvent(record, {})
    return None


def _only_event(envelope: Mapping[str, Any]) -> GenAiEvent:
    """Return the GenAI event of an OTLP request; log records of other kinds are passed over."""
    found = [
        event
        for resource in _objects(envelope, "resourceLogs")
        for scope in _objects(resource, "scopeLogs")
        for record in _objects(scope, "logRecords")
        if (event := _event(record)) is not None
    ]
    if not found:
        raise InvalidMessage("missing_field", f"resourceLogs: no log record with {MESSAGES}")
    if len(found) > 1:
        raise InvalidMessage(
            "several_messages", f"resourceLogs: {len(found)} GenAI events in one record: send each in its own"
        )
    return found[0]


def _objects(parent: Mapping[str, Any], name: str) -> Iterable[Mapping[str, Any]]:
    children = parent.get(name)
    if children is None:
        return ()
    if not isinstance(children, list) or not all(isinstance(child, dict) for child in children):
        raise wrong_type(name, "a list of objects", children)
    return children


def _from_json(value: object, field: str) -> object:
    """Return a value that may have been written as a string of JSON."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        raise InvalidMessage("unreadable_json", f"{field}: a string that is not JSON") from None


def _plain_attributes(attributes: object) -> Mapping[str, Any] | None:
    """Return attributes as a plain object, in whichever of the ways they were written; None for anything else."""
    if isinstance(attributes, str) and MESSAGES in attributes:
        attributes = _from_json(attributes, "attributes")
    if isinstance(attributes, list):
        return _key_values(attributes, _DEEPEST)
    if isinstance(attributes, dict):
        if attributes.keys() == {"kvlistValue"}:
            plain = _any_value(attributes, _DEEPEST)
            return plain if isinstance(plain, dict) else None
        return attributes
    return None


def _key_values(pairs: object, deeper: int) -> dict[str, Any]:
    if not isinstance(pairs, list):
        raise wrong_type("attributes", "a list of key and value", pairs)
    plain = {}
    for pair in pairs:
        if not isinstance(pair, dict) or not isinstance(pair.get("key"), str):
            raise InvalidMessage("wrong_type", "attributes: expected objects with key and value")
        plain[pair["key"]] = _any_value(pair.get("value"), deeper - 1)
    return plain


def _any_value(value: object, deeper: int) -> Any:
    """Return what an OTLP `AnyValue` holds. Unset ones are null; 64-bit integers come as strings."""
    if deeper < 0:
        raise InvalidMessage("invalid_field", f"attributes: nested deeper than {_DEEPEST} levels")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise wrong_type("attributes", 'an object such as {"stringValue": ...}', value)
    for kind, content in value.items():
        if kind == "arrayValue" and isinstance(content, dict):
            items = content.get("values", [])
            if not isinstance(items, list):
                raise wrong_type("attributes", "a list of values", items)
            return [_any_value(item, deeper - 1) for item in items]
        if kind == "kvlistValue" and isinstance(content, dict):
            return _key_values(content.get("values", []), deeper - 1)
        if kind.endswith("Value"):
            return content
    return None


def _span_id(record: LogRecord, text: str) -> str | None:
    if not record.trace or not record.span:
        return None
    # Instrumentations that open no span of their own write several events under one; flags are told apart by this id.
    return f"{record.trace}-{record.span}-{hashlib.sha256(text.encode()).hexdigest()[:16]}".lower()


def _time(nanoseconds: str | int | None) -> datetime | None:
    if nanoseconds is None:
        return None
    if isinstance(nanoseconds, str) and not (nanoseconds.isascii() and nanoseconds.isdigit() and len(nanoseconds) < 20):
        raise InvalidMessage("invalid_field", "timeUnixNano: not a count of nanoseconds")
    milliseconds = int(nanoseconds) // 1_000_000
    return timestamp(milliseconds) if milliseconds > 0 else None
