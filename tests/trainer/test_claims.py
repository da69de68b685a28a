"""Reading a statement: the same claim in other words has the same tokens, another claim has others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.statements.claims import changes, numeral, read_claim


def _quantities(text):
    return [(q.value, q.unit) for q in read_claim(text).quantities]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A five-day course.", "a 5 day course"),
        ("Infuse over 120 minutes", "infuse over two hours"),
        ("100 mg q12h", "100 mg twice daily"),
        ("100 mg bid", "100 mg 2 times a day"),
        ("100 mg every 24 hours", "100 mg once daily"),
        ("100 mg a day", "100 mg daily"),
        ("100mg/day", "100 mg daily"),
        ("2 mg/kg/day", "2 mg/kg daily"),
        ("give 5 mg per kilogram", "give 5 mg/kg"),
        ("reduced by 87 per cent", "reduced by 87%"),
        ("It isn't given on the fifth day", "It is not given on the 5th day."),
        ("Patients cannot start", "patients can't begin"),
        ("10-fold", "10 times"),
        ("0.2 g", "200 mg"),
        ("**Start** within 7 days", "Begin within seven days"),
    ],
)
def test_the_same_claim_has_the_same_tokens(one, other):
    assert read_claim(one).tokens == read_claim(other).tokens
    assert changes(read_claim(one), read_claim(other)) == ()


@pytest.mark.parametrize(
    ("parent", "child", "kind"),
    [
        ("give 200 mg on day 1", "give 400 mg on day 1", "number"),
        ("last dose on D5", "last dose on D50", "number"),
        ("on the fifth day", "on the sixth day", "number"),
        ("give 5 mg/kg", "give 5 mg", "unit"),
        ("is recommended", "is not recommended", "polarity"),
        ("this is acceptable", "this is unacceptable", "polarity"),
        ("advises against starting", "advises starting", "polarity"),
        ("it must be stopped", "it may be stopped", "modality"),
        ("for all patients", "for some patients", "quantifier"),
        ("stop when above the limit", "stop when below the limit", "comparison"),
        ("given before dialysis", "given after dialysis", "timing"),
        ("for adults", "for infants", "population"),
        ("as an infusion", "as a tablet", "route"),
        ("add dexamethasone", "add baricitinib", "drug"),
        ("check the liver enzymes", "check the wallpaper", "wording"),
        ("A rather than B", "B rather than A", "order"),
    ],
)
def test_a_change_is_named_by_its_kind(parent, child, kind):
    assert kind in changes(read_claim(parent), read_claim(child))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("over 30 to 120 minutes", [(0.5, "h"), (2.0, "h")]),
        ("3-5 days", [(72.0, "h"), (120.0, "h")]),
        ("3 consecutive days", [(72.0, "h")]),
        ("on day 1 and 2.5 mg/kg after", [(1.0, ""), (2.5, "mg/kg")]),
        ("eGFR of 22 mL/min/1.73 m2", [(22.0, "ml/min")]),
        ("1,000 mg for COVID-19", [(1000.0, "mg")]),
        ("two weeks old", [(336.0, "h")]),
        ("one of the reasons", []),
    ],
)
def test_quantities_have_canonical_units(text, expected):
    assert _quantities(text) == expected


def test_a_numeral_is_the_number_as_written():
    assert [numeral(q) for q in read_claim("five days, 1,000 mg").quantities] == [5.0, 1000.0]


def test_names_of_the_treatment_are_one_word():
    names = ("zolamide", "zolax")
    assert read_claim("Zolax's dose", names).tokens == read_claim("zolamide's dose", names).tokens
    assert read_claim("Zolax").tokens != read_claim("zolamide").tokens


@given(st.text())
def test_any_text_can_be_read(text):
    claim = read_claim(text)
    assert all(claim.tokens)
    assert changes(claim, claim) == ()


@given(st.integers(1, 99), st.sampled_from(["mg", "days", "%", "mg/kg", "times"]))
def test_another_number_is_another_claim(number, unit):
    parent, child = (read_claim(f"Give {n} {unit} of it") for n in (number, number + 1))
    assert changes(parent, child) == ("number",)
