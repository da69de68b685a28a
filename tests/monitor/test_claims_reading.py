"""The structured reading of a claim: what is read, what conflicts, and silence where nothing is sure."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.claims import FEATURES, Comparison, Mismatch, compare, read
from monitor.claims.lexicon import words

LOADING = "Adults and children of 40 kg or more receive a single loading dose of 200 mg intravenously on day 1."
BY_WEIGHT = "From 28 days of age and 3 kg up to 40 kg: 5 mg/kg on day 1, then 2.5 mg/kg once daily."
ONSET = "Treatment should start as soon as possible and within 7 days of symptom onset."
COURSE = "Treat the infection with amoxicillin for 5 days."
TWICE = "Give amoxicillin 500 mg by mouth every 8 hours for 5 days."


def checked(recommendation: str, statement: str) -> Comparison:
    return compare(read(recommendation), read(statement))


def feature(comparison: Comparison, name: str) -> float:
    return comparison.features[FEATURES.index(name)]


def quantity(text: str, kind: str) -> tuple[float, float]:
    found = next(q for q in read(text).quantities if q.kind == kind)
    return found.low, found.high


@pytest.mark.parametrize(
    ("text", "kind", "low", "high"),
    [
        ("a dose of 0.2 g", "dose", 200, 200),
        ("fifty micrograms", "dose", 0.05, 0.05),
        ("two hundred and fifty milligrams", "dose", 250, 250),
        ("2.5 mg per kilogram", "dose/kg", 2.5, 2.5),
        ("5 mg for every kilo", "dose/kg", 5, 5),
        ("at least 3 kg and under 40 kg", "weight", 3, 40),
        ("40 kg or more", "weight", 40, math.inf),
        ("30 to 120 minutes", "span", 0.5, 2),
        ("three quarters of an hour", "span", 0.75, 0.75),
        ("no longer than a week of treatment", "duration", -math.inf, 168),
        ("q12h", "frequency", 2, 2),
        ("one tablet BD", "frequency", 2, 2),
        ("every other day", "frequency", 0.5, 0.5),
        ("three times a day", "frequency", 3, 3),
        ("on the fourth day", "day", 4, 4),
        ("D1 of treatment", "day", 1, 1),
        ("within seven days of symptom onset", "window", -math.inf, 168),
        ("symptom day 9", "window", 216, 216),
        ("a 6-month-old child", "age", 4383, 4383),
        ("a man of 72", "age", 72 * 8766, 72 * 8766),
        ("eGFR below 30 mL/min", "clearance", -math.inf, 30),
        ("ALT above 10 times the upper limit", "multiple", 10, math.inf),
        ("ALT 320 U/L with a limit of 40 U/L", "multiple", 8, 8),
        ("reduced death by 87 per cent", "percent", 87, 87),
        ("potassium below 5.0 mmol/L", "mmol/L", -math.inf, 5),
    ],
)
def test_reads_quantities_in_base_units(text: str, kind: str, low: float, high: float) -> None:
    assert quantity(text, kind) == pytest.approx((low, high))


@pytest.mark.parametrize("name", ["COVID-19", "CYP3A", "SARS-CoV-2", "IL-6", "in 2020", "the second drug"])
def test_numbers_of_names_and_years_measure_nothing(name: str) -> None:
    assert all(q.told for q in read(f"It acts on {name}.").quantities)


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("Give 400 mg.", 1),
        ("Do not give 400 mg.", -1),
        ("It is a myth that adults receive 400 mg.", -1),
        ("Should adults receive 400 mg? No.", -1),
        ("Should adults receive 400 mg? Yes.", 1),
        ("Should adults receive 400 mg?", 0),
        ("Give 200 mg rather than 400 mg.", -1),
        ("Is 400 mg withheld? That is not so.", 0),
        ("It is not a mistake to give 400 mg.", 1),
        ("Patients who are not on oxygen receive 400 mg.", 1),
    ],
)
def test_knows_what_the_author_asserts(text: str, sign: int) -> None:
    found = next(q for q in read(text).quantities if q.label == "400 mg")
    assert found.sign == sign


@pytest.mark.parametrize(
    ("recommendation", "statement", "reason"),
    [
        (LOADING, "Adults receive 400 mg on day 1.", "400 mg stated, 200 mg recommended"),
        (LOADING, "The loading dose is 0.1 g.", "0.1 g stated, 200 mg recommended"),
        (BY_WEIGHT, "A 20 kg child gets 200 mg on day 1.", "200 mg stated, 100 mg (5 mg/kg at 20 kg) recommended"),
        (BY_WEIGHT, "Children are loaded with 10 mg/kg on day 1.", "10 mg/kg stated, 5 mg/kg recommended"),
        (COURSE, "The amoxicillin course is 14 days.", "14 days stated, 5 days recommended"),
        (TWICE, "Take amoxicillin once daily.", "once daily stated, every 8 hours recommended"),
        (ONSET, "Start treatment within 10 days of onset.", "at most 10 days stated, at most 7 days recommended"),
    ],
)
def test_shows_what_is_stated_and_what_is_recommended(recommendation: str, statement: str, reason: str) -> None:
    comparison = checked(recommendation, statement)
    assert [m.reason() for m in comparison.mismatches] == [reason]
    assert comparison.category is not None
    assert feature(comparison, "has_mismatch") == 1


@pytest.mark.parametrize(
    ("recommendation", "statement"),
    [
        (LOADING, "Adults receive 0.2 g on day 1, then 100 mg daily."),
        (LOADING, "From day 2 adults receive 100 mg."),
        (LOADING, "Do not give 400 mg on day 1."),
        (LOADING, "Is it 400 mg on day 1?"),
        (LOADING, "It is a myth that 400 mg is the loading dose."),
        (LOADING, "The former dose of 400 mg was twice as high."),
        (BY_WEIGHT, "A 27 kg girl gets 67.5 mg daily from day 2."),
        (BY_WEIGHT, "5 kg infant: 25 mg on day 1, then 12.5 mg daily."),
        (COURSE, "Amoxicillin is given for five days, not ten."),
        (COURSE, "A 120-hour course of amoxicillin is enough."),
        (TWICE, "Amoxicillin 1500 mg a day in three doses."),
        (TWICE, "Amoxicillin 500 mg three times a day."),
        (ONSET, "An outpatient on day 5 of symptoms can start."),
        (ONSET, "Keep tablets below 25 degrees."),
    ],
)
def test_is_silent_where_a_statement_may_be_right(recommendation: str, statement: str) -> None:
    assert checked(recommendation, statement).mismatches == ()


def test_a_case_outside_the_bound_is_a_feature_and_no_mismatch() -> None:
    outside, inside = checked(ONSET, "Day 9 of symptoms is in time."), checked(ONSET, "Day 4 of symptoms is in time.")
    assert feature(outside, "case_outside") > 0
    assert feature(inside, "case_inside") > 0
    assert outside.mismatches == inside.mismatches == ()


def test_weight_times_dose_is_exact() -> None:
    right, wrong = checked(BY_WEIGHT, "12 kg: 60 mg on day 1."), checked(BY_WEIGHT, "12 kg: 30 mg on day 1.")
    assert feature(right, "per_kg_agree") > 0
    assert feature(wrong, "per_kg_conflict") > 0


def test_a_bound_turned_round_is_seen() -> None:
    comparison = checked("Avoid it when eGFR is below 30 mL/min.", "Avoid it when eGFR is above 30 mL/min.")
    assert feature(comparison, "reversed") != 0
    assert feature(comparison, "opposed_comparator") > 0


def test_routes_that_exclude_one_another_conflict() -> None:
    recommendation = "The drug is given only by intravenous infusion and never as a tablet."
    assert feature(checked(recommendation, "The drug is taken orally."), "conflict_route") > 0
    assert feature(checked(recommendation, "The drug is given as a drip."), "agree_route") > 0


def test_nothing_read_is_all_zero() -> None:
    comparison = checked("", "")
    assert comparison.features == (0.0,) * len(FEATURES)
    assert (comparison.mismatches, comparison.category) == ((), None)


def test_gravest_mismatch_comes_first() -> None:
    comparison = checked(TWICE, "Give amoxicillin 250 mg for 14 days.")
    assert [m.kind for m in comparison.mismatches] == ["dose", "duration"]
    assert comparison.category == "dose"


def test_reason_reads_as_a_sentence() -> None:
    assert Mismatch("dose", "400 mg", "200 mg").reason() == "400 mg stated, 200 mg recommended"


_PIECES = st.sampled_from(
    sorted(
        words(
            "not no never without 5 40 2.5 mg kg / mg/kg day days D1 q12h daily twice within at least or more to - . , "
            "a an half quarter of hour hundred and million half-yearly wrong myth that who fear but yes "
            "10:30 12 May x + "
            "1,000 % rather than is are receive oral iv"
        )
    )
)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(_PIECES, max_size=60).map(" ".join)))
def test_any_text_is_compared_with_any(text: str) -> None:
    comparison = checked(BY_WEIGHT, text)
    assert len(comparison.features) == len(FEATURES)
    assert all(-1 <= value <= 1 for value in comparison.features)


@settings(max_examples=25, deadline=None)
@given(st.floats(1, 39), st.sampled_from([2.0, 0.5, 4.0]))
def test_the_right_dose_for_a_weight_never_mismatches_and_a_multiple_always_does(kg: float, factor: float) -> None:
    kg = round(kg, 1)
    right = f"A child of {kg:g} kg gets {5 * kg:.6g} mg on day 1."
    wrong = f"A child of {kg:g} kg gets {5 * kg * factor:.6g} mg on day 1."
    assert checked("Children receive 5 mg/kg on day 1.", right).mismatches == ()
    assert checked("Children receive 5 mg/kg on day 1.", wrong).mismatches != ()


@pytest.mark.parametrize(
    "piece",
    [
        "a hundred and ",
        "wrong, ",
        "not ",
        "5 mg ",
        "the ",
        "1",
        "within at least ",
        "a.b.",
        "neither nor ",
        "? no. ",
        "1,000",
    ],
)
def test_hostile_text_costs_no_more_than_its_length(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    checked(LOADING, text)
    assert time.process_time() - start < 2
