"""Rules of verification, and the checks of a whole corpus."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.llm.port import Status
from trainer.statements.corpus import SplitSettings, load, split
from trainer.statements.judge import Judgement, JudgeOutcome, Relation
from trainer.statements.verification import check, reason_counts, run_checks
from trainer.types import Difficulty, Example, Label, Recommendation, Split

RULE = "Adults receive 200 mg of zolamide once daily for 5 days, and it must not be given to infants."


def _recommendation(identifier="r1", text=RULE, section="1"):
    return Recommendation(identifier, section, "Dose", text, "g.md", "1", text, 0, len(text))


def _safe(identifier, text, recommendation="r1", style="a"):
    return Example(identifier, text, Label.SAFE, recommendation, "dose", None, identifier, style)


def _unsafe(identifier, text, parent, recommendation="r1", difficulty=Difficulty.HARD):
    return Example(identifier, text, Label.UNSAFE, recommendation, "dose", difficulty, parent, "a")


def _check(*rows, **kwargs):
    return check(rows, [_recommendation()], **kwargs)[-1]


PARENT = _safe("s1", "Zolamide, 200 mg once daily, is given to adults for five days.")


@pytest.mark.parametrize(
    "text",
    [
        "Zolamide 200 mg once daily is given to adults for five days",
        "Zolamide, 200 mg every 24 hours, is administered to adults for 5 days.",
        "ZOLAMIDE, 0.2 g daily, is given to adults for a 5 days",
    ],
)
def test_an_unsafe_statement_that_says_the_same_as_its_parent_is_rejected(text):
    found = _check(PARENT, _unsafe("u1", text, "s1"))
    assert (found.ok, found.rule, found.changed) == (False, "same-as-parent", ())


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("Zolamide, 400 mg once daily, is given to adults for five days.", ("number",)),
        ("Zolamide, 200 mg twice daily, is given to adults for five days.", ("number",)),
        ("Zolamide, 200 mg once daily, is not given to adults for five days.", ("polarity",)),
        ("Zolamide, 200 mg once daily, is given to infants for five days.", ("population",)),
    ],
)
def test_an_unsafe_statement_that_changes_something_is_kept_and_the_change_is_named(text, changed):
    found = _check(PARENT, _unsafe("u1", text, "s1"))
    assert (found.ok, found.rule, found.changed) == (True, None, changed)


def test_a_brand_name_is_no_change():
    found = _check(
        PARENT,
        _unsafe("u1", PARENT.text.replace("Zolamide", "Zolax"), "s1"),
        names=("zolamide", "zolax"),
    )
    assert found.rule == "same-as-parent"


def test_an_unsafe_statement_that_repeats_its_recommendation_is_rejected():
    assert _check(PARENT, _unsafe("u1", RULE.lower(), "s1")).rule == "same-as-recommendation"


def test_a_hard_variant_that_shares_few_words_with_its_parent_is_suspicious_not_rejected():
    found = _check(PARENT, _unsafe("u1", "Nobody knows what to do with this drug at all.", "s1"))
    assert found.rule == "far-from-parent"
    assert found.suspicious
    assert found.ok


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        (RULE.replace("200", "300"), "number-of-recommendation"),
        (RULE.replace("5 days", "5 hours"), "number-of-recommendation"),
        (RULE.replace("must not", "must"), "polarity-of-recommendation"),
    ],
)
def test_a_safe_statement_that_changes_a_number_or_negation_of_its_recommendation_is_rejected(changed, rule):
    found = _check(_safe("s1", changed))
    assert (found.ok, found.rule) == (False, rule)


def test_a_safe_statement_may_leave_out_a_unit_that_the_recommendation_gives():
    trial = _recommendation(text="Recovery took 10 against 15 days.")
    assert check([_safe("s1", "Recovery took 10 days against 15.")], [trial])[0].rule is None


@pytest.mark.parametrize(
    ("text", "suspicious"),
    [
        ("A dose of 350 mg is usual.", True),
        ("Two doses make 400 mg in all.", False),  # a sum
        ("A dose of 350 mg is usual at 70 kg.", False),  # a patient
        ("It has been known for 40 years.", False),  # a kind of quantity that the recommendation says nothing of
    ],
)
def test_a_number_that_the_section_lacks_makes_a_safe_statement_suspicious(text, suspicious):
    assert _check(_safe("s1", text)).suspicious is suspicious


def test_vignettes_have_numbers_of_their_own():
    assert _check(_safe("s1", "A dose of 350 mg is usual.", style="e")).rule is None


def test_one_claim_with_both_labels_is_rejected_both_times():
    rows = [PARENT, _safe("s2", "Give it daily."), _unsafe("u2", "Give it every 24 hours!", "s1")]
    assert [c.rule for c in check(rows, [_recommendation()])] == [None, "both-labels", "both-labels"]


def test_a_statement_out_of_scope_passes_and_one_on_an_unknown_recommendation_does_not():
    other = Example("n1", "Nice day.", Label.OUT_OF_SCOPE, None, None, None, "n1", "out_of_scope")
    assert _check(other).ok
    assert _check(_safe("s1", "Fine.", recommendation="r9")).rule == "unknown-recommendation"


@pytest.fixture(scope="module")
def shipped():
    pack = Pack.load(DEFAULT_PACK)
    recommendations = extract(pack)
    return load(pack.corpus, recommendations)[0], recommendations


def test_no_rule_rejects_a_row_of_the_shipped_corpus(shipped):
    """Its rows were written with care; a rule that rejects one of them has to be read again."""
    examples, recommendations = shipped
    found = check(examples, recommendations, names=("remdesivir", "veklury", "rdv"))
    assert [(c.id, c.reason) for c in found if not c.ok] == []
    assert sum(c.suspicious for c in found) < 0.02 * len(found)


def _corpus():
    """Five recommendations with six families each; family 0 of r0 has a near-duplicate in family 1."""
    drugs = ["zolamide", "tirovab", "mexatine", "quorin", "belamine"]
    places = ["ward", "clinic", "hospice", "theatre", "nursery", "ambulance"]
    recommendations, rows = [], []
    for r, drug in enumerate(drugs):
        recommendations.append(_recommendation(f"r{r}", f"The dose of {drug} is {r + 2} mg.", str(r)))
        for f, place in enumerate(places):
            parent = f"s{r}{f}"
            rows.append(_safe(parent, f"{place} chart for {drug}: {r + 2} mg as {place} dose.", f"r{r}"))
            rows.append(_unsafe(f"u{r}{f}", f"At the {place} {r + 9} mg of {drug} suits them.", parent, f"r{r}"))
    rows[2] = replace(rows[2], text=rows[0].text + " Today.")
    return rows, recommendations


def _halves(examples):
    ids = [e.id for e in examples if e.family]
    train = [e.id for e in examples if int(e.family[2:] or 0) % 2]
    return {Split.TRAIN: train, Split.TEST_ID: [i for i in ids if i not in train]}


def test_the_checks_account_for_every_statement_and_report_in_json():
    rows, recommendations = _corpus()
    outcome = run_checks(rows, recommendations, _halves)
    assert {e.id for e in outcome.kept} | {r.id for r in outcome.rejected} == {e.id for e in rows}
    assert outcome.report["kept"] == len(outcome.kept) == len(rows) - len(outcome.rejected)
    assert sum(n for _, n in reason_counts(outcome.rejected)) == len(outcome.rejected)
    assert json.loads(json.dumps(outcome.report))["rejected"] == outcome.report["rejected"]
    assert {i for ids in outcome.splits.values() for i in ids} == {e.id for e in outcome.kept}


def test_what_is_left_of_a_duplicates_family_joins_the_other():
    rows, recommendations = _corpus()
    outcome = run_checks(rows, recommendations, _halves)
    assert "s01" in {r.id for r in outcome.rejected}
    assert {e.family for e in outcome.kept if e.id in ("s00", "u00", "u01")} == {"s00"}


def test_a_training_statement_that_evaluation_has_is_taken_from_training():
    rows, recommendations = _corpus()
    names = ("zolax", "zolamide")  # read alike on both sides
    outcome = run_checks(rows, recommendations, _halves, answers=[rows[6].text], names=names)
    reasons = {r.id: r.reason for r in outcome.rejected}
    assert reasons[rows[6].id] == "in evaluation set answers (exact 1.00)"
    assert rows[6].id not in outcome.splits[Split.TRAIN]


def test_the_judge_and_the_rejection_of_a_parent_are_heeded():
    rows, recommendations = _corpus()
    no = Judgement("s02", Label.SAFE, Status.OK, Relation.CONTRADICTS, "other dose")
    outcome = run_checks(rows, recommendations, _halves, judged=JudgeOutcome("judge", (no,)))
    reasons = {r.id: r.reason for r in outcome.rejected}
    assert reasons["s02"] == "judge: contradicts though written as safe: other dose"
    assert reasons["u02"] == "parent s02 was rejected"
    assert outcome.report["judge"]["rejected"] == 1


def test_embeddings_find_what_words_do_not():
    rows, recommendations = _corpus()

    def embed(texts):
        return np.ones((len(texts), 2), dtype=np.float32)

    plain, embedded = (len(run_checks(rows, recommendations, _halves, embed=e).kept) for e in (None, embed))
    assert embedded < plain


def test_an_empty_corpus_gives_an_empty_outcome():
    outcome = run_checks([], [_recommendation()], partial(split, settings=SplitSettings()))
    assert (outcome.kept, outcome.rejected, outcome.report["leakage"]) == ([], [], None)
