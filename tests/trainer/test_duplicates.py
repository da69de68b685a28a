"""Near-duplicates: the same claim twice, never twins, never another number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.statements.claims import read_claim
from trainer.statements.duplicates import DuplicateSettings, SketchIndex, near_duplicates, sketch
from trainer.types import Example, Label

TEXT = "The powder is reconstituted with sterile water and then diluted in 0.9% sodium chloride before infusion."


def _example(identifier, text, label=Label.SAFE, recommendation="r1"):
    return Example(identifier, text, label, recommendation, "dose", None, identifier, "a")


def test_the_first_of_near_duplicates_is_kept():
    again = TEXT.replace("before infusion", "before it is infused")
    found = near_duplicates([_example("a", TEXT), _example("b", again), _example("c", again + " Now.")])
    assert [(d.id, d.of, d.method) for d in found] == [("b", "a", "minhash"), ("c", "a", "minhash")]


@pytest.mark.parametrize(
    "other",
    [
        _example("b", TEXT, Label.UNSAFE),
        _example("b", TEXT, recommendation="r2"),
        _example("b", TEXT.replace("0.9%", "0.45%")),
        _example("b", TEXT.replace("then diluted", "then not diluted")),
        _example("b", TEXT.replace("sterile", "unsterile")),
        _example(
            "b", "Sodium chloride 0.9%" + TEXT.removeprefix("The powder").replace("0.9% sodium chloride", "powder")
        ),
    ],
    ids=["twin", "other recommendation", "other number", "negation", "opposite", "other order"],
)
def test_another_claim_is_no_duplicate_however_alike(other):
    rows = [_example("a", TEXT), other]
    assert near_duplicates(rows) == []
    assert near_duplicates(rows, lambda texts: np.ones((len(texts), 3))) == []


def test_embeddings_of_any_length_are_compared_by_their_cosine():
    vectors = {"Keep it cold.": [1.0, 0.0], "Store in a fridge.": [20.0, 1.0], "Warm it up.": [0.0, 3.0]}
    rows = [_example(str(i), text) for i, text in enumerate(vectors)]
    found = near_duplicates(rows, lambda texts: np.array([vectors[t] for t in texts]), DuplicateSettings(cosine=0.95))
    assert [(d.id, d.of, d.method) for d in found] == [("1", "0", "embedding")]
    assert found[0].reason == "near-duplicate of 0 (embedding 1.00)"


def test_texts_shorter_than_a_shingle_are_compared_whole():
    assert [d.id for d in near_duplicates([_example("a", "Stop."), _example("b", "stop"), _example("c", "Wait.")])] == [
        "b"
    ]


def test_nothing_is_a_duplicate_of_nothing():
    assert near_duplicates([], lambda texts: np.empty((0, 2))) == []


@given(
    st.lists(
        st.sampled_from(["dose", "drip", "ward", "adult", "child", "water", "daily", "once", "give", "stop"]),
        min_size=1,
    )
)
def test_every_text_is_found_again(words):
    index = SketchIndex(0.6)
    own = sketch(read_claim(" ".join(words)))
    index.add("it", own)
    assert index.alike(own) == [(1.0, "it")]
