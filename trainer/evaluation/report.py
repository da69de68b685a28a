"""The report of an evaluation, as one HTML file and as tables for the terminal.

In: what `trainer.evaluation.stage` measured. Out: `evaluation/report.html`, which needs nothing beside it (plots are
inline SVG), and the model card made from the same rows. Every sentence of the summary is made from a row; where there
is no row there is no sentence.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from rich.table import Table

from monitor.package import Manifest, ModelPackage
from trainer.artifacts import RunFolder, write_text
from trainer.evaluation import plots
from trainer.evaluation.measures import DECISION, METRICS, Judged, calibrated_ece
from trainer.evaluation.modelcard import write_card
from trainer.evaluation.models import COMBINED, CONTRASTIVE, FROZEN, TESTS, VOICES, served_of
from trainer.evaluation.stage import Measured
from trainer.settings import EvaluationSettings
from trainer.statements.corpus import load_split
from trainer.types import Difficulty, Example, Label, Metric, Split

_TEMPLATES = Path(__file__).parents[1] / "templates"
_STRATA = ("all", *(d.value for d in Difficulty))
#: Leave-one-style-out figures: of this run, else those that the benchmark left in the checkout.
_STYLES = "styles.json"
_BENCHMARK = Path("build") / "results" / "leave_one_style_out.json"
_SUITE_STYLES = "leave one style out"
_POOLED = "all"  # styles
_COMBINED = (
    "“Contrastive” is the fine-tuned encoder alone, the monitor's fast path; “combined” lets a verifier read the "
    "likeliest recommendations beside the statement, as the monitor does by default. "
)
_LEFT_OUT = "Out of distribution by provider: leave one style out"
_MAPPED = 8  # recommendations on the map
_WORST = 15  # recommendations listed
_ERRORS = 10  # of each kind
_SEED = 11  # of the map


@dataclass(frozen=True)
class Grid:
    """A table of the page: the first `labels` columns are names, the rest figures."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page. Empty ones (no figure, no table with rows) are left out."""

    title: str
    text: str = ""
    figures: Sequence[Markup] = ()
    tables: Sequence[Grid] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.figures and not any(t.rows for t in self.tables)


@dataclass(frozen=True)
class Mistake:
    """A wrong verdict, as the page lists it."""

    example: Example
    voices: str
    score: float
    named: str
    named_text: str
    meant_text: str

    @property
    def aligned(self) -> bool:
        """Whether the recommendation that the model cited is the one that the statement is about."""
        return self.named == self.example.recommendation


@dataclass(frozen=True)
class _Rows:
    """Rows by what names them."""

    rows: Sequence[Metric]
    served: str = field(init=False)  # the model that the monitor serves
    _index: dict[tuple[str, str, str, str, str], Metric] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        index = {(r.suite, r.model, r.split, r.stratum, r.metric): r for r in self.rows}
        object.__setattr__(self, "_index", index)
        object.__setattr__(self, "served", served_of(r.model for r in self.rows))

    def get(
        self, suite: str, split: str, metric: str, *, model: str | None = None, stratum: str = "all"
    ) -> Metric | None:
        """Return a row; of the served model, where none is named."""
        return self._index.get((suite, model or self.served, split, stratum, metric))

    def of(self, suite: str, split: str | None = None) -> list[Metric]:
        return [r for r in self.rows if r.suite == suite and split in (None, r.split)]


def models_of(rows: Iterable[Metric], suite: str = "statements") -> list[str]:
    """Return the models that a suite has rows of, baselines first, the served one last."""
    return list(dict.fromkeys(r.model for r in rows if r.suite == suite))


def interval(row: Metric | None, *, sign: bool = False) -> str:
    """Return value and interval for people, empty without a row."""
    if row is None:
        return ""
    plus = "+" if sign else ""
    return f"{row.value:{plus}.3f} ({row.low:{plus}.2f} to {row.high:{plus}.2f})"


def _percent(row: Metric) -> str:
    return f"{row.value:.0%} ({row.low:.0%} to {row.high:.0%})"


# The summary in words


def summary(rows: Sequence[Metric]) -> list[str]:
    """Return what the rows say, in sentences: how good, against what, and where it fails."""
    table = _Rows(rows)
    return [
        *_how_good(table),
        *_twins_and_policy(table),
        *_where_it_fails(table),
    ]


def _how_good(table: _Rows) -> list[str]:
    sentences = []
    for split in reversed(TESTS):
        f1, auc = (table.get("statements", split, m) for m in ("F1", "AUC"))
        if f1 is None or auc is None:
            continue
        sentence = (
            f"{VOICES[split].capitalize()} ({auc.n} statements): the {table.served} model reaches an F1 of "
            f"{interval(f1)} and an AUC of {interval(auc)}"
        )
        alone = [table.get("statements", split, m, model=CONTRASTIVE) for m in ("F1", "AUC")]
        if table.served == COMBINED and alone[0] and alone[1]:
            sentence += f", without its verifier (the fast path) of {interval(alone[0])} and {interval(alone[1])}"
        frozen = [table.get("statements", split, m, model=FROZEN) for m in ("F1", "AUC")]
        if frozen[0] and frozen[1]:
            sentence += (
                "; the encoder before fine-tuning, with a head chosen and fitted in the same way, reaches "
                f"{interval(frozen[0])} and {interval(frozen[1])}"
            )
        difference = table.get("difference", split, "F1", model=f"{table.served} minus {FROZEN}")
        if difference:
            says = (
                "an improvement" if difference.low > 0 else "a loss" if difference.high < 0 else
                "an interval that holds 0: no difference is shown"
            )  # fmt: skip
            against = " from the frozen encoder" if table.served == COMBINED else ""
            sentence += f". The paired difference in F1{against} is {interval(difference, sign=True)}, {says}"
        sentences.append(sentence + ".")
    return sentences


def _twins_and_policy(table: _Rows) -> list[str]:
    split, sentences = Split.TEST_OOD.value, []
    if both := table.get("twins", split, "both right"):
        sentences.append(
            f"Of {both.n} pairs of a safe statement and an unsafe variant of it, in voices never heard, both are "
            f"judged right in {_percent(both)}; coin tosses would give 25%."
        )
    flagged = table.get("policy", split, "flagged", stratum="unsafe")
    false = table.get("policy", split, "flagged", stratum="safe")
    if flagged and false:
        sentences.append(
            f"At the package's thresholds {_percent(flagged)} of the unsafe statements are flagged, and "
            f"{_percent(false)} of the safe ones."
        )
    if outside := table.get("out of scope", Split.TEST_ID.value, "flagged"):
        sentences.append(
            f"Of {outside.n} statements on nothing that the guideline says, {_percent(outside)} are flagged."
        )
    return sentences


def _where_it_fails(table: _Rows) -> list[str]:
    split, sentences = Split.TEST_OOD.value, []
    by_difficulty = {d: r for d in Difficulty if (r := table.get("statements", split, "AUC", stratum=d.value))}
    if len(by_difficulty) > 1:
        worst, best = (pick(by_difficulty, key=lambda d: by_difficulty[d].value) for pick in (min, max))
        sentences.append(
            f"The {table.served} model tells {worst} variants apart worst, with an AUC of "
            f"{interval(by_difficulty[worst])}, and {best} ones best, with {interval(by_difficulty[best])}."
        )
    weak = _ranked(table, "category", split)[:3]
    if len(weak) == 3:
        named = ", ".join(f"{r.stratum.partition(': ')[2]} ({r.value:.2f})" for r in weak)
        sentences.append(f"The weakest categories by AUC are {named}; their intervals are below.")
    safe = table.get("messages", "all", "flagged", stratum="safe")
    found = table.get("messages", "all", "found", stratum="spans")
    on_span = table.get("messages", "all", "on a span", stratum="flags")
    if safe and found and on_span:
        sentences.append(
            f"In whole answers it flags {_percent(found)} of the {found.n} marked errors; {_percent(on_span)} of its "
            f"flags lie on one, and {_percent(safe)} of the {safe.n} answers without an error get at least one flag."
        )
    return sentences


def _ranked(table: _Rows, kind: str, split: str, metric: str = "AUC") -> list[Metric]:
    """Return the served model's rows of one kind of stratum, the worst first."""
    served = table.served
    own = [
        r for r in table.of("statements", split)
        if r.model == served and r.metric == metric and r.stratum.startswith(f"{kind}: ")
    ]  # fmt: skip
    return sorted(own, key=lambda r: (r.value, r.stratum))


# Sections


def _comparison(table: _Rows) -> Section:
    models = models_of(table.rows)
    grids = []
    for split in reversed(TESTS):
        rows = []
        for metric in METRICS:
            cells = [table.get("statements", split, metric, model=m) for m in models]
            difference = table.get("difference", split, metric, model=f"{table.served} minus {FROZEN}")
            if any(cells):
                rows.append([metric, *map(interval, cells), interval(difference, sign=True)])
        n = next((r.n for r in table.of("statements", split) if r.stratum == "all"), 0)
        caption = f"{VOICES[split].capitalize()}: {n} statements. ECE and Brier: less is better."
        grids.append(Grid(caption, ["metric", *models, f"{table.served} minus {FROZEN}"], rows))
    return Section(
        f"Frozen against {table.served}",
        "“Frozen” is the encoder before fine-tuning, with a head chosen and fitted in the same way on the same "
        "statements; “one hyperplane” is a single logistic regression on it. "
        + (_COMBINED if table.served == COMBINED else "")
        + "The difference is paired: both models meet the same bootstrap samples. Recall at a false-positive rate "
        "takes its threshold from the test statements themselves: it describes the ranking, not the package.",
        tables=grids,
    )


def _difficulty(table: _Rows) -> Section:
    models = models_of(table.rows)
    figures, grids = [], []
    for split in reversed(TESTS):
        own = [r for r in table.of("statements", split) if r.stratum in _STRATA]
        if not own:
            continue
        figures += [
            svg(plots.plot_bars(own, metric, _STRATA, VOICES[split].capitalize()), f"{metric} by difficulty")
            for metric in ("AUC", "recall")
        ]
        rows = [
            [
                metric,
                stratum,
                *(interval(table.get("statements", split, metric, model=m, stratum=stratum)) for m in models),
            ]
            for metric in METRICS
            for stratum in _STRATA
        ]
        grids.append(Grid(f"All metrics by difficulty, {VOICES[split]}", ["metric", "stratum", *models], rows, 2, True))
    return Section(
        "By difficulty of the unsafe statement",
        "An easy variant is plainly wrong; a hard one differs from its safe parent in one number, qualifier, "
        "population or negation. A stratum holds its unsafe statements and all safe ones, so AUC and recall "
        "compare across strata; F1, AP and precision do not, as their shares of unsafe statements differ.",
        figures,
        grids,
    )


def _curves(measured: Measured) -> Section:
    own, served = measured.of(Split.TEST_OOD), measured.served
    unsafe = np.array([j.example.label is Label.UNSAFE for j in own], dtype=bool)
    if not 0 < unsafe.sum() < len(unsafe):
        return Section("Curves")
    p = {model: np.array([j.p[model] for j in own], dtype=np.float64) for model in own[0].p}
    expected = calibrated_ece(p[served], EvaluationSettings())
    reliable = {model: p[model] for model in dict.fromkeys((FROZEN, CONTRASTIVE, served)) if model in p}
    return Section(
        "ROC, precision and recall, reliability",
        "Voices never heard. In the reliability diagram each point is a fifteenth of the statements; the pale "
        "bars are where 95% of the points of a perfectly calibrated model would lie at this size. Such a "
        f"model would have an expected calibration error of {expected:.3f}, not 0: read the "
        f"{served} model's ECE against that.",
        [
            svg(plots.plot_roc(unsafe, p), "ROC curves; the areas are in the table above"),
            svg(plots.plot_precision_recall(unsafe, p), "Precision against recall"),
            svg(plots.plot_reliability(unsafe, reliable), "Share of unsafe statements against mean score"),
        ],
    )


def _map(measured: Measured) -> Section:
    examples = [j.example for j in measured.of(Split.TEST_OOD)]
    counts = Counter(str(e.recommendation) for e in examples)
    chosen = sorted(counts, key=lambda name: (-counts[name], name))[:_MAPPED]
    keep = [i for i, e in enumerate(examples) if e.recommendation in chosen]
    title = "Embeddings before and after"
    if len(keep) < 8:  # t-SNE has nothing to arrange
        return Section(title)
    own = [examples[i] for i in keep]
    figures = [
        svg(plots.plot_map(plots.project(measured.embeddings[model][keep], _SEED), own, name), f"{name}: a map")
        for model, name in ((FROZEN, "Before fine-tuning"), (CONTRASTIVE, "After"))
        if model in measured.embeddings
    ]
    return Section(
        title,
        f"The {len(own)} statements, in voices never heard, on the {len(chosen)} recommendations that have "
        "the most of them (ties by id). Colour: recommendation; dots are safe, crosses unsafe. t-SNE keeps neighbours "
        "together and distorts distances: a gap on the map is no measure of separation, the tables are.",
        figures,
    )


def _strata(table: _Rows, kind: str, title: str, text: str, limit: int | None = None) -> Section:
    split = Split.TEST_OOD.value
    ranked = _ranked(table, kind, split)[:limit]
    if not ranked:
        return Section(title)
    names = [r.stratum for r in ranked]
    shown = [
        r
        for r in table.of("statements", split)
        if r.stratum in names and r.model in (FROZEN, CONTRASTIVE, table.served)
    ]
    rows = [
        [
            name.partition(": ")[2],
            *(
                interval(table.get("statements", split, m, stratum=name))
                for m in ("AUC", "F1", "recall", "specificity")
            ),
            str(r.n),
        ]
        for name, r in zip(names, ranked, strict=True)
    ]
    grid = Grid(
        f"{table.served.capitalize()} model by {kind}, {VOICES[Split.TEST_OOD]}, the lowest AUC first",
        [kind, "AUC", "F1", "recall", "specificity", "n"], rows, folded=True,
    )  # fmt: skip
    return Section(title, text, [svg(plots.plot_intervals(shown, names, "AUC"), f"AUC by {kind}")], [grid])


def _twins(table: _Rows) -> Section:
    models = models_of(table.rows, "twins")
    grids = []
    for split in reversed(TESTS):
        rows = []
        for metric in ("both right", "told apart"):
            for stratum in _STRATA:
                cells = [table.get("twins", split, metric, model=m, stratum=stratum) for m in models]
                n = next((str(c.n) for c in cells if c), "")
                if n:
                    rows.append([metric, stratum, *map(interval, cells), n])
        grids.append(Grid(VOICES[split].capitalize(), ["metric", "variants", *models, "pairs"], rows, 2))
    return Section(
        "Twins",
        "A twin is a safe statement and an unsafe variant made from it. “Both right”: the first is judged "
        "safe and the second unsafe, at a probability of one half (coin tosses: 0.25). “Told apart”: the "
        "unsafe one scores higher, whatever the threshold (chance: 0.5).",
        tables=grids,
    )


def _learning(table: _Rows) -> Section:
    figures = [
        svg(
            plots.plot_learning_curve(own, metric, VOICES[split].capitalize()),
            f"{metric} against the number of training statements, {VOICES[split]}",
        )
        for split in reversed(TESTS)
        for metric in ("F1", "AUC")
        if (own := table.of("learning curve", split))
    ]
    rows = [[VOICES[Split(r.split)], r.model, r.stratum, r.metric, interval(r)] for r in table.of("learning curve")]
    grid = Grid("Learning curve", ["voices", "model", "training statements", "metric", "value"], rows, 2, True)
    return Section(
        "Learning curve over the corpus",
        "Heads fitted again on growing, nested parts of the training families. The encoders are not trained "
        "again: the contrastive one has seen the whole corpus, so its curve shows what the heads need and "
        "says nothing of how much the contrastive training needs.",
        figures,
        [grid],
    )


#: What is said of the suites that have a table and nothing else; others get a table without words.
_SUITES = {
    "perturbation": (
        "Perturbations",
        (
            "Minimal pairs made by rule from recommendations and safe statements: one number, negation or population "
            "is changed, so that the statement becomes wrong, or only its wording (invariance). Pair accuracy: the "
            "safe one is judged safe and its wrong twin unsafe. Flip rate: the two verdicts differ, either way round. "
            "Ranking: the wrong one scores higher. Invariance violations, of which less is better: the verdict "
            "changes, the meaning does not."
        ),
    ),
    "vignettes": (
        "Numeric vignettes",
        "Patients and doses made by rule, whose truth follows from the numbers; none of these texts was trained on.",
    ),
    "retrieval": ("Retrieval", "How often the recommendation that a statement is about is among the first k found."),
}


def _suite(table: _Rows, suite: str) -> Section:
    """Return a suite as one table, a column per model."""
    title, text = _SUITES.get(suite, (suite.capitalize(), ""))
    own = table.of(suite)
    models, metrics = models_of(table.rows, suite), list(dict.fromkeys(r.metric for r in own))
    keys = sorted(dict.fromkeys((r.metric, r.stratum, r.split) for r in own), key=lambda k: metrics.index(k[0]))
    lines = []
    for metric, stratum, split in keys:
        cells = [table.get(suite, split, metric, model=m, stratum=stratum) for m in models]
        lines.append([metric, stratum, *map(interval, cells), next(str(c.n) for c in cells if c)])
    grid = Grid(f"{title}, with 95% intervals", ["metric", "of", *models, "n"], lines, 2)
    return Section(title, text, tables=[grid])


def _shares(table: _Rows) -> Section:
    names = {
        "policy": "statements",
        "conformal": "guaranteed band",
        "alignment": "cited rule",
        "out of scope": "out of scope",
        "messages": "whole answers",
    }
    rows = [
        [name, VOICES[Split(r.split)] if r.split in TESTS and suite != "out of scope" else "", r.stratum, r.metric,
         interval(r), str(r.n)]
        for suite, name in names.items()
        for r in table.of(suite)
    ]  # fmt: skip
    return Section(
        "At the package's thresholds: statements, out of scope, whole answers",
        "What the monitor does with this package as it is. Out-of-scope statements are about nothing that the "
        "guideline says. Whole answers have their errors marked: “found” is the share of marked errors with a "
        "flag on them, “on a span” the share of flags that lie on a marked error.",
        tables=[Grid("Shares with 95% Wilson intervals", ["suite", "voices", "of", "are", "share", "n"], rows, 4)],
    )


def _reviews(table: _Rows) -> Section:
    agreement = [[r.model, r.metric, interval(r), str(r.n)] for r in table.of("reviews")]
    models = models_of(table.rows, "reviewed")
    reviewed = []
    for split in reversed(TESTS):
        for metric in METRICS:
            cells = [table.get("reviewed", split, metric, model=m) for m in models]
            if any(cells):
                n = next(str(c.n) for c in cells if c)
                reviewed.append([VOICES[split], metric, *map(interval, cells), n])
    return Section(
        "Reviewers",
        "Agreement of the reviewers with each other and with the corpus (the label by construction), and "
        "every metric on the statements to which all reviewers who saw them gave the corpus' label.",
        tables=[
            Grid("Agreement", ["pair", "metric", "value", "n"], agreement, 2),
            Grid("Confirmed statements only", ["voices", "metric", *models, "n"], reviewed, 2),
        ],
    )


# Leave one style out


def load_styles(folder: RunFolder, styles: set[str]) -> tuple[list[Metric], str]:
    """Return the rows of leave-one-style-out and a sentence on where they come from; neither where there are none.

    `evaluation/styles.json` of the run comes first, then what `make bench-styles` left in `build/results`; the latter
    only where each of its styles is one of this run's corpus (`styles`), or it would be about another guideline.
    Rows look like `{"method", "head", "style", "n", "F1", "F1 low", "F1 high", ...}`; any metric with both limits is
    taken, `head` may be missing. A file of another form gives no rows, and the sentence says so.
    """
    for path, own in ((folder.evaluation / _STYLES, True), (_BENCHMARK, False)):
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            given = content["rows"] if isinstance(content, dict) else content
            rows = [row for raw in given for row in _style_rows(raw)]
        except (KeyError, TypeError, ValueError) as error:
            return [], f"{path.name} is not of the form that is expected ({error!r}) and was left out."
        named = {r.stratum.partition(": ")[2] for r in rows} - {_POOLED}
        if not own and not named <= styles:
            continue
        where = "this run" if own else "the benchmark `make bench-styles`, which trains models of its own"
        commit = f" (commit {content['commit']})" if isinstance(content, dict) and "commit" in content else ""
        return rows, f"Figures of {where}{commit}; they are not figures of this package."
    return [], ""


def _style_rows(raw: object) -> list[Metric]:
    if not isinstance(raw, dict):
        raise TypeError(f"a row is {raw!r}")
    head = raw.get("head", "joint")
    method = str(raw["method"]) + ("" if head == "joint" else f" ({head})")
    rows = []
    for metric in (key.removesuffix(" low") for key in raw if key.endswith(" low")):
        value, low, high = (float(raw[key]) for key in (metric, f"{metric} low", f"{metric} high"))
        split, stratum = Split.TEST_OOD.value, f"style: {raw['style']}"
        rows.append(Metric(_SUITE_STYLES, method, split, stratum, metric, value, low, high, int(raw["n"])))
    return rows


def _left_out(rows: Sequence[Metric], source: str) -> Section:
    table = _Rows(rows)
    metrics = list(dict.fromkeys(r.metric for r in rows))
    methods = models_of(rows, _SUITE_STYLES)

    def cell(method: str, style: str, metric: str) -> Metric | None:
        return table.get(_SUITE_STYLES, Split.TEST_OOD.value, metric, model=method, stratum=f"style: {style}")

    pooled = [
        [method, *(interval(cell(method, _POOLED, m), sign=" - " in method) for m in metrics)]
        for method in methods
        if any(cell(method, _POOLED, m) for m in metrics)
    ]
    styles = [s for s in dict.fromkeys(r.stratum.partition(": ")[2] for r in rows) if s != _POOLED]
    by_style = [m for m in methods if any(cell(m, s, metric) for s in styles for metric in metrics)]
    grids = [Grid("All styles, each judged by a model that never heard it", ["method", *metrics], pooled)]
    for metric in metrics:
        lines = [[style, *(interval(cell(m, style, metric)) for m in by_style)] for style in styles]
        grids.append(
            Grid(f"{metric} by the style that was left out", ["style", *by_style], lines, folded=metric != "F1")
        )
    text = "Each style plays a provider: models are trained without it and judged on it. "
    return Section(_LEFT_OUT, text + source, tables=grids)


# Wrong verdicts


def mistakes(judged: Sequence[Judged], manifest: Manifest, label: Label, n: int = _ERRORS) -> list[Mistake]:
    """Return the n most confident wrong verdicts of the served model on statements of one label, the worst first."""
    texts = {r.id: r.text for r in manifest.recommendations}
    wrong = [
        (j, p) for j in judged
        if j.example.label is label and ((p := j.p[served_of(j.p)]) >= DECISION) is not (label is Label.UNSAFE)
    ]  # fmt: skip
    wrong.sort(key=lambda own: (-abs(own[1] - DECISION), own[0].example.id))
    return [
        Mistake(
            j.example, VOICES[j.split], p, j.recommendation, texts.get(j.recommendation, ""),
            texts.get(j.example.recommendation or "", ""),
        )
        for j, p in wrong[:n]
    ]  # fmt: skip


def _alignment_of_errors(judged: Sequence[Judged]) -> str:
    """Return how often the cited recommendation is right where the verdict is wrong, and where it is right."""
    shares = {}
    for correct in (True, False):
        own = [
            j for j in judged
            if ((j.p[served_of(j.p)] >= DECISION) is (j.example.label is Label.UNSAFE)) is correct
        ]  # fmt: skip
        if own:
            shares[correct] = sum(j.recommendation == j.example.recommendation for j in own) / len(own), len(own)
    if len(shares) < 2:
        return ""
    return (
        f"The model cites the right recommendation for {shares[False][0]:.0%} of its {shares[False][1]} wrong verdicts "
        f"and for {shares[True][0]:.0%} of the {shares[True][1]} right ones."
    )


# The page


def svg(figure: Figure, label: str) -> Markup:
    """Return a figure as an element of a page; `label` is what a screen reader says."""
    return Markup(plots.to_svg(figure, label))  # noqa: S704 - matplotlib escapes the texts, `to_svg` the label


def _sections(measured: Measured, styles: tuple[Sequence[Metric], str]) -> list[Section]:
    table = _Rows(measured.rows)
    known = {
        "statements", "difference", "twins", "policy", "alignment", "learning curve", "out of scope", "messages",
        "conformal", "reviews", "reviewed", *_SUITES,
    }  # fmt: skip
    others = list(dict.fromkeys(r.suite for r in measured.rows if r.suite not in known))
    worst = (
        f"The {_WORST} recommendations with the lowest AUC. "
        if len(_ranked(table, "recommendation", Split.TEST_OOD)) > _WORST
        else ""
    )
    sections = [
        _comparison(table),
        _difficulty(table),
        _curves(measured),
        _map(measured),
        _twins(table),
        _strata(table, "category", "By category", "What kind of claim the statement makes, as the corpus says."),
        _strata(
            table, "recommendation", "By recommendation",
            worst + "Few statements each: the intervals are wide, and the lowest of many noisy figures look worse than "
            "they are.",
            _WORST,
        ),
        _strata(table, "style", "By style", "The held-out styles of this run, one by one."),
        _learning(table),
        *(_suite(table, name) for name in _SUITES),
        _left_out(*styles),
        _reviews(table),
        _shares(table),
        *(_suite(table, name) for name in others),
    ]  # fmt: skip
    unusable = bool(styles[1]) and not styles[0]  # then the section says so
    return [s for s in sections if not s.empty or (unusable and s.title == _LEFT_OUT)]


def environment() -> jinja2.Environment:
    """Return what renders the pages."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def render(manifest: Manifest, measured: Measured, styles: tuple[Sequence[Metric], str] = ((), "")) -> str:
    """Return the page."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            manifest=manifest,
            served=measured.served,
            summary=summary(measured.rows),
            reviewed=any(r.suite == "reviews" for r in measured.rows),
            sections=_sections(measured, styles),
            errors={
                "Unsafe, judged safe": mistakes(measured.judged, manifest, Label.UNSAFE),
                "Safe, judged unsafe": mistakes(measured.judged, manifest, Label.SAFE),
            },
            alignment=_alignment_of_errors(measured.judged),
        )
    )


def write_report(folder: RunFolder, measured: Measured) -> Path:
    """Write `report.html` of a run, and the model card into its package; return where the report is."""
    manifest = ModelPackage.load(folder.package).manifest
    styles = load_styles(folder, {e.style for own in load_split(folder).values() for e in own})
    path = folder.evaluation / "report.html"
    write_text(path, render(manifest, measured, styles))
    write_card(folder, measured.rows)
    return path


# The terminal


def comparison(rows: Sequence[Metric], split: Split) -> Table:
    """Return every metric of every model on one split, side by side, and the served model minus frozen."""
    table = _Rows(rows)
    models = models_of(rows)
    n = next((r.n for r in table.of("statements", split) if r.stratum == "all"), 0)
    result = Table(title=f"{VOICES[split].capitalize()} ({n} statements)", title_justify="left")
    result.add_column("metric")
    for name in [*models, f"{table.served} minus {FROZEN}"]:
        result.add_column(name, justify="right")
    for metric in METRICS:
        cells = [table.get("statements", split, metric, model=m) for m in models]
        if any(cells):
            difference = table.get("difference", split, metric, model=f"{table.served} minus {FROZEN}")
            result.add_row(metric, *map(interval, cells), interval(difference, sign=True))
    return result


def difficulties(rows: Sequence[Metric], split: Split) -> Table:
    """Return AUC, recall and twins of every model by difficulty."""
    table = _Rows(rows)
    models = models_of(rows)
    result = Table(title=f"By difficulty, {VOICES[split]}", title_justify="left")
    for name in ("metric", "unsafe ones", *models):
        result.add_column(name, justify="right" if name in models else "left")
    for suite, metric in (("statements", "AUC"), ("statements", "recall"), ("twins", "both right")):
        for d in Difficulty:
            cells = [table.get(suite, split, metric, model=m, stratum=d.value) for m in models]
            if any(cells):
                name = f"twins, {metric}" if suite == "twins" else metric
                result.add_row(name, d.value, *map(interval, cells), end_section=d is Difficulty.HARD)
    return result


def shares(rows: Sequence[Metric]) -> Table:
    """Return what the package does at its thresholds."""
    result = Table(title="The monitor's path at the package's thresholds", title_justify="left")
    for name in ("suite", "split", "of", "are", "share", "n"):
        result.add_column(name, justify="right" if name in ("share", "n") else "left")
    for r in rows:
        if r.suite in ("policy", "alignment", "out of scope", "messages"):
            result.add_row(r.suite, r.split, r.stratum, r.metric, interval(r), str(r.n))
    return result


def side_by_side(runs: Mapping[str, Sequence[Metric]], split: Split) -> Table:
    """Return the models of several runs, a line each, for one split."""
    columns = ("F1", "AUC", "AP", "balanced accuracy", "recall at 5% FPR")
    result = Table(title=VOICES[split].capitalize(), title_justify="left")
    for name in ("run", "model", *columns, "twins, both right", "n"):
        result.add_column(name, justify="left" if name in ("run", "model") else "right")
    for run, rows in runs.items():
        table = _Rows(rows)
        models = [m for m in models_of(rows) if table.get("statements", split, "AUC", model=m)]
        for model in models:
            cells = [table.get("statements", split, c, model=model) for c in columns]
            n = next(str(c.n) for c in cells if c)
            result.add_row(
                run if model == models[0] else "", model, *map(interval, cells),
                interval(table.get("twins", split, "both right", model=model)), n, end_section=model == models[-1],
            )  # fmt: skip
    return result


def reviewed(rows: Sequence[Metric]) -> list[Table]:
    """Return reviewers' agreement, and the metrics on what they confirmed."""
    table = _Rows(rows)
    agreement = Table(title="Agreement", title_justify="left")
    for name in ("pair", "metric", "value", "n"):
        agreement.add_column(name, justify="right" if name in ("value", "n") else "left")
    for r in table.of("reviews"):
        agreement.add_row(r.model, r.metric, interval(r), str(r.n))
    models = models_of(rows, "reviewed")
    confirmed = Table(title="On the statements that reviewers confirmed", title_justify="left")
    for name in ("split", "metric", *models, "n"):
        confirmed.add_column(name, justify="left" if name in ("split", "metric") else "right")
    for split in reversed(TESTS):
        for metric in METRICS:
            cells = [table.get("reviewed", split, metric, model=m) for m in models]
            if any(cells):
                confirmed.add_row(VOICES[split], metric, *map(interval, cells), next(str(c.n) for c in cells if c))
    return [agreement, confirmed]
