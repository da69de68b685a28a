"""Answers out of what OpenTelemetry's own SDK exports."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from monitor.errors import InvalidMessage
from monitor.gateway import otlp
from monitor.intake import parse

TEXT = "Give 200 mg."
MESSAGES = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": TEXT}]}])


def exported() -> dict[str, Any]:
    """What an SDK sends for a chat span with messages, one with an event, and others."""
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("t")
    secret = {"gen_ai.input.messages": "secret prompt", "gen_ai.response.id": "r-1"}
    with tracer.start_as_current_span("chat", attributes={"gen_ai.output.messages": MESSAGES, **secret}):
        pass
    with tracer.start_as_current_span("chat", attributes={"gen_ai.conversation.id": "c"}) as span:
        span.add_event("gen_ai.client.inference.operation.details", {"gen_ai.output.messages": MESSAGES})
    with tracer.start_as_current_span("GET /"):
        pass
    request = MessageToDict(encode_spans(memory.get_finished_spans()))
    for resource in request["resourceSpans"]:  # OTLP's JSON has ids in hex, protobuf's in Base64
        for scope in resource["scopeSpans"]:
            for span, finished in zip(scope["spans"], memory.get_finished_spans(), strict=True):
                span["traceId"] = f"{finished.context.trace_id:032x}"
                span["spanId"] = f"{finished.context.span_id:016x}"
    return request


def test_answers_of_spans() -> None:
    request = exported()
    first, second = otlp.traces(json.dumps(request).encode())
    message = parse(first.value, first.headers)
    assert (message.id, message.text) == ("r-1", TEXT)
    assert message.created_at is not None
    assert b"secret" not in first.value
    spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    trace = dict(first.headers)["traceparent"].decode().split("-")
    assert trace[1:3] == [spans[0]["traceId"], spans[0]["spanId"]]
    other = parse(second.value, second.headers)
    assert (other.text, other.conversation_id) == (TEXT, "c")
    assert other.id.startswith(f"{spans[1]['traceId']}-{spans[1]['spanId']}-")


def test_answers_of_log_records() -> None:
    attributes = [{"key": "gen_ai.output.messages", "value": {"stringValue": MESSAGES}}]
    event = {"eventName": otlp.EVENT, "timeUnixNano": "1770000000000000000", "attributes": attributes, "body": {}}
    records = [
        event | {"attributes": [*attributes, {"key": "gen_ai.response.id", "value": {"stringValue": name}}]}
        for name in ("a", "b")
    ]
    other = {"body": {"stringValue": "secret"}, "attributes": []}
    body = {"resourceLogs": [{"scopeLogs": [{"logRecords": [*records, other]}, {}]}, {}]}
    found = [parse(item.value, item.headers) for item in otlp.logs(json.dumps(body).encode())]
    assert [(message.id, message.text) for message in found] == [("a", TEXT), ("b", TEXT)]


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"resourceLogs": 1}', '{"resourceLogs": [{"scopeLogs": [1]}]}'])
def test_what_is_no_export_is_said(body: str) -> None:
    with pytest.raises(InvalidMessage):
        list(otlp.logs(body.encode()))
