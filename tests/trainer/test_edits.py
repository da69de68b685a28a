"""Rule-made hard negatives: one number changed, never to another number that the recommendation gives."""

import random
import re
from dataclasses import replace

import pytest

from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.statements.corpus import load
from trainer.statements.edits import guideline_example, number_edits
from trainer.types import Difficulty, Example, Label, Recommendation

NUMBER = re.compile(r"\d+(?:\.\d+)?")


def recommendation(identifier: str, text: str) -> Recommendation:
    return Recommendation(identifier, "1", "", text, "g.md", "1", text, 0, len(text))


def safe(text: str, rule: str = "r1") -> Example:
    return Example("a-1", text, Label.SAFE, rule, "dose", None, "a-1", "a")


RULES = [
    recommendation("r1", "Give 200 mg on day 1, then 100 mg once daily."),
    recommendation("r2", "Treat for 5 days; at most 10 days. Infuse over 30 minutes."),
]


def edited(example: Example, times: int = 40) -> set[str]:
    found = {e.text for seed in range(times) for e in number_edits([example], RULES, random.Random(seed))}
    return found - {example.text}


def test_an_edit_is_an_unsafe_hard_statement_of_the_same_family() -> None:
    example = safe("An 81-year-old gets 200 mg first.")
    (edit,) = number_edits([example], RULES, random.Random(1))
    assert edit == replace(
        example, id="a-1-edit", text=edit.text, label=Label.UNSAFE, difficulty=Difficulty.HARD, style="edit"
    )
    assert re.fullmatch(r"An 81-year-old gets [\d.]+ mg first\.", edit.text)
    assert edit.text != example.text


def test_an_edit_never_gives_another_number_of_the_same_recommendation() -> None:
    assert edited(safe("Start with 200 mg."))
    assert "Start with 100 mg." not in edited(safe("Start with 200 mg."), 200)


def test_only_numbers_of_the_recommendation_with_their_unit_change() -> None:
    assert number_edits([safe("He weighs 70 kg and has had fever for 3 days.")], RULES, random.Random(1)) == []
    assert number_edits([safe("It comes in 200 ml.")], RULES, random.Random(1)) == []
    assert number_edits([safe("Give 1200 mg or 200 mg/kg.")], RULES, random.Random(1)) == []


def test_days_stay_whole_and_units_have_more_than_one_spelling() -> None:
    texts = edited(safe("Treat for 5 d over 30 min.", "r2"), 200)
    days = {int(m[1]) for t in texts if (m := re.fullmatch(r"Treat for (\d+) d over 30 min\.", t))}
    assert days
    assert not days & {0, 5, 10}
    assert any(re.fullmatch(r"Treat for 5 d over [\d.]+ min\.", t) for t in texts - {"Treat for 5 d over 30 min."})


def test_unsafe_and_out_of_scope_statements_are_left_alone() -> None:
    unsafe = replace(safe("Give 200 mg."), label=Label.UNSAFE, difficulty=Difficulty.EASY)
    outside = replace(safe("Give 200 mg."), label=Label.OUT_OF_SCOPE, recommendation=None)
    assert number_edits([unsafe, outside], RULES, random.Random(1)) == []


def test_the_same_seed_gives_the_same_edits() -> None:
    examples = [replace(safe("Give 200 mg, then 100 mg."), id=f"a-{i}") for i in range(20)]
    one, again = (number_edits(examples, RULES, random.Random(5)) for _ in range(2))
    assert one == again
    assert one != number_edits(examples, RULES, random.Random(6))


def test_a_recommendation_is_a_safe_statement_of_its_own_family() -> None:
    first, second = (guideline_example(r) for r in RULES)
    assert (first.text, first.label, first.recommendation) == (RULES[0].text, Label.SAFE, "r1")
    assert first.family != second.family
    (edit,) = number_edits([first], RULES, random.Random(1))
    assert (edit.family, edit.label, edit.recommendation) == (first.family, Label.UNSAFE, "r1")
    assert edit.text not in {r.text for r in RULES}


@pytest.mark.parametrize("seed", [1, 2])
def test_edits_of_the_shipped_corpus_differ_in_one_number_only(seed: int) -> None:
    pack = Pack.load(DEFAULT_PACK)
    rules = extract(pack)
    examples, _ = load(pack.corpus, rules)
    own = {e.id: e for e in examples}
    edits = number_edits(examples, rules, random.Random(seed))
    assert len(edits) > 500
    for edit in edits:
        parent = own[edit.id.removesuffix("-edit")]
        assert NUMBER.sub("#", edit.text) == NUMBER.sub("#", parent.text), edit.id
        before, after = NUMBER.findall(parent.text), NUMBER.findall(edit.text)
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1, edit.id
