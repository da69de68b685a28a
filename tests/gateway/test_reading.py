"""From a request to records: ids, headers, batches, and what is refused."""

from __future__ import annotations

import json
from http import HTTPStatus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from monitor.gateway.problems import Refused
from monitor.gateway.reading import Limits, read
from monitor.intake import parse
from monitor.publisher import Event

LIMITS = Limits("llm.outputs", 200)


def records(body: bytes | str, **headers: str) -> list[tuple[str, Event]]:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return read(body.encode() if isinstance(body, str) else body, named, LIMITS)


def refusal(body: bytes | str, **headers: str) -> Refused:
    with pytest.raises(Refused) as caught:
        records(body, **headers)
    return caught.value


def test_a_native_record_is_published_as_it_came() -> None:
    body = b'{ "id": "a",  "text": "Give 200 mg.", "conversation_id": "c" }'
    ((id_, event),) = records(body, content_type="application/json; charset=utf-8", traceparent="00-1-2-01")
    assert (id_, event.topic, event.key, event.value) == ("a", "llm.outputs", b"c", body)
    assert event.headers == (("content-type", b"application/json; charset=utf-8"), ("traceparent", b"00-1-2-01"))


def test_without_a_content_type_it_is_json() -> None:
    ((_, event),) = records('{"id": "a", "text": ""}')
    assert event.headers == (("content-type", b"application/json"),)


COMPLETION = {"object": "chat.completion", "choices": [{"message": {"content": "Give 200 mg."}}]}


def test_the_id_of_the_request_is_that_of_a_record_without_one() -> None:
    for body in (json.dumps(COMPLETION), '{"text": "Give 200 mg."}'):
        ((id_, event),) = records(body, idempotency_key='"k-1"')
        assert id_ == "k-1" == parse(event.value, event.headers, origin="elsewhere").id
        assert event.key == b"k-1"
    ((id_, _),) = records(json.dumps({**COMPLETION, "id": "own"}), idempotency_key="k-1")
    assert id_ == "own"


def test_a_record_that_needs_no_id_gets_one_that_stays() -> None:
    ((id_, event),) = records(json.dumps(COMPLETION))
    ((other, _),) = records(json.dumps(COMPLETION))
    assert len(id_) == 32
    assert id_ != other
    assert parse(event.value, event.headers, origin="elsewhere").id == id_
    ((id_, event),) = records("Give 200 mg.", content_type="text/plain")
    assert parse(event.value, event.headers, origin="elsewhere").text == "Give 200 mg."


def test_a_cloud_event_in_binary_mode() -> None:
    ((id_, event),) = records(
        json.dumps(COMPLETION), ce_specversion="1.0", ce_id="e%20%C3%A4", ce_source="/s", ce_type="t", ce_tenant="north"
    )
    assert id_ == "/s#e ä"
    assert dict(event.headers)["ce_id"] == "e ä".encode()
    assert parse(event.value, event.headers).tenant == "north"


def test_a_cloud_event_in_structured_mode() -> None:
    event = {"specversion": "1.0", "id": "e", "source": "/s", "type": "t", "data": COMPLETION}
    assert records(json.dumps(event), content_type="application/cloudevents+json")[0][0] == "/s#e"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ('[{"id": "a", "text": "x"}, {"id": "b", "text": "y"}]', "application/json"),
        ('\ufeff [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}]', ""),
        ('{"id": "a", "text": "x"}\n\n{"id": "b", "text": "y"}\n', "application/x-ndjson"),
    ],
)
def test_several_records(body: str, content_type: str) -> None:
    found = records(body, content_type=content_type)
    assert [id_ for id_, _ in found] == ["a", "b"]
    assert [parse(event.value, event.headers).text for _, event in found] == ["x", "y"]


def test_a_batch_of_cloud_events_and_keys_of_a_batch() -> None:
    event = {"specversion": "1.0", "source": "/s", "type": "t", "data": COMPLETION}
    found = records(
        json.dumps([event | {"id": "1"}, event | {"id": "2"}]), content_type="application/cloudevents-batch+json"
    )
    assert [id_ for id_, _ in found] == ["/s#1", "/s#2"]
    assert [id_ for id_, _ in records(json.dumps([COMPLETION] * 2), idempotency_key="k")] == ["k-0", "k-1"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        ("", {}, 400, "empty_value"),
        ("{", {}, 400, "unreadable_json"),
        ("[1", {}, 400, "unreadable_json"),
        ('{"text": "secret"}', {}, 400, "missing_field"),
        ('{"id": "a", "text": 1}', {}, 400, "wrong_type"),
        ("secret", {"content_type": "application/pdf"}, 400, "unsupported_content_type"),
        (b"\xff", {"content_type": "text/plain"}, 400, "invalid_utf8"),
        ('{"object": "chat.completion.chunk"}', {}, 400, "unsupported_format"),
        ("{}", {"content_type": "application/cloudevents-batch+json"}, 400, "wrong_type"),
        ('{"id": "a", "text": "x"}', {"idempotency_key": ""}, 400, "invalid_field"),
        ('{"id": "a", "text": "' + "secret" * 50 + '"}', {}, 413, "record_too_large"),
        (json.dumps([{"id": "a", "text": "x"}] * 1001), {}, 413, "too_many_records"),
    ],
)
def test_what_cannot_be_read_is_refused(body: bytes | str, headers: dict[str, str], status: int, reason: str) -> None:
    refused = refusal(body, **headers)
    assert (refused.status, refused.reason) == (status, reason)
    assert "secret" not in str(refused)


def test_one_bad_record_refuses_a_batch_and_is_named() -> None:
    refused = refusal('[{"id": "a", "text": "x"}, {"id": "b"}, 7]')
    assert (refused.status, refused.reason) == (HTTPStatus.BAD_REQUEST, "missing_field")
    assert [(fault.index, fault.reason) for fault in refused.faults] == [(1, "missing_field"), (2, "wrong_type")]
    assert refused.detail == "nothing was accepted: 2 of 3 records, first number 1: text: Field required"


def test_an_empty_batch_is_no_record() -> None:
    assert records("[]") == []


_NAMES = st.sampled_from(["content-type", "ce-id", "ce-source", "idempotency-key", "traceparent"])


@given(st.binary(max_size=200), st.dictionaries(_NAMES, st.text()))
@example(b'{"id":"a","text":""}', {"traceparent": "\udcff", "ce-id": "\udcff", "content-type": "\udcff"})
@example(b'{"id":"a","text":""}', {"traceparent": "\udcff", "ce-source": "%ff"})
@example(b'{"id":"\\ud800","text":""}', {})
def test_anything_is_read_or_refused_and_what_is_read_is_read_again(body: bytes, headers: dict[str, str]) -> None:
    try:
        found = read(body, CIMultiDict(headers), LIMITS)
    except Refused:
        return
    for id_, event in found:
        assert parse(event.value, event.headers).id == id_
