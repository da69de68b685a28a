"""Two versions of a guideline: what changed, which statements that touches, and which become outdated advice."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.guideline.revisions import STALE, What, affected, command, diff, stale_statements
from trainer.statements import corpus
from trainer.types import Difficulty, Example, Label, Recommendation

SHIPPED = DEFAULT_PACK.parent
#: What the label said before July 2023, and of children before February 2024; the rest is that of today.
_BEFORE = {
    """Since July 2023, no dose adjustment is needed at any degree of renal impairment, including dialysis, and
doses can be given without regard to the timing of dialysis. The earlier advice to avoid remdesivir when
eGFR is below 30 mL/min is outdated.
""": """Remdesivir is not recommended in patients with an eGFR below 30 mL/min. The eGFR should be determined before
the first dose.
""",
    "From 28 days of age and 3 kg up to 40 kg": "From 12 years of age and 3 kg up to 40 kg",
}


def rule(identifier: str, text: str, section: str = "1", **fields: str | None) -> Recommendation:
    return Recommendation(identifier, section, "Dose", text, "g.md", "1", text, 0, len(text), **fields)


def statement(identifier: str, recommendation: str, text: str, label: Label = Label.SAFE) -> Example:
    difficulty = Difficulty.HARD if label is Label.UNSAFE else None
    return Example(identifier, text, label, recommendation, "dose", difficulty, identifier, "a")


DOSE = rule("dose", "The dose of zolamide is 20 mg once daily.")
KIDNEY = rule("kidney", "Zolamide is not recommended when eGFR is below 30 mL/min.", "2")
KIDNEY_NOW = rule("any-kidney", "No dose adjustment is needed at any degree of renal impairment.", "2")


# What changed


def test_nothing_changed_where_only_place_and_version_did() -> None:
    moved = replace(DOSE, start=90, end=140, version="2", source="h.html", page=3, valid_from="2026-01-01")
    revision = diff([DOSE], [moved])
    assert not revision
    assert revision.unchanged == (moved,)


@pytest.mark.parametrize(
    ("new", "what"),
    [
        (replace(DOSE, text="The dose of zolamide is 40 mg once daily."), What.NUMBER),
        (replace(DOSE, text="The dose of zolamide is not 20 mg once daily."), What.POLARITY),
        (replace(DOSE, population="Children"), What.POPULATION),
        (replace(DOSE, strength="A"), What.STRENGTH),
        (replace(DOSE, text="Once daily, the dose of zolamide is 20 mg."), What.WORDING),
    ],
)
def test_the_gravest_change_comes_first(new: Recommendation, what: What) -> None:
    ((change,), *_) = [diff([DOSE], [new]).changed]
    assert change.what[0] is what
    assert (change.old, change.new) == (DOSE, new)


def test_units_that_say_the_same_are_only_wording() -> None:
    old, new = rule("r", "Wait 48 hours before surgery."), rule("r", "Wait 2 days before surgery.")
    assert diff([old], [new]).changed[0].what == (What.WORDING,)


def test_a_new_id_is_matched_by_its_text_and_by_likeness_in_its_section() -> None:
    renamed = replace(DOSE, id="new-id", section="7")
    raised = rule("zolamide-dose", "The dose of zolamide is 40 mg once daily.")
    assert not diff([DOSE], [renamed])
    assert diff([DOSE], [raised]).changed[0].what == (What.NUMBER, What.WORDING)
    elsewhere = diff([DOSE], [replace(raised, section="7")])
    assert (elsewhere.added, elsewhere.withdrawn) == ((replace(raised, section="7"),), (DOSE,))


def test_an_ordinal_that_moved_changes_nothing() -> None:
    first, second = rule("dose", "Adults take 20 mg."), rule("dose-2", "Children take 5 mg.")
    inserted = rule("dose", "Infants take 1 mg.")
    revision = diff([first, second], [inserted, replace(first, id="dose-2"), replace(second, id="dose-3")])
    assert (revision.added, revision.changed, revision.withdrawn) == ((inserted,), (), ())


def test_advice_that_was_replaced_is_withdrawn_and_added() -> None:
    revision = diff([DOSE, KIDNEY], [DOSE, KIDNEY_NOW])
    assert (revision.added, revision.changed) == ((KIDNEY_NOW,), ())
    assert (revision.withdrawn, revision.unchanged) == ((KIDNEY,), (DOSE,))


def test_of_two_candidates_the_one_that_is_more_alike_is_taken() -> None:
    old = rule("a", "Adults receive zolamide 20 mg once daily by mouth.")
    near, far = (
        rule("b", "Adults receive zolamide 30 mg once daily by mouth."),
        rule("c", "Adults receive zolamide once daily."),
    )
    revision = diff([old], [far, near])
    assert (revision.changed[0].new, revision.added) == (near, (far,))


_TEXTS = st.sampled_from(["Give 5 mg.", "Give 6 mg daily.", "Never stop it.", "Rest."])
_RULES = st.lists(
    st.builds(rule, st.sampled_from("abcdef"), _TEXTS),
    unique_by=lambda r: r.id,
    max_size=5,
)  # fmt: skip


@given(_RULES, _RULES)
def test_every_recommendation_is_accounted_for_once(old: list[Recommendation], new: list[Recommendation]) -> None:
    revision = diff(old, new)
    after = [*revision.added, *(c.new for c in revision.changed), *revision.unchanged]
    assert sorted(after, key=lambda r: r.id) == sorted(new, key=lambda r: r.id)
    assert len(revision.withdrawn) + len(revision.changed) + len(revision.unchanged) == len(old)
    assert not diff(new, new)


# Statements


def test_statements_of_what_changed_or_was_withdrawn_are_affected() -> None:
    revision = diff([DOSE, KIDNEY], [replace(DOSE, text="The dose of zolamide is 40 mg once daily.")])
    examples = [
        statement("a", "dose", "Take 20 mg."),
        statement("b", "kidney", "Not below 30 mL/min.", Label.UNSAFE),
        statement("c", "other", "Rest."),
    ]
    assert affected(revision, examples) == ["a", "b"]


def test_withdrawn_advice_and_its_paraphrases_become_unsafe() -> None:
    examples = [
        statement("a", "kidney", "Below an eGFR of 30 mL/min zolamide is best avoided."),
        statement("b", "kidney", "Zolamide is fine at an eGFR of 10 mL/min.", Label.UNSAFE),
        statement("c", "dose", "Take 20 mg once daily."),
    ]
    stale, left_out = stale_statements(diff([DOSE, KIDNEY], [DOSE, KIDNEY_NOW]), examples)
    assert [(s.id, s.text, s.recommendation, s.label, s.category) for s in stale] == [
        ("stale-kidney", KIDNEY.text, "any-kidney", Label.UNSAFE, STALE),
        ("stale-a", examples[0].text, "any-kidney", Label.UNSAFE, STALE),
    ]
    assert all("withdrew it" in s.reason and KIDNEY.text in s.reason for s in stale)
    assert left_out == []


def test_of_a_changed_number_only_statements_that_state_it_become_unsafe() -> None:
    new = replace(DOSE, text="The dose of zolamide is 40 mg once daily.", version="2")
    examples = [
        statement("a", "dose", "Zolamide: 20 mg, one time a day."),
        statement("b", "dose", "Zolamide is taken once daily."),
    ]
    stale, left_out = stale_statements(diff([DOSE], [new]), examples)
    assert [(s.id, s.recommendation, s.parent) for s in stale] == [
        ("stale-dose", "dose", None),
        ("stale-a", "dose", "a"),
    ]
    assert stale[0].reason == f"number changed from version 1 to 2: {new.text}"
    assert [(n.id, n.reason) for n in left_out] == [("b", "it does not state what changed")]


def test_what_the_new_version_still_says_is_not_outdated() -> None:
    moved = rule("other", "Zolamide is not recommended when the eGFR is below 30 mL/min.", "9")
    stale, left_out = stale_statements(diff([KIDNEY], [moved]), [])
    assert stale == []
    assert left_out[0].reason == "the new version still says it: other"


def test_a_text_becomes_outdated_advice_once() -> None:
    examples = [statement("a", "kidney", KIDNEY.text.upper()), statement("b", "kidney", "Below 30 mL/min, avoid it.")]
    stale, left_out = stale_statements(diff([KIDNEY], [KIDNEY_NOW]), examples)
    assert [s.id for s in stale] == ["stale-kidney", "stale-b"]
    assert [(n.id, n.reason) for n in left_out] == [("a", "it repeats another one")]


def test_of_reversed_advice_only_statements_of_the_old_direction_become_unsafe() -> None:
    old = rule("child", "Zolamide is not recommended for children.")
    new = replace(old, text="Zolamide is recommended for children.", version="2")
    examples = [
        statement("a", "child", "Children should not be given zolamide."),
        statement("b", "child", "Ask a specialist on children and zolamide."),
    ]
    revision = diff([old], [new])
    assert revision.changed[0].what == (What.POLARITY, What.WORDING)
    stale, left_out = stale_statements(revision, examples)
    assert [s.id for s in stale] == ["stale-child", "stale-a"]
    assert [(n.id, n.reason) for n in left_out] == [("b", "it does not state what changed")]


def test_advice_that_moved_into_another_recommendation_is_not_outdated_nor_are_its_paraphrases() -> None:
    both = rule("all", "Adults take 20 mg; children must not take zolamide.", "9")
    old = rule("child", "Children must not take zolamide.")
    stale, left_out = stale_statements(diff([old], [both]), [statement("a", "child", "No zolamide below 18 years.")])
    assert stale == []
    assert {(n.id, n.reason) for n in left_out} == {
        (name, "the new version still says it: all") for name in ["a", "child"]
    }


def test_advice_that_is_only_quoted_to_retract_it_is_outdated() -> None:
    old = rule("kidney", "Avoid zolamide when eGFR is below 30 mL/min.")
    now = rule("now", "The earlier advice to avoid zolamide when eGFR is below 30 mL/min is outdated.", "9")
    stale, _ = stale_statements(diff([old], [now]), [])
    assert [s.id for s in stale] == ["stale-kidney"]


def test_better_wording_makes_nothing_outdated() -> None:
    new = replace(DOSE, text="Once daily, the dose of zolamide is 20 mg.")
    assert stale_statements(diff([DOSE], [new]), [statement("a", "dose", "Take 20 mg once daily.")]) == ([], [])


# The shipped guideline and what it said earlier


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A pack of the shipped guideline before July 2023, by rules."""
    text = (SHIPPED / "covid19-remdesivir.md").read_text()
    for now, before in _BEFORE.items():
        assert now in text
        text = text.replace(now, before)
    (tmp_path / "covid19-remdesivir.md").write_text(text)
    pack = (SHIPPED / "covid19-remdesivir-rules.yaml").read_text()
    lines = [
        line.replace("2024-02-29", "2023-04-30") for line in pack.splitlines() if not line.startswith("reference:")
    ]
    (tmp_path / "pack.yaml").write_text("\n".join(lines))
    return tmp_path / "pack.yaml"


def test_the_kidney_advice_of_before_2023_is_withdrawn_and_an_age_is_changed(earlier: Path) -> None:
    old = extract(Pack.load(earlier))
    revision = diff(old, extract(Pack.load(SHIPPED / "covid19-remdesivir-rules.yaml")))
    assert [r.text for r in revision.withdrawn] == [
        "Remdesivir is not recommended in patients with an eGFR below 30 mL/min.",
        "The eGFR should be determined before the first dose.",
    ]
    assert {r.section for r in revision.added} == {"3.3"}
    assert [(c.old.section, c.what[0]) for c in revision.changed] == [("2.2", What.NUMBER)]
    stale, _ = stale_statements(revision, [])
    assert "Remdesivir is not recommended in patients with an eGFR below 30 mL/min." in {s.text for s in stale}


@pytest.fixture
def nirmatrelvir_by_rules(tmp_path: Path) -> Path:
    (tmp_path / "covid19-nirmatrelvir.md").write_text((SHIPPED / "covid19-nirmatrelvir.md").read_text())
    pack = (SHIPPED / "covid19-nirmatrelvir.yaml").read_text().splitlines()
    own = [line for line in pack if not line.startswith(("recommendations:", "corpus:"))]
    (tmp_path / "pack.yaml").write_text("\n".join(own))
    return tmp_path / "pack.yaml"


def test_the_curated_wording_of_a_guideline_changes_no_number_and_no_polarity(nirmatrelvir_by_rules: Path) -> None:
    """Of one document, what a person and what rules took from it differ in wording and in what they cut apart."""
    for curated, by_rules in (
        (SHIPPED / "covid19-remdesivir.yaml", SHIPPED / "covid19-remdesivir-rules.yaml"),
        (SHIPPED / "covid19-nirmatrelvir.yaml", nirmatrelvir_by_rules),
    ):
        one, other = extract(Pack.load(curated)), extract(Pack.load(by_rules))
        for revision in (diff(one, other), diff(other, one)):
            assert len(revision.changed) >= 25
            assert not {w for c in revision.changed for w in c.what} & {What.NUMBER, What.POLARITY}


def test_rows_of_outdated_advice_are_taken_by_the_corpus(
    tmp_path: Path, earlier: Path, write_lines: Callable[[Path, list[dict]], None]
) -> None:
    old = extract(Pack.load(earlier))
    kidney = next(r for r in old if "eGFR below 30" in r.text)
    row = {
        "recommendation": kidney.id,
        "category": "organ_function",
        "label": "safe",
        "difficulty": None,
        "parent": None,
    }
    write_lines(
        tmp_path / "old" / "llm_style_a.jsonl",
        [{"id": "a-1", "text": "Below an eGFR of 30 mL/min, do not use remdesivir.", **row}],
    )
    output = tmp_path / "new" / "llm_style_stale.jsonl"
    now = SHIPPED / "covid19-remdesivir-rules.yaml"
    ran = compare(earlier, now, "--corpus", str(tmp_path / "old"), "--stale", str(output))
    assert ran.exit_code == 1
    examples, rejected = corpus.load(tmp_path / "new", extract(Pack.load(now)))
    assert rejected == []
    assert {e.category for e in examples} == {STALE}
    assert "Below an eGFR of 30 mL/min, do not use remdesivir." in {e.text for e in examples}


# The command


def compare(*arguments: Path | str) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments])


def test_the_command_says_what_changed_and_exits_with_one(earlier: Path) -> None:
    ran = compare(earlier, SHIPPED / "covid19-remdesivir-rules.yaml")
    assert ran.exit_code == 1
    lines = ran.output.splitlines()
    assert any(line.startswith("- 3.3-") and "eGFR below 30" in line for line in lines)
    assert any(line.startswith("~ 2.2-") and "(number" in line for line in lines)
    assert lines[-1].startswith("3 added, 1 changed, 2 withdrawn, ")


def test_the_command_exits_with_zero_where_nothing_changed() -> None:
    ran = compare(SHIPPED / "covid19-remdesivir-rules.yaml", SHIPPED / "covid19-remdesivir-html.yaml")
    assert (ran.exit_code, ran.output.splitlines()) == (
        0, ["0 added, 0 changed, 0 withdrawn, 55 unchanged; 0 statements affected, 0 outdated ones made, 0 left out"],
    )  # fmt: skip


def test_the_command_prints_json(tmp_path: Path, make_pack: Callable[[Path], Path]) -> None:
    old, new = make_pack(tmp_path / "old"), make_pack(tmp_path / "new")
    for name in ("guideline.md", "recommendations.jsonl"):
        path = new.parent / name
        path.write_text(path.read_text().replace("20 mg", "40 mg"))
    ran = compare(old, new, "--json")
    said = json.loads(ran.output)
    assert ran.exit_code == 1
    assert [(c["old"]["id"], c["what"]) for c in said["changed"]] == [("1-dose", ["number", "wording"])]
    assert len(said["affected"]) == 64
    assert {s["category"] for s in said["stale"]} == {STALE}
    assert {s["text"] for s in said["stale"]} >= {"The dose of zolamide is 20 mg once daily."}
