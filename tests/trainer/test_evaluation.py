"""Figures against values worked out by hand, intervals, whole answers, and what the stage leaves."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.progress import Progress

from monitor.package import ModelPackage
from monitor.records import Thresholds
from monitor.types import Message, MessageVerdict, Statement, StatementScore, StatementVerdict, Verdict
from trainer import corpus, evaluation
from trainer.artifacts import RunFolder, read_rows
from trainer.corpus import load_split
from trainer.errors import StageMissing
from trainer.evaluation import (
    CONTRASTIVE,
    FROZEN,
    FROZEN_BINARY,
    METRICS,
    Measured,
    MessageOutcome,
    judge_messages,
    load_metrics,
    message_rows,
    operating_point,
    score_package,
    score_rows,
)
from trainer.settings import EvaluationSettings
from trainer.types import Difficulty, Example, Label, Metric, Recommendation, Split

SETTINGS = EvaluationSettings(bootstrap=50, seed=3)


def example(i: int, unsafe: bool, family: str, difficulty: Difficulty | None = None, rule: str = "r1") -> Example:
    own = (difficulty or Difficulty.HARD) if unsafe else None
    return Example(f"e-{i}", f"text {i}", Label.UNSAFE if unsafe else Label.SAFE, rule, "dose", own, family, "a")


def families(n: int = 30, seed: int = 1) -> tuple[list[Example], np.ndarray]:
    """A safe statement and one unsafe variant of each difficulty a family; the scores overlap."""
    rng = np.random.default_rng(seed)
    examples, p = [], []
    for f in range(n):
        for difficulty in (None, *Difficulty):
            examples.append(example(len(examples), difficulty is not None, f"f{f}", difficulty))
            p.append(rng.beta(2, 4) if difficulty is None else rng.beta(4, 2))
    return examples, np.array(p)


# Metrics

UNSAFE = np.array([True, True, True, False, False, False, False])
P = np.array([0.9, 0.6, 0.3, 0.7, 0.4, 0.2, 0.1])


def test_metrics_by_hand() -> None:
    # At one half: 2 of 3 unsafe are found, 1 of 4 safe is flagged.
    assert METRICS["F1"](UNSAFE, P) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert METRICS["balanced accuracy"](UNSAFE, P) == pytest.approx((2 / 3 + 3 / 4) / 2)
    pairs = [a > b for a in P[UNSAFE] for b in P[~UNSAFE]]
    assert METRICS["AUC"](UNSAFE, P) == pytest.approx(sum(pairs) / len(pairs))
    # Ranks of the unsafe ones: 1, 3, 5.
    assert METRICS["AP"](UNSAFE, P) == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)


def test_a_score_of_one_half_counts_as_unsafe() -> None:
    assert METRICS["F1"](np.array([True, False]), np.array([0.5, 0.4999])) == 1


def test_metrics_are_perfect_on_what_is_perfect() -> None:
    assert {METRICS[name](UNSAFE, UNSAFE.astype(float)) for name in METRICS} == {1.0}


# Rows with intervals


def test_every_stratum_holds_its_unsafe_statements_and_all_safe_ones() -> None:
    examples, p = families()
    rows = score_rows(examples, p, model="m", split=Split.TEST_ID, settings=SETTINGS)
    assert {(r.suite, r.model, r.split) for r in rows} == {("statements", "m", "test_id")}
    assert {(r.stratum, r.metric): r.n for r in rows} == {
        (stratum, metric): 120 if stratum == "all" else 60
        for stratum in ("all", "easy", "medium", "hard")
        for metric in METRICS
    }
    for r in rows:
        keep = [i for i, e in enumerate(examples) if r.stratum == "all" or e.difficulty in (None, r.stratum)]
        expected = METRICS[r.metric](np.array([examples[i].label is Label.UNSAFE for i in keep]), p[keep])
        assert r.value == pytest.approx(expected, abs=5e-5)


def test_intervals_enclose_the_value_and_are_no_points() -> None:
    for r in score_rows(*families(), model="m", split=Split.TEST_ID, settings=SETTINGS):
        assert 0 <= r.low <= r.value <= r.high <= 1, r
        assert r.low < r.high, r


def test_intervals_are_reproducible_and_depend_on_the_seed() -> None:
    def rows(seed: int) -> list[Metric]:
        settings = EvaluationSettings(bootstrap=50, seed=seed)
        return score_rows(*families(), model="m", split=Split.TEST_ID, settings=settings)

    assert rows(3) == rows(3)
    assert rows(3) != rows(4)


def test_the_bootstrap_draws_families_whole() -> None:
    names = ["a", "b", "a", "c", "c", "c"]
    for sample in evaluation._resamples(names, SETTINGS):
        counts = np.bincount(sample, minlength=6)
        assert counts[0] == counts[2]
        assert counts[3] == counts[4] == counts[5]
        assert counts[0] + counts[1] + counts[3] == 3
    assert len(list(evaluation._resamples(names, SETTINGS))) == 50


def test_one_family_gives_an_interval_without_width() -> None:
    examples, p = families(20)
    same = [example(i, e.label is Label.UNSAFE, "only", e.difficulty) for i, e in enumerate(examples)]
    for r in score_rows(same, p, model="m", split=Split.TEST_ID, settings=SETTINGS):
        assert r.low == r.value == r.high


def test_resamples_of_one_class_are_left_out() -> None:
    examples = [example(0, True, "a"), example(1, False, "b"), example(2, True, "c"), example(3, False, "d")]
    examples += [example(4 + i, True, f"e{i}", d) for i, d in enumerate((Difficulty.EASY, Difficulty.MEDIUM))]
    p = np.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.7])
    rows = score_rows(examples, p, model="m", split=Split.TEST_ID, settings=SETTINGS)
    assert all(r.low == r.value == r.high == 1 for r in rows if r.metric == "AUC")


def test_a_stratum_of_one_class_is_left_out() -> None:
    examples = [example(0, True, "a"), example(1, False, "a"), example(2, True, "b"), example(3, False, "b")]
    rows = score_rows(examples, np.array([0.9, 0.1, 0.8, 0.2]), model="m", split=Split.TEST_ID, settings=SETTINGS)
    assert {r.stratum for r in rows} == {"all", "hard"}
    assert {r.value for r in rows} == {1.0}


@pytest.mark.parametrize("labels", [[], [True], [False], [True, True], [False, False]])
def test_a_split_of_one_class_has_no_rows(labels: list[bool]) -> None:
    examples = [example(i, unsafe, f"f{i}") for i, unsafe in enumerate(labels)]
    p = np.linspace(0.2, 0.8, len(labels))
    assert score_rows(examples, p, model="m", split=Split.TEST_ID, settings=SETTINGS) == []


# Shares


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval(hits: int, n: int, low: float, high: float) -> None:
    (row,) = evaluation._share("s", "all", "x", "y", hits, n)
    assert (row.suite, row.model, row.split, row.stratum, row.metric) == ("s", CONTRASTIVE, "all", "x", "y")
    assert (row.value, row.n) == (hits / n, n)
    assert (row.low, row.high) == pytest.approx((low, high), abs=1e-4)


def test_a_share_of_nothing_is_no_row() -> None:
    assert evaluation._share("s", "all", "x", "y", 0, 0) == []


def score(p: float, scope: float = 0.9, rule: str = "r1") -> StatementScore:
    return StatementScore(p, scope, rule, 0.8, "dose")


def test_operating_point_counts_by_the_thresholds() -> None:
    package = SimpleNamespace(manifest=SimpleNamespace(thresholds=Thresholds(unsafe=0.8, review=0.4, in_scope=0.3)))
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
    rows = operating_point(package, examples, [s for _, s in table], Split.TEST_OOD)
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
    package = SimpleNamespace(manifest=SimpleNamespace(thresholds=Thresholds(unsafe=0.8, review=0.4, in_scope=0.3)))
    rows = operating_point(package, [example(0, False, "f")], [score(0.5)], Split.TEST_ID)
    assert [(r.suite, r.stratum, r.metric, r.value) for r in rows] == [
        ("policy", "safe", "flagged", 0.0),
        ("policy", "safe", "in review", 1.0),
        ("policy", "all", "out of scope", 0.0),
        ("alignment", "all", "right recommendation", 1.0),
    ]


def test_operating_point_of_nothing() -> None:
    package = SimpleNamespace(manifest=SimpleNamespace(thresholds=Thresholds(unsafe=0.8, review=0.4, in_scope=0.3)))
    assert operating_point(package, [], [], Split.TEST_ID) == []


# Whole answers


def test_message_rows_of_made_up_outcomes() -> None:
    outcomes = [
        MessageOutcome("unsafe", Verdict.UNSAFE, spans=2, spans_hit=1, flags=3, flags_on_spans=1),
        MessageOutcome("unsafe", Verdict.REVIEW, spans=1, spans_hit=0, flags=0, flags_on_spans=0),
        MessageOutcome("safe", Verdict.UNSAFE, spans=0, spans_hit=0, flags=1, flags_on_spans=0),
        MessageOutcome("safe", Verdict.SAFE, spans=0, spans_hit=0, flags=0, flags_on_spans=0),
        MessageOutcome("safe", Verdict.ABSTAIN, spans=0, spans_hit=0, flags=0, flags_on_spans=0),
        MessageOutcome("out_of_scope", Verdict.OUT_OF_SCOPE, spans=0, spans_hit=0, flags=0, flags_on_spans=0),
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
    outcomes = [MessageOutcome("safe", Verdict.SAFE, spans=0, spans_hit=0, flags=0, flags_on_spans=0)]
    assert [(r.stratum, r.metric, r.value) for r in message_rows(outcomes)] == [("safe", "flagged", 0.0)]
    assert message_rows([]) == []


async def test_flags_are_held_against_the_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements at 0-10 and 10-20 are flagged, 20-30 is not; spans touch by a character or not at all."""

    class Screening:
        closed = False

        async def screen(self, messages: list[Message]) -> list[MessageVerdict]:
            judged = tuple(
                StatementVerdict(Statement(a, a + 10, "", ""), v, 0.9)
                for a, v in ((0, Verdict.UNSAFE), (10, Verdict.UNSAFE), (20, Verdict.REVIEW))
            )
            return [MessageVerdict(m, Verdict.UNSAFE, 0.9, judged) for m in messages]

        async def close(self) -> None:
            self.closed = True

    screening = Screening()
    monkeypatch.setattr(evaluation, "build_screening", lambda *_: screening)
    rows = [
        {"id": "1", "text": "", "label": "unsafe", "spans": [{"start": 9, "end": 10}, {"start": 20, "end": 30}]},
        {"id": "2", "text": "", "label": "unsafe", "spans": [{"start": 5, "end": 15}]},
        {"id": "3", "text": "", "label": "safe", "spans": []},
    ]
    found = await judge_messages(None, rows)
    assert [(o.label, o.spans, o.spans_hit, o.flags, o.flags_on_spans) for o in found] == [
        ("unsafe", 2, 1, 2, 1),
        ("unsafe", 1, 1, 2, 2),
        ("safe", 0, 0, 2, 0),
    ]
    assert screening.closed


async def test_the_served_model_scores_whole_statements(toy_run: SimpleNamespace) -> None:
    package = ModelPackage.load(toy_run.folder.package)
    texts = [e.text for e in load_split(toy_run.folder)[Split.TEST_ID]]
    scores = await score_package(package, texts)
    assert len(scores) == len(texts)
    assert all(0 <= s.p_unsafe <= 1 and 0 <= s.p_in_scope <= 1 for s in scores)
    assert {s.recommendation for s in scores} <= {r.id for r in package.manifest.recommendations}
    assert await score_package(package, []) == []


@pytest.mark.parametrize("name", ["GUARDLINE_THRESHOLD_UNSAFE", "GUARDLINE_THRESHOLD_REVIEW"])
async def test_thresholds_of_the_environment_do_not_change_the_figures(
    toy_run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    package = ModelPackage.load(toy_run.folder.package)
    rows = [{"id": "1", "text": "The dose of zolamide is 20 mg once daily for adults.", "label": "safe", "spans": []}]
    before = await judge_messages(package, rows)
    for value in ("0.0", "1.0", "nonsense"):
        monkeypatch.setenv(name, value)
        assert await judge_messages(package, rows) == before


def test_thresholds_of_a_dot_env_file_are_ignored_and_so_is_its_scorer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["GUARDLINE_THRESHOLD_UNSAFE=0.1", "GUARDLINE_THRESHOLD_REVIEW=0.05", "GUARDLINE_SCORER=triton"]
    (tmp_path / ".env").write_text("\n".join(lines))
    found = evaluation._settings()
    assert (found.threshold_unsafe, found.threshold_review, found.scorer) == (None, None, "onnx")


# The stage's artefacts


def test_metrics_of_a_run(toy_run: SimpleNamespace) -> None:
    rows = load_metrics(toy_run.folder)
    statements = {(r.model, r.split, r.stratum, r.metric) for r in rows if r.suite == "statements"}
    assert statements == {
        (model, split, stratum, metric)
        for model in (CONTRASTIVE, FROZEN, FROZEN_BINARY)
        for split in ("test_id", "test_ood")
        for stratum in ("all", "easy", "medium", "hard")
        for metric in METRICS
    }
    assert {r.suite for r in rows} == {"statements", "policy", "alignment", "out of scope", "messages"}
    assert all(r.low <= r.value <= r.high for r in rows if r.suite != "statements" and r.n)
    content = json.loads((toy_run.folder.evaluation / "metrics.json").read_text())
    assert set(content[0]) == {"suite", "model", "split", "stratum", "metric", "value", "low", "high", "n"}


def test_the_served_models_rows_are_those_of_its_scores(toy_run: SimpleNamespace) -> None:
    """The rows that matter most, computed again from the package alone."""
    split = load_split(toy_run.folder)[Split.TEST_OOD]
    scores = evaluation.asyncio.run(score_package(ModelPackage.load(toy_run.folder.package), [e.text for e in split]))
    unsafe = np.array([e.label is Label.UNSAFE for e in split])
    p = np.array([s.p_unsafe for s in scores])
    key = (CONTRASTIVE, "test_ood", "all")
    rows = {r.metric: r.value for r in load_metrics(toy_run.folder) if (r.model, r.split, r.stratum) == key}
    for name, metric in METRICS.items():
        assert rows[name] == pytest.approx(metric(unsafe, p), abs=1e-3)


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


def measure(toy_run: SimpleNamespace, folder: RunFolder, **settings: int) -> Measured:
    own = toy_run.settings
    rules = [r.id for r in read_rows(folder.recommendations, Recommendation)]
    given = replace(own.evaluation, **settings)
    with Progress(disable=True) as progress:
        found = evaluation.run(toy_run.pack.corpus, rules, folder, own.encoder, own.classifier, given, progress)
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
    measured = measure(toy_run, folder)
    assert measured.rows == load_metrics(folder) == load_metrics(toy_run.folder)
    assert measured.summary == ModelPackage.load(folder.package).manifest.evaluation
    assert measured.summary == ModelPackage.load(toy_run.folder.package).manifest.evaluation


def test_measured_has_the_scores_of_the_held_out_voices(toy_run: SimpleNamespace, folder: RunFolder) -> None:
    measured = measure(toy_run, folder, bootstrap=2)
    statements = [e for e in load_split(folder)[Split.TEST_OOD] if e.label is not Label.OUT_OF_SCOPE]
    assert measured.unsafe.tolist() == [e.label is Label.UNSAFE for e in statements]
    assert set(measured.p_unsafe) == {CONTRASTIVE, FROZEN, FROZEN_BINARY}
    for model, p in measured.p_unsafe.items():
        assert p.shape == (len(statements),)
        (auc,) = (
            r.value
            for r in measured.rows
            if (r.model, r.split, r.stratum, r.metric) == (model, "test_ood", "all", "AUC")
        )
        assert METRICS["AUC"](measured.unsafe, p) == pytest.approx(auc, abs=5e-5)


@pytest.mark.parametrize("label", [Label.SAFE, Label.UNSAFE])
def test_a_test_split_of_one_class_does_not_spoil_the_package(
    toy_run: SimpleNamespace, folder: RunFolder, label: Label
) -> None:
    keep(folder, Split.TEST_OOD, label)
    measured = measure(toy_run, folder, bootstrap=2)
    assert {r.split for r in measured.rows if r.suite == "statements"} == {"test_id"}
    assert [s.suite for s in ModelPackage.load(folder.package).manifest.evaluation] == ["statements/test_id"]
    assert len(set(measured.unsafe)) == 1


@pytest.mark.parametrize("part", evaluation.TESTS)
def test_a_corpus_without_statements_for_a_test_is_measured_on_the_other(
    toy_run: SimpleNamespace, folder: RunFolder, part: Split
) -> None:
    keep(folder, part, None)
    measured = measure(toy_run, folder, bootstrap=2)
    assert {r.split for r in measured.rows if r.suite == "statements"} == {p.value for p in evaluation.TESTS} - {part}


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
