"""Each format of the intake, with payloads written after its public specification."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.errors import InvalidMessage
from monitor.intake import parse
from monitor.types import Message

TEXT = "Remdesivir is given as a 200 mg loading dose on day 1."
OTHER = "Then 100 mg once daily."
#: Stands in every bad input; no error may repeat it.
SECRET = "Brandt"
Headers = Sequence[tuple[str, bytes | None]]
ORIGIN = "llm.outputs-3-17"
JSON = [("content-type", b"application/json")]
STRUCTURED = [("content-type", b"application/cloudevents+json; charset=UTF-8")]


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def read(value: object, headers: Headers = ()) -> Message:
    return parse(encode(value), headers, origin=ORIGIN)


def refused(payload: bytes, headers: Headers = ()) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        parse(payload, headers, origin=ORIGIN)
    assert SECRET not in str(caught.value)
    return caught.value


def native(**fields: Any) -> dict[str, Any]:
    return {"id": "answer-1", "text": TEXT, **fields}


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """OpenAI API reference (2025), "The chat completion object"."""
    return {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        "model": "gpt-4.1-2025-04-14",
        "choices": [
            {
                "index": i,
                "message": {"role": "assistant", "content": None, "refusal": None, "annotations": []} | message,
                "logprobs": None,
                "finish_reason": "stop",
            }
            for i, message in enumerate(messages)
        ],
        "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
        "service_tier": "default",
    } | fields


def response(*output: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """OpenAI API reference (2025), "The Response object"; its `text` is a setting."""
    return {
        "id": "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b",
        "object": "response",
        "created_at": 1741476542.0,
        "status": "completed",
        "error": None,
        "model": "gpt-4.1-2025-04-14",
        "output": list(output),
        "previous_response_id": None,
        "text": {"format": {"type": "text"}},
        "metadata": {},
    } | fields


def output_message(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": list(parts)}


def output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def messages(*choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """GenAI semantic conventions 1.37 and later, `gen_ai-output-messages.json`."""
    return [{"role": "assistant", "parts": parts, "finish_reason": "stop"} for parts in choices]


def part(text: str) -> dict[str, Any]:
    return {"type": "text", "content": text}


def attributes(output: object, **more: object) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4.1",
        "gen_ai.response.model": "gpt-4.1-2025-04-14",
        "gen_ai.response.id": "chatcmpl-123",
        "gen_ai.conversation.id": "conv_5j66UpCpwteGg4YSxUnt7lPY",
        "gen_ai.usage.output_tokens": 11,
        "gen_ai.output.messages": output,
    } | more


def log_record(attributes_: object, **fields: Any) -> dict[str, Any]:
    return {
        "eventName": "gen_ai.client.inference.operation.details",
        "timeUnixNano": "1741569952000000000",
        "traceId": "5B8EFFF798038103D269B633813FC60C",
        "spanId": "EEE19B7EC3C1B174",
        "attributes": attributes_,
    } | fields


def any_value(value: object) -> dict[str, Any]:
    """opentelemetry-proto 1.x, `AnyValue` in JSON: 64-bit integers are strings."""
    if isinstance(value, dict):
        return {"kvlistValue": {"values": key_values(value)}}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(item) for item in value]}}
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}


def key_values(value: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": any_value(item)} for key, item in value.items()]


def otlp(*records: dict[str, Any]) -> dict[str, Any]:
    """What the collector's Kafka exporter writes with the encoding `otlp_json`."""
    scope = {"scope": {"name": "opentelemetry.instrumentation.openai_v2"}, "logRecords": list(records)}
    resource = {"attributes": key_values({"service.name": "ward-assistant"})}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]}


def event(data: object = None, **attributes_: Any) -> dict[str, Any]:
    """CloudEvents 1.0.2, JSON event format."""
    envelope = {
        "specversion": "1.0",
        "type": "com.example.answer",
        "source": "/ward/assistant",
        "id": "A234-1234-1234",
        "time": "2026-04-05T17:31:00Z",
        "subject": "conversation-7",
        "datacontenttype": "application/json",
        "tenant": "north",
        "comexampleextension1": "value",
    }
    return envelope | ({} if data is None else {"data": data}) | attributes_


def binary(**changes: bytes | None) -> list[tuple[str, bytes | None]]:
    """CloudEvents 1.0.2, Kafka protocol binding: the attributes of `event` as headers."""
    headers: dict[str, bytes | None] = {
        "ce_specversion": b"1.0",
        "ce_type": b"com.example.answer",
        "ce_source": b"/ward/assistant",
        "ce_id": b"A234-1234-1234",
        "ce_time": b"2026-04-05T17:31:00Z",
        "ce_subject": b"conversation-7",
        "ce_tenant": b"north",
        "content-type": b"application/json",
    }
    return list((headers | changes).items())


SENT = datetime(2026, 4, 5, 17, 31, tzinfo=UTC)
CREATED = datetime(2025, 3, 10, 1, 25, 52, tzinfo=UTC)
EVENT_ID = "/ward/assistant#A234-1234-1234"


# --- OpenAI ---------------------------------------------------------------------------------------------------------


def test_a_chat_completion_becomes_a_message() -> None:
    assert read(chat({"content": TEXT})) == Message(
        id="chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", text=TEXT, model="gpt-4.1-2025-04-14", created_at=CREATED
    )


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": ""}, ""),
        ({"content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]}, ""),
        ({"content": None, "refusal": "I can't help with that."}, "I can't help with that."),
        ({"content": None, "audio": {"id": "a", "data": "UklGRg==", "transcript": TEXT}}, TEXT),
        ({"content": [{"type": "text", "text": TEXT}]}, TEXT),
        ({"content": [{"type": "text", "text": "Give 2"}, {"type": "text", "text": "00 mg."}]}, "Give 200 mg."),
        ({"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": TEXT}]}, TEXT),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        ({"content": []}, ""),
    ],
    ids=["empty", "tool call", "refusal", "spoken", "parts", "cut sentence", "thinking", "refusal part", "no part"],
)
def test_content_of_a_chat_message(message: dict[str, Any], text: str) -> None:
    assert read(chat(message)).text == text


def test_choices_are_paragraphs_in_their_order() -> None:
    choices = ({"content": TEXT}, {"content": None}, {"content": OTHER})
    message = read(chat(*choices))
    assert message.text == f"{TEXT}\n\n{OTHER}"
    assert message.text[len(TEXT) + 2 :] == OTHER


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["Give 200 mg", " on day 1."], "Give 200 mg on day 1."),
        (["On day 1.", "Then stop."], "On day 1.\nThen stop."),
        (["On day 1. ", "Then stop."], "On day 1. Then stop."),
        (["It is 0.", "5 mg."], "It is 0.5 mg."),
        (["See:", "Remdesivir"], "See:\nRemdesivir"),
        (["Vi", "tamin"], "Vitamin"),
        (["", TEXT, "", OTHER], f"{TEXT}\n{OTHER}"),
    ],
)
def test_parts_are_joined_by_the_rule_that_consumers_are_told(parts: list[str], text: str) -> None:
    assert read(response(output_message(*map(output_text, parts)))).text == text
    assert read(log_record(attributes(messages([part(p) for p in parts])))).text == text
    assert read(chat({"content": [{"type": "text", "text": p} for p in parts]})).text == text


def test_a_response_becomes_a_message() -> None:
    value = response(
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Thinks aloud."}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "lookup", "arguments": "{}"},
        output_message(output_text(TEXT), {"type": "refusal", "refusal": "No more."}),
        output_message(output_text(OTHER)),
        conversation={"id": "conv_1"},
        metadata={"tenant": "north"},
    )
    assert read(value) == Message(
        id="resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b",
        text=f"{TEXT}\nNo more.\n\n{OTHER}",
        tenant="north",
        model="gpt-4.1-2025-04-14",
        conversation_id="conv_1",
        created_at=datetime(2025, 3, 8, 23, 29, 2, tzinfo=UTC),
        metadata={"tenant": "north"},
    )


def test_a_response_without_output_says_nothing() -> None:
    assert read(response(status="failed", error={"code": "server_error", "message": "x"})).text == ""


def test_a_compatible_server_may_leave_out_object_and_id() -> None:
    value = {"choices": [{"message": {"content": TEXT}}]}
    assert read(value) == Message(id=ORIGIN, text=TEXT)
    with pytest.raises(InvalidMessage, match="missing_field: id"):
        parse(encode(value))


@pytest.mark.parametrize(
    ("value", "reason", "named"),
    [
        (chat({"content": 17}), "wrong_type", "choices.0.message.content"),
        (chat({"content": [{"type": "text"}]}), "missing_field", "content"),
        (chat({"content": [{"type": "text", "text": [SECRET]}]}), "wrong_type", "content"),
        (chat({"content": [{"text": SECRET}]}), "missing_field", "choices.0.message.content"),
        (chat({"content": TEXT}, choices=None), "wrong_type", "choices"),
        (chat({"content": TEXT}, id=17), "wrong_type", "id"),
        (chat({"content": TEXT}, created=SECRET), "wrong_type", "created"),
        (chat({"content": TEXT}, model=[SECRET]), "wrong_type", "model"),
        (chat({"content": TEXT}, metadata={"tenant": [SECRET]}), "wrong_type", "tenant"),
        ({"object": "chat.completion", "id": "a"}, "missing_field", "choices"),
        ({"choices": [{"index": 0, "text": SECRET}]}, "missing_field", "choices.0.message"),
        (
            {"object": "chat.completion.chunk", "choices": [{"delta": {"content": SECRET}}]},
            "unsupported_format",
            "object",
        ),
        (response(output=None), "wrong_type", "output"),
        (response({"type": "message"}), "wrong_type", "content"),
        (response(output_message({"type": "output_text"})), "missing_field", "content"),
        (response(conversation={"id": 7}), "wrong_type", "conversation.id"),
    ],
)
def test_what_is_wrong_in_an_openai_object_is_named(value: dict[str, Any], reason: str, named: str) -> None:
    error = refused(encode(value))
    assert (error.reason, error.detail.partition(":")[0].startswith(named)) == (reason, True), error


@pytest.mark.parametrize("created", [-1, 10**18, 0])
def test_a_time_beyond_the_calendar_does_not_stop_a_message(created: int) -> None:
    assert read(chat({"content": TEXT}, created=created)).created_at is not None


# --- OpenTelemetry --------------------------------------------------------------------------------------------------

OUTPUT = messages([{"type": "reasoning", "content": "Hm."}, part(TEXT)], [part(OTHER)])
EXPECTED = Message(
    id="chatcmpl-123",
    text=f"{TEXT}\n\n{OTHER}",
    model="gpt-4.1-2025-04-14",
    conversation_id="conv_5j66UpCpwteGg4YSxUnt7lPY",
    created_at=CREATED,
)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(log_record(attributes(OUTPUT)), id="attributes as an object"),
        pytest.param(log_record(attributes(json.dumps(OUTPUT))), id="messages as a string"),
        pytest.param(log_record(json.dumps(attributes(OUTPUT))), id="attributes as a string"),
        pytest.param(log_record(key_values(attributes(OUTPUT))), id="attributes as key and value"),
        pytest.param(log_record(key_values(attributes(json.dumps(OUTPUT)))), id="key and value, messages as a string"),
        pytest.param(otlp(log_record(key_values(attributes(OUTPUT)))), id="OTLP request"),
        pytest.param(
            otlp(
                {"body": {"stringValue": "started"}, "attributes": key_values({"a": 1})},
                log_record(key_values(attributes(OUTPUT))),
            ),
            id="OTLP request with another log record",
        ),
        pytest.param(log_record([], body=any_value(attributes(OUTPUT))), id="body"),
        pytest.param(attributes(OUTPUT) | {"timestamp": "2025-03-10T01:25:52.000000Z"}, id="flat"),
        pytest.param(
            {
                "body": None,
                "event_name": "gen_ai.client.inference.operation.details",
                "attributes": attributes(OUTPUT),
                "timestamp": "2025-03-10T01:25:52.000000Z",
                "trace_id": "0x5b8efff798038103d269b633813fc60c",
                "span_id": "0xeee19b7ec3c1b174",
            },
            id="an SDK's own JSON",
        ),
    ],
)
def test_a_genai_event_is_read_however_it_is_written(value: dict[str, Any]) -> None:
    assert read(value) == EXPECTED


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "tool_call", "id": "c", "name": "lookup", "arguments": {"q": "x"}}],
        [{"type": "tool_call_response", "id": "c", "response": "rainy"}],
        [{"type": "reasoning", "content": "Hm."}, {"type": "redacted_thinking", "data": "x"}],
        [{"type": "blob", "modality": "image", "content": "aGk="}],
        [],
    ],
)
def test_what_no_reader_sees_as_text_is_passed_over(parts: list[dict[str, Any]]) -> None:
    assert read(log_record(attributes(messages(parts)))).text == ""
    assert read(log_record(attributes(messages([*parts, part(TEXT)])))).text == TEXT


def test_an_event_without_response_id_is_named_after_its_own_id_its_span_or_its_place() -> None:
    nameless = {"gen_ai.output.messages": messages([part(TEXT)])}
    record = log_record(nameless)
    assert read(log_record(nameless | {"log.record.uid": "01ARZ3NDEKTSV4RRFFQ69G5FAV"})).id.startswith("01ARZ")
    by_span = read(record)
    assert by_span.id.startswith("5b8efff798038103d269b633813fc60c-eee19b7ec3c1b174-")
    assert parse(encode(record), origin="elsewhere-0-0").id == by_span.id
    assert read(log_record({"gen_ai.output.messages": messages([part(OTHER)])})).id != by_span.id
    assert read(nameless).id == ORIGIN
    assert read(event(nameless)).id == EVENT_ID


def test_the_time_of_observation_stands_in_for_an_unknown_one() -> None:
    record = log_record(attributes(OUTPUT), timeUnixNano="0", observedTimeUnixNano=1741569952000000000)
    assert read(record).created_at == CREATED
    assert read(log_record(attributes(OUTPUT), timeUnixNano=None)).created_at is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (log_record({"gen_ai.operation.name": "chat"}), "missing_field"),
        (log_record(None), "missing_field"),
        (log_record(attributes(None)), "missing_field"),
        (log_record(attributes(SECRET)), "unreadable_json"),
        (log_record(attributes({"role": SECRET})), "wrong_type"),
        (log_record(attributes([SECRET])), "wrong_type"),
        (log_record(attributes([{"role": "assistant", "content": SECRET}])), "missing_field"),
        (log_record(attributes(messages([{"type": "text"}]))), "missing_field"),
        (log_record(attributes(messages([{"type": "text", "content": 17}]))), "wrong_type"),
        (log_record(attributes(OUTPUT, **{"gen_ai.response.id": 17})), "wrong_type"),
        (log_record(attributes(OUTPUT), timeUnixNano=SECRET), "invalid_field"),
        (log_record(attributes(OUTPUT), timeUnixNano="9" * 5000), "invalid_field"),
        (log_record([SECRET]), "wrong_type"),
        (log_record([{"key": "gen_ai.output.messages", "value": SECRET}]), "wrong_type"),
        (log_record([{"key": "a", "value": {"arrayValue": {"values": SECRET}}}]), "wrong_type"),
        (otlp(), "missing_field"),
        (otlp(log_record(attributes(OUTPUT)), log_record(attributes(OUTPUT))), "several_messages"),
        ({"resourceLogs": SECRET}, "wrong_type"),
        ({"resourceLogs": [{"scopeLogs": [SECRET]}]}, "wrong_type"),
    ],
)
def test_what_is_wrong_in_a_genai_event_is_said(value: dict[str, Any], reason: str) -> None:
    assert refused(encode(value)).reason == reason


def test_attributes_nested_without_end_are_refused() -> None:
    value: dict[str, Any] = {"stringValue": SECRET}
    for _ in range(200):
        value = {"arrayValue": {"values": [value]}}
    assert refused(encode(log_record([{"key": "a", "value": value}]))).reason == "invalid_field"


# --- CloudEvents ----------------------------------------------------------------------------------------------------

DATA = [
    pytest.param(native(), id="native"),
    pytest.param(chat({"content": TEXT}), id="chat completion"),
    pytest.param(response(output_message(output_text(TEXT))), id="response"),
    pytest.param(log_record(attributes(messages([part(TEXT)]))), id="GenAI"),
]


@pytest.mark.parametrize("data", DATA)
def test_both_modes_give_the_message_of_their_data_and_the_envelope_fills_it_up(data: dict[str, Any]) -> None:
    inner = read(data)
    coded = base64.b64encode(encode(data)).decode()
    for message in (
        read(event(data), STRUCTURED),
        read(event(data), JSON),
        read(event(data)),
        read(event(data_base64=coded), STRUCTURED),
        read(data, binary()),
    ):
        assert (message.id, message.text, message.model) == (inner.id, TEXT, inner.model)
        assert message.tenant == "north"
        assert message.conversation_id == (inner.conversation_id or "conversation-7")
        assert message.created_at == (inner.created_at or SENT)


def test_the_fields_of_the_data_win() -> None:
    own = native(tenant="south", conversation_id="c", created_at="2026-01-01T00:00:00Z")
    for message in (read(event(own), STRUCTURED), read(own, binary())):
        assert (message.tenant, message.conversation_id) == ("south", "c")
        assert message.created_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_null_means_unset() -> None:
    message = read(event(native(tenant=None), subject=None, time=None, tenant=None, conversationid=None), STRUCTURED)
    assert (message.tenant, message.conversation_id, message.created_at) == (None, None, None)
    assert read(native(tenant=None), binary(ce_subject=None)).tenant == "north"


def test_a_record_without_id_takes_source_and_id_of_its_event() -> None:
    """An id is unique within its source only: two sources must not give two answers one id."""
    assert read(event({"text": TEXT}), STRUCTURED).id == EVENT_ID
    assert read({"text": TEXT}, binary()).id == EVENT_ID
    assert read({"text": TEXT}, binary(ce_source=b"/other")).id == "/other#A234-1234-1234"


def test_no_id_is_made_up_for_a_native_record() -> None:
    assert refused(encode({"text": TEXT})).detail.startswith("id: ")


def test_the_conversation_extension_wins_over_the_subject() -> None:
    assert read(native(), binary(ce_conversationid=b"c-9")).conversation_id == "c-9"
    assert read(event(native(), conversationid="c-9"), STRUCTURED).conversation_id == "c-9"


def test_the_trace_context_of_an_event_is_kept() -> None:
    """CloudEvents extension "Distributed Tracing": `traceparent` and `tracestate` as attributes."""
    parent, state = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1"
    expected = (("traceparent", parent.encode()), ("tracestate", state.encode()))
    assert read(event(native(), traceparent=parent, tracestate=state), STRUCTURED).trace == expected
    assert read(native(), binary(ce_traceparent=parent.encode(), ce_tracestate=state.encode())).trace == expected
    assert read(event(native(), traceparent=parent, tracestate=None), STRUCTURED).trace == expected[:1]
    assert read(native(), binary()).trace == ()


def test_plain_text_is_the_answer() -> None:
    plain = [("content-type", b"text/plain; charset=utf-8")]
    assert parse(TEXT.encode(), plain, origin=ORIGIN) == Message(id=ORIGIN, text=TEXT)
    assert parse(TEXT.encode(), binary(**{"content-type": b"text/plain"})).id == EVENT_ID
    assert read(event(TEXT, datacontenttype="text/plain"), STRUCTURED).text == TEXT
    assert read(event(data_base64=base64.b64encode(TEXT.encode()).decode(), datacontenttype="text/plain")).text == TEXT
    with pytest.raises(InvalidMessage, match="missing_field: id"):
        parse(TEXT.encode(), plain)


@pytest.mark.parametrize(
    ("value", "reason", "named"),
    [
        (event(), "missing_field", "data"),
        (event(native(), data_base64="e30="), "invalid_field", "data_base64"),
        (event(data_base64=SECRET + "!"), "invalid_field", "data_base64"),
        (event(data_base64=base64.b64encode(SECRET.encode()).decode()), "unreadable_json", "not JSON"),
        (event(json.dumps(native(metadata={"p": SECRET}))), "wrong_type", "record"),  # 3.1.2: no JSON in a JSON string
        (event([SECRET]), "wrong_type", "record"),
        (event({"a": SECRET}, datacontenttype="text/plain"), "wrong_type", "data"),
        (event(native(), datacontenttype="application/xml"), "unsupported_content_type", "application/xml"),
        (
            event(event(native()), datacontenttype="application/cloudevents+json"),
            "unsupported_content_type",
            "datacontenttype",
        ),
        (event(event(native())), "missing_field", "text"),
        (event(native(), specversion="0.3"), "invalid_field", "specversion"),
        (event(native(), specversion=1.0), "wrong_type", "specversion"),
        (event(native(), source=""), "invalid_field", "source"),
        (event(native(), tenant=17), "wrong_type", "tenant"),
        (event(native(), time=SECRET), "invalid_field", "created_at"),
        ({"specversion": "1.0", "data": native()}, "missing_field", "id"),
        ([event(native())], "wrong_type", "event"),
    ],
)
def test_what_is_wrong_in_a_structured_event_is_named(value: object, reason: str, named: str) -> None:
    error = refused(encode(value), STRUCTURED)
    assert (error.reason, error.detail.partition(":")[0]) == (reason, named)


@pytest.mark.parametrize("name", ["ce_id", "ce_tenant", "content-type"])
def test_a_header_that_is_not_utf_8_is_named(name: str) -> None:
    error = refused(encode({"text": TEXT}), binary(**{name: SECRET.encode() + b"\xff"}))
    assert (error.reason, error.detail) == ("invalid_field", f"header {name}: not UTF-8")


def test_a_native_record_with_an_events_names_stays_one() -> None:
    record = native(specversion="1.0", source="s", type="t", choices=[], object="chat.completion", resourceLogs=1)
    assert read(record) == Message(id="answer-1", text=TEXT)


# --- content type ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "declared",
    [
        b"application/json",
        b"Application/JSON; charset=UTF-8",
        b'application/json;charset="utf-8"; profile=x',
        b"application/vnd.example.answer+json",
        b"text/json",
        b"application/octet-stream",
        b"application/json; charset=us-ascii",
        b"",
        None,
    ],
)
@pytest.mark.parametrize("name", ["content-type", "Content-Type"])
def test_json_by_many_names(declared: bytes | None, name: str) -> None:
    assert read(native(), [(name, declared)]).text == TEXT


@pytest.mark.parametrize(
    "declared",
    [
        "application/avro",
        "application/x-protobuf",
        "text/html",
        "text/event-stream",
        "application/jsonl",
        "application/cloudevents-batch+json",
        "application/cloudevents+avro",
        "application/cloudevents",
        SECRET,
        f"{SECRET} / json",
        "application/json/" + SECRET,
    ],
)
def test_other_content_types_are_refused(declared: str) -> None:
    error = refused(encode(native()), [("content-type", declared.encode())])
    assert error.reason == "unsupported_content_type"
    assert len(error.detail) < 200


def test_the_last_content_type_counts() -> None:
    assert read(native(), [("content-type", b"application/avro"), *JSON]).text == TEXT


@pytest.mark.parametrize("charset", ["iso-8859-1", "windows-1252", "UTF-16", "utf-16le", "utf-16be"])
def test_common_charsets_are_decoded(charset: str) -> None:
    text = "Remdesivir für Erwachsene: 200 mg."
    payload = json.dumps(native(text=text), ensure_ascii=False).encode(charset)
    assert parse(payload, [("content-type", f"application/json; charset={charset}".encode())]).text == text
    declared = [("content-type", f"text/plain; charset={charset}".encode())]
    assert parse(text.encode(charset), declared, origin=ORIGIN).text == text


def test_other_charsets_and_bytes_of_another_charset_are_refused() -> None:
    latin = f"für {SECRET}".encode("latin-1")
    assert refused(latin, [("content-type", b"text/plain; charset=shift_jis")]).reason == "unsupported_charset"
    assert refused(latin, [("content-type", b"text/plain")]).reason == "invalid_utf8"
    assert refused(latin + b"!", [("content-type", b"text/plain; charset=utf-16le")]).reason == "invalid_charset"


# --- whatever arrives -----------------------------------------------------------------------------------------------

REASONS = {
    "null_value", "empty_value", "invalid_utf8", "invalid_charset", "unreadable_json", "wrong_type", "missing_field",
    "invalid_field", "unsupported_content_type", "unsupported_charset", "unsupported_format", "several_messages",
}  # fmt: skip

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4)
)
names = st.sampled_from(
    ["id", "text", "object", "choices", "message", "content", "type", "output", "parts", "attributes", "data", "key",
     "value", "values", "stringValue", "arrayValue", "kvlistValue", "resourceLogs", "gen_ai.output.messages", "x"]
)  # fmt: skip
junk = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner), max_leaves=8)
SEEDS: list[Any] = [
    native(), chat({"content": TEXT}, {"content": [{"type": "text", "text": TEXT}]}),
    response(output_message(output_text(TEXT))), log_record(attributes(OUTPUT)),
    otlp(log_record(key_values(attributes(OUTPUT)))), event(native()), event(data_base64="e30="),
]  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn) -> Any:
    """One of the formats with a value somewhere in it replaced by junk."""
    value = json.loads(json.dumps(draw(st.sampled_from(SEEDS))))
    holder: Any = {"root": value}
    place: Any = "root"
    for _ in range(draw(st.integers(0, 9))):
        inside = holder[place]
        if not isinstance(inside, (dict, list)) or not inside:
            break
        holder, place = (
            inside,
            draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside)))),
        )
    holder[place] = draw(junk)
    return value if place != "root" else holder["root"]


header_names = st.sampled_from(
    ["content-type", "ce_id", "ce_source", "ce_time", "ce_subject", "ce_tenant", "ce_specversion", "traceparent"]
)
header_values = (
    st.none()
    | st.binary(max_size=20)
    | st.sampled_from([b"application/json", b"application/cloudevents+json", b"text/plain; charset=utf-16", b"1.0"])
)


@settings(deadline=None, max_examples=400)
@given(
    payload=st.binary(max_size=60) | (spoiled() | junk).map(lambda value: json.dumps(value).encode()),
    headers=st.lists(st.tuples(header_names | st.text(max_size=5), header_values), max_size=4),
    origin=st.none() | st.just(ORIGIN),
)
def test_any_bytes_with_any_headers_are_a_message_or_an_invalid_one(
    payload: bytes, headers: list[tuple[str, bytes | None]], origin: str | None
) -> None:
    outcome: Message | InvalidMessage
    try:
        outcome = parse(payload, headers, origin=origin)
    except InvalidMessage as error:
        outcome = error
    if isinstance(outcome, InvalidMessage):
        assert outcome.reason in REASONS
        str(outcome).encode()
        assert len(str(outcome)) < 400
    else:
        assert outcome.id
        for field in (outcome.id, outcome.text, outcome.tenant, outcome.model, outcome.conversation_id):
            assert field is None or field.encode() is not None
