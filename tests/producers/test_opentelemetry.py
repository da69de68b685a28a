"""The span processor in OpenTelemetry's own SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer

from monitor.embedded_broker import EmbeddedBroker
from monitor.producers.opentelemetry import GuardlineSpanProcessor
from tests.fixtures_kafka import Broker, consume_all
from tests.producers.recorder import Recorder
from tests.producers.topic import Topic

TEXT = "Remdesivir is given as a 400 mg loading dose on day 1."


def messages(text: str) -> str:
    part = {"type": "text", "content": text}
    return json.dumps([{"role": "assistant", "parts": [part], "finish_reason": "stop"}])


CHAT: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.conversation.id": "c-1",
}


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def tracer(recorder: Recorder) -> Iterator[Tracer]:
    provider = TracerProvider()
    provider.add_span_processor(GuardlineSpanProcessor(recorder, tenant="north"))
    yield provider.get_tracer("test")
    provider.shutdown()


def test_messages_on_a_span(recorder: Recorder, tracer: Tracer) -> None:
    with tracer.start_as_current_span("chat", attributes=CHAT) as span:
        span.set_attribute("gen_ai.output.messages", messages(TEXT))
        assert not recorder.answers
    context = span.get_span_context()
    answer = dict(recorder.only)
    assert answer.pop("created_at").timestamp() == pytest.approx(span.end_time / 1e9, abs=0.001)  # type: ignore[attr-defined]
    assert answer == {
        "text": TEXT, "id": "chatcmpl-1", "model": "gpt-4o-mini", "conversation_id": "c-1", "tenant": "north",
        "traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}",
    }  # fmt: skip


def test_messages_on_events_of_a_span(recorder: Recorder, tracer: Tracer) -> None:
    with tracer.start_as_current_span("chat", attributes={"gen_ai.request.model": "m", "tenant": "south"}) as span:
        for text in ("Give 200 mg.", "Give 100 mg."):
            span.add_event("gen_ai.client.inference.operation.details", {"gen_ai.output.messages": messages(text)})
    assert [(a["text"], a["tenant"], a["model"]) for a in recorder.answers] == [
        ("Give 200 mg.", "south", "m"),
        ("Give 100 mg.", "south", "m"),
    ]
    assert len({answer["id"] for answer in recorder.answers}) == 2


def test_other_spans_are_passed_over_and_missing_content_is_said_once(
    recorder: Recorder, tracer: Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    with tracer.start_as_current_span("GET /"):
        pass
    assert not caplog.records
    for _ in range(2):
        with tracer.start_as_current_span("chat", attributes=CHAT):
            pass
    assert (recorder.answers, recorder.unreadables) == ([], 0)
    assert [record.getMessage() for record in caplog.records] == [
        "a GenAI span without gen_ai.output.messages: nothing to screen; switch on the capture of message content"
    ]


@pytest.mark.parametrize("value", ['[{"role": "assistant", "parts": [{"ty', '[{"role": "assistant"}]'])
def test_messages_that_cannot_be_read_are_counted(recorder: Recorder, tracer: Tracer, value: str) -> None:
    with tracer.start_as_current_span("chat", attributes={**CHAT, "gen_ai.output.messages": value}):
        pass
    assert (recorder.answers, recorder.unreadables) == ([], 1)


async def test_flushing_the_tracer_flushes_the_answers(embedded: Broker) -> None:
    topic = await Topic.create(embedded)
    with topic.producer() as producer:
        provider = TracerProvider()
        provider.add_span_processor(GuardlineSpanProcessor(producer))
        with provider.get_tracer("test").start_as_current_span("chat", attributes=CHAT) as span:
            span.set_attribute("gen_ai.output.messages", messages(TEXT))
        assert provider.force_flush()
        (record,) = await consume_all(topic.bootstrap, topic.name)
        assert f"{span.get_span_context().trace_id:032x}" in dict(record.headers)["traceparent"].decode()
        provider.shutdown()


def test_answers_published_otherwise_carry_the_trace_of_the_current_span(embedded_broker: EmbeddedBroker) -> None:
    from confluent_kafka import Consumer, TopicPartition

    topic = Topic.of(embedded_broker)
    with topic.producer() as producer, TracerProvider().get_tracer("test").start_as_current_span("answer") as span:
        producer.publish(text=TEXT, conversation_id="c")
    consumer = Consumer({"bootstrap.servers": topic.bootstrap, "group.id": "g"})
    consumer.assign([TopicPartition(topic.name, number, 0) for number in (0, 1)])
    (record,) = consumer.consume(1, timeout=30)
    consumer.close()
    context = span.get_span_context()
    expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}".encode()
    assert dict(record.headers())["traceparent"] == expected
