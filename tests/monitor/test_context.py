"""What the models read for a statement: what it lacks is added, and nothing that changes another's meaning."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.assertion import Stance
from monitor.context import MAX_CHARS, Reading, read, resolve
from monitor.segmentation import segment

TERMS = ["covid-19", "remdesivir", "veklury", "rdv", "dose*", "oxygen", "children", "dialysis", "liver", "mg", "infus*"]


def readings(message: str) -> list[Reading]:
    return read(message, segment(message), TERMS, "remdesivir", ["Veklury", "RDV"])


def texts(message: str) -> list[str]:
    return resolve(message, segment(message), TERMS, "remdesivir", ["Veklury", "RDV"])


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Remdesivir is an antiviral. It is given for 5 days.", "Remdesivir is given for 5 days."),
        ("Remdesivir is an antiviral. It's infused over an hour.", "Remdesivir is infused over an hour."),
        ("Remdesivir is an antiviral. Its first dose is 200 mg.", "Remdesivir's first dose is 200 mg."),
        ("Veklury (remdesivir) is an antiviral. The drug is diluted.", "Veklury is diluted."),
        ("The guideline recommends remdesivir. It is given for 3 days.", "Remdesivir is given for 3 days."),
        ("Remdesivir is an antiviral. Do not give it by mouth.", "Do not give Remdesivir by mouth."),
        ("Molnupiravir is a capsule. It is taken for 5 days.", "Molnupiravir is taken for 5 days."),
        ("Paxlovid is preferred. It is taken twice daily.", "Paxlovid is taken twice daily."),
        (
            "The loading dose of remdesivir is 200 mg. It is given on day 1.",
            "The loading dose of remdesivir is given on day 1.",
        ),
    ],
)
def test_a_pronoun_takes_the_subject_of_the_sentence_before(message: str, expected: str) -> None:
    assert texts(message)[-1] == expected


@pytest.mark.parametrize(
    "message",
    [
        "Remdesivir is given with dexamethasone. It is given at 6 mg a day.",
        "Baricitinib and remdesivir were both studied. It was given for 14 days.",
        "Hydroxychloroquine should not be combined with remdesivir. It reduces its activity.",
        "Remdesivir is an antiviral. It is important to watch the liver.",
        "Remdesivir is an antiviral. It is recommended that the liver is watched.",
        "Pregnancy is no barrier to remdesivir or baricitinib. It is given as usual.",
        "Remdesivir is an antiviral.\n\nIt rains.",
    ],
)
def test_a_pronoun_of_which_the_meaning_is_not_sure_stays(message: str) -> None:
    assert texts(message)[-1] == segment(message)[-1].normalised


def test_fragments_take_the_medicine_and_only_the_one_spoken_of() -> None:
    assert texts("Remdesivir is infused. On day 1, 200 mg. On the following days, 100 mg.")[1:] == [
        "Remdesivir: On day 1, 200 mg.",
        "Remdesivir: On the following days, 100 mg.",
    ]
    assert texts("Remdesivir follows. Paxlovid is first. 300 mg twice daily.")[2] == "300 mg twice daily."
    assert (
        texts("Paxlovid or remdesivir\n\nPaxlovid: twice daily for 5 days.")[1] == "Paxlovid: twice daily for 5 days."
    )


def test_a_figure_of_another_medicine_says_so() -> None:
    message = "Baricitinib is an oral drug. The usual dose is 4 mg. Remdesivir is infused. The dose is 200 mg."
    assert texts(message)[1::2] == ["Baricitinib: The usual dose is 4 mg.", "The dose is 200 mg."]


def test_list_items_take_their_lead_in() -> None:
    message = (
        "For patients on high-flow oxygen, the guideline advises:\n- Dexamethasone plus baricitinib\n"
        "- Remdesivir may be added\n\n"
        "Stop remdesivir if:\n- ALT is above 10 times the limit\n- The patient has jaundice\n"
    )
    assert texts(message)[1:3] == [
        "For patients on high-flow oxygen: Dexamethasone plus baricitinib",
        "For patients on high-flow oxygen: Remdesivir may be added",
    ]
    assert texts(message)[4:] == [
        "Stop remdesivir if ALT is above 10 times the limit",
        "Stop remdesivir if the patient has jaundice",
    ]


def test_nested_items_take_all_that_holds_for_them() -> None:
    message = (
        "# Remdesivir dosing\n* Adults:\n  * Day 1: 200 mg\n* Children (3 to 40 kg):\n  * Day 1: 5 mg/kg\n"
        "# Molnupiravir\n* 800 mg twice daily\n"
    )
    assert texts(message)[2::2] == [
        "Remdesivir dosing: Adults: Day 1: 200 mg",
        "Remdesivir dosing: Children (3 to 40 kg): Day 1: 5 mg/kg",
        "Molnupiravir: 800 mg twice daily",
    ]


def test_numbered_sections_tell_their_lists_of_whom_they_speak() -> None:
    message = (
        "### 1. No supplemental oxygen\n- Dexamethasone is not recommended.\n"
        "### 2. High-flow oxygen\n- Dexamethasone is recommended.\n\n"
        "Remdesivir follows.\n\n**Duration:** 5 days or until discharge.\n"
    )
    assert texts(message)[1] == "No supplemental oxygen: Dexamethasone is not recommended."
    assert texts(message)[3] == "High-flow oxygen: Dexamethasone is recommended."
    assert texts(message)[5] == "Duration: 5 days or until discharge."  # after a list: of all again


def test_html_is_laid_out_like_markdown() -> None:
    message = "<h2>Remdesivir dosing</h2><ul><li>Loading dose: 200 mg</li></ul>"
    assert texts(message) == ["Remdesivir dosing", "Remdesivir dosing: Loading dose: 200 mg"]


def test_table_rows_take_their_section() -> None:
    message = "## Children\n\n| Weight | Day 1 |\n|---|---|\n| 3 to 40 kg | 5 mg/kg |\n"
    assert [r.stance for r in readings(message)] == [Stance.HEADING, Stance.HEADING, Stance.ASSERTED]
    assert texts(message)[2].endswith("3 to 40 kg; Day 1: 5 mg/kg")


def test_a_frame_holds_until_others_are_spoken_of() -> None:
    message = "For children under 40 kg, the first dose is 5 mg/kg. The later doses are 2.5 mg/kg. Adults get 100 mg."
    assert texts(message)[1:] == [
        "For children under 40 kg, the later doses are 2.5 mg/kg.",
        "Adults get 100 mg.",
    ]
    assert texts("Children receive 5 mg/kg on day 1. Then 2.5 mg/kg daily.")[1] == "Children: Then 2.5 mg/kg daily."


def test_an_answer_is_read_with_its_question() -> None:
    message = "Does remdesivir need a dose change on dialysis? No. Remdesivir is infused."
    question = "Does remdesivir need a dose change on dialysis?"
    assert readings(message) == [
        Reading(question, Stance.QUESTION),
        Reading(f"{question} No.", Stance.ASSERTED),
        Reading("Remdesivir is infused.", Stance.ASSERTED),
    ]


def test_advice_is_read_with_the_case_it_is_for() -> None:
    message = "He got two doses on the ward and was then intubated. The remaining doses should still be given."
    assert [r.stance for r in readings(message)] == [Stance.HISTORY, Stance.ASSERTED]
    assert texts(message)[1] == message


def test_a_claim_and_its_rejection_are_one_text() -> None:
    message = "Some say remdesivir is given for 14 days. That is wrong. It is given for 5 days."
    together = "Some say remdesivir is given for 14 days. That is wrong."
    assert readings(message) == [
        Reading(together, Stance.REFUTED),
        Reading(together, Stance.REFUTED),
        Reading("Remdesivir is given for 5 days.", Stance.ASSERTED),
    ]


def test_items_in_a_list_of_errors_are_refuted() -> None:
    found = readings("Common myths about remdesivir:\n1. It comes as a tablet.\n2. It must be stopped on dialysis.\n")
    assert [r.stance for r in found] == [Stance.HEADING, Stance.REFUTED, Stance.REFUTED]
    assert found[1].text == "Common myths about remdesivir: It comes as a tablet."


def test_no_claim_becomes_the_context_of_another() -> None:
    message = "Remdesivir is given at 400 mg on day 1. It is diluted in saline. In children it is dosed by weight."
    assert all("400" not in text for text in texts(message)[1:])


def test_context_is_left_out_where_the_text_would_grow_too_long() -> None:
    message = f"For patients on oxygen {'and more oxygen ' * 30}:\n- {'200 mg and ' * 25}100 mg\n"
    assert texts(message) == [s.normalised for s in segment(message)]


_PIECES = st.sampled_from(
    [
        *(
            "Remdesivir",
            " is given",
            ". ",
            "It is",
            " 200 mg",
            "\n",
            "\n\n",
            "- ",
            "  - ",
            "# ",
            "Children:",
            "**",
            "| ",
            "Is it",
        ),
        *(
            "|---|---|\n",
            "No.",
            "? ",
            " for 5 days",
            "He got",
            "<li>",
            "That is wrong.",
            "\u200b",
            "\ud800",
            "Molnupiravir",
        ),
        *("Myths:", ";"),
    ]
)


@settings(deadline=None, max_examples=50)
@given(st.lists(_PIECES, max_size=40).map("".join))
def test_every_statement_is_read_within_bounds(message: str) -> None:
    statements = segment(message)
    found = readings(message)
    assert len(found) == len(statements)
    for reading, statement in zip(found, statements, strict=True):
        assert len(reading.text) <= 2 * MAX_CHARS or reading.text == statement.normalised
        assert statement.normalised in reading.text or reading.stance.judged


@given(
    st.sampled_from(
        ["Adults get 100 mg of remdesivir from day 2.", "RDV 200 mg IV D1", "It is given for 5 days.", "No."]
    )
)
def test_a_statement_by_itself_stays_as_it_is(message: str) -> None:
    assert texts(message) == [message]


@pytest.mark.parametrize(
    "unit", ["- ", "# a\n", "Remdesivir is. It is. ", "a:\n", "| a ", "\n", "Is it? No. ", "<li>x"]
)
def test_a_huge_message_is_read_in_one_pass(unit: str) -> None:
    message = unit * (15_000 // len(unit))
    assert len(readings(message)) == len(segment(message))
