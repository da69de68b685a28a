"""The plots of the report, as inline SVG.

Text is text in the font of the page, lines and letters take its colour (`currentColor`), so a plot is readable in light
and dark and on a phone. One panel a figure: the page lays them out.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.manifold import TSNE
from sklearn.metrics import precision_recall_curve, roc_curve

from trainer.evaluation.measures import Bools, Doubles, calibration_bins
from trainer.evaluation.models import COMBINED, CONTRASTIVE, FROZEN, FROZEN_BINARY
from trainer.model.encoder import Floats
from trainer.types import Example, Label, Metric

#: Stands for the colour of the page's text until the figure is SVG; nothing else uses it.
_INK = "#0a0b0c"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "guardline",  # ids, and so the file, are the same each time
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "font.size": 10,
    "legend.fontsize": 9,
}
_KNOWN = {FROZEN_BINARY: "#9aa5b4", FROZEN: "#4f83c4", CONTRASTIVE: "#d9622b", COMBINED: "#7b3fa0"}
#: Okabe and Ito's palette, readable with colour vision deficiencies; black and yellow are left out.
_PALETTE = ("#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1", "#0072b2", "#d55e00", "#7a7a7a")
_SIZE = (4.8, 3.6)


def colours(models: Sequence[str]) -> dict[str, str]:
    """Return a colour for each model; those that every report has keep theirs."""
    others = (c for _ in models for c in _PALETTE)
    return {model: _KNOWN.get(model) or next(others) for model in models}


def _panel(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def to_svg(figure: Figure, label: str) -> str:
    """Return the figure as an SVG element for an HTML page; `label` is what a screen reader says."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows both without
    svg = re.sub(r' id="(?!m|p|C|D)[^"]*"', "", svg)  # names of groups, alike in every figure
    svg = svg.replace(_INK, "currentColor")
    svg = re.sub(r"font: (\S+) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    quoted = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(
        r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg role="img" aria-label="{quoted}" viewBox="\1">', svg, count=1
    )


def plot_bars(rows: Sequence[Metric], metric: str, strata: Sequence[str], title: str) -> Figure:
    """Plot one metric of every model in `rows` by stratum, with intervals."""
    with mpl.rc_context(_STYLE):
        figure, axis = _panel()
        models = list(dict.fromkeys(r.model for r in rows))
        width = 0.8 / max(len(models), 1)
        for offset, (model, colour) in enumerate(colours(models).items()):
            own = {r.stratum: r for r in rows if (r.model, r.metric) == (model, metric)}
            found = [(i, own[s]) for i, s in enumerate(strata) if s in own]
            x = np.array([i for i, _ in found]) + (offset - (len(models) - 1) / 2) * width
            axis.bar(x, [r.value for _, r in found], width * 0.92, color=colour, label=model)
            axis.vlines(x, [r.low for _, r in found], [r.high for _, r in found], color=_INK, linewidth=1)
        axis.set_xticks(range(len(strata)), strata)
        if metric == "AUC":
            _chance(axis, 0.5)
        axis.set(ylim=(0, 1), ylabel=metric, title=title)
        _legend(figure, axis)
    return figure


def plot_intervals(rows: Sequence[Metric], names: Sequence[str], metric: str) -> Figure:
    """Plot one metric of every model in `rows` as points with intervals, a line for each stratum in `names`."""
    with mpl.rc_context(_STYLE):
        models = list(dict.fromkeys(r.model for r in rows))
        figure, axis = _panel((4.8, 0.9 + 0.3 * len(names)))
        step = 0.6 / max(len(models), 1)
        for offset, (model, colour) in enumerate(colours(models).items()):
            own = {r.stratum: r for r in rows if (r.model, r.metric) == (model, metric)}
            found = [(i, own[s]) for i, s in enumerate(names) if s in own]
            y = np.array([i for i, _ in found]) + (offset - (len(models) - 1) / 2) * step
            axis.hlines(y, [r.low for _, r in found], [r.high for _, r in found], color=colour, linewidth=1.2)
            axis.plot([r.value for _, r in found], y, "o", color=colour, markersize=4, label=model)
        axis.set_yticks(range(len(names)), [name.partition(": ")[2] or name for name in names])
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.axvline(0.5, color=_INK, linewidth=0.6, linestyle=":")
        axis.set(xlim=(0, 1), xlabel=metric)
        _legend(figure, axis)
    return figure


def plot_differences(names: Sequence[str], differences: Sequence[tuple[float, float, float, float]]) -> Figure:
    """Plot (difference, low, high, margin) as points with intervals, a line each, beside minus the margin."""
    with mpl.rc_context(_STYLE):
        figure, axis = _panel((4.8, 0.9 + 0.4 * len(names)))
        for y, (value, low, high, margin) in enumerate(differences):
            colour = _PALETTE[0] if low > -margin else _PALETTE[6]
            axis.hlines(y, low, high, color=colour, linewidth=1.5)
            axis.plot([value], [y], "o", color=colour, markersize=5)
            axis.vlines(-margin, y - 0.35, y + 0.35, color=_INK, linewidth=1, linestyle=":")
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.axvline(0, color=_INK, linewidth=0.6)
        axis.set(xlabel="challenger minus champion")
    return figure


def plot_roc(unsafe: Bools, p: Mapping[str, Doubles]) -> Figure:
    """Plot the receiver operating characteristic of every model."""
    with mpl.rc_context(_STYLE):
        figure, axis = _panel()
        axis.plot([0, 1], [0, 1], color=_INK, linewidth=0.6, linestyle=":")
        for model, colour in colours(list(p)).items():
            fpr, tpr, _ = roc_curve(unsafe, p[model])
            axis.plot(fpr, tpr, color=colour, label=model)
        axis.set(xlabel="safe statements flagged", ylabel="unsafe statements flagged", title="ROC")
        _legend(figure, axis)
    return figure


def plot_precision_recall(unsafe: Bools, p: Mapping[str, Doubles]) -> Figure:
    """Plot precision against recall of every model; the dotted line is the share of unsafe statements."""
    with mpl.rc_context(_STYLE):
        figure, axis = _panel()
        _chance(axis, float(unsafe.mean()))
        for model, colour in colours(list(p)).items():
            precision, recall, _ = precision_recall_curve(unsafe, p[model])
            # The last point, precision 1 at recall 0, is a convention and no measurement.
            axis.plot(recall[:-1], precision[:-1], color=colour, label=model)
        axis.set(xlabel="recall", ylabel="precision", title="Precision and recall", xlim=(0, 1), ylim=(0, 1.02))
        _legend(figure, axis)
    return figure


def plot_reliability(unsafe: Bools, p: Mapping[str, Doubles]) -> Figure:
    """Plot the share of unsafe statements against the mean score, in bins of equal mass.

    Vertical bars are what a perfectly calibrated model would show in 95% of samples of this size (consistency bars,
    Bröcker and Smith 2007), drawn about the diagonal for the last model.
    """
    with mpl.rc_context(_STYLE):
        figure, axis = _panel()
        axis.plot([0, 1], [0, 1], color=_INK, linewidth=0.6, linestyle=":")
        for last, (model, colour) in enumerate(colours(list(p)).items(), 1 - len(p)):
            bins = calibration_bins(p[model])
            present = np.unique(bins)
            means = np.array([p[model][bins == b].mean() for b in present])
            axis.plot(
                means, [unsafe[bins == b].mean() for b in present], "o-", color=colour, markersize=3.5, label=model
            )
            if last == 0:
                sizes = np.bincount(bins)[present]
                low, high = binom.ppf([[0.025], [0.975]], sizes, means) / sizes
                axis.vlines(means, low, high, color=colour, linewidth=5, alpha=0.25)
        axis.set(xlabel="mean score", ylabel="share unsafe", title="Reliability", xlim=(0, 1), ylim=(0, 1))
        _legend(figure, axis)
    return figure


def plot_learning_curve(rows: Sequence[Metric], metric: str, title: str) -> Figure:
    """Plot a metric against the number of training statements, with intervals."""
    with mpl.rc_context(_STYLE):
        figure, axis = _panel()
        models = list(dict.fromkeys(r.model for r in rows))
        for model, colour in colours(models).items():
            own = sorted((int(r.stratum), r) for r in rows if (r.model, r.metric) == (model, metric))
            x = [n for n, _ in own]
            axis.fill_between(
                x, [r.low for _, r in own], [r.high for _, r in own], color=colour, alpha=0.2, linewidth=0
            )
            axis.plot(x, [r.value for _, r in own], "o-", color=colour, markersize=4, label=model)
        axis.set(xlabel="training statements", ylabel=metric, title=title, ylim=(0.4, 1))
        _legend(figure, axis)
    return figure


def project(embeddings: Floats, seed: int) -> NDArray[np.float32]:
    """Return t-SNE coordinates (van der Maaten and Hinton 2008), fp32 [n, 2], from a fixed seed and a PCA start."""
    perplexity = min(20.0, (len(embeddings) - 1) / 3)
    return np.asarray(
        TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(embeddings),
        dtype=np.float32,
    )


def plot_map(points: NDArray[np.float32], examples: Sequence[Example], title: str) -> Figure:
    """Plot statements on a plane, [n, 2]: the colour is the recommendation; dots are safe, crosses unsafe."""
    with mpl.rc_context(_STYLE):
        figure, axis = _panel((4.8, 4.4))
        for name, colour in zip(sorted({str(e.recommendation) for e in examples}), _PALETTE, strict=False):
            for label, marker in ((Label.SAFE, "o"), (Label.UNSAFE, "x")):
                keep = [i for i, e in enumerate(examples) if e.recommendation == name and e.label is label]
                axis.plot(
                    points[keep, 0], points[keep, 1], marker, color=colour, markersize=4.5, alpha=0.85,
                    label=name if label is Label.SAFE else None,
                )  # fmt: skip
        axis.set(xticks=[], yticks=[], title=title)
        for side in axis.spines.values():
            side.set_visible(False)
        figure.legend(
            *axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, handletextpad=0.2
        )
    return figure


def _chance(axis: Axes, value: float) -> None:
    axis.axhline(value, color=_INK, linewidth=0.6, linestyle=":")


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, columnspacing=1.2)
