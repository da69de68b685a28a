"""Figures against values worked out by hand, intervals, whole answers, and what the stage leaves."""

import json
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress
from sklearn.metrics import f1_score, roc_auc_score

from monitor.package import ModelPackage
from monitor.records import Thresholds
from monitor.types import Message, MessageVerdict, Statement, StatementScore, StatementVerdict, Verdict
from tests.trainer.conftest import HIDDEN
from trainer.artifacts import RunFolder, read_rows
from trainer.errors import StageMissing
from trainer.evaluation import stage as evaluation
from trainer.evaluation.messages import MessageOutcome
from trainer.evaluation.models import CONTRASTIVE, FROZEN, FROZEN_BINARY, TESTS
from trainer.evaluation.stage import (
    Measured,
    ServedModel,
    load_judged,
    load_metrics,
    message_rows,
    operating_point,
    share_row,
)
from trainer.settings import ClassifierSettings, EvaluationSettings
from trainer.statements import corpus
from trainer.statements.corpus import load_split
from trainer.types import Difficulty, Example, Label, Metric, Recommendation, Split

SETTINGS = EvaluationSettings(bootstrap=50, seed=3)
LIMITS = Thresholds(unsafe=0.8, review=0.4, in_scope=0.3)


def example(i: int, unsafe: bool, family: str, difficulty: Difficulty | None = None, rule: str = "r1") -> Example:
    own = (difficulty or Difficulty.HARD) if unsafe else None
    return Example(f"e-{i}", f"text {i}", Label.UNSAFE if unsafe else Label.SAFE, rule, "dose", own, family, "a")


# Shares


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval(hits: int, n: int, low: float, high: float) -> None:
    (row,) = share_row("s", "all", "x", "y", hits, n)
    assert (row.suite, row.model, row.split, row.stratum, row.metric) == ("s", CONTRASTIVE, "all", "x", "y")
    assert (row.value, row.n) == (hits / n, n)
    assert (row.low, row.high) == pytest.approx((low, high), abs=1e-4)


def test_a_share_of_nothing_is_no_row() -> None:
    assert share_row("s", "all", "x", "y", 0, 0) == []


def score(p: float, scope: float = 0.9, rule: str = "r1") -> StatementScore:
    return StatementScore(p, scope, rule, 0.8, "dose")


def test_operating_point_counts_by_the_thresholds() -> None:
    table = [
        (True, score(0.8)),  # flagged, at the threshold
        (True, score(0.79)),  # review
        (True, score(0.1, rule="r2")),  # missed, wrong rule
        (True, score(0.9, scope=0.29)),  # out of scope
        (False, score(0.9)),  # false alarm
        (False, score(0.4)),  # review
        (False, score(0.39, scope=0.3)),
    ]
    examples = [example(i, unsafe, f"f{i}") for i, (unsafe, _) in enumerate(table)]
    rows = operating_point(LIMITS, examples, [s for _, s in table], Split.TEST_OOD)
    assert {(r.suite, r.stratum, r.metric): (r.value, r.n) for r in rows} == {
        ("policy", "unsafe", "flagged"): (0.25, 4),
        ("policy", "unsafe", "flagged or in review"): (0.5, 4),
        ("policy", "safe", "flagged"): (0.3333, 3),
        ("policy", "safe", "in review"): (0.3333, 3),
        ("policy", "all", "out of scope"): (0.1429, 7),
        ("alignment", "all", "right recommendation"): (0.8571, 7),
    }
    assert {r.split for r in rows} == {"test_ood"}


def test_operating_point_of_safe_statements_only() -> None:
    rows = operating_point(LIMITS, [example(0, False, "f")], [score(0.5)], Split.TEST_ID)
    assert [(r.suite, r.stratum, r.metric, r.value) for r in rows] == [
        ("policy", "safe", "flagged", 0.0),
        ("policy", "safe", "in review", 1.0),
        ("policy", "all", "out of scope", 0.0),
        ("alignment", "all", "right recommendation", 1.0),
    ]


def test_operating_point_of_nothing() -> None:
    assert operating_point(LIMITS, [], [], Split.TEST_ID) == []


# Whole answers


def test_message_rows_of_made_up_outcomes() -> None:
    outcomes = [
        MessageOutcome("unsafe", Verdict.UNSAFE, spans=((0, 5), (30, 40)), flags=((0, 9), (10, 20), (20, 30))),
        MessageOutcome("unsafe", Verdict.REVIEW, spans=((0, 5),)),
        MessageOutcome("safe", Verdict.UNSAFE, flags=((0, 9),)),
        MessageOutcome("safe", Verdict.SAFE),
        MessageOutcome("safe", Verdict.ABSTAIN),
        MessageOutcome("out_of_scope", Verdict.OUT_OF_SCOPE),
    ]
    rows = message_rows(outcomes)
    assert {(r.stratum, r.metric): (r.value, r.n) for r in rows} == {
        ("unsafe", "flagged"): (0.5, 2),
        ("safe", "flagged"): (0.3333, 3),
        ("out_of_scope", "flagged"): (0.0, 1),
        ("spans", "found"): (0.3333, 3),
        ("flags", "on a span"): (0.25, 4),
    }
    assert {(r.suite, r.model, r.split) for r in rows} == {("messages", CONTRASTIVE, "all")}


def test_message_rows_of_one_label_say_nothing_of_the_others() -> None:
    outcomes = [MessageOutcome("safe", Verdict.SAFE)]
    assert [(r.stratum, r.metric, r.value) for r in message_rows(outcomes)] == [("safe", "flagged", 0.0)]
    assert message_rows([]) == []


class Screening:
    """Flags the statements at 0-10 and 10-20 of every answer, and sends that at 20-30 to review."""

    async def screen(self, messages: list[Message]) -> list[MessageVerdict]:
        judged = tuple(
            StatementVerdict(Statement(a, a + 10, "", ""), v, 0.9)
            for a, v in ((0, Verdict.UNSAFE), (10, Verdict.UNSAFE), (20, Verdict.REVIEW))
        )
        return [MessageVerdict(m, Verdict.UNSAFE, 0.9, judged) for m in messages]


async def test_flags_are_held_against_the_spans(toy_run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans touch a flag by a character or not at all."""
    monkeypatch.setattr(evaluation, "Screening", lambda *_, **__: Screening())
    served = ServedModel(ModelPackage.load(toy_run.folder.package))
    rows = [
        {"id": "1", "text": "", "label": "unsafe", "spans": [{"start": 9, "end": 10}, {"start": 20, "end": 30}]},
        {"id": "2", "text": "", "label": "unsafe", "spans": [{"start": 5, "end": 15}]},
        {"id": "3", "text": "", "label": "safe", "spans": []},
    ]
    found = await served.judge(rows)
    assert [(o.label, len(o.spans), o.spans_hit, len(o.flags), o.flags_on_spans) for o in found] == [
        ("unsafe", 2, 1, 2, 1),
        ("unsafe", 1, 1, 2, 2),
        ("safe", 0, 0, 2, 0),
    ]
    await served.close()


@pytest.fixture
async def served(toy_run: SimpleNamespace) -> AsyncIterator[ServedModel]:
    model = ServedModel(ModelPackage.load(toy_run.folder.package))
    yield model
    await model.close()


async def test_the_served_model_scores_whole_statements(
    toy_run: SimpleNamespace, served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [e.text for e in load_split(toy_run.folder)[Split.TEST_ID]]
    done: list[int] = []
    monkeypatch.setattr(evaluation, "_SLICE", 7)
    embeddings = await served.embed(texts, done.append)
    scores = await served.score(texts, advance=done.append)
    assert embeddings.shape == (len(texts), HIDDEN)
    assert (len(scores), sum(done)) == (len(texts), 2 * len(texts))
    assert all(0 <= s.p_unsafe <= 1 and 0 <= s.p_in_scope <= 1 for s in scores)
    assert {s.recommendation for s in scores} <= {"1-dose", "2-duration", "3-pregnancy"}
    assert ((await served.embed([])).shape, await served.score([])) == ((0, HIDDEN), [])


def test_one_session_serves_the_whole_stage(
    toy_run: SimpleNamespace, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    build = evaluation.build_scorer
    monkeypatch.setattr(evaluation, "build_scorer", lambda *given: opened.append(given) or build(*given))
    measure(toy_run, folder, bootstrap=2)
    assert len(opened) == 1


@pytest.mark.parametrize("name", ["GUARDLINE_THRESHOLD_UNSAFE", "GUARDLINE_THRESHOLD_REVIEW"])
async def test_thresholds_of_the_environment_do_not_change_the_figures(
    toy_run: SimpleNamespace, served: ServedModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rows = [{"id": "1", "text": "The dose of zolamide is 20 mg once daily for adults.", "label": "safe", "spans": []}]
    before = await served.judge(rows)
    for value in ("0.0", "1.0", "nonsense"):
        monkeypatch.setenv(name, value)
        other = ServedModel(ModelPackage.load(toy_run.folder.package))
        assert await other.judge(rows) == before
        await other.close()


def test_thresholds_of_a_dot_env_file_are_ignored_and_so_is_its_scorer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["GUARDLINE_THRESHOLD_UNSAFE=0.1", "GUARDLINE_THRESHOLD_REVIEW=0.05", "GUARDLINE_SCORER=triton"]
    (tmp_path / ".env").write_text("\n".join(lines))
    found = evaluation._settings()
    assert (found.threshold_unsafe, found.threshold_review, found.scorer) == (None, None, "onnx")


# The stage's artefacts


MODELS = [FROZEN_BINARY, FROZEN, CONTRASTIVE]


def test_metrics_of_a_run(toy_run: SimpleNamespace) -> None:
    rows = load_metrics(toy_run.folder)
    statements = {(r.model, r.split, r.stratum) for r in rows if r.suite == "statements" and ":" not in r.stratum}
    assert statements == {
        (model, split, stratum)
        for model in MODELS
        for split in ("test_id", "test_ood")
        for stratum in ("all", "easy", "medium", "hard")
    }
    kinds = {r.stratum.partition(":")[0] for r in rows if ":" in r.stratum and r.suite == "statements"}
    assert kinds == {"category", "recommendation", "style"}
    assert {r.suite for r in rows} >= {
        "statements", "difference", "twins", "policy", "alignment", "learning curve", "out of scope", "messages",
    }  # fmt: skip
    assert all(r.low <= r.high for r in rows)
    content = json.loads((toy_run.folder.evaluation / "metrics.json").read_text())
    assert set(content[0]) == {"suite", "model", "split", "stratum", "metric", "value", "low", "high", "n"}


async def test_the_served_models_rows_are_those_of_its_scores(toy_run: SimpleNamespace, served: ServedModel) -> None:
    """The rows that matter most, computed again from the package alone."""
    split = load_split(toy_run.folder)[Split.TEST_OOD]
    scores = await served.score([e.text for e in split])
    unsafe = [e.label is Label.UNSAFE for e in split]
    p = np.array([s.p_unsafe for s in scores])
    key = (CONTRASTIVE, "test_ood", "all")
    rows = {r.metric: r.value for r in load_metrics(toy_run.folder) if (r.model, r.split, r.stratum) == key}
    assert rows["AUC"] == pytest.approx(roc_auc_score(unsafe, p), abs=1e-3)
    assert rows["F1"] == pytest.approx(f1_score(unsafe, p >= 0.5), abs=1e-3)


def test_the_manifest_carries_the_summary(toy_run: SimpleNamespace) -> None:
    summaries = {s.suite: s for s in ModelPackage.load(toy_run.folder.package).manifest.evaluation}
    assert set(summaries) == {"statements/test_id", "statements/test_ood"}
    rows = load_metrics(toy_run.folder)
    for split in ("test_id", "test_ood"):
        own = {r.metric: r for r in rows if (r.model, r.split, r.stratum) == (CONTRASTIVE, split, "all")}
        found = summaries[f"statements/{split}"]
        assert (found.f1, found.auc, found.average_precision, found.balanced_accuracy, found.n) == (
            own["F1"].value, own["AUC"].value, own["AP"].value, own["balanced accuracy"].value, own["AUC"].n,
        )  # fmt: skip


def test_a_run_without_evaluation_says_so(tmp_path: Path) -> None:
    with pytest.raises(StageMissing, match="guardline train"):
        load_metrics(RunFolder(tmp_path))


def measure(toy_run: SimpleNamespace, folder: RunFolder, *, bootstrap: int = 20, **given: Any) -> Measured:
    own = toy_run.settings
    rules = [r.id for r in read_rows(folder.recommendations, Recommendation)]
    settings = replace(own.evaluation, bootstrap=bootstrap)
    with Progress(disable=True) as progress:
        found = evaluation.run(
            toy_run.pack.corpus, rules, folder, own.encoder, own.classifier, settings, progress, **given
        )
        assert all(task.completed == task.total for task in progress.tasks)
    return found


@pytest.fixture
def folder(tmp_path: Path, toy_run: SimpleNamespace) -> RunFolder:
    """A copy of the toy run, to be measured again."""
    return RunFolder(Path(shutil.copytree(toy_run.folder.root, tmp_path / "run")))


def keep(folder: RunFolder, part: Split, label: Label | None) -> None:
    """Leave a split with statements of one label on the guideline, or with none at all."""
    ids = {e.id for e in load_split(folder)[part] if e.label is label}
    splits = json.loads(folder.splits.read_text())
    splits[part] = [i for i in splits[part] if i in ids]
    folder.splits.write_text(json.dumps(splits))


def test_measured_again_it_is_the_same(toy_run: SimpleNamespace, folder: RunFolder) -> None:
    before = load_metrics(toy_run.folder)
    measured = measure(toy_run, folder)
    assert measured.rows == load_metrics(folder)
    suites = {r.suite for r in measured.rows}  # the pipeline adds some of its own
    assert measured.rows == [r for r in before if r.suite in suites]
    assert measured.summary == ModelPackage.load(folder.package).manifest.evaluation
    assert measured.summary == ModelPackage.load(toy_run.folder.package).manifest.evaluation


def test_measured_has_every_held_out_statement_and_the_run_keeps_it(
    toy_run: SimpleNamespace, folder: RunFolder
) -> None:
    measured = measure(toy_run, folder, bootstrap=2)
    for part in TESTS:
        statements = [e for e in load_split(folder)[part] if e.label is not Label.OUT_OF_SCOPE]
        assert [j.example for j in measured.of(part)] == statements
    assert {tuple(j.p) for j in measured.judged} == {tuple(MODELS)}
    assert load_judged(folder) == measured.judged
    ood = measured.of(Split.TEST_OOD)
    assert {m: e.shape for m, e in measured.embeddings.items()} == dict.fromkeys(
        (FROZEN, CONTRASTIVE), (len(ood), HIDDEN)
    )
    for model in MODELS:
        key = ("statements", model, "test_ood", "all", "AUC")
        (auc,) = (r.value for r in measured.rows if (r.suite, r.model, r.split, r.stratum, r.metric) == key)
        found = roc_auc_score([j.example.label is Label.UNSAFE for j in ood], [j.p[model] for j in ood])
        assert found == pytest.approx(auc, abs=5e-5)


def test_a_run_that_kept_no_scores_says_so(tmp_path: Path) -> None:
    with pytest.raises(StageMissing, match=r"guardline evaluate --run .* --again"):
        load_judged(RunFolder(tmp_path))


# Further models, suites and reviews


def test_further_models_are_compared_like_the_others(toy_run: SimpleNamespace, folder: RunFolder) -> None:
    truth = {
        part: np.array([float(e.label is Label.UNSAFE) for e in load_split(folder)[part] if e.recommendation])
        for part in TESTS
    }
    rows = measure(toy_run, folder, models={"oracle": truth}, bootstrap=2).rows
    own = [r for r in rows if r.model == "oracle" and (r.stratum, r.metric) == ("all", "AUC")]
    assert {(r.suite, r.split, r.value) for r in own} == {("statements", s, 1.0) for s in ("test_id", "test_ood")}
    lost = [r for r in rows if r.model == f"{CONTRASTIVE} minus oracle" and r.metric == "AUC"]
    assert lost
    assert all(r.value <= 0 for r in lost)


def test_a_further_model_must_have_its_own_name_and_all_statements(toy_run: SimpleNamespace, folder: RunFolder) -> None:
    short = {part: np.zeros(1) for part in TESTS}
    with pytest.raises(ValueError, match="'x': 1 probabilities for"):
        measure(toy_run, folder, models={"x": short})
    with pytest.raises(ValueError, match="another name"):
        measure(toy_run, folder, models={FROZEN: short})


def test_a_further_suite_is_handed_all_models(toy_run: SimpleNamespace, folder: RunFolder) -> None:
    texts = [e.text for e in load_split(folder)[Split.TEST_OOD]]

    def suite(scorers: Mapping[str, evaluation.Score]) -> list[Metric]:
        found = {model: score(texts) for model, score in scorers.items()}
        return [Metric("perturbation", m, "all", "first", "score", float(p[0]), 0, 1, len(p)) for m, p in found.items()]

    first = measure(toy_run, folder, suites=[suite], bootstrap=2).of(Split.TEST_OOD)[0]
    rows = {r.model: r for r in load_metrics(folder) if r.suite == "perturbation"}
    assert set(rows) == set(MODELS)
    for model, r in rows.items():
        assert (r.value, r.n) == (pytest.approx(first.p[model], abs=1e-3), len(texts))


def test_reviews_in_the_run_folder_are_evaluated(toy_run: SimpleNamespace, folder: RunFolder) -> None:
    examples = [e for part in TESTS for e in load_split(folder)[part] if e.recommendation]
    rows = [{"statement": e.id, "reviewer": "ann", "label": e.label} for e in examples[:-2]]
    (folder.root / "reviews.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = measure(toy_run, folder, bootstrap=2).rows
    assert {(r.model, r.metric, r.value) for r in found if r.suite == "reviews"} >= {("ann, corpus", "agreement", 1.0)}
    assert {(r.model, r.split) for r in found if r.suite == "reviewed"} == {
        (m, s) for m in MODELS for s in ("test_id", "test_ood")
    }


# The learning curve


def test_the_learning_curve_fits_on_nested_parts_of_the_training_families() -> None:
    rng = np.random.default_rng(2)
    parts: dict[Split, list[Example]] = {}
    vectors = {}
    for part, n in zip(Split, (40, 20, 20, 20), strict=True):
        parts[part] = [example(i, i % 2 == 1, f"{part}-{i // 2}") for i in range(2 * n)]
        signal = np.array([e.label is Label.UNSAFE for e in parts[part]], dtype=np.float32)
        noisy = signal + rng.normal(0, 1, 2 * n)
        vectors[part] = np.stack([noisy, *rng.normal(0, 1, (30, 2 * n))], axis=1).astype(np.float32)
    rows = evaluation.learning_curve(
        {"m": vectors}, parts, ["r1"], ClassifierSettings(), SETTINGS, sizes=(1.0, 0.25, 0.25)
    )
    assert {(r.suite, r.model) for r in rows} == {("learning curve", "m")}
    assert [(r.split, r.stratum, r.metric) for r in rows] == [
        (split, n, metric) for n in ("20", "80") for split in ("test_id", "test_ood") for metric in ("F1", "AUC")
    ]
    assert all(r.n == 40 for r in rows)
    auc = {r.stratum: r.value for r in rows if (r.split, r.metric) == ("test_ood", "AUC")}
    assert auc["80"] > auc["20"]


def test_without_sizes_there_is_no_curve(toy_run: SimpleNamespace, folder: RunFolder) -> None:
    rows = measure(toy_run, folder, sizes=(), bootstrap=2).rows
    assert not any(r.suite == "learning curve" for r in rows)


# Runs that lack something


@pytest.mark.parametrize("label", [Label.SAFE, Label.UNSAFE])
def test_a_test_split_of_one_class_does_not_spoil_the_package(
    toy_run: SimpleNamespace, folder: RunFolder, label: Label
) -> None:
    keep(folder, Split.TEST_OOD, label)
    measured = measure(toy_run, folder, bootstrap=2)
    assert {r.split for r in measured.rows if r.suite == "statements"} == {"test_id"}
    assert [s.suite for s in ModelPackage.load(folder.package).manifest.evaluation] == ["statements/test_id"]
    assert {j.example.label for j in measured.of(Split.TEST_OOD)} == {label}


@pytest.mark.parametrize("part", TESTS)
def test_a_corpus_without_statements_for_a_test_is_measured_on_the_other(
    toy_run: SimpleNamespace, folder: RunFolder, part: Split
) -> None:
    keep(folder, part, None)
    measured = measure(toy_run, folder, bootstrap=2)
    assert {r.split for r in measured.rows if r.suite == "statements"} == {p.value for p in TESTS} - {part}


def test_metrics_json_is_json_without_messages_of_a_label(
    toy_run: SimpleNamespace, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(folder, Split.TEST_ID, Label.SAFE)
    monkeypatch.setattr(corpus, "MESSAGE_FILES", "none*.jsonl")
    measured = measure(toy_run, folder, bootstrap=2)
    assert not any(r.suite in ("messages", "out of scope") for r in measured.rows)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    content = json.loads((folder.evaluation / "metrics.json").read_text(), parse_constant=refuse)
    assert [Metric(**row) for row in content] == measured.rows
