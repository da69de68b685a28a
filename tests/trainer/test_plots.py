"""Plots: what is drawn where, and SVG that a page can hold."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from trainer.evaluation import plots
from trainer.evaluation.models import CONTRASTIVE, FROZEN, FROZEN_BINARY
from trainer.evaluation.plots import colours, project, to_svg
from trainer.types import Difficulty, Example, Label, Metric

MODELS = [FROZEN_BINARY, FROZEN, CONTRASTIVE]
STRATA = ["all", "easy", "medium", "hard"]
UNSAFE = np.array([True, True, True, False, False, False, False])
P = np.array([0.9, 0.6, 0.3, 0.7, 0.4, 0.2, 0.1])
SCORES = {FROZEN_BINARY: P, FROZEN: 1 - P, CONTRASTIVE: P}


def row(model: str, stratum: str, value: float = 0.75, metric: str = "AUC") -> Metric:
    return Metric("statements", model, "test_id", stratum, metric, value, value - 0.05, value + 0.1, 40)


def labels(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.legends[0].get_texts()]


def bars(figure: Figure) -> dict[str, dict[int, float]]:
    """Return model -> position of the stratum -> height."""
    found = [c for c in figure.axes[0].containers if hasattr(c, "patches")]
    return {c.get_label(): {round(b.get_x() + b.get_width() / 2): b.get_height() for b in c} for c in found}


def test_models_keep_their_colours_and_further_ones_get_others() -> None:
    found = colours([FROZEN, "cross-entropy", "supcon", CONTRASTIVE])
    assert len(set(found.values())) == 4
    assert colours([CONTRASTIVE])[CONTRASTIVE] == found[CONTRASTIVE]


def test_bars_have_one_for_every_model_and_stratum() -> None:
    rows = [row(m, s, 0.5 + 0.01 * i + 0.1 * j) for i, m in enumerate(MODELS) for j, s in enumerate(STRATA)]
    figure = plots.plot_bars([*rows, row(FROZEN, "all", metric="F1")], "AUC", STRATA, "title")
    assert labels(figure) == MODELS
    assert bars(figure) == {
        m: {j: pytest.approx(0.5 + 0.01 * i + 0.1 * j) for j in range(4)} for i, m in enumerate(MODELS)
    }


def test_bars_stand_over_their_stratum_where_others_are_missing() -> None:
    figure = plots.plot_bars([row(CONTRASTIVE, "hard"), row(FROZEN, "easy")], "AUC", STRATA, "title")
    assert bars(figure) == {CONTRASTIVE: {3: 0.75}, FROZEN: {1: 0.75}}


def test_intervals_stand_on_the_line_of_their_stratum() -> None:
    names = ["category: dose", "category: route"]
    figure = plots.plot_intervals([row(FROZEN, names[1], 0.6), row(CONTRASTIVE, names[0], 0.8)], names, "AUC")
    axis = figure.axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["dose", "route"]
    points = {line.get_label(): (line.get_xdata()[0], round(line.get_ydata()[0])) for line in axis.lines[:2]}
    assert points == {FROZEN: (0.6, 1), CONTRASTIVE: (0.8, 0)}


def test_roc_and_precision_recall_pass_through_the_points_worked_out_by_hand() -> None:
    roc = {line.get_label(): line for line in plots.plot_roc(UNSAFE, SCORES).axes[0].lines}
    assert {*roc} >= set(MODELS)
    # Above 0.7 one in three unsafe and no safe one, from 0.6 on two in three and one in four.
    assert {(0.0, 0.33), (0.25, 0.67)} <= {(x, round(y, 2)) for x, y in zip(*roc[CONTRASTIVE].get_data(), strict=True)}
    lines = {line.get_label(): line for line in plots.plot_precision_recall(UNSAFE, SCORES).axes[0].lines}
    x, y = lines[CONTRASTIVE].get_data()
    assert (1.0, 0.6) in {(a, round(b, 2)) for a, b in zip(x, y, strict=True)}
    assert x.min() > 0  # no point that is a convention only


def test_reliability_has_every_statement_once() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(300)
    unsafe = rng.random(300) < p
    figure = plots.plot_reliability(unsafe, {FROZEN: p / 2, CONTRASTIVE: p})
    x, y = figure.axes[0].lines[2].get_data()
    assert len(x) == 15
    assert list(x) == sorted(x)
    assert np.mean(x) == pytest.approx(p.mean(), abs=1e-6)  # bins of one size: means of means are the mean
    assert np.mean(y) == pytest.approx(unsafe.mean(), abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_curves_of_equal_scores(value: float) -> None:
    p = dict.fromkeys(MODELS, np.full(7, value))
    for plot in (plots.plot_roc, plots.plot_precision_recall):
        to_svg(plot(UNSAFE, p), "flat")
    x, y = plots.plot_reliability(UNSAFE, {CONTRASTIVE: p[CONTRASTIVE]}).axes[0].lines[1].get_data()
    assert (list(x), list(y)) == ([pytest.approx(value)], [pytest.approx(3 / 7)])


def test_a_learning_curve_runs_over_the_number_of_statements() -> None:
    rows = [row(FROZEN, str(n), n / 200, "F1") for n in (100, 90, 8)]  # as numbers, not as words
    figure = plots.plot_learning_curve([*rows, row(FROZEN, "8", 0.9)], "F1", "title")
    x, y = figure.axes[0].lines[0].get_data()
    assert (list(x), list(y)) == ([8, 90, 100], [0.04, 0.45, 0.5])


def statements(n: int) -> list[Example]:
    return [
        Example(f"e{i}", "t", Label.UNSAFE if i % 2 else Label.SAFE, f"r{i % 3}", "dose",
                Difficulty.HARD if i % 2 else None, f"f{i}", "a")
        for i in range(n)
    ]  # fmt: skip


def test_the_map_is_the_same_each_time_and_shows_every_statement() -> None:
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(30, 8)).astype(np.float32)
    points = project(embeddings, 7)
    np.testing.assert_array_equal(points, project(embeddings, 7))
    assert points.shape == (30, 2)
    figure = plots.plot_map(points, statements(30), "After")
    assert sum(len(line.get_xdata()) for line in figure.axes[0].lines) == 30
    assert labels(figure) == ["r0", "r1", "r2"]
    assert {line.get_marker() for line in figure.axes[0].lines} == {"o", "x"}


# SVG


def test_svg_is_well_formed_takes_the_pages_colour_and_needs_nothing_else() -> None:
    svg = to_svg(plots.plot_roc(UNSAFE, SCORES), 'ROC of "a" & <b>')
    root = ET.fromstring(svg.replace("xlink:href", "href"))
    assert root.attrib["aria-label"] == 'ROC of "a" & <b>'
    assert root.attrib["role"] == "img"
    assert set(root.attrib) == {"role", "aria-label", "viewBox"}  # its size is the page's business
    assert "currentColor" in svg
    assert plots._INK not in svg
    assert not re.search(r"https?:|DOCTYPE|<metadata|<script", svg)
    assert "".join(root.itertext()).count("ROC") == 1  # text is text
    assert svg == to_svg(plots.plot_roc(UNSAFE, SCORES), 'ROC of "a" & <b>')


def test_svg_keeps_the_parts_that_it_refers_to() -> None:
    svg = to_svg(plots.plot_reliability(UNSAFE, {CONTRASTIVE: P}), "x")
    named = set(re.findall(r' id="([^"]+)"', svg))
    used = set(re.findall(r'xlink:href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    assert used
    assert used <= named


def test_a_legend_escapes_what_a_model_is_called() -> None:
    svg = to_svg(plots.plot_roc(UNSAFE, {"<script>alert(1)</script>": P}), "x")
    assert "<script" not in svg
