"""Metrics of a score, their bootstrap intervals, and the `Metric` rows made of them.

A bootstrap sample is a row of *counts*: how often each statement was drawn. Every metric is computed for all samples at
once from those counts, over scores that are sorted once; drawing rows and calling scikit-learn for each sample takes
hundreds of times as long. The values are scikit-learn's with `sample_weight` (the tests hold them against it).

Intervals are 95% percentile bootstraps over families (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
chapter 13), because a statement and the variants made from it are not independent; that of the calibration error is
centred (see `estimate`). Two models that are measured with the same seed meet the same samples, so their difference is
a paired one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.model.classifier import is_unsafe
from trainer.settings import EvaluationSettings
from trainer.types import Difficulty, Example, Label, Metric, Split

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.uint16]

#: A probability from here on decides "unsafe".
DECISION = 0.5
#: Bins of the expected calibration error, each with the same number of statements.
BINS = 15
#: All metrics, in the order of the tables.
METRICS = (
    "F1",
    "AUC",
    "AP",
    "balanced accuracy",
    "precision",
    "recall",
    "specificity",
    "recall at 5% FPR",
    "recall at 1% FPR",
    "ECE",
    "Brier",
)
#: Metrics of which less is better.
LOWER_IS_BETTER = frozenset({"ECE", "Brier"})
#: What is measured of a category, recommendation or style. A few dozen statements say nothing of a 1% tail, nor do
#: they fill the bins of a calibration error.
FINE_METRICS = ("F1", "AUC", "recall", "specificity")
_FALSE_POSITIVE_RATES = {"recall at 5% FPR": 0.05, "recall at 1% FPR": 0.01}
#: Cells of one block of samples by statements; bounds the memory, whatever the corpus.
_BLOCK = 2_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A held-out statement on the guideline and what was made of it.

    `p` is the calibrated probability of unsafe by model, `recommendation` the id that the served model aligns it with.
    """

    example: Example
    split: Split
    p: dict[str, float]
    recommendation: str


def draws(families: Sequence[str], settings: EvaluationSettings) -> Counts:
    """Return how often each row is in each bootstrap sample, [1 + samples, n]; families are drawn whole.

    The first row is the data themselves, each once.
    """
    names, inverse = np.unique(np.array(families, dtype=str), return_inverse=True)
    counts = np.ones((1 + settings.bootstrap, len(names)), dtype=np.uint16)
    rng = np.random.default_rng(settings.seed)
    for row in counts[1:] if len(names) else ():
        row[:] = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
    return counts[:, inverse]


def calibration_bins(p: Doubles, bins: int = BINS) -> NDArray[np.int64]:
    """Return the bin of each score, int [n]: bins of equal mass, equal scores in one bin."""
    if not len(p):
        return np.zeros(0, dtype=np.int64)
    edges = np.quantile(p, np.linspace(0, 1, bins + 1))
    return np.clip(np.searchsorted(edges, p, side="right") - 1, 0, bins - 1)


def measure(unsafe: Bools, p: Doubles, counts: Counts) -> dict[str, Doubles]:
    """Return every metric of each sample, fp64 [samples]; NaN where a sample holds one class only.

    Args:
        unsafe: the truth, bool [n].
        p: probabilities of unsafe, fp64 [n].
        counts: how often each row is in each sample, [samples, n].

    Decisions are taken at `DECISION`. Recall at a false-positive rate is the greatest recall of the ROC curve, without
    interpolation, at a threshold that flags at most this share of the safe statements *of the sample itself*. ECE:
    expected calibration error (Naeini et al., AAAI 2015) with bins of equal mass; the bins are those of all statements.
    Precision is NaN where nothing is flagged.
    """
    blocks = [_measure(unsafe, p, block) for block in _blocks(counts)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in METRICS}


def _blocks(counts: Counts) -> Iterator[Doubles]:
    size = max(_BLOCK // max(counts.shape[1], 1), 1)
    for start in range(0, len(counts), size):
        yield counts[start : start + size].astype(np.float64)


def _measure(unsafe: Bools, p: Doubles, weights: Doubles) -> dict[str, Doubles]:
    positives, negatives = weights @ unsafe, weights @ ~unsafe
    if not len(p):
        return {name: np.full(len(weights), np.nan) for name in METRICS}
    order = np.argsort(-p, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(p[order]) != 0, True))  # equal scores are one step of the curve
    zero = np.zeros((len(weights), 1))
    tp = np.hstack([zero, np.cumsum(weights[:, order] * unsafe[order], axis=1)[:, ends]])
    fp = np.hstack([zero, np.cumsum(weights[:, order] * ~unsafe[order], axis=1)[:, ends]])
    flagged = p >= DECISION
    hits, alarms = weights @ (unsafe & flagged), weights @ (~unsafe & flagged)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall, fpr = tp / positives[:, None], fp / negatives[:, None]
        precision_at = np.nan_to_num(tp / (tp + fp))
        sensitivity, specificity = hits / positives, 1 - alarms / negatives
        result = {
            "F1": 2 * hits / (hits + alarms + positives),
            "AUC": (np.diff(fpr, axis=1) * (recall[:, 1:] + recall[:, :-1]) / 2).sum(axis=1),
            "AP": (np.diff(recall, axis=1) * precision_at[:, 1:]).sum(axis=1),
            "balanced accuracy": (sensitivity + specificity) / 2,
            "precision": hits / (hits + alarms),
            "recall": sensitivity,
            "specificity": specificity,
            **{
                # A hair more, for shares that floating point puts just beyond the limit.
                name: np.where(fp <= limit * negatives[:, None] + 1e-9, recall, 0).max(axis=1)
                for name, limit in _FALSE_POSITIVE_RATES.items()
            },
            "ECE": _ece(unsafe, p, weights),
            "Brier": weights @ (p - unsafe) ** 2 / weights.sum(axis=1),
        }
    both = (positives > 0) & (negatives > 0)
    return {name: np.where(both, values, np.nan) for name, values in result.items()}


def _ece(unsafe: Bools, p: Doubles, weights: Doubles) -> Doubles:
    member = np.eye(BINS)[calibration_bins(p)]
    gaps = weights @ (member * (p - unsafe)[:, None])
    return np.asarray(np.abs(gaps).sum(axis=1) / weights.sum(axis=1))


def calibrated_ece(p: Doubles, settings: EvaluationSettings) -> float:
    """Return the mean ECE that these very scores would have if they were perfectly calibrated; NaN without scores.

    Labels are drawn from the scores `settings.bootstrap` times. With finite bins it is not 0: an ECE means something
    only as far as it exceeds this.
    """
    if not len(p):
        return float("nan")
    rng = np.random.default_rng(settings.seed)
    one = np.ones((1, len(p)))
    return float(np.mean([_ece(rng.random(len(p)) < p, p, one) for _ in range(settings.bootstrap)]))


def estimate(values: Doubles, *, centred: bool = False) -> Estimate | None:
    """Return value (the first) and percentile interval (of the rest); None where either is not defined.

    `centred` moves the interval by how far the samples lie from the value on average (not below 0 where no sample is):
    for a metric that resampling itself drives up, as noise in the bins does ECE.
    """
    samples = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(samples):
        return None
    low, high = map(float, np.percentile(samples, [2.5, 97.5]))
    if centred:
        bias = samples.mean() - values[0]
        low, high = low - bias, high - bias
        low = max(low, 0) if samples.min() >= 0 else low
    return Estimate(round(float(values[0]), 4), round(float(low), 4), round(float(high), 4))


def kappa(first: Sequence[Any], second: Sequence[Any], counts: Counts) -> Doubles:
    """Return Cohen's kappa (Cohen 1960) of two raters for each sample, fp64 [samples].

    NaN where both give every statement the same one label: then agreement by chance is 1 and kappa is not defined.
    """
    weights = counts.astype(np.float64)
    a, b = np.array(first, dtype=object), np.array(second, dtype=object)
    total = weights.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = weights @ (a == b).astype(np.float64) / total
        chance = np.zeros(len(weights))
        for label in {*first, *second}:
            chance += (weights @ (a == label).astype(np.float64)) * (weights @ (b == label).astype(np.float64))
        chance /= total**2
        return np.where(chance < 1 - 1e-12, (observed - chance) / (1 - chance), np.nan)


def share(hits: Bools, counts: Counts) -> Doubles:
    """Return the share of hits in each sample, fp64 [samples]; NaN in a sample of nothing."""
    weights = counts.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((weights @ hits) / weights.sum(axis=1))


def strata(examples: Sequence[Example]) -> dict[str, list[int]]:
    """Return the rows of each stratum: all, by difficulty, category, recommendation and style.

    A difficulty's stratum holds its unsafe statements and *all* safe ones, the others both labels of theirs.
    """
    everything = range(len(examples))
    result = {"all": list(everything)}
    for difficulty in Difficulty:
        result[difficulty.value] = [i for i in everything if examples[i].difficulty in (None, difficulty)]
    kinds: dict[str, Callable[[Example], str | None]] = {
        "category": lambda e: e.category,
        "recommendation": lambda e: e.recommendation,
        "style": lambda e: e.style,
    }
    for kind, key in kinds.items():
        for name in sorted({k for e in examples if (k := key(e))}):
            result[f"{kind}: {name}"] = [i for i in everything if key(examples[i]) == name]
    return result


def _rows(values: Mapping[str, Doubles], suite: str, model: str, split: str, stratum: str, n: int) -> list[Metric]:
    """Return a row for each metric whose value and interval are defined; `values` as `estimate` takes them."""
    found = ((name, estimate(own, centred=name == "ECE")) for name, own in values.items())
    return [Metric(suite, model, split, stratum, name, e.value, e.low, e.high, n) for name, e in found if e]


def _both_classes(unsafe: Bools) -> bool:
    return bool(0 < unsafe.sum() < len(unsafe))


def score_rows(
    examples: Sequence[Example],
    p: Doubles,
    *,
    model: str,
    split: Split,
    settings: EvaluationSettings,
    suite: str = "statements",
    fine: bool = True,
) -> list[Metric]:
    """Return the metrics of one model on one split, by `strata`; without `fine`, for all and by difficulty only.

    A stratum of one class has no rows: there is nothing to tell apart.
    """
    rows: list[Metric] = []
    for stratum, keep in strata(examples).items():
        if ":" in stratum and not fine:
            continue
        unsafe = is_unsafe([examples[i] for i in keep])
        if not _both_classes(unsafe):
            continue
        found = measure(unsafe, p[keep], draws([examples[i].family for i in keep], settings))
        names = FINE_METRICS if ":" in stratum else METRICS
        rows += _rows({name: found[name] for name in names}, suite, model, split.value, stratum, len(keep))
    return rows


def difference_rows(
    examples: Sequence[Example],
    p: Mapping[str, Doubles],
    *,
    better: str,
    split: Split,
    settings: EvaluationSettings,
) -> list[Metric]:
    """Return metric of model `better` minus that of every other model, paired sample by sample.

    For all statements and by difficulty. An interval that does not hold 0 says that the difference is not chance.
    """
    rows: list[Metric] = []
    for stratum, keep in strata(examples).items():
        unsafe = is_unsafe([examples[i] for i in keep])
        if ":" in stratum or not _both_classes(unsafe):
            continue
        counts = draws([examples[i].family for i in keep], settings)
        found = {model: measure(unsafe, own[keep], counts) for model, own in p.items()}
        for other in found.keys() - {better}:
            values = {name: found[better][name] - found[other][name] for name in METRICS}
            rows += _rows(values, "difference", f"{better} minus {other}", split.value, stratum, len(keep))
    return sorted(rows, key=lambda r: r.model)


def twins(examples: Sequence[Example]) -> list[tuple[int, int]]:
    """Return (safe parent, unsafe child) index pairs; a child whose family has no safe statement has no twin."""
    parents: dict[str, int] = {}
    for i, example in enumerate(examples):
        if example.label is Label.SAFE and (example.family not in parents or example.id == example.family):
            parents[example.family] = i
    return [(parents[e.family], i) for i, e in enumerate(examples) if e.label is Label.UNSAFE and e.family in parents]


def twin_rows(
    examples: Sequence[Example], p: Doubles, *, model: str, split: Split, settings: EvaluationSettings
) -> list[Metric]:
    """Return how often both members of a twin are judged right, and how often the unsafe one scores higher.

    "both right": parent judged safe and child judged unsafe at `DECISION`; coin tosses give one in four. "told apart":
    the child scores higher, whatever the threshold; chance gives one in two.
    """
    pairs = twins(examples)
    rows: list[Metric] = []
    for stratum in ("all", *(d.value for d in Difficulty)):
        own = [(a, b) for a, b in pairs if stratum == "all" or examples[b].difficulty == stratum]
        if not own:
            continue
        parent, child = (p[list(side)] for side in zip(*own, strict=True))
        counts = draws([examples[b].family for _, b in own], settings)
        hits = {"both right": (parent < DECISION) & (child >= DECISION), "told apart": child > parent}
        values = {name: share(right, counts) for name, right in hits.items()}
        rows += _rows(values, "twins", model, split.value, stratum, len(own))
    return rows
