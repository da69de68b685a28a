"""Extraction by rules and by a model: what is found, what is refused, and how it is measured."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.artifacts import RunFolder, read_json_lines, read_rows
from trainer.guideline.documents import Document, read, read_file
from trainer.guideline.extraction import extract_by_rules, identified, measure
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract, run
from trainer.guideline.llm_extraction import Extraction, extract_with, find_quote
from trainer.guideline.quantities import quantities
from trainer.guideline.wording import find_rating, is_recommendation
from trainer.llm.port import Completion, Request, Status
from trainer.types import Recommendation

SHIPPED = DEFAULT_PACK.parent


def document(text: str, suffix: str = ".md") -> Document:
    return read("guideline", text.encode(), suffix)


def rules(text: str, *names: str) -> list[Recommendation]:
    own = document(text)
    found = extract_by_rules(own, "1", names or ("zolamide",))
    assert all(own.text[r.start : r.end] == r.quote for r in found)
    return found


def texts(text: str) -> list[str]:
    return [r.text for r in rules(text)]


# Which sentences are recommendations


@pytest.mark.parametrize(
    "sentence",
    [
        "Offer annual eye screening to people with diabetes.",
        "In acute gout, give colchicine within 36 hours.",
        "Patients on warfarin continue it before dental work.",
        "Metformin is contraindicated below an eGFR of 30 mL/min.",
        "Amoxicillin 500 mg three times a day for 5 days.",
        "Statin therapy reduced major vascular events by a fifth.",
        "The earlier advice to fast before the test is outdated.",
        "Routine swabs are not recommended.",
    ],
)
def test_sentences_that_direct_dose_or_report_an_effect_are_recommendations(sentence: str) -> None:
    assert is_recommendation(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "Hypertension affects about one in three adults.",
        "High blood pressure increases the risk of stroke.",
        "It was published in May 2023.",
        "This guideline should be read with its appendix.",
        "Should every adult be screened?",
        "Not medical advice.",
    ],
)
def test_background_is_none(sentence: str) -> None:
    assert not is_recommendation(sentence)


def test_most_rules_on_other_topics_are_recognised() -> None:
    """1,920 rules on 240 topics: 94% were recognised before any was looked at, then missing verbs were added."""
    files = [*(SHIPPED.parent / "corpus").glob("general/*.jsonl"), *(SHIPPED.parent / "corpus").glob("graded/*.jsonl")]
    found = {row["recommendation"] for file in files for row in read_json_lines(file)}
    known = sum(map(is_recommendation, found))
    assert len(found) > 1500
    assert known / len(found) > 0.9


# Cutting, joining, completing


def test_two_rules_in_one_sentence_are_cut_apart_and_completed() -> None:
    found = rules("## 1 Ward\nFor adults on the ward, zolamide is recommended, and mumbline is not.\n")
    assert [(r.text, r.quote) for r in found] == [
        ("For adults on the ward, zolamide is recommended.", "For adults on the ward, zolamide is recommended"),
        ("For adults on the ward, mumbline is not recommended.", "mumbline is not."),
    ]


def test_after_a_semicolon_background_is_left_out_and_what_goes_on_stays() -> None:
    assert texts("## 1 A\nZolamide is preferred; in the ZOOM trial people slept well.\n") == ["Zolamide is preferred."]
    assert texts("## 1 A\nA rash is common; the skin should be watched.\n") == [
        "A rash is common; the skin should be watched."
    ]
    assert texts("## 1 A\nStop zolamide; it must not be restarted.\n") == ["Stop zolamide; it must not be restarted."]


def test_a_sentence_that_needs_the_one_before_is_joined_to_it() -> None:
    found = rules("## 1 Liver\nConsider a lower dose if ALT rises. Stop it if jaundice occurs. Check ALT weekly.\n")
    assert [r.quote for r in found] == [
        "Consider a lower dose if ALT rises. Stop it if jaundice occurs.",
        "Check ALT weekly.",
    ]


def test_a_pronoun_is_written_out_where_the_treatment_was_the_subject() -> None:
    assert (
        texts("## 1 A\nZolamide is given by mouth. It must not be injected.\n")[1] == "Zolamide must not be injected."
    )
    assert texts("## 1 A\nThe powder is diluted. It must not be shaken.\n")[1] == "It must not be shaken."


def test_the_population_comes_from_the_heading_where_the_sentence_leaves_it_out() -> None:
    text = "# Guide for adults\n## 2 Children under 12 years\n### 2.1 Dose\nGive 5 mg daily.\n"
    first, second = rules(f"{text}### 2.2 Other\nInfants get 1 mg.\n")
    assert first.text == "Children under 12 years: Give 5 mg daily."
    assert (first.population, first.action) == ("Children under 12 years", "Give 5 mg daily")
    assert second.text == "Children under 12 years: Infants get 1 mg."


def test_table_rows_name_their_columns_and_quote_their_cells() -> None:
    own = document("## 1 Dose\n\n| Age | Dose |\n|---|---|\n| Adults | 20 mg |\n| Children | 5 mg |\n")
    found = extract_by_rules(own, "1", ("zolamide",))
    assert [(r.text, r.quote) for r in found] == [
        ("Age: Adults; Dose: 20 mg.", "Adults | 20 mg"),
        ("Age: Children; Dose: 5 mg.", "Children | 5 mg"),
    ]


def test_column_headings_with_numbers_are_headings_and_empty_cells_keep_their_columns() -> None:
    table = "| Drug | Under 40 kg | 40 kg or more |\n|---|---|---|\n| Zolamide \\| ZLM | | 20 mg |"
    page = (
        "<html><h2>1 Dose</h2><table><tr><th>Drug</th><th>Under 40 kg</th><th>40 kg or more</th></tr>"
        "<tr><td>Zolamide | ZLM</td><td></td><td>20 mg</td></tr></table>"
    )
    for own in (document(f"## 1 Dose\n\n{table}\n"), document(page, ".html")):
        assert [r.text for r in extract_by_rules(own, "1", ("zolamide",))] == [
            "Drug: Zolamide | ZLM; 40 kg or more: 20 mg."
        ]


def test_a_table_without_headings_loses_no_row() -> None:
    own = document("<html><table><tr><td>Adults<td>20 mg<tr><td>Children<td>5 mg</table></html>", ".html")
    assert [r.text for r in extract_by_rules(own, "1", ("zolamide",))] == ["Adults; 20 mg.", "Children; 5 mg."]


def test_ids_are_stable_when_numbers_and_negations_change_and_differ_within_a_document() -> None:
    (old,) = rules("## 1 Dose\nThe loading dose should be 200 mg once.\n")
    (new,) = rules("## 1 Dose\nThe loading dose should not be 100 mg once.\n")
    assert old.id == new.id == "1-loading-dose"
    twice = identified([old, new, old], {"guideline": "a-"})
    assert [r.id for r in twice] == ["a-1-loading-dose", "a-1-loading-dose-2", "a-1-loading-dose-3"]


def test_references_and_other_back_matter_hold_no_recommendation() -> None:
    text = "## 1 Dose\nGive 5 mg.\n## References\nZolamide should be given. Lancet 2020.\n### Web\nStop it. 2021.\n"
    assert texts(text) == ["Give 5 mg."]
    model = Scripted({})
    extract_with(model, [(document(text), "1")], "mumbles", "zolamide", ["zolamide"])
    assert len(model.asked) == 1


# What a recommendation states


@pytest.mark.parametrize(
    ("text", "strength", "grade"),
    [
        ("Use zolamide (AIIa).", "A", "IIa"),
        ("Use zolamide (strong recommendation, moderate certainty of evidence).", "strong", "moderate certainty"),
        ("We suggest zolamide (weak recommendation, very low-quality evidence).", "weak", "very low-quality"),
        ("Zolamide is recommended (Class IIa, Level B).", "Class IIa", "Level B"),
        ("Zolamide is recommended [1B].", "1", "B"),
        ("Avoid zolamide (Grade D).", None, "Grade D"),
    ],
)  # fmt: skip
def test_strength_and_grade_are_read_as_stated(text: str, strength: str | None, grade: str | None) -> None:
    rating = find_rating(text)
    assert rating is not None
    assert (rating.strength, rating.grade) == (strength, grade)
    (found,) = rules(f"## 1 A\n{text}\n")
    assert (found.strength, found.grade) == (strength, grade)
    assert "(" not in found.text


def test_what_looks_like_a_rating_is_none() -> None:
    assert find_rating("Avoid class III antiarrhythmics and vitamin B (see A).") is None
    rating = find_rating("Avoid class III antiarrhythmics (Class IIa, Level B).")
    assert rating is not None
    assert (rating.strength, rating.grade) == ("Class IIa", "Level B")


def test_a_rating_after_the_sentence_belongs_to_it() -> None:
    (found,) = rules("## 1 A\nUse zolamide in adults. (BIII)\n")
    assert (found.strength, found.grade, found.quote) == ("B", "III", "Use zolamide in adults. (BIII)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200 mg on day 1, then 100mg once daily", [(200, "mg"), (1, "day"), (100, "mg"), (1, "per day")]),
        ("over 30 to 120 minutes", [(30, "minutes"), (120, "minutes")]),
        ("above 10 times the upper limit of normal or 5 x ULN", [(10, "times ULN"), (5, "times ULN")]),
        ("eGFR below 30 mL/min/1.73 m2", [(30, "mL/min/1.73 m2")]),
        ("a target below 140/90 mm Hg", [(140, "mmHg"), (90, "mmHg")]),
        ("up to 5 more days; at least one hour", [(5, "days"), (1, "hours")]),
        ("10,000 IU weekly for 6 weeks from July 2023", [(10000, "IU"), (6, "weeks"), (2023, "year")]),
        ("COVID-19, CYP3A, SARS-CoV-2, table 2, section 3.1", []),
        ("10 days are not better than 5.", [(10, "days"), (5, "")]),
    ],
)
def test_quantities(text: str, expected: list[tuple[float, str]]) -> None:
    assert [(q.value, q.unit) for q in quantities(text)] == expected


@given(st.integers(1, 9999), st.sampled_from(["mg", "mg/kg", "mL/min", "days", "hours", "weeks", "kg", "%", "years"]))
def test_a_number_with_its_unit_is_read_wherever_it_stands(number: int, unit: str) -> None:
    ((value, found, text),) = [(q.value, q.unit, q.text) for q in quantities(f"Give it, {number} {unit}, at home.")]
    assert (value, found, text) == (number, unit, f"{number} {unit}")


# Another field

HYPERTENSION = """# Hypertension in adults

Raised blood pressure is common. It is a leading cause of stroke.

## 1 Diagnosis
Hypertension affects about one in three adults. If clinic blood pressure is 140/90 mmHg or higher, offer ambulatory
monitoring to confirm the diagnosis (strong recommendation, high certainty). Measure blood pressure in both arms; if the
difference is more than 15 mmHg, repeat the measurements.

## 2 Treatment

### 2.1 Adults under 55 years
Start an ACE inhibitor; amlodipine is the alternative. Amlodipine is named after nobody.

### 2.2 Pregnancy
ACE inhibitors are contraindicated. Labetalol 100 mg twice daily may be used, and methyldopa is an option.

### 2.3 Targets

| Group | Target |
|---|---|
| Under 80 years | below 140/90 mmHg |
| 80 years and over | below 150/90 mmHg |
"""
_HYPERTENSION_LIST = {
    "ambulatory": (
        "1",
        "If clinic blood pressure is 140/90 mmHg or higher, offer ambulatory monitoring to confirm it.",
    ),
    "arms": ("1", "Measure blood pressure in both arms."),
    "difference": ("1", "If the difference between the arms is more than 15 mmHg, repeat the measurements."),
    "ace": ("2.1", "In adults under 55 years start an ACE inhibitor."),
    "amlodipine": ("2.1", "In adults under 55 years amlodipine is the alternative."),
    "no-ace": ("2.2", "In pregnancy ACE inhibitors are contraindicated."),
    "labetalol": ("2.2", "In pregnancy labetalol 100 mg twice daily may be used."),
    "methyldopa": ("2.2", "In pregnancy methyldopa is an option."),
    "target": ("2.3", "Under 80 years the target is below 140/90 mmHg."),
    "target-80": ("2.3", "At 80 years and over the target is below 150/90 mmHg."),
}


def listed(rows: dict[str, tuple[str, str]]) -> list[Recommendation]:
    return [Recommendation(i, section, "", text, "", "", text, 0, 0) for i, (section, text) in rows.items()]


def test_rules_work_on_a_guideline_of_another_field() -> None:
    found = rules(HYPERTENSION, "ACE inhibitor")
    score = measure(found, listed(_HYPERTENSION_LIST))
    assert (score.missed, score.spurious) == ([], [])
    by_text = {r.text: r for r in found}
    offered = next(r for text, r in by_text.items() if "ambulatory" in text)
    assert (offered.strength, offered.grade) == ("strong", "high certainty")
    assert "Pregnancy: ACE inhibitors are contraindicated." in by_text
    assert [(q.value, q.unit) for q in by_text["Group: Under 80 years; Target: below 140/90 mmHg."].numbers] == [
        (80, "years"), (140, "mmHg"), (90, "mmHg"),
    ]  # fmt: skip


# Measurement


def reference() -> list[Recommendation]:
    rows = read_json_lines(SHIPPED / "covid19-remdesivir.recommendations.jsonl")
    return listed({row["id"]: (row["section"], row["text"]) for row in rows})


@pytest.mark.parametrize("suffix", ["md", "html", "pdf"])
def test_shipped_guideline_is_found_by_rules_in_every_kind(suffix: str) -> None:
    own = read_file(SHIPPED / f"covid19-remdesivir.{suffix}")
    found = extract_by_rules(own, "2024-02-29", ["remdesivir", "Veklury"])
    assert all(r.quote and own.text[r.start : r.end] == r.quote for r in found)
    score = measure(found, reference())
    assert score.recall >= 0.95
    assert score.precision >= 0.95


def test_a_list_measured_against_itself_is_perfect() -> None:
    score = measure(reference(), reference())
    assert (score.precision, score.recall, score.f1, score.in_two) == (1, 1, 1, [])


def test_a_whole_section_does_not_hold_each_of_its_rules() -> None:
    own = document((SHIPPED / "covid19-remdesivir.md").read_text())
    whole = [Recommendation(s.number, s.number, s.title, s.body, "", "", s.body, s.start, s.end) for s in own.sections]
    assert measure(whole, reference()).recall < 0.5


def test_a_number_that_is_missing_is_not_found_and_another_section_does_not_count() -> None:
    wanted = reference()
    wrong = [
        Recommendation(r.id, r.section, "", re.sub(r"\d", "7", r.text), "", "", re.sub(r"\d", "7", r.text), 0, 0)
        for r in wanted
    ]
    numbered = {r.id for r in wanted if set(re.findall(r"(?<![\w-])\d", r.text)) - {"7"}}
    assert numbered <= set(measure(wrong, wanted).missed)
    moved = [Recommendation(r.id, "9", "", r.text, "", "", r.text, 0, 0) for r in wanted]
    assert measure(moved, wanted).recall == measure([], wanted).recall == 0


# By a model

GUIDE = """## 1 Dose
Adults receive **20 mg**
of zolamide once daily.  It should not be chewed.

## 2 Children over 3 years
Give 5 mg daily.

## 3 Stop
Stop zolamide if a rash appears.
"""


def answer(text: str, quote: str, **fields: object) -> dict[str, object]:
    empty = dict.fromkeys(("population", "action", "strength", "grade"))
    return {"text": text, "quote": quote, **empty, "numbers": [], **fields}


class Scripted:
    """Answers each request by the section that it is about; a string is a status."""

    model = "scripted"

    def __init__(self, answers: dict[str, list[dict[str, object]] | Status]) -> None:
        self.answers = answers
        self.asked: list[Request] = []

    def complete(
        self, requests: Sequence[Request], advance: Callable[[int], None] = lambda _: None
    ) -> list[Completion]:
        self.asked += requests
        completions = []
        for request in requests:
            section = re.search(r"^Section ([\w.]+)", request.user, re.MULTILINE)
            assert section is not None
            said = self.answers.get(section[1], [])
            if isinstance(said, Status):
                completions.append(Completion(said, None, "I cannot", self.model, 10, 2, "declined"))
            else:
                value = Extraction.model_validate({"recommendations": said})
                completions.append(Completion(Status.OK, value, "", self.model, 10, 20))
            advance(1)
        return completions


def by_model(answers: dict[str, list[dict[str, object]] | Status], text: str = GUIDE):
    own = document(text)
    found = extract_with(Scripted(answers), [(own, "1")], "mumbles", "zolamide", ["zolamide"])
    assert all(own.text[r.start : r.end] == r.quote for r in found.recommendations)
    return found


DOSE = answer(
    "Adults receive 20 mg of zolamide once daily.",
    "Adults receive 20 mg of zolamide once daily.",
    population="Adults",
    numbers=[{"value": 20, "unit": "mg", "text": "20 mg"}, {"value": 1, "unit": "per day", "text": "once daily"}],
)


def test_a_quote_is_found_to_the_character_whatever_its_white_space_and_emphasis() -> None:
    (found,) = by_model({"1": [DOSE]}).recommendations
    assert found.quote == "Adults receive **20 mg**\nof zolamide once daily."
    assert (found.id, found.section, found.population) == ("1-daily", "1", "Adults")
    assert [(q.value, q.unit) for q in found.numbers] == [(20, "mg"), (1, "per day")]


def test_what_the_document_does_not_say_is_rejected_with_the_reason() -> None:
    found = by_model(
        {
            "1": [
                DOSE,
                answer("Adults receive 40 mg.", "Adults receive 40 mg of zolamide"),
                answer("Adults receive 40 mg.", "Adults receive 20 mg"),
                answer("Adults receive 20 g.", "Adults receive 20 mg"),
                answer("Adults receive 2 mg.", "Adults receive 2"),
                answer("Zolamide is given with food.", "It should not be chewed", numbers=[
                    {"value": 2, "unit": "h", "text": "2 h"}]),
                {**DOSE},
                answer("Give 5 mg daily.", "Give 5 mg daily."),
            ]
        }
    )  # fmt: skip
    assert [r.text for r in found.recommendations] == [DOSE["text"]]
    assert [r.reason for r in found.rejected] == [
        "the quote does not stand in the section",
        "the quote does not say 40",
        "the quote does not say 20 g",
        "the quote does not stand in the section",
        "the quote does not say 2",
        "it says the same as another one",
        "the quote does not stand in the section",
    ]


def test_a_text_that_turns_its_quote_round_is_rejected_with_the_reason() -> None:
    own = document(
        "## 1 Use\nZolamide is not recommended for children. Adults receive zolamide.\n"
        "## 2 Not recommended\n- Mumbline\n## 3 No oxygen\n- Mumbline or zolamide\n"
    )
    quote = "Zolamide is not recommended for children."
    answers: dict[str, list[dict[str, object]] | Status] = {
        "1": [
            answer("Zolamide is recommended for children.", quote),
            answer("Children should be given zolamide.", quote),
            answer("Adults should not receive zolamide.", "Adults receive zolamide."),
            answer("Children: avoid zolamide.", quote),
        ],
        "2": [answer("Mumbline is not recommended.", "Mumbline"), answer("Mumbline is recommended.", "Mumbline")],
        "3": [answer("Without oxygen, mumbline or zolamide is given.", "Mumbline or zolamide")],
    }
    found = extract_with(Scripted(answers), [(own, "1")], "mumbles", "zolamide", ["zolamide"])
    assert [r.text for r in found.recommendations] == [
        "Children: avoid zolamide.",
        "Mumbline is not recommended.",
        "Without oxygen, mumbline or zolamide is given.",
    ]
    assert [(r.text, r.reason) for r in found.rejected] == [
        ("Zolamide is recommended for children.", "the text affirms what the quote denies"),
        ("Children should be given zolamide.", "the text affirms what the quote denies"),
        ("Adults should not receive zolamide.", "the text denies what the quote affirms"),
        ("Mumbline is recommended.", "the text affirms what the quote denies"),
    ]


def test_no_curated_recommendation_turns_its_own_quote_round() -> None:
    texts = 0
    for name in ("covid19-remdesivir.yaml", "covid19-nirmatrelvir.yaml"):
        pack = Pack.load(SHIPPED / name)
        source = pack.spec.sources[0]
        own = read_file(pack.resolve(source.path))
        sections: dict[str, list[dict[str, object]] | Status] = {}
        for r in extract(pack):
            said = sections.setdefault(r.section, [])
            assert isinstance(said, list)
            said.append(answer(r.text, r.quote))
            texts += 1
        found = extract_with(Scripted(sections), [(own, "1")], "COVID-19", pack.spec.treatment, [pack.spec.treatment])
        assert [r for r in found.rejected if "quote" in r.reason and "the text" in r.reason] == []
    assert texts == 77


def test_a_number_of_the_heading_may_be_in_the_text_and_an_invented_strength_is_left_out() -> None:
    said = answer(
        "Children over 3 years get 5 mg daily.", "Give 5 mg daily.", strength="strong", action="withhold zolamide",
        numbers=[{"value": 5, "unit": "g", "text": "5 g"}],
    )  # fmt: skip
    (found,) = by_model({"2": [said]}).recommendations
    assert (found.strength, found.action) == (None, "get 5 mg daily")
    assert [(q.value, q.unit) for q in found.numbers] == [(3, "years"), (5, "mg")]


@pytest.mark.parametrize("status", [Status.REFUSED, Status.MALFORMED, Status.FAILED])
def test_a_section_without_an_answer_is_left_to_the_rules_and_recorded(status: Status) -> None:
    found = by_model({"1": [DOSE], "3": status})
    assert [r.text for r in found.recommendations] == [DOSE["text"], "Stop zolamide if a rash appears."]
    assert found.fallbacks == ["guideline 3"]
    assert [(r.section, r.reason, r.quote) for r in found.rejected] == [("3", f"{status}: declined", "I cannot")]
    assert (found.input_tokens, found.output_tokens) == (30, 42)


def test_each_section_is_asked_about_once_with_its_headings_and_long_ones_in_parts() -> None:
    model = Scripted({})
    paragraph = "Zolamide is a medicine for mumbles in adults and children. " * 60
    text = f"# Guide\n## 1 Who\n### 1.1 Adults\n{paragraph}\n\n{paragraph}\n\n{paragraph}\n## 2 Empty\n\n"
    extract_with(model, [(document(text), "1")], "mumbles", "zolamide", ["zolamide"])
    assert ["Section 1.1: Guide / Who / Adults" in r.user for r in model.asked] == [True, True]
    assert all(r.prompt == "extract" and r.response is Extraction for r in model.asked)


def test_the_stage_writes_what_was_rejected(tmp_path: Path, make_pack: Callable[[Path], Path]) -> None:
    path = make_pack(tmp_path / "pack")
    path.write_text(path.read_text().replace("recommendations:", "reference:"))
    folder = RunFolder(tmp_path / "run")
    text = "The dose of zolamide is 20 mg once daily."
    said = run(
        Pack.load(path), folder, Scripted({"1": [answer(text, text), answer("x", "not there")], "2": Status.REFUSED})
    )
    assert said == {
        "recommendations": 2, "sections": 2, "precision": 1.0, "recall": 0.667, "rejected": 2, "sections by rules": 1,
    }  # fmt: skip
    rejected = list(read_json_lines(folder.root / "rejected_recommendations.jsonl"))
    assert [row["reason"] for row in rejected] == ["the quote does not stand in the section", "refused: declined"]
    assert [r.text for r in read_rows(folder.recommendations, Recommendation)] == [
        text, "Adults receive zolamide for 5 days.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        ("Adults receive 20", "Adults receive 200 mg."),
        ("give 2", "Then give 2.5 mg."),
        ("acceptable in shock", "It is unacceptable in shock."),
        ("hospitalized adults", "For non-hospitalized adults."),
        ("give 5 mg", "Then give 5 mg/kg."),
    ],
)
def test_a_quote_that_cuts_a_word_or_number_is_none(quote: str, text: str) -> None:
    assert find_quote(text, quote) is None
    whole = f"{text} Elsewhere: {quote}."
    assert find_quote(whole, quote) == (len(text) + 12, len(whole) - 1)


@given(
    st.lists(st.sampled_from(["ab", "*b*", "_", "\u2013", "\u201cb\u00e9\u201d", "b,"]), min_size=1, max_size=12),
    st.sampled_from([" ", "\n", "\t\n "]),
    st.data(),
)
def test_any_words_of_a_text_are_found_where_it_says_the_same(words: list[str], gap: str, data: st.DataObject) -> None:
    text = gap.join(words)
    start = data.draw(st.integers(0, len(words) - 1))
    piece = " ".join(words[start : data.draw(st.integers(start + 1, len(words)))])
    bare = "".join(re.sub(r"[*_]", "", piece).split())
    span = find_quote(text, " ".join(piece.split()))
    if bare:
        assert span is not None
        assert "".join(re.sub(r"[*_]", "", text[slice(*span)]).split()) == bare
    else:
        assert span is None
