"""The pairs themselves: complete, minimal, and not in the corpus."""

import json
from difflib import SequenceMatcher

import pytest

from monitor.text import normalise
from tests.model_quality.minimal_pairs import MinimalPair, both_right, load_pairs
from trainer.guideline.guidelines import DEFAULT_PACK, Pack

PAIRS = load_pairs()


@pytest.mark.parametrize("start", ["right", "wrong"])
def test_every_recommendation_has_a_pair_in_either_direction(start: str) -> None:
    file = DEFAULT_PACK.with_name("covid19-remdesivir.recommendations.jsonl")
    ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert [p.recommendation for p in PAIRS if p.start == start] == ids


def test_the_two_statements_of_a_pair_are_nearly_the_same() -> None:
    shared = [SequenceMatcher(None, p.right.lower().split(), p.wrong.lower().split()).ratio() for p in PAIRS]
    assert all(p.right != p.wrong for p in PAIRS)
    assert min(shared) > 0.4, PAIRS[shared.index(min(shared))]


def test_no_statement_is_of_the_corpus_or_the_guideline() -> None:
    corpus = Pack.load(DEFAULT_PACK).corpus
    known = {
        normalise(json.loads(line)["text"]).lower()
        for file in corpus.glob("llm_style_*.jsonl")
        for line in file.read_text().splitlines()
    }
    assert not known & {normalise(text).lower() for p in PAIRS for text in (p.right, p.wrong)}
    texts = [text for p in PAIRS for text in (p.right, p.wrong)]
    assert len(set(texts)) == len(texts)


def test_a_recommendation_counts_where_both_statements_are_judged_right() -> None:
    pairs = [MinimalPair(r, s, f"{r} {s}", f"not {r} {s}") for r in ("a", "b") for s in ("right", "wrong")]
    flagged = dict.fromkeys([p.right for p in pairs], False) | dict.fromkeys([p.wrong for p in pairs], True)
    flagged["b right"] = True
    assert both_right(pairs, flagged, "right") == ["a"]
    assert both_right(pairs, flagged, "wrong") == ["a", "b"]
