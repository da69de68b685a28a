"""Polarity clause by clause: what is denied, what contradicts what, and what certainly changed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.guideline.polarity import clauses, contradiction, is_reversed, replaced

SHIPPED = DEFAULT_PACK.parent
CURATED = [
    r.text
    for name in ("covid19-remdesivir.yaml", "covid19-nirmatrelvir.yaml")
    for r in extract(Pack.load(SHIPPED / name))
]


@pytest.mark.parametrize(
    ("text", "negated"),
    [
        ("Zolamide is recommended.", [False]),
        ("Zolamide isn't recommended.", [True]),
        ("Zolamide should not be withheld.", [False]),
        ("Zolamide is contra-indicated.", [True]),
        ("Zolamide is inappropriate.", [True]),
        ("WHO advises against zolamide.", [True]),
        ("Neither zolamide nor mumbline is given.", [True]),
        ("Non-hospitalized adults take it.", [False]),
        ("Zolamide is given, and mumbline is not.", [False, True]),
        ("Zolamide without mumbline is not recommended.", [False, True, True]),
        ("Without improvement zolamide may be continued.", [True, False]),
    ],
)
def test_each_clause_is_affirmed_or_denied(text: str, negated: list[bool]) -> None:
    assert [clause.negated for clause in clauses(text)] == negated


def test_a_comma_within_a_number_ends_no_clause() -> None:
    assert clauses("Give 10,000 units.")[0].quantities == {(10_000.0, "units")}


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("Zolamide is recommended.", "Zolamide is not recommended."),
        ("Avoid zolamide in children.", "Zolamide is given to children."),
        ("Mumbline is recommended.", "Zolamide is recommended, and mumbline is not."),
        ("The dose is doubled.", "A missed dose is skipped, and the dose is not doubled."),
    ],
)
def test_what_is_denied_and_affirmed_contradicts_itself(text: str, source: str) -> None:
    assert contradiction(clauses(text), clauses(source)) is not None
    assert contradiction(clauses(text), clauses(text)) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Zolamide is not recommended.", "Zolamide is recommended."),
        ("Avoid zolamide in pregnancy.", "Zolamide may be used in pregnancy."),
        ("In pregnancy, zolamide is contraindicated.", "In pregnancy, zolamide can be given."),
        ("Stop zolamide when fever rises.", "Continue zolamide when fever rises."),
        ("Zolamide is not given below 30 mL/min.", "Zolamide can be given below 30 mL/min."),
        ("Zolamide is used in children, and not in adults.", "Zolamide is not used in children, and not in adults."),
    ],
)
def test_advice_that_is_turned_round_is_reversed_both_ways(old: str, new: str) -> None:
    assert is_reversed(old, new)
    assert is_reversed(new, old)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("It does not cure or prevent mumbles.", "It does not cure mumbles, and does not prevent it."),
        ("Zolamide should be given in pregnancy.", "Zolamide should not be withheld in pregnancy."),
        ("Zolamide is not given below 30 mL/min.", "Zolamide is given above 30 mL/min."),
        ("Zolamide is not given below 30 mL/min.", "Zolamide is given below 20 mL/min."),
        ("Zolamide with oxygen is recommended.", "Zolamide without oxygen is not recommended."),
        ("Zolamide is given in mild renal impairment.", "Zolamide is not given in severe renal impairment."),
        ("Zolamide is given to adults.", "Zolamide is not given to adults alone."),
        ("Zolamide is contraindicated.", "Zolamide is contraindicated, and it is stopped if a reaction occurs."),
    ],
)
def test_what_may_be_a_matter_of_wording_is_not(old: str, new: str) -> None:
    assert not is_reversed(old, new)
    assert not is_reversed(new, old)


@pytest.mark.parametrize("text", [t for t in CURATED if re.search(r"\bis (?:not )?recommended\b", t)])
def test_a_recommendation_of_the_shipped_guidelines_that_is_turned_round_is_reversed(text: str) -> None:
    turned = re.sub(r"\bis (not )?recommended\b", lambda m: f"is {'' if m[1] else 'not '}recommended", text, count=1)
    assert is_reversed(text, turned)
    assert contradiction(clauses(turned), clauses(text))


@given(st.sampled_from(CURATED), st.sampled_from(CURATED))
def test_nothing_is_reversed_or_replaced_in_the_guidelines_themselves(one: str, other: str) -> None:
    assert not is_reversed(one, one)
    assert not replaced(one, one)
    assert not is_reversed(one, other)


@pytest.mark.parametrize(
    ("old", "new", "gone"),
    [
        ("Give 20 mg once daily.", "Give 40 mg once daily.", {(20, "mg")}),
        ("Give it once daily.", "Give it twice daily.", {(1, "per day")}),
        ("Give 5 mg.", "Give 5 mg/kg.", {(5, "mg")}),
        ("From 28 days of age it is given.", "From 12 years of age it is given.", {(672, "h")}),
        ("Wait 48 hours.", "Wait 2 days.", set()),
        ("It is outdated since July 2023.", "It is outdated.", set()),
        ("Give 200 mg on day 1.", "Give 200 mg on day 1, then 100 mg from day 2.", set()),
        ("Adults take 20 mg; wait 2 hours before surgery.", "Adults take 20 mg; watch them for 3 hours.", set()),
    ],
)
def test_a_quantity_is_replaced_by_one_of_its_kind_in_the_same_clause(
    old: str, new: str, gone: set[tuple[float, str]]
) -> None:
    assert replaced(old, new) == gone
