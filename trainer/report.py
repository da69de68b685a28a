"""The report of an evaluation: plots and tables, as HTML and for the terminal.

In: the rows of `metrics.json` and the scores behind them. Out: `evaluation/report.html`, one file, plots inside.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rich.table import Table
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from monitor.package import ModelPackage
from trainer.artifacts import RunFolder, write_text
from trainer.evaluation import CONTRASTIVE, FROZEN, FROZEN_BINARY, METRICS, Bools, Doubles, Measured
from trainer.types import Difficulty, Metric, Split

mpl.use("Agg")

_TEMPLATES = Path(__file__).parent / "templates"
_STRATA = ["all", *(d.value for d in Difficulty)]
#: What the splits are called for people.
VOICES = {Split.TEST_ID: "voices heard in training", Split.TEST_OOD: "voices never heard"}


def _figure_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


_COLOURS = {FROZEN_BINARY: "#b0b7c3", FROZEN: "#6b7a90", CONTRASTIVE: "#c2410c"}


def plot_bars(rows: Sequence[Metric], metric: str) -> Figure:
    """Plot one metric of every model by stratum, a panel per split, with intervals."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for axis, (split, voices) in zip(axes, VOICES.items(), strict=True):
        for offset, model in enumerate(_COLOURS):
            mine = {r.stratum: r for r in rows if (r.model, r.split, r.metric) == (model, split.value, metric)}
            found = [(i, mine[s]) for i, s in enumerate(_STRATA) if s in mine]
            x = np.array([i for i, _ in found]) + (offset - 1) * 0.27
            values = np.array([r.value for _, r in found])
            errors = np.array([[r.value - r.low, r.high - r.value] for _, r in found]).reshape(-1, 2).T
            axis.bar(x, values, 0.25, yerr=np.clip(errors, 0, None), color=_COLOURS[model], label=model, capsize=2)
        axis.set_xticks(range(len(_STRATA)), _STRATA)
        axis.set_title(voices)
        axis.axhline(0.5, color="black", linewidth=0.6, linestyle=":")
        axis.set_ylim(0.3, 1)
    axes[0].set_ylabel(metric)
    figure.legend(
        *axes[0].get_legend_handles_labels(), frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, -0.06)
    )
    return figure


def plot_curves(unsafe: Bools, p: dict[str, Doubles]) -> Figure:
    """Plot ROC, precision against recall, and calibration on the held-out voices."""
    figure, (roc, pr, calibration) = plt.subplots(1, 3, figsize=(12, 3.8))
    for model, scores in p.items():
        fpr, tpr, _ = roc_curve(unsafe, scores)
        roc.plot(fpr, tpr, color=_COLOURS[model], label=f"{model}: {roc_auc_score(unsafe, scores):.3f}")
        precision, recall, _ = precision_recall_curve(unsafe, scores)
        pr.plot(recall, precision, color=_COLOURS[model])
    edges = np.quantile(p[CONTRASTIVE], np.linspace(0, 1, 11))
    bins = np.clip(np.searchsorted(edges, p[CONTRASTIVE], side="right") - 1, 0, 9)
    means = [(p[CONTRASTIVE][bins == b].mean(), unsafe[bins == b].mean()) for b in range(10) if (bins == b).any()]
    calibration.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":")
    calibration.plot(*zip(*means, strict=True), marker="o", color=_COLOURS[CONTRASTIVE])
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC (AUC)")
    roc.legend(frameon=False, fontsize=8, loc="lower right")
    pr.set(xlabel="recall", ylabel="precision", title="precision and recall")
    calibration.set(xlabel="score", ylabel="share unsafe", title="calibration, by tenths of the scores")
    return figure


def write_report(folder: RunFolder, measured: Measured) -> Path:
    """Write the HTML report of a run: one file, plots inside."""
    package = ModelPackage.load(folder.package)
    rows = measured.rows
    figures = {"F1 by difficulty": plot_bars(rows, "F1"), "AUC by difficulty": plot_bars(rows, "AUC")}
    if 0 < measured.unsafe.sum() < len(measured.unsafe):
        figures["Voices never heard"] = plot_curves(measured.unsafe, {m: measured.p_unsafe[m] for m in _COLOURS})
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        manifest=package.manifest,
        rows=rows,
        statements=[r for r in rows if r.suite == "statements"],
        others=[r for r in rows if r.suite != "statements"],
        models=list(_COLOURS),
        metrics=list(METRICS),
        strata=_STRATA,
        splits={split.value: voices for split, voices in VOICES.items()},
        figures={title: _figure_uri(figure) for title, figure in figures.items()},
    )
    path = folder.evaluation / "report.html"
    write_text(path, page)
    return path


def comparison(rows: Sequence[Metric], split: Split, title: str) -> Table:
    """Return a table of every metric and stratum of one split, a column per model."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("statements")
    for model in _COLOURS:
        table.add_column(model, justify="right")
    for metric in METRICS:
        for stratum in _STRATA:
            cells = []
            for model in _COLOURS:
                found = [
                    r
                    for r in rows
                    if (r.suite, r.model, r.split, r.stratum, r.metric)
                    == ("statements", model, split.value, stratum, metric)
                ]
                cells.append(f"{found[0].value:.3f} ({found[0].low:.2f}-{found[0].high:.2f})" if found else "")
            table.add_row(metric if stratum == "all" else "", stratum, *cells, end_section=stratum == "hard")
    return table


def shares(rows: Sequence[Metric]) -> Table:
    """Return a table of all other suites."""
    table = Table(title="The monitor's path at the package's thresholds", title_justify="left")
    for name in ("suite", "split", "of", "are", "share", "95% interval", "n"):
        table.add_column(name, justify="right" if name in ("share", "n") else "left")
    for r in rows:
        if r.suite != "statements":
            table.add_row(
                r.suite, r.split, r.stratum, r.metric, f"{r.value:.3f}", f"{r.low:.2f}-{r.high:.2f}", str(r.n)
            )
    return table
