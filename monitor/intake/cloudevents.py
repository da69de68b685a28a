"""CloudEvents around an answer: attributes from headers (binary mode) or beside the data (structured mode).

After CloudEvents 1.0.2: the specification, its Kafka protocol binding (`ce_` headers as UTF-8, `content-type` for
`datacontenttype`) and its JSON event format (`data`, `data_base64`, null for unset).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from monitor.errors import InvalidMessage
from monitor.intake.content import MediaType, header_value, media_type
from monitor.intake.formats import Reading

#: What tells a structured event from every other JSON object: its required attributes (section "Context Attributes").
_REQUIRED = ("specversion", "id", "source", "type")


def looks_structured(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object that came without the CloudEvents content type is a structured event nevertheless.

    The binding lets producers leave the header out.
    """
    return "text" not in value and all(name in value for name in _REQUIRED)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the attributes of an event say about the message in it; all unset where there is no event."""

    id: str | None = None
    source: str | None = None
    subject: str | None = None
    time: str | None = None
    tenant: str | None = None
    conversation: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None

    def complete(self, reading: Reading) -> Reading:
        """Return what was read of the data, with the envelope's fields in place of those that are missing or null."""
        if self is NO_EVENT:
            return reading
        fields = reading.fields
        mine = {
            "tenant": self.tenant,
            "conversation_id": self.conversation or self.subject,
            "created_at": self.time,
        }
        completed = fields | {k: v for k, v in mine.items() if v is not None and fields.get(k) is None}
        if self.id:
            completed.setdefault("id", f"{self.source}#{self.id}" if self.source else self.id)
        return replace(reading, fields=completed, trace=self._trace())

    def _trace(self) -> tuple[tuple[str, bytes], ...]:
        named = (("traceparent", self.traceparent), ("tracestate", self.tracestate))
        return tuple((name, value.encode()) for name, value in named if value)


#: What most records have.
NO_EVENT = Envelope()


def from_headers(headers: Sequence[tuple[str, bytes | None]]) -> Envelope:
    """Return the attributes of an event in binary mode.

    Incomplete ones are taken for what they are worth: the data can be read all the same.
    """
    if not any(key[:3].lower() == "ce_" for key, _ in headers):
        return NO_EVENT
    return Envelope(
        id=header_value(headers, "ce_id"),
        source=header_value(headers, "ce_source"),
        subject=header_value(headers, "ce_subject"),
        time=header_value(headers, "ce_time"),
        tenant=header_value(headers, "ce_tenant"),
        conversation=header_value(headers, "ce_conversationid"),
        traceparent=header_value(headers, "ce_traceparent"),
        tracestate=header_value(headers, "ce_tracestate"),
    )


class StructuredEvent(BaseModel):
    """An event in structured mode. Extensions are top-level members; others than these four are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    specversion: str = Field(pattern=r"^1\.")
    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    type: str = Field(min_length=1)
    datacontenttype: str | None = None
    subject: str | None = None
    time: str | None = None
    tenant: str | None = None
    conversationid: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    data: Any = None
    data_base64: str | None = None

    @property
    def envelope(self) -> Envelope:
        """What its attributes say about the message in it."""
        return Envelope(
            id=self.id,
            source=self.source,
            subject=self.subject,
            time=self.time,
            tenant=self.tenant,
            conversation=self.conversationid,
            traceparent=self.traceparent,
            tracestate=self.tracestate,
        )

    def content(self) -> tuple[MediaType, object]:
        """Return what the data is, and the data: bytes where it was Base64, else the JSON value.

        Raises:
            InvalidMessage: there is none, or it is of a content type that cannot be read.
        """
        declared = media_type(self.datacontenttype)
        if self.data_base64 is None:
            if "data" not in self.model_fields_set:
                raise InvalidMessage("missing_field", "data: the event holds neither data nor data_base64")
            return declared, self.data
        if self.data is not None:
            raise InvalidMessage("invalid_field", "data_base64: data and data_base64 exclude each other")
        try:
            return declared, base64.b64decode(self.data_base64, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidMessage("invalid_field", "data_base64: not Base64") from None
