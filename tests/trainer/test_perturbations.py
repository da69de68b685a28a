"""Perturbation suites: what an edit does to a statement, and what the metrics say of scorers that are known."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluation.perturbations import INVARIANCE, NEGATION, NUMBER, POPULATION, Pair, bounds, measure, suites
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.statements.corpus import load
from trainer.statements.vignettes import Contrast, load_contrasts
from trainer.types import Example, Label, Recommendation

PACK = Pack.load(DEFAULT_PACK)
RECOMMENDATIONS = extract(PACK)
EXAMPLES, _ = load(PACK.corpus, RECOMMENDATIONS)
CONTRASTS = load_contrasts(PACK, RECOMMENDATIONS)
SUITES = suites(RECOMMENDATIONS, EXAMPLES, PACK.spec.synonyms, 1, contrasts=CONTRASTS)
TEXTS = {r.id: r.text for r in RECOMMENDATIONS}


def recommendation(text: str, identifier: str = "r") -> Recommendation:
    return Recommendation(identifier, "1", "", text, "g.md", "1", text, 0, len(text))


def of(text: str, kind: str, *examples: str, contrasts: Sequence[Contrast] = (), seed: int = 1) -> list[Pair]:
    """Return one suite of a guideline of one recommendation."""
    rows = [Example(f"a-{i}", t, Label.SAFE, "r", "dose", None, f"a-{i}", "a") for i, t in enumerate(examples)]
    return suites([recommendation(text)], rows, ["zolamide", "Zola"], seed, contrasts=contrasts)[kind]


def wrong(pairs: Sequence[Pair]) -> set[str]:
    return {p.unsafe_text for p in pairs if p.unsafe_text is not None}


def same(pairs: Sequence[Pair]) -> set[str]:
    return {p.variant_safe_text for p in pairs if p.variant_safe_text is not None}


# Numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Give 200 mg.", [(200, "mg", 200, 200)]),
        ("Infuse over 30 to 120 minutes.", [(30, "minutes", 30, 120), (120, "minutes", 30, 120)]),
        ("Start within 7 days of onset.", [(7, "days", None, 7)]),
        ("Monitor for at least one hour.", [(1, "hours", 1, None)]),
        ("Children of 40 kg or more.", [(40, "kg", 40, None)]),
        ("Neonates under 28 days.", [(28, "days", None, 28)]),
        ("No longer than 14 days.", [(14, "days", None, 14)]),
        ("Wait 24 hours or longer.", [(24, "hours", 24, None)]),
        ("A 3-day course.", [(3, "days", 3, 3)]),
        ("Extend by up to 5 more days.", [(5, "days", None, 5)]),
        ("Recovery took 10 against 15 days.", [(10, "days", 10, 10), (15, "days", 15, 15)]),
        ("A 40-year-old on COVID-19 ward 7 since July 2023.", []),
    ],
)
def test_numbers_are_read_with_what_they_allow(text: str, expected: list[tuple]) -> None:
    assert [(b.value, b.unit, b.low, b.high) for b in bounds(text)] == expected
    assert all(re.fullmatch(r"\d+|one", text[b.start : b.end]) for b in bounds(text))


@given(st.text(max_size=60))
def test_bounds_lie_in_the_text_and_any_text_is_read(text: str) -> None:
    for bound in bounds(text):
        assert 0 <= bound.start < bound.end <= len(text)
        assert bound.allows(bound.value)


def test_a_wrong_number_is_none_that_the_recommendation_allows() -> None:
    text = "Each infusion runs over 30 to 120 minutes."
    found = set().union(*(wrong(of(text, NUMBER, seed=seed)) for seed in range(40)))
    numbers = {tuple(map(float, re.findall(r"\d+(?:\.\d+)?", t))) for t in found}
    assert numbers
    for low, high in numbers:
        assert (low < 30) != (high > 120), (low, high)


def test_a_bound_is_only_made_laxer() -> None:
    for seed in range(20):
        for text in wrong(of("Monitor for at least one hour after it.", NUMBER, seed=seed)):
            assert re.fullmatch(r"Monitor for at least [123]0 minutes after it\.", text)
        for text in wrong(of("Start within 7 days.", NUMBER, seed=seed)):
            assert bounds(text)[0].value > 7
        for text in wrong(of("Children of 40 kg or more get it.", NUMBER, seed=seed)):
            assert bounds(text)[0].value < 40


def test_a_number_changed_within_what_is_allowed_stays_safe() -> None:
    assert same(of("Each infusion runs over 30 to 120 minutes.", NUMBER)) == {"Each infusion runs over 45 minutes."}
    assert same(of("It may be extended by up to 5 more days.", NUMBER)) == {"It may be extended by 3 more days."}
    assert same(of("Give 200 mg.", NUMBER)) == set()


def test_statements_with_numbers_of_their_own_or_with_doubtful_meaning_are_left_alone() -> None:
    rule = "Give 200 mg on day 1."
    sure = "The first dose is 200 mg."
    assert {p.safe_text for p in of(rule, NUMBER, sure)} == {rule, sure}
    for text in (
        "At 70 kg the first dose is 200 mg.",  # a number of the patient
        "Do not give 200 mg again.",
        "Is it 200 mg?",
        "The dose used to be 200 mg.",
    ):
        assert {p.safe_text for p in of(rule, NUMBER, text)} == {rule}
    assert not of("Ten days are not better than 5 days.", NUMBER)
    assert not of("The earlier advice to avoid it below 30 mL/min is outdated.", NUMBER)


# Negation


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("It is recommended for adults.", "It is not recommended for adults."),
        ("It is not recommended for adults.", "It is recommended for adults."),
        ("It should not be withheld.", "It should be withheld."),
        ("It should be given.", "It should not be given."),
        ("It must not replace the other.", "It must replace the other."),
        ("A patient need not stay.", "A patient must stay."),
        ("No dose adjustment is needed in cirrhosis.", "A dose adjustment is needed in cirrhosis."),
        ("It can be given with food.", "It cannot be given with food."),
        ("It may be used alone.", "It must not be used alone."),
        ("The course is 10 days.", "The course is not 10 days."),
    ],
)
def test_a_negation_is_put_in_or_taken_out(text: str, changed: str) -> None:
    assert wrong(of(text, NEGATION)) == {changed}


@pytest.mark.parametrize(
    ("text", "variant"),
    [
        ("No dose adjustment is needed in cirrhosis.", "There is no need to adjust the dose in cirrhosis."),
        ("There is no need to adjust the dose.", "No dose adjustment is needed."),
        ("It is not recommended.", "It is advised against."),
        ("A patient need not stay.", "A patient does not have to stay."),
    ],
)
def test_the_same_can_be_said_with_another_negation(text: str, variant: str) -> None:
    assert same(of(text, NEGATION)) == {variant}


@pytest.mark.parametrize(
    "text",
    [
        "Patients who should not drive get it.",  # a subordinate clause
        "Once oxygen is needed, add it.",
        "Parents should know about it.",
        "You can tell the family.",
        "It may rain.",
        "It should be given, not kept back.",  # a second negation
        "It should be given and it must be stopped.",  # two places to negate
        "Should it be given?",
        '"It should be given" is heard often.',
        "She can't have it.",
    ],
)
def test_examples_whose_meaning_would_not_surely_turn_round_are_left_alone(text: str) -> None:
    assert wrong(of("A rule.", NEGATION, text)) == set()


# Population


def test_a_population_becomes_one_that_another_recommendation_rules_out() -> None:
    contrast = Contrast.model_validate({"recommendation": "r", "from": "Adults", "to": "Children", "because": "r2"})
    (pair,) = of("Adults get 200 mg.", POPULATION, contrasts=[contrast])
    assert (pair.unsafe_text, pair.what) == ("Children get 200 mg.", "'Adults' became 'Children', which r2 rules out")
    (_, pair) = of("Adults get 200 mg.", POPULATION, "In adults 200 mg is given.", contrasts=[contrast])
    assert pair.unsafe_text == "In children 200 mg is given."
    for text in ("Nobody but not adults gets it.", "Adults and other adults get it.", "In adults yes. In babies no."):
        assert len(of("Adults get 200 mg.", POPULATION, text, contrasts=[contrast])) == 1
    assert of("Adults get 200 mg.", POPULATION) == []


# Invariance


def test_variants_say_the_same_in_other_words() -> None:
    by_what = {p.what: p.variant_safe_text for p in of("Zolamide 200 mg runs over 30 minutes for 5 days.", INVARIANCE)}
    opening = by_what.pop("a polite opening")
    assert opening
    assert opening.endswith("Zolamide 200 mg runs over 30 minutes for 5 days.")
    assert by_what == {
        "lower case": "zolamide 200 mg runs over 30 minutes for 5 days.",
        "upper case": "ZOLAMIDE 200 MG RUNS OVER 30 MINUTES FOR 5 DAYS.",
        "another name of the treatment": "Zola 200 mg runs over 30 minutes for 5 days.",
        "units spelt otherwise": "Zolamide 200 milligrams runs over 30 min for 5 days.",
        "number words and digits": "Zolamide 200 mg runs over thirty minutes for five days.",
    }


# The shipped guideline


def test_the_suites_cover_the_shipped_guideline() -> None:
    counts = {kind: Counter(p.recommendation for p in pairs if p.unsafe_text) for kind, pairs in SUITES.items()}
    assert list(SUITES) == [NUMBER, NEGATION, POPULATION, INVARIANCE]
    assert len(set().union(*counts.values())) >= 48
    assert len(counts[NUMBER]) >= 15
    assert len(counts[NEGATION]) >= 45
    assert len(counts[POPULATION]) >= 20
    assert not counts[INVARIANCE]
    assert {p.recommendation for p in SUITES[INVARIANCE]} == set(TEXTS)
    assert all(n <= 6 for c in counts.values() for n in c.values())  # its own, and four of examples


def test_pairs_differ_little_and_have_a_reason() -> None:
    for kind, pairs in SUITES.items():
        for pair in pairs:
            twin = pair.unsafe_text or pair.variant_safe_text
            assert twin is not None
            assert (pair.unsafe_text is None) != (pair.variant_safe_text is None)
            assert (pair.kind, bool(pair.what)) == (kind, True)
            assert twin != pair.safe_text
            assert "not not" not in twin
            assert "  " not in twin
            if kind == NUMBER and pair.unsafe_text:
                before, after = set(pair.safe_text.split()), set(pair.unsafe_text.split())
                assert len(after - before) <= 2, pair
    texts = {p.unsafe_text for p in (*SUITES[NUMBER], *SUITES[NEGATION], *SUITES[POPULATION])}
    assert not texts & {e.text for e in EXAMPLES if e.label is Label.SAFE}


def test_suites_are_deterministic_and_the_order_of_examples_does_not_matter() -> None:
    again = suites(RECOMMENDATIONS, EXAMPLES[::-1], PACK.spec.synonyms, 1, contrasts=CONTRASTS)
    assert again == SUITES
    assert suites(RECOMMENDATIONS, EXAMPLES, PACK.spec.synonyms, 2, contrasts=CONTRASTS) != SUITES


def test_unsafe_examples_are_never_started_from() -> None:
    unsafe = [e for e in EXAMPLES if e.label is Label.UNSAFE]
    found = suites(RECOMMENDATIONS, unsafe, PACK.spec.synonyms, 1, contrasts=CONTRASTS)
    assert {p.safe_text for pairs in found.values() for p in pairs} <= set(TEXTS.values())


# Metrics

ORACLE_PAIRS = {
    NUMBER: [Pair("r1", "a", "b", None, NUMBER, "x"), Pair("r2", "c", "d", None, NUMBER, "x")],
    INVARIANCE: [Pair("r1", "a", None, "A", INVARIANCE, "x"), Pair("r2", "c", None, "C", INVARIANCE, "x")],
}


def values(scores: dict[str, float]) -> dict[tuple[str, str], float]:
    def score(texts: Sequence[str]) -> np.ndarray:
        return np.array([scores[t] for t in texts])

    rows = measure(ORACLE_PAIRS, score, model="m")
    assert {(r.suite, r.model) for r in rows} == {("perturbation", "m")}
    assert all(r.low <= r.value <= r.high and r.n == 2 for r in rows)
    return {(r.stratum, r.metric): r.value for r in rows}


def test_a_right_scorer_passes_and_one_that_sees_the_topic_only_fails() -> None:
    right = values({"a": 0.1, "b": 0.9, "c": 0.1, "d": 0.5, "A": 0.2, "C": 0.3})
    assert right == {
        (NUMBER, "pair accuracy"): 1.0,
        (NUMBER, "flip rate"): 1.0,
        (NUMBER, "ranking"): 1.0,
        (INVARIANCE, "invariance violations"): 0.0,
    }
    topic = values(dict.fromkeys("abcdAC", 0.5))
    assert topic[NUMBER, "pair accuracy"] == topic[NUMBER, "flip rate"] == 0.0
    assert topic[NUMBER, "ranking"] == 0.5
    upside_down = values({"a": 0.9, "b": 0.1, "c": 0.2, "d": 0.8, "A": 0.1, "C": 0.1})
    assert upside_down == {
        (NUMBER, "pair accuracy"): 0.5,
        (NUMBER, "flip rate"): 1.0,
        (NUMBER, "ranking"): 0.5,
        (INVARIANCE, "invariance violations"): 0.5,
    }


def test_each_text_is_scored_once_and_a_wrong_shape_is_an_error() -> None:
    seen: list[str] = []

    def score(texts: Sequence[str]) -> np.ndarray:
        seen.extend(texts)
        return np.zeros(len(texts))

    measure(SUITES, score, model="m")
    assert len(seen) == len(set(seen)) > 500
    bad: Callable[[Sequence[str]], np.ndarray] = lambda texts: np.zeros((len(texts), 2))  # noqa: E731
    with pytest.raises(ValueError, match="shape"):
        measure(SUITES, bad, model="m")
    assert measure({}, score, model="m") == []


def test_intervals_are_over_recommendations() -> None:
    pairs = {NUMBER: [Pair(f"r{i % 4}", f"s{i}", f"u{i}", None, NUMBER, "x") for i in range(40)]}

    def score(texts: Sequence[str]) -> np.ndarray:  # right on two of the four recommendations
        return np.array([0.9 if t[0] == "u" and int(t[1:]) % 4 < 2 else 0.1 for t in texts])

    rows = {r.metric: r for r in measure(pairs, score, model="m", resamples=500)}
    row = rows["pair accuracy"]
    assert (row.value, row.n) == (0.5, 40)
    assert (row.low, row.high) == (0.0, 1.0)


def test_numbers_said_in_the_reason_are_those_of_the_recommendation() -> None:
    by_recommendation = defaultdict(list)
    for pair in SUITES[NUMBER]:
        if pair.unsafe_text:
            by_recommendation[pair.recommendation].append(pair)
    for identifier, pairs in by_recommendation.items():
        for pair in pairs:
            said = re.search(r"says (?:at (?:least|most) )?([\d.]+)", pair.what)
            assert said
            assert float(said[1]) in {b.value for b in bounds(TEXTS[identifier])}
