"""Publish the answers in OpenTelemetry's GenAI telemetry: `provider.add_span_processor(GuardlineSpanProcessor())`.

For programs whose instrumentation already records content, as `gen_ai.output.messages` on spans or on their events
(`OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`); those that record none publish nothing, and say so once. The
flags of an answer carry on its span's trace. Ids are the response's, else made of the span's (`monitor.intake`).
Instrumentation that emits log events in place of spans is served by an OpenTelemetry Collector: its Kafka exporter, or
its OTLP/HTTP exporter to `guardline intake`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanContext
from pydantic import ValidationError

from monitor.errors import InvalidMessage
from monitor.intake.opentelemetry import MESSAGES, GenAiEvent
from monitor.producers.producer import OutputProducer, shared_producer

_log = logging.getLogger("guardline.producer")
#: Operations that answer a reader; others (embeddings, tools) have no messages to record.
_ANSWERING = ("chat", "text_completion", "generate_content")


class GuardlineSpanProcessor(SpanProcessor):
    """Reads spans when they end; those without messages pass in a look at two attributes."""

    def __init__(self, producer: OutputProducer | None = None, *, tenant: str | None = None) -> None:
        """Publish with `producer` (default: the one of this process); `tenant` of spans without attribute `tenant`.

        Raises:
            ConfigurationError: the environment's settings are wrong (without `producer` only).
        """
        self._producer = producer or shared_producer()
        self._tenant = tenant
        self._told = False

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: the answer comes at the end."""

    def on_end(self, span: ReadableSpan) -> None:
        """Publish the answer that the span, or an event of it, holds."""
        attributes = span.attributes or {}
        found = False
        for carrier, time in _carriers(span):
            found = True
            self._publish(span.context, {**attributes, **carrier}, time)
        if not found and not self._told and attributes.get("gen_ai.operation.name") in _ANSWERING:
            self._told = True
            _log.warning(
                "a GenAI span without %s: nothing to screen; switch on the capture of message content", MESSAGES
            )

    def _publish(self, context: SpanContext | None, attributes: Mapping[str, Any], time: int | None) -> None:
        trace = {"traceId": f"{context.trace_id:032x}", "spanId": f"{context.span_id:016x}"} if context else {}
        try:
            fields = GenAiEvent({**trace, "timeUnixNano": time or 0}, attributes).fields()
        except (InvalidMessage, ValidationError) as error:
            self._producer.unreadable("span", error)
            return
        fields["tenant"] = fields["tenant"] or self._tenant
        flags = f"{context.trace_flags:02x}" if context else "00"
        traceparent = f"00-{trace['traceId']}-{trace['spanId']}-{flags}" if trace else None
        self._producer.publish(**fields, traceparent=traceparent)

    def shutdown(self) -> None:
        """Send what waits."""
        self._producer.flush()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what waits; return whether all of it was acknowledged in time."""
        return self._producer.flush(timeout_millis / 1000) == 0


def _carriers(span: ReadableSpan) -> Iterator[tuple[Mapping[str, Any], int | None]]:
    """Yield the attributes that hold messages, and when: on the span, else on its events."""
    if span.attributes and MESSAGES in span.attributes:
        yield {}, span.end_time
        return
    for event in span.events:
        if event.attributes and MESSAGES in event.attributes:
            yield event.attributes, event.timestamp
