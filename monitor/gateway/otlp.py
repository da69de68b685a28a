"""Answers out of OpenTelemetry's exports: OTLP/HTTP 1.x in JSON, as `/v1/logs` and `/v1/traces` receive it.

Of every GenAI event and span, only what the monitor reads is published, as a log record in JSON: no prompts, no other
attributes, no other telemetry. (An exporter sends JSON where its `encoding` is `json`.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from monitor.errors import InvalidMessage
from monitor.gateway.reading import Item
from monitor.intake.content import MediaType, parse_json
from monitor.intake.opentelemetry import EVENT, MESSAGES

#: What `monitor.intake.opentelemetry` reads of an event.
_READ = (
    MESSAGES, "gen_ai.response.id", "gen_ai.response.model", "gen_ai.request.model", "gen_ai.conversation.id",
    "log.record.uid", "tenant",
)  # fmt: skip
_JSON = b"application/json"


def logs(body: bytes) -> Iterator[Item]:
    """Yield the GenAI events of an `ExportLogsServiceRequest`.

    Raises:
        InvalidMessage: it is none.
    """
    for record in _deep(parse_json(body, MediaType()), "resourceLogs", "scopeLogs", "logRecords"):
        event = record.get("eventName") == EVENT or _named(record).get("event.name") == {"stringValue": EVENT}
        if event or MESSAGES in _named(record):
            yield _item(record, _named(record), record.get("timeUnixNano") or record.get("observedTimeUnixNano"))


def traces(body: bytes) -> Iterator[Item]:
    """Yield the spans of an `ExportTraceServiceRequest` that hold messages, themselves or in their events.

    Raises:
        InvalidMessage: it is none.
    """
    for span in _deep(parse_json(body, MediaType()), "resourceSpans", "scopeSpans", "spans"):
        own = _named(span)
        if MESSAGES in own:
            yield _item(span, own, span.get("endTimeUnixNano"))
            continue
        for event in _objects(span, "events"):
            if MESSAGES in _named(event):
                yield _item(span, own | _named(event), event.get("timeUnixNano"))


def _item(carrier: Mapping[str, Any], attributes: Mapping[str, Any], time: Any) -> Item:
    trace, span = carrier.get("traceId"), carrier.get("spanId")
    kept = [{"key": name, "value": attributes[name]} for name in _READ if name in attributes]
    record = {"eventName": EVENT, "traceId": trace, "spanId": span, "timeUnixNano": time, "attributes": kept}
    headers: list[tuple[str, bytes]] = [("content-type", _JSON)]
    if isinstance(trace, str) and isinstance(span, str) and trace and span:
        flags = carrier.get("flags")
        sampled = flags & 0xFF if isinstance(flags, int) else 0
        headers.append(("traceparent", f"00-{trace}-{span}-{sampled:02x}".lower().encode("ascii", "replace")))
    return Item(orjson.dumps({k: v for k, v in record.items() if v is not None}), tuple(headers), None)


def _deep(value: object, *names: str) -> Iterator[Mapping[str, Any]]:
    if not isinstance(value, dict) or names[0] not in value:
        raise InvalidMessage("missing_field", f"{names[0]}: not an OTLP export request in JSON")
    level: list[Mapping[str, Any]] = [value]
    for name in names:
        level = [child for parent in level for child in _objects(parent, name)]
    yield from level


def _objects(parent: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    children = parent.get(name) or []
    if not isinstance(children, list) or not all(isinstance(child, dict) for child in children):
        raise InvalidMessage("wrong_type", f"{name}: expected a list of objects")
    return children


def _named(carrier: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes as OTLP's values by name."""
    return {
        pair["key"]: pair.get("value") for pair in _objects(carrier, "attributes") if isinstance(pair.get("key"), str)
    }
