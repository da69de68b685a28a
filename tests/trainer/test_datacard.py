"""The data card says what the run found, and what it did not do."""

from trainer.artifacts import RunFolder
from trainer.llm.port import Status
from trainer.statements.corpus import Rejected
from trainer.statements.datacard import Provenance, render_datacard, write_datacard
from trainer.statements.judge import Judgement, JudgeOutcome, Relation
from trainer.statements.leakage import LeakageSettings
from trainer.statements.verification import CheckSettings, run_checks
from trainer.types import Difficulty, Example, Label, Recommendation, Split

RULES = [Recommendation(f"r{i}", "1", "", "Give 2 mg.", "g.md", "1", "Give 2 mg.", 0, 10) for i in range(6)]
ABOUT = Provenance("Zolamide for flu", "flu", "zolamide", ("A digest, version 3",), written_by={"a": "openai, gpt-x"})


def _rows():
    rows = [Example("n", "Nice weather.", Label.OUT_OF_SCOPE, None, None, None, "n", "b")]
    for r in range(5):
        for i, place in enumerate(("ward", "clinic")):
            parent = f"s{r}{i}"
            rows.append(Example(parent, f"{place} {r}: 2 mg", Label.SAFE, f"r{r}", "dose", None, parent, "a"))
            rows.append(
                Example(f"u{r}{i}", f"{place} {r}: 4 mg", Label.UNSAFE, f"r{r}", "dose", Difficulty.HARD, parent, "a")
            )
    return rows


def _outcome(**kwargs):
    return run_checks(_rows(), RULES, lambda rows: {Split.TRAIN: [e.id for e in rows if e.id != "s00"]}, **kwargs)


def test_the_card_counts_what_was_kept_by_writer_label_and_split():
    card = render_datacard(_outcome(), RULES, ABOUT)
    assert "21 statements about 6 recommendations" in card
    assert "| a | openai, gpt-x | 10 | 10 | 0 |" in card
    assert "| b | recorded completions | 0 | 0 | 1 |" in card
    assert "| hard | 10 | 100% |" in card
    assert "| train | 9 | 10 | 1 | a, b |" in card
    assert "| r1 | 2 | 2 |" in card
    assert "A digest, version 3" in card


def test_what_was_not_done_is_said():
    card = render_datacard(_outcome(), RULES, ABOUT)
    assert "No clinician has reviewed" in card
    assert "No judge model was asked" in card
    assert "not by embeddings" in card
    assert "No statement on 1 of 6 recommendations: r5." in card
    assert "1 statements share a text with a held-out style" in card


def test_reviewers_judge_and_rejections_are_named():
    judged = JudgeOutcome(
        "judge-x",
        (
            Judgement("s00", Label.SAFE, Status.OK, Relation.CONSISTENT, "same"),
            Judgement("u10", Label.UNSAFE, Status.OK, Relation.CONSISTENT, "same"),
        ),
    )
    reviewed = Provenance("T", "c", "t", reviewers="two clinicians, 20 statements, kappa 0.8")
    card = render_datacard(_outcome(judged=judged), RULES, reviewed)
    assert "Reviewed: two clinicians, 20 statements, kappa 0.8." in card
    assert "No clinician" not in card
    assert "Judge: judge-x" in card
    assert "| judge | 1 |" in card


def test_a_leak_is_a_warning_on_the_card():
    strict = CheckSettings(leakage=LeakageSettings(accuracy_limit=0.0))
    assert "**Warning: the label can be told without the guideline" in render_datacard(
        _outcome(settings=strict), RULES, ABOUT
    )


def test_the_card_lies_in_the_run_folder(tmp_path):
    path = write_datacard(RunFolder(tmp_path), _outcome(), RULES, ABOUT)
    assert path == tmp_path / "DATACARD.md"
    assert path.read_text().startswith("# Data card: Zolamide for flu\n")


def test_every_table_row_follows_its_table_without_a_blank_line():
    outcome = _outcome()
    outcome.rejected.append(Rejected("x", "f", "same-as-parent: x", "x"))
    lines = render_datacard(outcome, RULES, ABOUT).splitlines()
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if line.startswith("|") and not before:
            assert after.startswith("|---"), "a table without a head"
