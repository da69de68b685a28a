import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from monitor.records import (
    MAX_STATEMENTS,
    FlagRecord,
    ModelReference,
    Thresholds,
    VerdictRecord,
    event_id,
    flag_record,
    gravest_statements,
    statement_records,
    timestamp,
)
from monitor.types import Evidence, Message, MessageVerdict, Statement, StatementVerdict, Verdict

TEXT = "Give 400 mg of remdesivir."
MODEL = ModelReference(name="tiny", version="1")
THRESHOLDS = Thresholds(unsafe=0.8, review=0.4, in_scope=0.5)
REASON = "400 mg stated, 200 mg recommended"
EVIDENCE = Evidence("g", "2026", "1.1", "1", "Give 200 mg.")
UNSAFE = StatementVerdict(Statement(3, 29, TEXT, TEXT), Verdict.UNSAFE, 0.912345678, "dose", EVIDENCE, REASON)
OUT = StatementVerdict(Statement(30, 35, "Hello", "Hello"), Verdict.OUT_OF_SCOPE, 0.0)
MESSAGE = Message("m-1", f"So {TEXT} Hello", "north", "llm-1", "c-1", datetime(2026, 1, 2, tzinfo=UTC))
VERDICT = MessageVerdict(MESSAGE, Verdict.UNSAFE, 0.912345678, (UNSAFE, OUT))


def flag(
    verdict: MessageVerdict = VERDICT,
    statement: StatementVerdict = UNSAFE,
    *,
    model: ModelReference = MODEL,
    include_text: bool = True,
) -> FlagRecord:
    return flag_record(
        verdict, statement, model=model, thresholds=THRESHOLDS, received_at=timestamp(1000), include_text=include_text
    )


def test_a_flag_has_exactly_the_documented_fields() -> None:
    assert json.loads(flag().model_dump_json()) == {
        "id": event_id("north", "m-1", 3, 29, "tiny", "1"),
        "verdict": "unsafe",
        "message_id": "m-1",
        "tenant": "north",
        "conversation_id": "c-1",
        "source_model": "llm-1",
        "start": 3,
        "end": 29,
        "statement": TEXT,
        "statement_sha256": hashlib.sha256(TEXT.encode()).hexdigest(),
        "score": 0.912346,
        "category": "dose",
        "reason": REASON,
        "evidence": {
            "guideline": "g",
            "version": "2026",
            "recommendation": "1.1",
            "section": "1",
            "text": "Give 200 mg.",
        },
        "model": {"name": "tiny", "version": "1"},
        "thresholds": {"unsafe": 0.8, "review": 0.4, "in_scope": 0.5},
        "created_at": "2026-01-02T00:00:00Z",
        "received_at": "1970-01-01T00:00:01Z",
    }


def test_the_text_is_withheld_where_policy_says_so() -> None:
    withheld = flag(include_text=False)
    assert (withheld.statement, withheld.reason) == (None, None)
    assert withheld.statement_sha256 == flag().statement_sha256
    assert "400" not in withheld.model_dump_json()


def test_a_flag_of_before_there_were_reasons_is_still_read() -> None:
    old = flag().model_dump(mode="json", exclude={"reason"})
    assert FlagRecord.model_validate(old).reason is None


def test_a_flag_without_a_known_reason_says_null() -> None:
    assert json.loads(flag(statement=replace(UNSAFE, reason=None)).model_dump_json())["reason"] is None


def test_a_review_says_so() -> None:
    assert flag(statement=replace(UNSAFE, verdict=Verdict.REVIEW)).verdict == "review"


def test_a_statement_that_was_not_judged_is_no_flag() -> None:
    with pytest.raises(ValueError, match="judged"):
        flag(statement=OUT)


@pytest.mark.parametrize(
    "other",
    [
        flag(replace(VERDICT, message=replace(MESSAGE, id="m-2"))),
        flag(statement=replace(UNSAFE, statement=replace(UNSAFE.statement, start=2))),
        flag(statement=replace(UNSAFE, statement=replace(UNSAFE.statement, end=28))),
        flag(model=ModelReference(name="tiny", version="2")),
        flag(model=ModelReference(name="other", version="1")),
    ],
    ids=["message", "start", "end", "version", "model"],
)
def test_the_id_depends_on_message_span_and_model(other: FlagRecord) -> None:
    assert other.id != flag().id


def test_the_id_depends_on_nothing_else() -> None:
    assert flag(statement=replace(UNSAFE, score=0.95, category="timing")).id == flag().id
    assert flag().id == event_id("north", "m-1", 3, 29, "tiny", "1")


def test_event_ids_are_the_same_everywhere() -> None:
    assert event_id("m-1", 3, 29, "tiny", "1") == hashlib.sha256(b"m-1\x1f3\x1f29\x1ftiny\x1f1").hexdigest()[:32]
    assert event_id("a", "bc") != event_id("ab", "c")
    assert len(event_id("lone \ud800")) == 32


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1970, 1, 1, tzinfo=UTC)),
        (1_700_000_000_123, datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)),
    ],
)
def test_timestamp(milliseconds: int, expected: datetime) -> None:
    assert timestamp(milliseconds) == expected


@pytest.mark.parametrize(
    "milliseconds", [1_700_000_000_000_000, 1_700_000_000_000_000_000, 2**63 - 1], ids=["us", "ns", "max"]
)
def test_a_time_stamp_in_the_wrong_unit_is_still_a_time(milliseconds: int) -> None:
    assert timestamp(milliseconds).tzinfo is UTC


def test_the_audit_record_carries_no_text() -> None:
    audit = VerdictRecord(
        id="i",
        message_id="m-1",
        tenant=None,
        verdict=VERDICT.verdict,
        score=VERDICT.score,
        reason=None,
        counts={Verdict.UNSAFE: 1, Verdict.OUT_OF_SCOPE: 1},
        statements=statement_records(VERDICT),
        model=MODEL,
        topic="t",
        partition=0,
        offset=1,
        received_at=timestamp(0),
    )
    written = json.loads(audit.model_dump_json())
    assert written["counts"] == {"unsafe": 1, "out_of_scope": 1}
    assert written["statements"] == [
        {"start": 3, "end": 29, "verdict": "unsafe", "score": 0.912346, "category": "dose", "recommendation": "1.1"}
    ]
    assert "400" not in audit.model_dump_json()
    assert "Hello" not in audit.model_dump_json()


def test_of_too_many_statements_the_gravest_are_kept_in_text_order() -> None:
    statements = tuple(
        replace(UNSAFE, statement=replace(UNSAFE.statement, start=i, end=i + 1), score=(i * 7 % 300) / 300)
        for i in range(300)
    )
    many = replace(VERDICT, statements=statements)
    kept = gravest_statements(many, (Verdict.UNSAFE,))
    assert len(kept) == MAX_STATEMENTS
    assert [s.statement.start for s in kept] == sorted(s.statement.start for s in kept)
    assert min(s.score for s in kept) >= max(s.score for s in statements if s not in kept)
    assert gravest_statements(many, (Verdict.REVIEW,)) == []
    assert gravest_statements(VERDICT, (Verdict.UNSAFE, Verdict.OUT_OF_SCOPE)) == [UNSAFE, OUT]


@pytest.mark.parametrize("thresholds", [{"unsafe": 1.1}, {"review": -0.1}, {"in_scope": float("nan")}, {"other": 0.5}])
def test_thresholds_are_probabilities(thresholds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(thresholds))):
        Thresholds.model_validate({"unsafe": 0.8, "review": 0.4, "in_scope": 0.5} | thresholds)
