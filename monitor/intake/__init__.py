"""Read one input: bytes and headers from Kafka to a `Message`, or `InvalidMessage` with a reason that fits a header.

What a value may be, told apart by the `content-type` header and then by its shape (`formats`):

- the native record, `{"id", "text", ...}`;
- a CloudEvent 1.0 around any of the others, structured or binary (`cloudevents`);
- an OpenTelemetry GenAI event with `gen_ai.output.messages` (`opentelemetry`);
- an OpenAI chat completion or Responses object (`openai`);
- with `content-type: text/plain`, the answer itself.

**Content type** (`content`). None, or `application/octet-stream`, means JSON; so do `application/json`, `text/json` and
any `+json`. Anything else is a dead letter, `unsupported_content_type`. Other charsets than UTF-8 are decoded where
they are common, and refused, `unsupported_charset`, where they are not.

**Text.** An answer may come in several pieces, and offsets in flags count characters of one text. It is made so, and a
consumer can make it again: the parts of one choice follow each other as they are, with one line feed between two of
them only where the first ends with `.`, `!`, `?` or `:` and the second begins with a capital letter; choices (messages)
that hold text are joined by two line feeds. Parts that no reader sees as text (reasoning, tool calls, files) are passed
over; an answer of nothing else has an empty text. A refusal is text, and so is the transcript of a spoken answer.

**Id.** The format's own id (`id`, `gen_ai.response.id`, `log.record.uid`); without one the CloudEvent's, as
`source#id`, since an id alone is unique only within its source; for a GenAI event without either
`traceId-spanId-digest` with the first 16 hex digits of the text's SHA-256, since two events may share a span; at last
the record's place, `topic-partition-offset`. A native record outside of a CloudEvent has no such help: `id` is
required there. All are the same when the record is delivered again; only the last changes when it is replayed.

**The rest.** `tenant`, `conversation_id` and `created_at` of the format win over those of the CloudEvent, which are its
extensions `tenant` and `conversationid` (else `subject`) and its `time`. Null means that there is none. Its extensions
`traceparent` and `tracestate` (Distributed Tracing) go on to every event, unless the record has such headers itself.

The rule for every format: unknown fields pass, wrong types do not, and nothing of the payload is repeated in an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import ValidationError

from monitor.errors import InvalidMessage
from monitor.intake import cloudevents
from monitor.intake.content import BOM, MediaType, decode_text, header_value, media_type, parse_json
from monitor.intake.formats import Reading, read_value
from monitor.intake.problems import first_problem, wrong_type
from monitor.records import OutputRecord
from monitor.types import Message

__all__ = ["parse"]

Headers = Sequence[tuple[str, bytes | None]]


def parse(payload: bytes | None, headers: Headers = (), *, origin: str | None = None) -> Message:
    """Return the message that a record holds.

    Args:
        payload: the record's value.
        headers: the record's headers, as aiokafka hands them over.
        origin: where the record lies, `topic-partition-offset`: the id of a message that has no other.

    Raises:
        InvalidMessage: it holds none; nothing else is ever raised, whatever arrives.
    """
    if payload is None:
        raise InvalidMessage("null_value", "the record has no value (a tombstone?)")
    content = payload.removeprefix(BOM)
    if not content or content.isspace():
        raise InvalidMessage("empty_value", "the record's value is empty")
    try:
        declared = media_type(header_value(headers, "content-type"))
        if declared.structured:
            reading = _structured(parse_json(content, declared))
        else:
            reading = _unwrapped(content, declared, cloudevents.from_headers(headers))
        fields = reading.fields
        if reading.anonymous and origin is not None and "id" not in fields:
            fields = fields | {"id": origin}
        message = OutputRecord.model_validate(fields).to_message()
        return replace(message, trace=reading.trace) if reading.trace else message
    except ValidationError as error:
        raise first_problem(error) from None


def _unwrapped(content: bytes, declared: MediaType, envelope: cloudevents.Envelope) -> Reading:
    """Read a value that is the data itself: no CloudEvent, or one in binary mode."""
    if declared.text:
        return envelope.complete(Reading({"text": decode_text(content, declared)}, anonymous=True))
    value = parse_json(content, declared)
    if isinstance(value, dict) and cloudevents.looks_structured(value):  # whatever its content type
        return _structured(value)
    return envelope.complete(read_value(value))


def _structured(value: object) -> Reading:
    """Read a CloudEvent in structured mode."""
    if not isinstance(value, dict):
        raise wrong_type("event", "a JSON object", value)
    event = cloudevents.StructuredEvent.model_validate(value)
    declared, data = event.content()
    if declared.structured:
        raise InvalidMessage("unsupported_content_type", "datacontenttype: an event in an event: send the inner one")
    if isinstance(data, bytes):
        data = decode_text(data, declared) if declared.text else parse_json(data, declared)
    if not declared.text:
        return event.envelope.complete(read_value(data))
    if not isinstance(data, str):
        raise wrong_type("data", "a string, since datacontenttype is text/plain", data)
    return event.envelope.complete(Reading({"text": data}, anonymous=True))
