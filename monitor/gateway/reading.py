"""From a request's body and headers to the records to publish: pure, and by the monitor's own intake.

One record, as `content-type` says: JSON in any of the monitor's formats (native, OpenAI's objects, GenAI event), a
CloudEvent structured (`application/cloudevents+json`) or binary (`ce-` headers; CloudEvents' HTTP binding 1.0.2), plain
text. Several: a JSON array, JSON lines (`application/x-ndjson`), or `application/cloudevents-batch+json`. A record's
bytes are published as they came; items of an array are written anew.

**Ids.** The record's own id wins. `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header) is the id of a record
that has none, with `-0`, `-1` ... in a batch. A record of a format that asks for no id gets a random one without it: a
request that is sent again is then a new message.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote

import orjson

from monitor.errors import InvalidMessage
from monitor.gateway.problems import Fault, Refused, unreadable
from monitor.intake import parse
from monitor.intake.content import BOM
from monitor.publisher import Event
from monitor.types import Message

_LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
_EVENTS = "application/cloudevents-batch+json"
_EVENT = b"application/cloudevents+json"
_JSON = b"application/json"
#: What of a batch is answered for in one piece.
_MOST_RECORDS = 1000
_KEY = re.compile(r'"?([\x21\x23-\x7e]{1,255})"?', re.ASCII)
_TRACE = ("traceparent", "tracestate")

_Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the records go, and how large one may be, in bytes."""

    topic: str
    record_bytes: int


@dataclass(frozen=True, slots=True)
class Item:
    """One record of a request: its bytes, its headers by their Kafka names, and an id for where it has none."""

    value: bytes
    headers: _Headers
    key: str | None


def read(body: bytes, headers: Mapping[str, str], limits: Limits) -> list[tuple[str, Event]]:
    """Return the records of a request, each with its message's id.

    Args:
        body: the request's body.
        headers: its headers, found in any case.
        limits: where the records go.

    Raises:
        Refused: at least one cannot be read; it says which.
    """
    return checked(_items(body, headers), limits)


def checked(items: Iterable[Item], limits: Limits) -> list[tuple[str, Event]]:
    """Return each item as the record to publish.

    Raises:
        Refused: at least one would be a dead letter, or is too large.
    """
    found, faults = [], []
    for index, item in enumerate(items):
        if index == _MOST_RECORDS:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_many_records", f"send {_MOST_RECORDS} records at once at most"
            )
        try:
            if len(item.value) > limits.record_bytes:
                raise InvalidMessage("record_too_large", f"{len(item.value)} bytes; at most {limits.record_bytes}")
            message, more = _message(item)
        except InvalidMessage as error:
            faults.append(Fault.of(index, error))
        else:
            key = (message.conversation_id or message.id).encode("utf-8", "replace")
            found.append((message.id, Event(limits.topic, key, item.value, item.headers + more)))
    if faults:
        raise unreadable(faults, len(found) + len(faults))
    return found


def _message(item: Item) -> tuple[Message, _Headers]:
    """Return the message that the monitor will read, and the header that gives it an id, where it has none itself."""
    given: _Headers = ()
    if item.key is not None and not any(name == "ce_id" for name, _ in item.headers):
        given = (("ce_id", item.key.encode()),)
    made = uuid.uuid4().hex
    message = parse(item.value, item.headers + given, origin=made)
    return message, (("ce_id", made.encode()),) if message.id == made else given


def _items(body: bytes, headers: Mapping[str, str]) -> Iterator[Item]:
    trace = tuple((name, _raw(headers[name])) for name in _TRACE if name in headers)
    key = _idempotency_key(headers)
    declared = headers.get("content-type", "").partition(";")[0].strip().lower()
    attributes = tuple(_attributes(headers))
    if declared in _LINES:
        values = (line for line in body.split(b"\n") if line.strip())
        yield from _several(values, _JSON, trace, key)
    elif declared == _EVENTS or (_is_list(body) and not attributes and _is_json(declared)):
        kind = _EVENT if declared == _EVENTS else _JSON
        yield from _several(map(orjson.dumps, _array(body)), kind, trace, key)
    else:
        content = _raw(headers.get("content-type", "application/json"))
        yield Item(body, (("content-type", content), *attributes, *trace), key)


def _several(values: Iterable[bytes], kind: bytes, trace: _Headers, key: str | None) -> Iterator[Item]:
    for index, value in enumerate(values):
        yield Item(value, (("content-type", kind), *trace), None if key is None else f"{key}-{index}")


def _is_json(declared: str) -> bool:
    return declared in ("", "application/json", "text/json", "application/octet-stream")


def _is_list(body: bytes) -> bool:
    return body.removeprefix(BOM).lstrip()[:1] == b"["


def _array(body: bytes) -> list[object]:
    try:
        values = orjson.loads(body.removeprefix(BOM))
    except orjson.JSONDecodeError as error:
        raise Refused(
            HTTPStatus.BAD_REQUEST, "unreadable_json", f"nothing was accepted: not JSON: {error.msg} at {error.pos}"
        ) from None
    if not isinstance(values, list):
        raise Refused(HTTPStatus.BAD_REQUEST, "wrong_type", "nothing was accepted: a batch is a JSON array")
    return values


def _attributes(headers: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield CloudEvents attributes under their Kafka names; by HTTP their values are percent-encoded."""
    for name, value in headers.items():
        if name.lower().startswith("ce-"):
            yield f"ce_{name[3:].lower()}", _raw(unquote(value, errors="replace"))


def _raw(value: str) -> bytes:
    """Return the bytes of a header's value: aiohttp decodes what is not UTF-8 to lone surrogates."""
    return value.encode("utf-8", "surrogateescape")


def _idempotency_key(headers: Mapping[str, str]) -> str | None:
    value = headers.get("idempotency-key")
    if value is None:
        return None
    match = _KEY.fullmatch(value.strip())
    if match is None:
        raise Refused(
            HTTPStatus.BAD_REQUEST,
            "invalid_field",
            "Idempotency-Key: 1 to 255 visible ASCII characters, no quotes inside",
        )
    return match[1]
