"""Plots, the HTML page and the tables of the terminal, from measured rows and from made-up ones."""

import io
import re
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import pyplot as plt
from rich.console import Console

from monitor.package import ModelPackage
from trainer.artifacts import RunFolder
from trainer.evaluation import CONTRASTIVE, FROZEN, FROZEN_BINARY, METRICS, TESTS, Measured, load_metrics
from trainer.report import VOICES, comparison, plot_bars, plot_curves, shares, write_report
from trainer.types import Metric, Split

MODELS = [FROZEN_BINARY, FROZEN, CONTRASTIVE]
STRATA = ["all", "easy", "medium", "hard"]
UNSAFE = np.array([True, True, True, False, False, False, False])
P = np.array([0.9, 0.6, 0.3, 0.7, 0.4, 0.2, 0.1])
SCORES = {FROZEN_BINARY: P, FROZEN: 1 - P, CONTRASTIVE: P}


def row(
    model: str = CONTRASTIVE, split: str = "test_id", stratum: str = "all", metric: str = "AUC", value: float = 0.75,
    suite: str = "statements",
) -> Metric:  # fmt: skip
    return Metric(suite, model, split, stratum, metric, value, value - 0.05, value + 0.1, 40)


@pytest.fixture(autouse=True)
def _no_figure_is_left_open() -> Iterator[None]:
    assert plt.get_fignums() == []
    yield
    plt.close("all")


@pytest.fixture
def folder(tmp_path: Path, toy_run: SimpleNamespace) -> RunFolder:
    """A run that has a package and no evaluation."""
    shutil.copytree(toy_run.folder.package, tmp_path / "package")
    return RunFolder(tmp_path)


def measured(*rows: Metric, unsafe: np.ndarray = UNSAFE) -> Measured:
    return Measured(list(rows), [], unsafe, {model: p[: len(unsafe)] for model, p in SCORES.items()})


def without_images(page: str) -> str:
    return re.sub(r"data:image/png;base64,[\w+/=]+", "", page)


def test_every_test_split_has_a_name_for_people() -> None:
    assert tuple(VOICES) == TESTS
    assert len(set(VOICES.values())) == len(VOICES)


# Plots


def bars(axis: plt.Axes) -> list:
    return [c for c in axis.containers if hasattr(c, "patches")]


def test_bars_have_one_for_every_model_and_stratum(toy_run: SimpleNamespace) -> None:
    rows = load_metrics(toy_run.folder)
    figure = plot_bars(rows, "AUC")
    for axis, (split, voices) in zip(figure.axes, VOICES.items(), strict=True):
        assert axis.get_title() == voices
        assert [t.get_text() for t in axis.get_xticklabels()] == STRATA
        assert [c.get_label() for c in bars(axis)] == MODELS
        for container, model in zip(bars(axis), MODELS, strict=True):
            values = {r.stratum: r.value for r in rows if (r.model, r.split, r.metric) == (model, split, "AUC")}
            assert [bar.get_height() for bar in container] == [values[s] for s in STRATA]
    assert figure.axes[0].get_ylabel() == "AUC"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == MODELS


def test_bars_stand_over_their_stratum_where_others_are_missing() -> None:
    figure = plot_bars([row(stratum="hard", value=0.6), row(FROZEN, stratum="easy"), row(metric="F1")], "AUC")
    heard, held_out = map(bars, figure.axes)
    assert [len(c) for c in heard] == [0, 1, 1]
    assert [len(c) for c in held_out] == [0, 0, 0]
    centres = {c.get_label(): bar.get_x() + bar.get_width() / 2 for c in heard for bar in c}
    assert {model: round(x) for model, x in centres.items()} == {FROZEN: 1, CONTRASTIVE: 3}


def test_bars_of_nothing() -> None:
    assert all(len(c) == 0 for axis in plot_bars([], "F1").axes for c in bars(axis))


def test_a_value_outside_its_interval_is_drawn() -> None:
    plot_bars([Metric("statements", CONTRASTIVE, "test_id", "all", "F1", 0.5, 0.6, 0.7, 9)], "F1")


def test_curves_are_labelled_with_their_area() -> None:
    figure = plot_curves(UNSAFE, SCORES)
    roc, pr, calibration = figure.axes
    assert [t.get_text() for t in roc.get_legend().get_texts()] == [
        f"{FROZEN_BINARY}: 0.750",
        f"{FROZEN}: 0.250",
        f"{CONTRASTIVE}: 0.750",
    ]
    assert len(roc.lines) == len(pr.lines) == 3
    assert len(calibration.lines) == 2


def test_the_calibration_has_every_statement_once() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(200)
    unsafe = rng.random(200) < p
    figure = plot_curves(unsafe, {CONTRASTIVE: p})
    x, y = figure.axes[2].lines[1].get_data()
    assert len(x) == 10
    assert list(x) == sorted(x)
    assert np.mean(x) == pytest.approx(p.mean(), abs=1e-6)  # tenths of one size: means of means are the mean
    assert np.mean(y) == pytest.approx(unsafe.mean(), abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_curves_of_equal_scores(value: float) -> None:
    figure = plot_curves(UNSAFE, dict.fromkeys(MODELS, np.full(7, value)))
    x, y = figure.axes[2].lines[1].get_data()
    assert (list(x), list(y)) == ([pytest.approx(value)], [pytest.approx(3 / 7)])


# The page


def test_the_report_is_one_file_with_described_figures(toy_run: SimpleNamespace) -> None:
    page = (toy_run.folder.evaluation / "report.html").read_text(encoding="utf-8")
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 3
    for title, image in zip(("F1 by difficulty", "AUC by difficulty", "Voices never heard"), images, strict=True):
        assert f'alt="{title}: the figures are in the tables below"' in image
        assert 'src="data:image/png;base64,iVBOR' in image
    text = without_images(page)
    assert not re.search(r"https?:|//|<script|<link|@import|url\(", text)
    assert "Zolamide for mumbles, version 2026-01, 3 recommendations" in text
    for model in MODELS:
        assert f"<th>{model}</th>" in text
    for voices in VOICES.values():
        assert f"<h2>Statements: {voices}</h2>" in text
    for r in load_metrics(toy_run.folder):
        assert f"{r.value:.3f}" in text, r


def test_the_report_names_the_package_it_is_about(folder: RunFolder) -> None:
    page = write_report(folder, measured(row())).read_text()
    manifest = ModelPackage.load(folder.package).manifest
    assert f"<title>Evaluation of {manifest.name} {manifest.version}</title>" in page
    assert f"unsafe from {manifest.thresholds.unsafe}, review from {manifest.thresholds.review}" in page


def test_the_report_says_where_it_is_and_leaves_no_figure_open(folder: RunFolder) -> None:
    path = write_report(folder, measured(row()))
    assert path == folder.evaluation / "report.html"
    assert [p.name for p in folder.evaluation.iterdir()] == ["report.html"]
    assert plt.get_fignums() == []
    before = path.read_text()
    assert write_report(folder, measured(row(value=0.6))).read_text() != before


@pytest.mark.parametrize("unsafe", [UNSAFE[:0], UNSAFE[:3], UNSAFE[3:]])
def test_the_report_of_held_out_voices_of_one_class_has_no_curves(folder: RunFolder, unsafe: np.ndarray) -> None:
    page = write_report(folder, measured(row(), unsafe=unsafe)).read_text()
    assert len(re.findall("<img ", page)) == 2
    assert "<h2>Voices never heard</h2>" not in page


def test_the_report_of_nothing_is_a_page(folder: RunFolder) -> None:
    page = write_report(folder, measured(unsafe=UNSAFE[:0])).read_text()
    assert page.rstrip().endswith("</html>")
    assert 'class="best"' not in page


def test_the_best_model_of_a_stratum_is_marked(folder: RunFolder) -> None:
    rows = [row(FROZEN_BINARY, value=0.5), row(FROZEN, value=0.8), row(CONTRASTIVE, value=0.7)]
    page = without_images(write_report(folder, measured(*rows)).read_text())
    assert re.findall(r'<td class="best">([\d.]+)', page) == ["0.800"]


def test_a_model_without_a_row_leaves_an_empty_cell(folder: RunFolder) -> None:
    page = without_images(write_report(folder, measured(row(CONTRASTIVE, value=0.7))).read_text())
    (line,) = (x for x in re.findall(r"<tr.*?</tr>", page, re.DOTALL) if "0.700" in x)
    assert len(re.findall("<td", line)) == 2 + len(MODELS) + 1


def test_the_report_escapes_what_a_pack_says(folder: RunFolder) -> None:
    title = '<script>alert("1")</script>'
    manifest = ModelPackage.load(folder.package).manifest
    guideline = manifest.guideline.model_copy(update={"title": title})
    text = manifest.model_copy(update={"guideline": guideline}).model_dump_json()
    (folder.package / "manifest.json").write_text(text)
    page = write_report(folder, measured(row())).read_text()
    assert title not in page
    assert escape(title).replace("&quot;", "&#34;") in page


# Tables


def render(*tables: object) -> str:
    console = Console(width=200, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def test_tables_show_every_model_side_by_side(toy_run: SimpleNamespace) -> None:
    rows = load_metrics(toy_run.folder)
    text = render(comparison(rows, Split.TEST_OOD, "Voices"), shares(rows))
    for r in rows:
        if r.suite == "statements" and r.split == "test_ood":
            assert f"{r.value:.3f} ({r.low:.2f}-{r.high:.2f})" in text
        elif r.suite == "messages":
            assert f"{r.value:.3f}" in text
    assert text.index(FROZEN_BINARY) < text.index(CONTRASTIVE)


def test_a_comparison_has_a_line_for_every_metric_and_stratum_of_its_split() -> None:
    rows = [row(value=0.7), row(FROZEN, stratum="hard", metric="F1", value=0.4), row(split="test_ood", value=0.1)]
    rows.append(row(suite="policy", value=0.2))
    table = comparison(rows, Split.TEST_ID, "Title")
    assert table.row_count == len(METRICS) * len(STRATA)
    cells = [list(column.cells) for column in table.columns]
    assert [c for c in cells[0] if c] == list(METRICS)
    assert cells[1] == STRATA * len(METRICS)
    found = {(list(METRICS)[i // 4], STRATA[i % 4], m): v for m, c in zip(MODELS, cells[2:], strict=True)
             for i, v in enumerate(c) if v}  # fmt: skip
    assert found == {
        ("AUC", "all", CONTRASTIVE): "0.700 (0.65-0.80)",
        ("F1", "hard", FROZEN): "0.400 (0.35-0.50)",
    }


def test_shares_are_of_all_other_suites() -> None:
    rows = [row(), row(suite="policy", metric="flagged", stratum="safe", value=0.1), row(suite="messages", split="all")]
    table = shares(rows)
    assert [list(column.cells) for column in table.columns] == [
        ["policy", "messages"], ["test_id", "all"], ["safe", "all"], ["flagged", "AUC"],
        ["0.100", "0.750"], ["0.05-0.20", "0.70-0.85"], ["40", "40"],
    ]  # fmt: skip
    assert shares([]).row_count == 0
