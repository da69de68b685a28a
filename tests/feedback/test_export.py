from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson

from monitor.feedback.export import export, settled
from monitor.records import FeedbackRecord
from tests.feedback.decisions import ACCEPT, REJECT, UNSURE, WRONG, at, decided, flag_on, origin
from trainer.evaluation import reviews
from trainer.statements.corpus import _problem
from trainer.types import Example, Label

WRONG_DOSE = "Give 400 mg on day 1."
RIGHT_DOSE = "Give 200 mg on day 1."


def rows(decisions: list[FeedbackRecord], texts: dict[str, str] | None = None) -> list[dict[str, Any]]:
    return export(settled(decisions), texts or {}).rows


def test_a_row_says_what_was_decided_on_what_and_by_how_many() -> None:
    flag = flag_on(WRONG_DOSE, 3, start=5)
    (row,) = rows(decided(flag, ACCEPT, REJECT, ACCEPT, minute=2, origin=origin(41)), {flag.id: WRONG_DOSE})
    assert row == {
        "id": f"review-{flag.statement_sha256[:32]}",
        "text": WRONG_DOSE,
        "label": "unsafe",
        "recommendation": "rem-1.2",
        "category": "dose",
        "difficulty": None,
        "parent": None,
        "statement": reviews.key(WRONG_DOSE),
        "reviewer": "adjudicated",
        "source": "review",
        "decision": "accept",
        "reviewers": 2,
        "dissenting": 1,
        "decided_at": at(4),
        "flags": [flag.id],
        "message_id": "message-3",
        "tenant": "north",
        "start": 5,
        "end": 5 + len(WRONG_DOSE),
        "statement_sha256": flag.statement_sha256,
        "score": 0.93,
        "verdict": "unsafe",
        "model": {"name": "tiny", "version": "1"},
        "guideline": {"id": "covid", "version": "2026"},
        "origin": {"topic": "llm.outputs", "partition": 0, "offset": 41},
    }
    assert json.loads(orjson.dumps(row)) == row  # as it is written


def test_labels_follow_the_decisions_and_what_is_not_settled_has_none() -> None:
    found = rows(
        [
            *decided(flag_on("one", 1), ACCEPT, ACCEPT),
            *decided(flag_on("two", 2), REJECT, REJECT, minute=1),
            *decided(flag_on("three", 3), (WRONG, "rem-9"), (WRONG, "rem-9"), minute=2),
            *decided(flag_on("four", 4), ACCEPT),
            *decided(flag_on("five", 5), ACCEPT, REJECT),
            *decided(flag_on("six", 6), UNSURE, UNSURE),
            *decided(flag_on("seven", 7), (WRONG, "rem-9"), (WRONG, "rem-8")),
        ]
    )
    assert [(r["message_id"], r["label"], r["recommendation"]) for r in found] == [
        ("message-1", "unsafe", "rem-1.2"),
        ("message-2", "safe", "rem-1.2"),
        ("message-3", "unsafe", "rem-9"),
    ]
    assert all(r["text"] is None and r["statement"] is None for r in found)


def test_a_statement_that_was_flagged_often_is_one_row() -> None:
    flags = [flag_on(WRONG_DOSE, n) for n in range(3)]
    decisions = [record for n, flag in enumerate(flags) for record in decided(flag, ACCEPT, ACCEPT, minute=10 * n)]
    (row,) = rows(decisions, {flags[0].id: WRONG_DOSE})
    assert row["flags"] == [flags[2].id, flags[1].id, flags[0].id]
    assert row["decided_at"] == at(21)
    (before,) = rows(decisions[:4])
    assert before["id"] == row["id"]  # of an earlier export
    assert row["text"] == WRONG_DOSE  # of the only one whose message is still there


def test_a_statement_that_was_settled_both_ways_is_left_out_and_said() -> None:
    both = [*decided(flag_on("same", 1), ACCEPT, ACCEPT), *decided(flag_on("same", 2), REJECT, REJECT)]
    made = export(settled([*both, *decided(flag_on("other", 3), REJECT, REJECT)]), {})
    assert [row["message_id"] for row in made.rows] == ["message-3"]
    assert made.conflicting == [flag_on("same").statement_sha256]


def test_repeats_and_earlier_decisions_of_a_reviewer_count_once() -> None:
    flag = flag_on("one", 1)
    changed = [*decided(flag, ACCEPT, ACCEPT), *decided(flag, REJECT, REJECT, minute=9)]
    (row,) = rows(changed + changed)
    assert (row["label"], row["reviewers"], row["dissenting"]) == ("safe", 2, 0)


def test_rows_are_rows_of_a_corpus() -> None:
    unsafe, safe = flag_on(WRONG_DOSE, 1), flag_on(RIGHT_DOSE, 2)
    texts = {unsafe.id: WRONG_DOSE, safe.id: RIGHT_DOSE}
    first, second = rows([*decided(unsafe, ACCEPT, ACCEPT), *decided(safe, REJECT, REJECT)], texts)
    assert _problem(second, {"rem-1.2"}) is None
    assert _problem(first, {"rem-1.2"}) == "difficulty does not fit the label"  # nobody measured it
    assert _problem(first | {"difficulty": "hard"}, {"rem-1.2"}) is None


def test_rows_are_reviews_of_the_statements_of_a_corpus(tmp_path: Path) -> None:
    flag = flag_on(RIGHT_DOSE, 1)
    file = tmp_path / "reviews.jsonl"
    file.write_bytes(b"".join(map(orjson.dumps, rows(decided(flag, REJECT, REJECT), {flag.id: RIGHT_DOSE}))))
    example = Example("c-1", RIGHT_DOSE, Label.UNSAFE, "rem-1.2", "dose", None, "c-1", "a")
    (review,) = reviews.load(file, [example]).given
    assert (review.example, review.reviewer, review.label) == (example, "adjudicated", Label.SAFE)
