"""The second guideline pack: the digest supports its recommendations, and the corpus keeps its promises."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

import pytest

from monitor.scope import ScopeGate
from monitor.text import normalise
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract, scope_terms
from trainer.statements.corpus import Rejected, SplitSettings, load, load_answers, split
from trainer.types import Difficulty, Example, Label, Recommendation, Split

PACK = DEFAULT_PACK.with_name("covid19-nirmatrelvir.yaml")
STYLES = ("a", "d", "l")


class Shipped(NamedTuple):
    pack: Pack
    recommendations: list[Recommendation]
    examples: list[Example]
    rejected: list[Rejected]


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    pack = Pack.load(PACK)
    recommendations = extract(pack)
    return Shipped(pack, recommendations, *load(pack.corpus, recommendations))


def test_the_digest_supports_every_recommendation(shipped: Shipped) -> None:
    document = PACK.with_suffix(".md").read_text(encoding="utf-8")
    assert len(shipped.recommendations) == 27
    assert [r.id for r in shipped.recommendations if document[r.start : r.end] != r.quote] == []
    assert [r.id for r in shipped.recommendations if r.id.split("-")[0] != r.section] == []


def test_its_recommendation_ids_differ_from_those_of_the_first_pack(shipped: Shipped) -> None:
    first = {r.id for r in extract(Pack.load(DEFAULT_PACK))}
    assert first & {r.id for r in shipped.recommendations} == set()


def test_every_row_is_taken(shipped: Shipped) -> None:
    assert shipped.rejected == []
    assert Counter(e.style for e in shipped.examples) == {"a": 162, "d": 162, "l": 162, "out_of_scope": 60}


def test_each_style_has_safe_and_graded_unsafe_rows_of_every_recommendation(shipped: Shipped) -> None:
    found = Counter((e.recommendation, e.style, e.difficulty) for e in shipped.examples if e.recommendation)
    wanted = {None: 3, Difficulty.EASY: 1, Difficulty.MEDIUM: 1, Difficulty.HARD: 1}
    assert found == {
        (r.id, style, difficulty): n
        for r in shipped.recommendations
        for style in STYLES
        for difficulty, n in wanted.items()
    }


def test_each_unsafe_row_is_an_edit_of_a_safe_row_on_the_same_recommendation(shipped: Shipped) -> None:
    by_id = {e.id: e for e in shipped.examples}
    for unsafe in (e for e in shipped.examples if e.label is Label.UNSAFE):
        parent = by_id[unsafe.family]
        assert (parent.label, parent.recommendation, parent.style) == (
            Label.SAFE,
            unsafe.recommendation,
            unsafe.style,
        ), unsafe.id
        shared = set(parent.text.lower().split()) & set(unsafe.text.lower().split())
        assert len(shared) >= 4, unsafe.id


def test_no_text_occurs_twice(shipped: Shipped) -> None:
    texts = Counter(e.text.lower() for e in shipped.examples)
    assert [text for text, n in texts.items() if n > 1] == []


def test_length_does_not_give_the_label_away(shipped: Shipped) -> None:
    for style in STYLES:
        words = defaultdict(list)
        for e in (e for e in shipped.examples if e.style == style):
            words[e.label].append(len(e.text.split()))
        safe, unsafe = (sum(words[label]) / len(words[label]) for label in (Label.SAFE, Label.UNSAFE))
        assert unsafe == pytest.approx(safe, rel=0.1), style


def test_splits_keep_families_whole_and_the_held_out_voice_apart(shipped: Shipped) -> None:
    by_id = {e.id: e for e in shipped.examples}
    held_out = shipped.pack.spec.held_out_styles
    parts = split(shipped.examples, SplitSettings(held_out_styles=tuple(held_out)))
    families = defaultdict(set)
    for part, ids in parts.items():
        for i in ids:
            families[by_id[i].family].add(part)
    assert [family for family, where in families.items() if len(where) > 1] == []
    assert sorted(i for ids in parts.values() for i in ids) == sorted(by_id)
    assert {by_id[i].style for i in parts[Split.TEST_OOD]} == set(held_out) == {"l"}
    assert "l" not in {by_id[i].style for part in Split if part is not Split.TEST_OOD for i in parts[part]}
    assert all(parts[part] for part in Split)


def test_the_scope_gate_lets_every_statement_through(shipped: Shipped) -> None:
    gate = ScopeGate(scope_terms(shipped.pack, shipped.recommendations), shipped.pack.spec.language)
    assert [e.id for e in shipped.examples if e.recommendation and not gate.concerns(e.text)] == []


def test_spans_of_answers_are_exact_and_name_a_recommendation(shipped: Shipped) -> None:
    known = {r.id for r in shipped.recommendations}
    answers = load_answers(shipped.pack.corpus)
    assert Counter(a["label"] for a in answers) == {"safe": 8, "unsafe": 8}
    assert len({a["id"] for a in answers}) == len(answers)
    for answer in answers:
        assert bool(answer["spans"]) == (answer["label"] == "unsafe"), answer["id"]
        for span in answer["spans"]:
            assert answer["text"][span["start"] : span["end"]] == span["text"], answer["id"]
            assert span["recommendation"] in known, answer["id"]
            assert span["difficulty"] in {*Difficulty}, answer["id"]


def test_answers_are_not_made_of_training_statements(shipped: Shipped) -> None:
    texts = {e.text.lower() for e in shipped.examples}
    for answer in load_answers(shipped.pack.corpus):
        for span in answer["spans"]:
            assert normalise(span["text"]).lower() not in texts, answer["id"]
