import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from monitor.errors import InvalidMessage
from monitor.events import EventFactory, Topics, origin_of
from monitor.publisher import Event
from monitor.records import ModelReference, Origin, Thresholds
from monitor.types import Evidence, Message, MessageVerdict, Statement, StatementVerdict, Verdict
from tests.monitor.fakes import make_record

TOPICS = Topics(flags="flags", review="review", deadletter="dead", verdicts="verdicts")
TRACE = (("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("tracestate", b"vendor=1"))
HEADERS = (*TRACE, ("x-own", b"\xff\x00"), ("x-own", b"twice"))
ERROR = InvalidMessage("unreadable_json", "not JSON: at 17")


def judged(start: int, verdict: Verdict, score: float = 0.9) -> StatementVerdict:
    text = f"Statement {start} of 400 mg."
    evidence = Evidence("g", "2026", "1.1", "1", "Give 200 mg.")
    if verdict is Verdict.OUT_OF_SCOPE:
        return StatementVerdict(Statement(start, start + len(text), text, text), verdict, 0.0)
    span = Statement(start, start + len(text), text, text)
    return StatementVerdict(span, verdict, score, "dose", evidence, "400 mg stated, 200 mg recommended")


def verdict_of(*statements: StatementVerdict, conversation: str | None = "c-1") -> MessageVerdict:
    message = Message("m-1", "text", "north", "llm", conversation)
    return MessageVerdict(message, Verdict.UNSAFE, 0.9, statements)


MIXED = verdict_of(
    judged(0, Verdict.SAFE, 0.1),
    judged(30, Verdict.UNSAFE),
    judged(60, Verdict.REVIEW, 0.5),
    judged(90, Verdict.UNSAFE),
    judged(120, Verdict.OUT_OF_SCOPE),
)


def factory(*, audit: bool = False, include_text: bool = True) -> EventFactory:
    return EventFactory(
        TOPICS if audit else replace(TOPICS, verdicts=None),
        model=ModelReference(name="tiny", version="1"),
        thresholds=Thresholds(unsafe=0.8, review=0.4, in_scope=0.5),
        include_text=include_text,
    )


def record(**changes: Any) -> ConsumerRecord:
    return make_record(**{"value": b"the value \xff", "headers": HEADERS, "offset": 17, "partition": 3} | changes)


def value(event: Event) -> dict[str, Any]:
    assert event.value is not None
    decoded: dict[str, Any] = json.loads(event.value)
    return decoded


def test_flags_and_reviews_go_to_their_topics() -> None:
    events = factory().of_verdict(record(), MIXED)
    assert [(e.topic, value(e)["start"], value(e)["verdict"]) for e in events] == [
        ("flags", 30, "unsafe"),
        ("flags", 90, "unsafe"),
        ("review", 60, "review"),
    ]
    assert len({value(e)["id"] for e in events}) == 3


def test_safe_and_out_of_scope_statements_are_no_events() -> None:
    assert factory().of_verdict(record(), verdict_of(judged(0, Verdict.SAFE), judged(30, Verdict.OUT_OF_SCOPE))) == []


@pytest.mark.parametrize(
    ("conversation", "key"), [("c-1", b"c-1"), (None, b"m-1"), ("", b"m-1"), ("\u00e9", b"\xc3\xa9")]
)
def test_flags_are_keyed_by_conversation(conversation: str | None, key: bytes) -> None:
    event = factory().of_verdict(record(), verdict_of(judged(0, Verdict.UNSAFE), conversation=conversation))[0]
    assert event.key == key


def test_events_carry_cloudevents_headers_and_the_trace() -> None:
    flag, *_, review, audit = factory(audit=True).of_verdict(record(timestamp=1_700_000_000_000), MIXED)
    for event, type_ in ((flag, "statement.unsafe"), (review, "statement.review"), (audit, "message.verdict")):
        assert event.headers == (
            ("ce_specversion", b"1.0"),
            ("ce_id", value(event)["id"].encode()),
            ("ce_source", b"guardline/monitor"),
            ("ce_type", f"guardline.{type_}".encode()),
            ("ce_time", b"2023-11-14T22:13:20+00:00"),
            ("ce_origintopic", b"llm.outputs"),
            ("ce_originpartition", b"3"),
            ("ce_originoffset", b"17"),
            ("content-type", b"application/json"),
            *TRACE,
        )


def test_the_trace_of_a_cloud_event_goes_on_where_the_record_has_none() -> None:
    inner = (("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)
    traced = replace(MIXED, message=replace(MIXED.message, trace=inner))
    for event in factory(audit=True).of_verdict(record(headers=()), traced):
        assert event.headers[-1:] == inner
    for event in factory(audit=True).of_verdict(record(), traced):
        assert event.headers[-2:] == TRACE


def test_without_a_trace_none_is_made_up() -> None:
    event = factory().of_verdict(record(headers=()), MIXED)[0]
    assert not {name for name, _ in event.headers} & {"traceparent", "tracestate"}


def test_text_is_withheld_where_policy_says_so() -> None:
    events = factory(include_text=False, audit=True).of_verdict(record(), MIXED)
    assert not any(b"400 mg" in (event.value or b"") for event in events)
    assert b"400 mg" in (factory().of_verdict(record(), MIXED)[0].value or b"")


def test_flags_and_reviews_give_the_reason_and_the_audit_record_does_not() -> None:
    *flags, audit = factory(audit=True).of_verdict(record(), MIXED)
    assert {value(event)["reason"] for event in flags} == {"400 mg stated, 200 mg recommended"}
    assert b"400 mg" not in (audit.value or b"")


def test_a_dead_letter_keeps_the_record_to_the_byte_and_says_why() -> None:
    event = factory().dead_letter(record(key=b"\x00key"), ERROR, stage="intake")
    assert (event.topic, event.key, event.value) == ("dead", b"\x00key", b"the value \xff")
    assert event.headers[: len(HEADERS)] == HEADERS
    assert event.headers[len(HEADERS) :] == (
        ("__connect.errors.topic", b"llm.outputs"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"17"),
        ("__connect.errors.connector.name", b"guardline"),
        ("__connect.errors.stage", b"intake"),
        ("__connect.errors.exception.class.name", b"InvalidMessage"),
        ("__connect.errors.exception.message", b"not JSON: at 17"),
        ("guardline.reason", b"unreadable_json"),
        ("guardline.payload", b"original"),
        ("guardline.key", b"original"),
    )


@pytest.mark.parametrize(("key", "content"), [(None, b"x"), (b"", b""), (b"k", None)])
def test_a_dead_letter_tells_null_from_empty(key: bytes | None, content: bytes | None) -> None:
    event = factory().dead_letter(record(key=key, value=content), ERROR, stage="intake")
    assert (event.key, event.value) == (key, content)


def test_a_dead_letter_without_payload_says_where_the_original_is() -> None:
    event = factory().dead_letter(record(), ERROR, stage="publish", payload=False)
    assert event.value is None
    headers = dict(event.headers)
    assert headers["guardline.payload"] == b"omitted"
    assert (headers["__connect.errors.partition"], headers["__connect.errors.offset"]) == (b"3", b"17")


def test_audit_records_are_made_only_when_asked_for() -> None:
    assert not [e for e in factory().of_verdict(record(), MIXED) if e.topic == "verdicts"]
    assert [e.topic for e in factory().of_invalid(record(), ERROR)] == ["dead"]
    assert [e.topic for e in factory(audit=True).of_invalid(record(), ERROR)] == ["dead", "verdicts"]
    assert [e.topic for e in factory(audit=True).of_verdict(record(), verdict_of())] == ["verdicts"]


def test_the_audit_record_of_a_verdict() -> None:
    audit = factory(audit=True).of_verdict(record(), MIXED)[-1]
    content = value(audit)
    assert audit.key == b"m-1"
    assert (content["message_id"], content["tenant"], content["reason"]) == ("m-1", "north", None)
    assert (content["verdict"], content["score"]) == ("unsafe", 0.9)
    assert (content["topic"], content["partition"], content["offset"]) == ("llm.outputs", 3, 17)
    assert content["counts"] == {"safe": 1, "unsafe": 2, "review": 1, "out_of_scope": 1}
    assert [s["start"] for s in content["statements"]] == [0, 30, 60, 90]


def test_the_audit_record_of_an_unreadable_input() -> None:
    audit = factory(audit=True).of_invalid(record(), ERROR)[-1]
    content = value(audit)
    assert audit.key == b"key"
    assert (content["message_id"], content["verdict"], content["reason"]) == (None, "invalid", "unreadable_json")
    assert (content["score"], content["counts"], content["statements"]) == (0.0, {}, [])


def test_one_message_raises_no_more_than_two_hundred_flags_and_they_are_the_gravest() -> None:
    many = verdict_of(*(judged(i * 30, Verdict.UNSAFE, 0.8 + i / 10_000) for i in range(300)))
    flags = factory().of_verdict(record(), many)
    assert [value(e)["start"] for e in flags] == [i * 30 for i in range(100, 300)]
    audit = value(factory(audit=True).of_verdict(record(), many)[-1])
    assert len(audit["statements"]) == 200
    assert audit["counts"] == {"unsafe": 300}


def test_a_repetition_is_identical_to_the_byte() -> None:
    assert factory(audit=True).of_verdict(record(), MIXED) == factory(audit=True).of_verdict(record(), MIXED)
    assert factory(audit=True).of_invalid(record(), ERROR) == factory(audit=True).of_invalid(record(), ERROR)


def test_another_offset_is_another_audit_record_but_the_same_flag() -> None:
    first, again = (factory(audit=True).of_verdict(record(offset=n), MIXED) for n in (17, 18))
    assert (first[0].key, first[0].value) == (again[0].key, again[0].value)
    assert [origin_of(event.headers) for event in (first[0], again[0])] == [
        Origin(topic="llm.outputs", partition=3, offset=n) for n in (17, 18)
    ]
    assert value(first[-1])["id"] != value(again[-1])["id"]


@pytest.mark.parametrize(
    "broken", [{"ce_originoffset": b"x"}, {"ce_originpartition": b"-1"}, {"ce_origintopic": b"\xff"}]
)
def test_an_origin_that_cannot_be_read_is_none(broken: dict[str, bytes]) -> None:
    headers = dict(factory().of_verdict(record(), MIXED)[0].headers)
    assert origin_of(headers.items()) is not None
    assert origin_of((headers | broken).items()) is None
    assert origin_of([]) is None


def test_times_come_from_the_broker() -> None:
    flag = value(factory().of_verdict(record(timestamp=1_700_000_000_000), MIXED)[0])
    assert datetime.fromisoformat(flag["received_at"]) == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
