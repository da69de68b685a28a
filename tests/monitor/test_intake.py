import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.errors import InvalidMessage
from monitor.intake import parse

#: Stands in every bad input; no error may repeat it.
PAYLOAD = "the patient is called Brandt"


def encode(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(None, "null_value", id="null"),
        pytest.param(b"", "empty_value", id="empty"),
        pytest.param(b" \r\n\t", "empty_value", id="white space"),
        pytest.param(b"\xef\xbb\xbf", "empty_value", id="only a BOM"),
        pytest.param(PAYLOAD.encode(), "unreadable_json", id="not JSON"),
        pytest.param(b'{"id": "a", "text": "' + PAYLOAD.encode(), "unreadable_json", id="cut off"),
        pytest.param(encode(id="a", text=PAYLOAD) + b" " + PAYLOAD.encode(), "unreadable_json", id="more after it"),
        pytest.param(b'{"id": "a", "text": "%b\t"}' % PAYLOAD.encode(), "unreadable_json", id="raw control character"),
        pytest.param(
            b'{"id": "a", "text": "%b", "metadata": {"p": NaN}}' % PAYLOAD.encode(), "unreadable_json", id="NaN"
        ),
        pytest.param(
            b'{"id": "a", "text": "%b\\ud800", "x": -Infinity}' % PAYLOAD.encode(), "unreadable_json", id="infinity"
        ),
        pytest.param(b'{"id": "a", "text": NaN}', "unreadable_json", id="NaN as text"),
        pytest.param(b"[" * 100_000, "unreadable_json", id="deep lists"),
        pytest.param(b'{"a":' * 100_000, "unreadable_json", id="deep objects"),
        pytest.param(
            b'{"id": "a", "text": "b", "x": %b}' % (b"[" * 100_000 + b"]" * 100_000), "unreadable_json", id="deep field"
        ),
        pytest.param(b'{"id": "a", "text": "%b \xff"}' % PAYLOAD.encode(), "invalid_utf8", id="Latin-1"),
        pytest.param(encode(id="a", text=PAYLOAD).decode().encode("utf-16"), "invalid_utf8", id="UTF-16"),
        pytest.param(b'{"id": "a", "text": "\xed\xa0\x80"}', "invalid_utf8", id="raw surrogate"),
        pytest.param(json.dumps([PAYLOAD]).encode(), "wrong_type", id="list"),
        pytest.param(b"17", "wrong_type", id="number"),
        pytest.param(json.dumps(PAYLOAD).encode(), "wrong_type", id="string"),
        pytest.param(b"null", "wrong_type", id="JSON null"),
        pytest.param(encode(id=17, text=PAYLOAD), "wrong_type", id="number as id"),
        pytest.param(encode(id=None, text=PAYLOAD), "wrong_type", id="null as id"),
        pytest.param(encode(id=[PAYLOAD], text=PAYLOAD), "wrong_type", id="list as id"),
        pytest.param(encode(id="a", text=17), "wrong_type", id="number as text"),
        pytest.param(encode(id="a", text=None), "wrong_type", id="null as text"),
        pytest.param(encode(id="a", text={"text": PAYLOAD}), "wrong_type", id="object as text"),
        pytest.param(encode(id="a", text=[PAYLOAD]), "wrong_type", id="list as text"),
        pytest.param(encode(id="a", text=PAYLOAD, tenant=17), "wrong_type", id="number as tenant"),
        pytest.param(encode(id="a", text=PAYLOAD, metadata=[PAYLOAD]), "wrong_type", id="list as metadata"),
        pytest.param(encode(id="a"), "missing_field", id="no text"),
        pytest.param(encode(text=PAYLOAD), "missing_field", id="no id"),
        pytest.param(encode(), "missing_field", id="empty object"),
        pytest.param(encode(id="", text=PAYLOAD), "invalid_field", id="empty id"),
        pytest.param(encode(id="x" * 513, text=PAYLOAD), "invalid_field", id="long id"),
        pytest.param(encode(id="a", text=PAYLOAD, created_at=PAYLOAD), "invalid_field", id="text as time"),
    ],
)
def test_bad_inputs_give_their_reason_and_nothing_of_the_payload(payload: bytes | None, reason: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse(payload)
    assert caught.value.reason == reason
    assert caught.value.detail
    assert "Brandt" not in str(caught.value)
    assert len(str(caught.value)) < 300
    str(caught.value).encode()  # it becomes a header


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"id": "a"}, "text"),
        ({"text": "b"}, "id"),
        ({"id": 1, "text": "b"}, "id"),
        ({"id": "a", "text": "b", "model": 1}, "model"),
    ],
)
def test_the_error_names_the_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse(encode(**fields))
    assert caught.value.detail.startswith(f"{named}: ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Remdesivir",
        "\x00\x07\x1b[31m\x7f",
        "\u200bre\u00adm\u202e\ufeff",
        "\U0001f600 e\u0301",
        "\ufeff",
        '"\\/\b\f\n\r\t',
    ],
    ids=ascii,
)
@pytest.mark.parametrize("escaped", [True, False])
def test_any_text_passes_unchanged(text: str, escaped: bool) -> None:
    payload = json.dumps({"id": "a", "text": text}, ensure_ascii=escaped).encode()
    assert parse(payload).text == text


def test_ten_megabytes_pass() -> None:
    text = "Remdesivir is given by vein. " * (10_000_000 // 29)
    assert parse(encode(id="a", text=text)).text == text


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse(b"\xef\xbb\xbf" + encode(id="a", text="b")).id == "a"


def test_escaped_lone_surrogates_in_text_are_replaced_one_for_one() -> None:
    assert parse(b'{"id": "a", "text": "x\\ud83d y\\ude00z"}').text == "x\ufffd y\ufffdz"
    assert parse(b'{"id": "a", "text": "\\ud83d\\ude00"}').text == "\U0001f600"


@pytest.mark.parametrize("field", ["id", "tenant", "model", "conversation_id"])
def test_lone_surrogates_elsewhere_leave_no_field_that_cannot_be_published(field: str) -> None:
    payload = json.dumps({"id": "a", "text": "b", field: "x\ud83d"}).encode()
    assert getattr(parse(payload), field) == "x\ufffd"


def test_unknown_fields_pass_and_known_ones_arrive() -> None:
    message = parse(
        encode(
            id="a",
            text="b",
            tenant="north",
            model="llm-1",
            conversation_id="c",
            created_at="2026-03-01T12:00:00+02:00",
            metadata={"any": [1, None, {"thing": True}]},
            usage={"tokens": 17},
            text2="c",
        )
    )
    assert (message.tenant, message.model, message.conversation_id) == ("north", "llm-1", "c")
    assert message.created_at == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert message.metadata == {"any": [1, None, {"thing": True}]}


@pytest.mark.parametrize("field", ["tenant", "model", "conversation_id", "created_at"])
def test_optional_fields_may_be_null(field: str) -> None:
    assert getattr(parse(encode(id="a", text="b", **{field: None})), field) is None


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01t12:00:00.25z", datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-03-01T12:00:00-05:30", datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=-5, minutes=-30)))),
    ],
)
def test_created_at_is_rfc_3339(written: str, expected: datetime) -> None:
    assert parse(encode(id="a", text="b", created_at=written)).created_at == expected


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["id", "text", "metadata", "created_at", "x"]), inner)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_whatever_arrives_is_a_message_or_an_invalid_one(payload: bytes) -> None:
    reason = None
    try:
        message = parse(payload)
    except InvalidMessage as error:
        reason = error.reason
    if reason is None:
        assert message.id
        message.text.encode()
    assert reason in {
        None,
        "empty_value",
        "invalid_utf8",
        "unreadable_json",
        "wrong_type",
        "missing_field",
        "invalid_field",
    }
