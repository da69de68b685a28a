"""Measures of whole answers by hand, the table of quality, and a package with a verifier through the whole stage."""

import asyncio
import io
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import f1_score, roc_auc_score

from monitor.package import ModelPackage
from monitor.types import Verdict
from tests.benchmarks.leave_one_style_out import alignment_rows, product_settings, rows_of, served_fold
from trainer import evaluate
from trainer.artifacts import RunFolder
from trainer.errors import StageMissing
from trainer.evaluation import messages, quality
from trainer.evaluation.measures import Counts
from trainer.evaluation.messages import MessageOutcome, length, measure_messages, merged, overlap
from trainer.evaluation.modelcard import CARD
from trainer.evaluation.models import COMBINED, CONTRASTIVE, FROZEN, FROZEN_BINARY, TESTS, served_of
from trainer.evaluation.quality import COLUMNS, INFORMED, VERIFIER, Model, row_of
from trainer.evaluation.stage import ServedModel, load_judged, load_metrics
from trainer.pipeline import STAGES, Pipeline
from trainer.settings import EvaluationSettings, Precision, VerifierSettings
from trainer.statements.corpus import load_answers, load_split
from trainer.types import Difficulty, Example, Label, Split

SETTINGS = EvaluationSettings(bootstrap=30, seed=3)
MODELS = [FROZEN_BINARY, FROZEN, CONTRASTIVE, VERIFIER, INFORMED, COMBINED]
INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


def once(outcomes: Sequence[MessageOutcome]) -> Counts:
    return np.ones((1, len(outcomes)), dtype=np.uint16)


# Spans and flags


@settings(deadline=None)
@given(first=INTERVALS, second=INTERVALS)
def test_overlap_and_length_count_characters_once(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    a, b = ({c for start, end in own for c in range(start, end)} for own in (first, second))
    assert (length(first), length(second), overlap(first, second)) == (len(a), len(b), len(a & b))
    assert all(x[1] < y[0] for x, y in zip(merged(first), merged(first)[1:], strict=False))


OUTCOMES = [
    # 10 of 20 flagged characters are marked; one of two spans is found, one of two flags is right
    MessageOutcome("unsafe", Verdict.UNSAFE, spans=((5, 15), (40, 50)), flags=((0, 15), (20, 25))),
    MessageOutcome("unsafe", Verdict.REVIEW, spans=((0, 10),)),
    MessageOutcome("safe", Verdict.UNSAFE, flags=((0, 10),)),
    MessageOutcome("safe", Verdict.SAFE),
    MessageOutcome("out_of_scope", Verdict.UNSAFE, flags=((0, 10),)),
    MessageOutcome("out_of_scope", Verdict.ABSTAIN),
]


def test_measures_of_whole_answers_by_hand() -> None:
    found = {name: (own.value, n) for name, (own, n) in measure_messages(OUTCOMES, SETTINGS).items()}
    assert found == {
        "message F1": (0.4, 6),  # one of two found, one of three flagged is right
        "message F1, in scope": (0.5, 4),
        "character F1": (round(2 * 10 / (40 + 30), 4), 6),
        "spans found": (0.3333, 6),
        "flags on a span": (0.25, 6),
        "span F1": (round(2 * (1 / 3) * 0.25 / (1 / 3 + 0.25), 4), 6),
        "safe answers flagged": (0.5, 2),
        "abstained": (0.1667, 6),
    }


@given(
    st.lists(st.tuples(st.sampled_from(["unsafe", "safe", "out_of_scope"]), st.sampled_from(list(Verdict))), min_size=1)
)
def test_message_f1_is_scikit_learns(given_: list[tuple[str, Verdict]]) -> None:
    outcomes = [MessageOutcome(label, verdict) for label, verdict in given_]
    (own,) = messages.message_f1(outcomes, once(outcomes))
    truth, flagged = [o.label == "unsafe" for o in outcomes], [o.verdict is Verdict.UNSAFE for o in outcomes]
    assert math.isnan(own) if not any(truth) else own == pytest.approx(f1_score(truth, flagged))


def test_answers_drawn_twice_count_twice() -> None:
    counts = np.array([[2, 0, 1, 0, 0, 0]], dtype=np.uint16)
    assert messages.message_f1(OUTCOMES, counts) == pytest.approx(0.8)
    assert messages.span_f1(OUTCOMES, counts) == pytest.approx(2 * 0.5 * 0.4 / 0.9)


def test_a_model_that_flags_nothing_has_no_span_f1_but_zero() -> None:
    silent = [MessageOutcome("unsafe", Verdict.SAFE, spans=((0, 4),))]
    assert messages.span_f1(silent, once(silent)).tolist() == [0.0]
    assert messages.character_f1(silent, once(silent)).tolist() == [0.0]
    assert np.isnan(messages.flags_on_span(silent, once(silent))).all()


def test_what_is_not_defined_is_left_out() -> None:
    assert measure_messages([], SETTINGS) == {}
    only_safe = measure_messages([MessageOutcome("safe", Verdict.SAFE)], SETTINGS)
    assert {name: own.value for name, (own, _) in only_safe.items()} == {"safe answers flagged": 0.0, "abstained": 0.0}


# The table


def example(i: int, difficulty: Difficulty | None, rule: str = "r1") -> Example:
    label = Label.UNSAFE if difficulty else Label.SAFE
    return Example(f"e-{i}", f"text {i}", label, rule, "dose", difficulty, f"f{i // 2}", "a")


EXAMPLES = [
    example(i, difficulty)
    for i, difficulty in enumerate([None, Difficulty.EASY, None, Difficulty.HARD, None, Difficulty.MEDIUM])
]
P = np.array([0.1, 0.9, 0.6, 0.4, 0.2, 0.8])


def test_a_line_holds_each_column_and_leaves_empty_what_does_not_apply() -> None:
    row = row_of(Model("m", dict.fromkeys(TESTS, P)), dict.fromkeys(TESTS, EXAMPLES), SETTINGS)
    unsafe = [e.label is Label.UNSAFE for e in EXAMPLES]
    assert row["F1"] == pytest.approx(f1_score(unsafe, P >= 0.5), abs=1e-4)
    assert row["AUC"] == pytest.approx(roc_auc_score(unsafe, P), abs=1e-4)
    assert row["F1 low"] <= row["F1"] <= row["F1 high"]
    assert (row["easy AUC"], row["medium AUC"], row["hard AUC"]) == (1.0, 1.0, pytest.approx(2 / 3, abs=1e-4))
    assert row["heard: hard AUC"] == row["hard AUC"]
    assert {c.name for c in COLUMNS} <= row.keys()
    empty = {c.name for c in COLUMNS if row[c.name] is None}
    assert empty >= {"alignment top-1", "message F1", "statements per second", "out of scope flagged"}
    json.dumps(row, allow_nan=False)


def test_shares_of_a_line_by_hand() -> None:
    model = Model(
        "m",
        dict.fromkeys(TESTS, P),
        aligned=[["r1", "r2"]] * 3 + [["r2", "r1"]] * 2 + [["r2", "r3", "r4", "r1"]],
        evidence=["r1"] * 5 + ["r2"],
        verdicts=[Verdict.SAFE, Verdict.UNSAFE, Verdict.REVIEW, Verdict.REVIEW, Verdict.SAFE, Verdict.UNSAFE],
        outside=[Verdict.OUT_OF_SCOPE, Verdict.UNSAFE, Verdict.REVIEW, Verdict.SAFE],
        outcomes=OUTCOMES,
        speed=123.456,
        threads=2,
        read=0.5,
    )
    row = row_of(model, dict.fromkeys(TESTS, EXAMPLES), SETTINGS)
    assert {k: row[k] for k in ("alignment top-1", "alignment top-3", "evidence top-1", "in review")} == {
        "alignment top-1": 0.5, "alignment top-3": 0.8333, "evidence top-1": 0.8333, "in review": 0.3333,
    }  # fmt: skip
    assert (row["out of scope flagged"], row["message F1"], row["answers"]) == (0.25, 0.4, 6)
    assert (row["statements per second"], row["threads"], row["read by the verifier"]) == (123.5, 2, 0.5)


def test_splits_without_statements_leave_their_columns_empty() -> None:
    row = row_of(Model("m", dict.fromkeys(TESTS, np.zeros(0))), {part: [] for part in TESTS}, SETTINGS)
    assert all(row[c.name] is None for c in COLUMNS)
    assert quality.terminal([row]) == []


def test_only_the_answers_of_the_reported_file_count(tmp_path: Path) -> None:
    (tmp_path / "messages.jsonl").write_text('{"id": "b"}\n')
    answers = [{"id": "a"}, {"id": "b"}]
    assert quality.reported_answers(tmp_path, answers) == [1]
    assert quality.reported_answers(tmp_path / "none", answers) == [0, 1]


# A package with a verifier, through the whole stage


@pytest.fixture(scope="module")
def verified(toy_run: SimpleNamespace, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The toy run with a random verifier: `folder`, `settings`."""
    folder = RunFolder(Path(shutil.copytree(toy_run.folder.root, tmp_path_factory.mktemp("verified") / "run")))
    settings = replace(
        toy_run.settings, verifier=VerifierSettings(base=str(tiny_bert), epochs=0, general=0.0, max_length=96)
    )
    Pipeline(folder, toy_run.pack, settings).run(STAGES, Console(file=io.StringIO()))
    return SimpleNamespace(folder=folder, settings=settings, pack=toy_run.pack)


def call(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(evaluate.command, arguments)


def test_both_paths_are_measured_and_combined_is_the_served_one(verified: SimpleNamespace) -> None:
    rows = load_metrics(verified.folder)
    measured = [FROZEN_BINARY, FROZEN, CONTRASTIVE, COMBINED]
    for suite in ("statements", "twins", "perturbation"):
        assert list(dict.fromkeys(r.model for r in rows if r.suite == suite)) == measured, suite
    for suite in ("policy", "alignment", "out of scope", "messages"):
        assert {r.model for r in rows if r.suite == suite} == {COMBINED}, suite
    assert {r.model for r in rows if r.suite == "difference"} == {f"{COMBINED} minus {m}" for m in measured[:-1]}
    manifest = ModelPackage.load(verified.folder.package).manifest
    f1 = {r.split: r.value for r in rows
          if (r.suite, r.model, r.stratum, r.metric) == ("statements", COMBINED, "all", "F1")}  # fmt: skip
    assert {s.suite: s.f1 for s in manifest.evaluation} == {f"statements/{split}": v for split, v in f1.items()}
    assert all(served_of(j.p) == COMBINED for j in load_judged(verified.folder))


def test_the_figures_are_those_of_the_monitors_own_assessment(verified: SimpleNamespace) -> None:
    judged = [j for j in load_judged(verified.folder) if j.split is Split.TEST_OOD]
    texts = [j.example.text for j in judged]

    async def score(path: str) -> list[Any]:
        served = ServedModel(ModelPackage.load(verified.folder.package))
        try:
            return await served.score(texts, path)
        finally:
            await served.close()

    for path in (CONTRASTIVE, COMBINED):
        found = asyncio.run(score(path))
        assert [s.p_unsafe for s in found] == pytest.approx([j.p[path] for j in judged], abs=2e-4)
    assert [s.recommendation for s in found] == [j.recommendation for j in judged]


async def test_each_text_is_encoded_and_each_pair_read_once(
    verified: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ServedModel(ModelPackage.load(verified.folder.package))
    scorer, verifier = served._raw
    texts: list[str] = []
    pairs: list[tuple[str, str]] = []

    class Counted:
        async def score(self, own: Sequence[str]) -> Any:
            texts.extend(own)
            return await scorer.score(own)

        async def verify(self, own: Sequence[tuple[str, str]]) -> Any:
            assert verifier is not None
            pairs.extend(own)
            return await verifier.verify(own)

    monkeypatch.setattr(served._scorer, "_scorer", Counted())
    monkeypatch.setattr(served._verifier, "_verifier", Counted())
    own = [e.text for e in load_split(verified.folder)[Split.TEST_OOD]]
    answers = load_answers(verified.pack.corpus)
    for path in served.paths:
        await served.score([*own, own[0]], path)
        await served.judge(answers, path)
    read = await served.candidates(own)
    assert len(read.candidates) == len(own)
    assert len(texts) == len(set(texts))
    assert len(pairs) == len(set(pairs))
    assert pairs
    await scorer.close()
    assert verifier is not None
    await verifier.close()


async def test_without_a_verifier_there_is_one_path(toy_run: SimpleNamespace) -> None:
    served = ServedModel(ModelPackage.load(toy_run.folder.package))
    assert (served.paths, served.served) == ([CONTRASTIVE], CONTRASTIVE)
    with pytest.raises(ValueError, match="no verifier"):
        await served.candidates(["text"])
    with pytest.raises(ValueError, match="no verifier"):
        await served.contradiction([("1-dose", "text")])
    assert await served.share_read(["text"]) is None
    assert await served.speed([], CONTRASTIVE) is None
    await served.close()


def test_the_table_goes_from_the_frozen_encoder_to_what_is_served(
    verified: SimpleNamespace, toy_run: SimpleNamespace
) -> None:
    rows = {row["model"]: row for row in quality.load(verified.folder)}
    assert list(rows) == MODELS
    assert [row["model"] for row in quality.load(toy_run.folder)] == MODELS[:3]
    metrics = {(r.model, r.split, r.stratum, r.metric): r.value
               for r in load_metrics(verified.folder) if r.suite == "statements"}  # fmt: skip
    for model in (FROZEN_BINARY, FROZEN, CONTRASTIVE, COMBINED):
        for prefix, split in (("", "test_ood"), ("heard: ", "test_id")):
            assert rows[model][f"{prefix}F1"] == metrics[model, split, "all", "F1"]
            assert rows[model][f"{prefix}AUC"] == metrics[model, split, "all", "AUC"]
            assert rows[model][f"{prefix}hard AUC"] == metrics[model, split, "hard", "AUC"]
    assert rows[COMBINED]["statements per second"] > 0
    assert 0 <= rows[COMBINED]["read by the verifier"] <= 1
    assert rows[VERIFIER]["evidence top-1"] is not None
    assert rows[INFORMED]["AUC"] is not None
    assert rows[INFORMED]["message F1"] is None
    assert rows[COMBINED]["answers"] == 3


def test_report_and_card_speak_of_the_combined_model(verified: SimpleNamespace) -> None:
    page = (verified.folder.evaluation / "report.html").read_text()
    assert "Frozen against combined" in page
    assert "the combined model reaches" in page
    assert "wrong verdicts of the combined model" in page
    card = (verified.folder.package / CARD).read_text()
    manifest = ModelPackage.load(verified.folder.package).manifest
    assert manifest.combination is not None
    assert "| encoder alone |" in card
    assert f"| unsafe | {manifest.combination.thresholds.unsafe} |" in card
    assert "GUARDLINE_VERIFY=false" in card
    assert "None" not in card


def test_a_measured_run_with_a_verifier_is_current(verified: SimpleNamespace) -> None:
    """The summary that evaluate writes into the manifest changes nothing that evaluate depends on."""
    said = io.StringIO()
    Pipeline(verified.folder, verified.pack, verified.settings).run(STAGES, Console(file=said))
    assert said.getvalue().count("is current") == len(STAGES)


def test_the_command_prints_the_table_and_keeps_the_rows(
    verified: SimpleNamespace, toy_run: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(verified.folder.root)
    printed = call("--run", run, "--suite", "quality")
    assert printed.exit_code == 0, printed.output
    for name in (*MODELS, "Statements in voices never heard", "Whole answers", "statements/s"):
        assert name in printed.stdout
    kept = json.loads((tmp_path / "build" / "results" / "quality.json").read_text())
    assert kept.keys() == {"name", "commit", "machine", "rows"}
    assert json.loads(call("--run", run, "--suite", "quality", "--json").stdout) == kept["rows"]
    both = call("--run", run, "--suite", "quality", "--compare", str(toy_run.folder.root), "--json")
    named = [row["model"] for row in json.loads(both.stdout)]
    base = verified.settings.verifier.base
    assert named == [f"{m} ({base})" for m in (*MODELS, *MODELS[:3])]


def test_the_command_refuses_what_does_not_go_together_and_names_what_is_missing(
    tmp_path: Path, toy_run: SimpleNamespace
) -> None:
    refused = call("--suite", "quality", "--export-reviews", "3", "--output", str(tmp_path / "x.csv"))
    assert refused.exit_code == 2
    missing = call("--run", str(tmp_path), "--suite", "quality")
    assert isinstance(missing.exception, StageMissing)
    assert "--again" in str(missing.exception)


# Leave one style out, with the verifier


def test_a_fold_of_the_product_is_trained_and_scored(verified: SimpleNamespace, tmp_path: Path) -> None:
    root = Path(shutil.copytree(verified.folder.root, tmp_path / "fold"))  # its stages are current
    content = json.loads(json.dumps(served_fold(verified.settings, verified.pack, root, Console(file=io.StringIO()))))
    judged = {j.example.id: j.p for j in load_judged(verified.folder) if j.split is Split.TEST_OOD}
    assert content["ids"] == list(judged)
    assert content[COMBINED] == pytest.approx([p[COMBINED] for p in judged.values()], abs=2e-4)
    by_id = {e.id: e for own in load_split(verified.folder).values() for e in own}
    p = {(name, "served"): dict(zip(content["ids"], content[name], strict=True)) for name in (CONTRASTIVE, COMBINED)}
    rows = rows_of(p, by_id, ["g", "l"])
    assert [(r["method"], r["style"]) for r in rows] == [
        *((m, s) for m in (CONTRASTIVE, COMBINED) for s in ("all", "g", "l")), (f"{COMBINED} - {CONTRASTIVE}", "all"),
    ]  # fmt: skip
    fold, every = alignment_rows({"gl": content})
    assert {**fold, "styles held out": "all"} == every
    assert 0 <= float(str(every["alignment top-1"])) <= float(str(every["alignment top-3"])) <= 1


def test_the_product_holds_out_the_styles_of_the_fold() -> None:
    settings = product_settings(("a", "b"), 1, "x/y")
    assert settings.corpus.split.held_out_styles == ("a", "b")
    assert settings.verifier is not None
    assert (settings.verifier.base, settings.verifier.epochs, settings.encoder.epochs) == ("x/y", 1, 1)
    assert settings.export.precision is Precision.INT8
