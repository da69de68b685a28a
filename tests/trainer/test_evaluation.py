"""Figures against values worked out by hand, intervals, whole answers, and the report."""

import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib import pyplot as plt
from rich.console import Console

from monitor.package import ModelPackage
from monitor.records import Thresholds
from monitor.types import Message, MessageVerdict, Statement, StatementScore, StatementVerdict, Verdict
from trainer import evaluation
from trainer.artifacts import RunFolder
from trainer.corpus import load_split
from trainer.errors import StageMissing
from trainer.evaluation import (
    CONTRASTIVE,
    FROZEN,
    FROZEN_BINARY,
    METRICS,
    MessageOutcome,
    comparison,
    judge_messages,
    load_metrics,
    message_rows,
    operating_point,
    plot_bars,
    plot_curves,
    score_package,
    score_rows,
    shares,
    write_report,
)
from trainer.settings import EvaluationSettings
from trainer.types import Difficulty, Example, Label, Metric, Split

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


@pytest.mark.xfail(strict=True, raises=RuntimeWarning, reason="a stratum of one class warns and gives NaN")
def test_a_stratum_that_is_empty_is_left_out() -> None:
    examples = [example(0, True, "a"), example(1, False, "a"), example(2, True, "b"), example(3, False, "b")]
    rows = score_rows(examples, np.array([0.9, 0.1, 0.8, 0.2]), model="m", split=Split.TEST_ID, settings=SETTINGS)
    assert not any(math.isnan(r.value) for r in rows)


# Shares


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval(hits: int, n: int, low: float, high: float) -> None:
    row = evaluation._share("s", "all", "x", "y", hits, n)
    assert (row.value, row.n) == (hits / n, n)
    assert (row.low, row.high) == pytest.approx((low, high), abs=1e-4)


def test_a_share_of_nothing_is_no_number() -> None:
    row = evaluation._share("s", "all", "x", "y", 0, 0)
    assert row.n == 0
    assert math.isnan(row.value)


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


@pytest.mark.xfail(strict=True, reason="thresholds of the environment or .env change the evaluation of a package")
async def test_the_environment_does_not_change_the_figures(
    toy_run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = ModelPackage.load(toy_run.folder.package)
    rows = [{"id": "1", "text": "The dose of zolamide is 20 mg once daily for adults.", "label": "safe", "spans": []}]
    before = await judge_messages(package, rows)
    monkeypatch.setenv("GUARDLINE_THRESHOLD_UNSAFE", "0.0")
    zero = await judge_messages(package, rows)
    monkeypatch.setenv("GUARDLINE_THRESHOLD_UNSAFE", "1.0")
    assert before == zero == await judge_messages(package, rows)


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


def test_the_report_is_one_file_with_described_figures(toy_run: SimpleNamespace) -> None:
    page = (toy_run.folder.evaluation / "report.html").read_text(encoding="utf-8")
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 3
    for title, image in zip(("F1 by difficulty", "AUC by difficulty", "Voices never heard"), images, strict=True):
        assert f'alt="{title}: the figures are in the tables below"' in image
        assert 'src="data:image/png;base64,iVBOR' in image
    text = re.sub(r"data:image/png;base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//|<script|<link|@import|url\(", text)
    assert "Zolamide for mumbles, version 2026-01, 3 recommendations" in text
    for model in (CONTRASTIVE, FROZEN, FROZEN_BINARY):
        assert f"<th>{model}</th>" in text
    for r in load_metrics(toy_run.folder):
        assert f"{r.value:.3f}" in text, r


def test_the_report_escapes_what_a_pack_says(tmp_path: Path, toy_run: SimpleNamespace) -> None:
    package = ModelPackage.load(toy_run.folder.package)
    title = "<script>alert(1)</script>"
    manifest = package.manifest.model_copy(
        update={"guideline": package.manifest.guideline.model_copy(update={"title": title})}
    )
    folder = RunFolder(tmp_path)
    folder.evaluation.mkdir()
    path = write_report(folder, [], {'a "b" <c>': plt.figure()}, ModelPackage(package.path, manifest))
    page = path.read_text()
    assert title not in page
    assert "&lt;script&gt;alert(1)" in page
    assert 'alt="a &#34;b&#34; &lt;c&gt;: ' in page
    assert plt.get_fignums() == []


def test_plots_have_a_bar_for_every_model_and_stratum(toy_run: SimpleNamespace) -> None:
    figure = plot_bars(load_metrics(toy_run.folder), "AUC")
    assert [len([c for c in axis.containers if hasattr(c, "patches")]) for axis in figure.axes] == [3, 3]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["all", "easy", "medium", "hard"]
    assert figure.axes[0].get_ylabel() == "AUC"
    plt.close(figure)


def test_curves_are_labelled_with_their_area() -> None:
    figure = plot_curves(UNSAFE, {FROZEN_BINARY: P, FROZEN: 1 - P, CONTRASTIVE: P})
    labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert labels == [f"{FROZEN_BINARY}: 0.750", f"{FROZEN}: 0.250", f"{CONTRASTIVE}: 0.750"]
    plt.close(figure)


def test_a_run_without_evaluation_says_so(tmp_path: Path) -> None:
    with pytest.raises(StageMissing, match="guardline train"):
        load_metrics(RunFolder(tmp_path))


@pytest.mark.xfail(strict=True, reason="NaN in the manifest becomes null, which the package's own reader refuses")
def test_a_test_split_of_one_class_does_not_spoil_the_package(
    tmp_path: Path, toy_run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(Path(shutil.copytree(toy_run.folder.root, tmp_path / "run")))
    rows = [
        Metric(r.suite, r.model, r.split, r.stratum, r.metric, float("nan"), float("nan"), float("nan"), r.n)
        for r in load_metrics(folder)
    ]
    package = ModelPackage.load(folder.package)
    manifest = package.manifest.model_copy(update={"evaluation": evaluation._summaries(rows)})
    (folder.package / "manifest.json").write_text(manifest.model_dump_json())
    assert ModelPackage.load(folder.package).reference == package.reference


@pytest.mark.xfail(strict=True, reason="NaN is written as such, which is no JSON")
def test_metrics_json_is_json_even_without_messages_of_a_label(tmp_path: Path) -> None:
    rows = [evaluation._share("messages", "all", "safe", "flagged", 0, 0)]
    evaluation.write_json(tmp_path / "metrics.json", [evaluation.asdict(r) for r in rows])

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)


# What is printed


def render(*tables: object) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    for table in tables:
        console.print(table)
    console.file.close()
    return console.export_text()


def test_tables_show_every_model_side_by_side(toy_run: SimpleNamespace) -> None:
    rows = load_metrics(toy_run.folder)
    text = render(comparison(rows, Split.TEST_OOD, "Voices"), shares(rows))
    for r in rows:
        if r.suite == "statements" and r.split == "test_ood":
            assert f"{r.value:.3f} ({r.low:.2f}-{r.high:.2f})" in text
        elif r.suite == "messages":
            assert f"{r.value:.3f}" in text
    assert text.index(FROZEN_BINARY) < text.index(CONTRASTIVE)


def test_evaluate_prints_tables_or_json(toy_run: SimpleNamespace) -> None:
    plain = CliRunner().invoke(evaluation.command, ["--run", str(toy_run.folder.root)])
    assert plain.exit_code == 0, plain.output
    assert "Voices never heard" in plain.output
    rows = CliRunner().invoke(evaluation.command, ["--run", str(toy_run.folder.root), "--json"])
    assert [Metric(**row) for row in json.loads(rows.stdout)] == load_metrics(toy_run.folder)


def test_evaluate_of_nothing_fails(tmp_path: Path) -> None:
    result = CliRunner().invoke(evaluation.command, ["--run", str(tmp_path)])
    assert isinstance(result.exception, StageMissing)
    result = CliRunner().invoke(evaluation.command, ["--run", str(tmp_path), "--again"])
    assert isinstance(result.exception, StageMissing)
