"""Decisions as statements: labels, families, what evaluation must not lose, and sides that stay."""

import json
from pathlib import Path

import pytest

from trainer.errors import CorpusError
from trainer.retraining import decisions
from trainer.retraining.decisions import ExportedRow, Part
from trainer.types import Example, Label

RULES = ["2.1-dose", "3.2-alt"]
#: Said in no two like ways, so that each is a family of its own.
TEXTS = [
    "Remdesivir starts with 200 mg on the first morning.",
    "Nobody stops remdesivir merely because ALT has doubled.",
    "A fourth infusion is of no use to outpatients.",
    "The pharmacist keeps dry vials on an open shelf.",
    "After a rash the drip was slowed and watched.",
    "Kidney failure asks for no smaller amount of it.",
    "Breast milk can go on being given throughout.",
    "High-flow patients take baricitinib beside dexamethasone.",
    "Ten days are meant for ventilated people alone.",
    "Pills replaced the vein once she went home.",
]


def row(
    number: int, *, text: str | None = None, decision: str = "reject", recommendation: str = "3.2-alt"
) -> ExportedRow:
    return ExportedRow.model_validate(
        {
            "id": f"review-{number:02d}",
            "text": TEXTS[number] if text is None else text,
            "label": "safe" if decision == "reject" else "unsafe",
            "recommendation": recommendation,
            "category": "dose",
            "decision": decision,
            "decided_at": f"2026-11-{number + 1:02d}T08:00:00Z",
            "flags": [f"flag-{number}"],
        }
    )


def assign(
    rows: list[ExportedRow], evaluation: dict[str, list[str]] | None = None, before: dict[str, Part] | None = None
) -> dict[str, decisions.Settled]:
    found = decisions.assign(rows, RULES, evaluation or {"test": ["Something else altogether."]}, [], before or {})
    return {s.id: s for s in found}


def test_reject_is_safe_and_the_others_are_unsafe_against_their_recommendation() -> None:
    rows = [row(0), row(1, decision="accept", recommendation="2.1-dose"), row(2, decision="wrong_recommendation")]
    found = [s.example for s in assign(rows).values()]
    assert [(e.label, e.recommendation) for e in found] == [
        (Label.SAFE, "3.2-alt"),
        (Label.UNSAFE, "2.1-dose"),
        (Label.UNSAFE, "3.2-alt"),
    ]
    assert {e.style for e in found} == {decisions.STYLE}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (row(0, text=""), "no text"),
        (row(0).model_copy(update={"text": None}), "no text"),
        (row(0, recommendation="9.9-gone"), "the guideline has no recommendation 9.9-gone"),
        (row(0, decision="unsure"), "not sure"),
    ],
)
def test_what_cannot_be_learnt_is_left_out_with_the_reason(given: ExportedRow, reason: str) -> None:
    (found,) = assign([given]).values()
    assert found.part is Part.LEFT_OUT
    assert reason in found.reason


def test_a_family_that_touches_a_frozen_set_is_left_out_whole() -> None:
    near = "Nobody stops remdesivir merely because ALT has doubled twice."
    found = assign([row(1), row(0), row(2, text=near)], {"test_ood": [near]})
    assert {s.part for name, s in found.items() if name != "review-00"} == {Part.LEFT_OUT}
    assert found["review-00"].part is Part.TRAINING
    # The first decision alone is like the test statement only by way of its family.
    assert "in evaluation set test_ood" in found["review-01"].reason
    assert decisions.left_out_by_reason(found.values()) == {"in evaluation set test_ood": 2}


def test_near_repeats_are_one_family_whatever_their_labels() -> None:
    other = "Nobody stops remdesivir merely because ALT has doubled now."
    found = assign([row(1), row(2, text=other, decision="accept")])
    assert len({s.example.family for s in found.values()}) == 1
    assert {s.example.label for s in found.values()} == {Label.SAFE, Label.UNSAFE}


def test_the_latest_fifth_of_new_families_is_kept_and_a_single_one_is_learnt() -> None:
    found = assign([row(i) for i in range(10)])
    assert [name for name, s in found.items() if s.part is Part.RECENT] == ["review-08", "review-09"]
    assert assign([row(0)])["review-00"].part is Part.TRAINING


def test_sides_stay_and_a_new_decision_joins_the_side_of_its_family() -> None:
    before = {name: s.part for name, s in assign([row(i) for i in range(5)]).items()}
    assert [name for name, part in before.items() if part is Part.RECENT] == ["review-04"]
    joins = TEXTS[4].replace("watched", "watched closely")
    rows = [*(row(i) for i in range(5)), row(5), row(6, text=joins)]
    found = assign(rows, before=before)
    assert {name: found[name].part for name in before} == before
    assert found["review-06"].part is Part.RECENT
    assert found["review-05"].part is Part.TRAINING


def test_the_same_rows_give_the_same_parts_and_come_back_from_the_folder(tmp_path: Path) -> None:
    rows = [row(i) for i in range(10)]
    first, again = (list(assign(rows).values()) for _ in range(2))
    assert decisions.digest(first) == decisions.digest(again)
    file = tmp_path / "decisions.jsonl"
    file.write_text("".join(json.dumps(s.recorded()) + "\n" for s in first))
    assert decisions.load(file) == first
    assert json.loads(file.read_text().splitlines()[0])["flags"] == ["flag-0"]


def test_a_row_that_is_no_decision_is_named(tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    good = row(0).model_dump_json()
    file.write_text(f'{good}\n{{"id": "x"}}\n')
    with pytest.raises(CorpusError, match=r"export.jsonl:2: text: .*`guardline feedback export`"):
        decisions.read(file)
    file.write_text(f"{row(3).model_dump_json()}\n{good}\n")
    assert [r.id for r in decisions.read(file)] == ["review-00", "review-03"]


def test_reviewers_overrule_the_corpus_where_it_says_the_same_words() -> None:
    def example(name: str, text: str, label: Label) -> Example:
        return Example(name, text, label, "3.2-alt", "dose", None, name, "a")

    corpus = [
        example("a", TEXTS[1].upper(), Label.UNSAFE),
        example("b", TEXTS[1], Label.SAFE),
        example("c", TEXTS[2], Label.UNSAFE),
    ]
    decided = [s.example for s in assign([row(1)]).values()]
    assert decisions.overruled(corpus, decided) == {"a"}
