"""Label leakage and contamination."""

import random

import pytest

from trainer.statements.claims import read_claim
from trainer.statements.leakage import LeakageSettings, bag_of_words_audit, decontaminate
from trainer.types import Difficulty, Example, Label

WORDS = [
    "alpha",
    "bravo",
    "charlie",
    "delta",
    "echo",
    "foxtrot",
    "golf",
    "hotel",
    "india",
    "juliet",
    "kilo",
    "lima",
    "mike",
    "november",
    "oscar",
    "papa",
]


def _example(identifier, text, label, recommendation):
    difficulty = Difficulty.HARD if label is Label.UNSAFE else None
    return Example(identifier, text, label, recommendation, "dose", difficulty, identifier, "a")


def _corpus(mark, seed=3):
    """Ten recommendations with twenty random statements a label; `mark` goes before the unsafe ones."""
    rng = random.Random(seed)
    rows = []
    for r in range(10):
        for i in range(20):
            for label in (Label.SAFE, Label.UNSAFE):
                text = " ".join(rng.choices(WORDS, k=8))
                rows.append(_example(f"{label}{r}-{i}", mark + text if label is Label.UNSAFE else text, label, f"r{r}"))
    return rows


def test_a_corpus_without_marks_stays_near_chance():
    report = bag_of_words_audit(_corpus(""), seed=1)
    assert report.passed
    assert report.warning is None
    for leak in report.leaks:
        assert 0.4 < leak.accuracy < 0.6
        assert leak.low <= leak.accuracy <= leak.high


@pytest.mark.parametrize(
    ("mark", "classifier"), [("always ", "words"), ("and so on and on and on with ", "length"), ("never ", "negations")]
)
def test_a_mark_on_one_label_fails_the_audit_and_is_named(mark, classifier):
    report = bag_of_words_audit(_corpus(mark), seed=1)
    leak = next(leak for leak in report.leaks if leak.classifier == classifier)
    assert leak.accuracy > 0.9
    assert leak.auc > 0.9
    assert not report.passed
    assert "the label can be told without the guideline" in report.warning
    assert mark.split()[0] in " ".join(report.telling_unsafe)


def test_words_that_hold_on_one_recommendation_only_are_no_leak():
    """Recommendations are held out whole: what is learned of r0 says nothing of r1."""
    rows = [
        _example(
            f"{label}{r}-{i}", f"{WORDS[r]} {'yes' if (label is Label.SAFE) == (r % 2 == 0) else 'no'}", label, f"r{r}"
        )
        for r in range(10)
        for i in range(10)
        for label in (Label.SAFE, Label.UNSAFE)
    ]
    assert bag_of_words_audit(rows, seed=1).passed


def test_the_audit_is_repeatable_and_passes_over_what_is_out_of_scope():
    rows = _corpus("")
    other = Example("n", "never never never", Label.OUT_OF_SCOPE, None, None, None, "n", "out_of_scope")
    assert bag_of_words_audit([*rows, other], seed=1) == bag_of_words_audit(rows, seed=1)


def test_too_few_recommendations_or_one_label_cannot_be_audited():
    rows = _corpus("")
    assert bag_of_words_audit([e for e in rows if e.recommendation in ("r1", "r2")], seed=1) is None
    assert bag_of_words_audit([e for e in rows if e.label is Label.SAFE], seed=1) is None


LONG = "In the outpatient clinic adults are watched for at least one hour after each infusion by a trained nurse."


@pytest.mark.parametrize(
    ("text", "method"),
    [
        (LONG, "exact"),
        (LONG.replace("one hour", "60 minutes").upper(), "exact"),
        (LONG.replace("In the outpatient clinic adults", "Everywhere adults"), "minhash"),
        (
            "Remember, children too "
            + LONG.partition("adults ")[2]
            + " They say so in a leaflet that all families get.",
            "8-gram",
        ),
    ],
)
def test_a_training_statement_that_evaluation_has_is_found(text, method):
    train = [_example("t", text, Label.SAFE, "r1"), _example("other", "Breastfeeding can continue.", Label.SAFE, "r1")]
    found = decontaminate(
        train, {"clean": ["Nothing of the kind."], "answers": [LONG]}, settings=LeakageSettings(jaccard=0.7)
    )
    assert [(c.id, c.evaluation, c.method, c.text) for c in found] == [("t", "answers", method, LONG)]


def test_the_words_of_the_guideline_are_nobodys_copy():
    rule = "patients are monitored during the infusion and for at least one hour after it"
    train = [_example("t", f"As the digest has it, {rule}, so bring along a book to read.", Label.SAFE, "r1")]
    evaluation = {"answers": [f"My nurse told me yesterday evening that {rule}; is that really true for all of us?"]}
    assert [c.method for c in decontaminate(train, evaluation)] == ["8-gram"]
    assert decontaminate(train, evaluation, guideline=[rule]) == []


def test_names_of_the_treatment_are_read_alike_on_both_sides():
    names = ("zolamide", "zolax")
    train = [_example("t", "Start zolax at once.", Label.SAFE, "r1")]
    claims = {"t": read_claim(train[0].text, names)}
    for text in (train[0].text, "Start zolamide at once."):
        found = decontaminate(train, {"answers": [text]}, claims=claims, names=names)
        assert [c.method for c in found] == ["exact"], text


def test_an_empty_evaluation_set_holds_nothing():
    assert decontaminate([_example("t", "", Label.SAFE, "r1")], {"none": []}) == []
