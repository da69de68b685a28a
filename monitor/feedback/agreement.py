"""How far reviewers agree: shares, Krippendorff's alpha and Cohen's kappa, with bootstrap intervals over flags.

A reviewer's last decision on a flag counts; `unsure` is no decision, so it is missing. Two decisions are the same if
they name the same recommendation, too. Intervals are 95% percentile bootstraps (Efron and Tibshirani, "An Introduction
to the Bootstrap", 1993, chapter 13), flags drawn whole. Where every decision is the same one, chance alone would agree
as well: alpha and kappa are not defined then, and left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from monitor.feedback.adjudication import Status, adjudicate, latest
from monitor.feedback.export import by_flag
from monitor.records import Decision, FeedbackRecord

Doubles = NDArray[np.float64]
#: What one reviewer says of a flag.
Vote = tuple[Decision, str | None]

_SAMPLES = 2000
_SEED = 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Stratum:
    """Agreement on the `flags` of a stratum that two reviewers or more decided on; `decisions` of theirs in all."""

    name: str
    flags: int
    decisions: int
    share: Estimate | None
    alpha: Estimate | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Agreement of two reviewers on the `flags` that both decided on."""

    first: str
    second: str
    flags: int
    share: Estimate | None
    kappa: Estimate | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many flags stand where, and how far reviewers agree: all, by category, by recommendation; by pair."""

    statuses: dict[str, int]
    strata: list[Stratum]
    pairs: list[Pair]


def weights(n: int) -> Doubles:
    """Return how often each of n flags is in each sample, fp64 [1 + samples, n]; the first row is the data."""
    rng = np.random.default_rng(_SEED)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=_SAMPLES) if n else np.zeros((_SAMPLES, 0))
    return np.vstack([np.ones((1, n)), drawn]).astype(np.float64)


def estimate(values: Doubles) -> Estimate | None:
    """Return the first value and the percentile interval of the rest; None where the value is not defined."""
    samples = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(samples):
        return None
    low, high = np.percentile(samples, [2.5, 97.5])
    return Estimate(round(float(values[0]), 4), round(float(low), 4), round(float(high), 4))


def pairwise_share(counts: Doubles, samples: Doubles) -> Doubles:
    """Return the share of pairs of decisions on the same flag that are the same, fp64 [samples].

    Args:
        counts: decisions of each value on each flag, fp64 [flags, values].
        samples: how often each flag is in each sample, fp64 [samples, flags].
    """
    own = counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((samples @ (counts * (counts - 1)).sum(axis=1)) / (samples @ (own * (own - 1))))


def krippendorff_alpha(counts: Doubles, samples: Doubles) -> Doubles:
    """Return Krippendorff's alpha for nominal values, fp64 [samples]; NaN where all decisions are one value.

    Args as for `pairwise_share`; flags with fewer than two decisions have no part in it.

    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011, section C (nominal data, any number of
    observers, missing values).
    """
    kept = counts.sum(axis=1) >= 2
    counts, samples = counts[kept], samples[:, kept]
    own = counts.sum(axis=1)
    differing = (own**2 - (counts**2).sum(axis=1)) / (own - 1)
    total, values = samples @ own, samples @ counts
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha = 1 - (total - 1) * (samples @ differing) / (total**2 - (values**2).sum(axis=1))
    return np.where(np.isfinite(alpha), alpha, np.nan)


def cohen_kappa(first: Doubles, second: Doubles, samples: Doubles) -> Doubles:
    """Return Cohen's kappa of two reviewers, fp64 [samples]; NaN where both said the same one thing of all.

    Args:
        first: what the one decided, one-hot, fp64 [flags, values].
        second: what the other did.
        samples: how often each flag is in each sample, fp64 [samples, flags].

    Source: Cohen, "A coefficient of agreement for nominal scales", 1960.
    """
    total = samples.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = samples @ (first * second).sum(axis=1) / total
        chance = ((samples @ first) * (samples @ second)).sum(axis=1) / total**2
        return np.where(chance < 1 - 1e-12, (observed - chance) / (1 - chance), np.nan)


def _one_hot(votes: Sequence[Sequence[Vote]], values: Sequence[Vote]) -> Doubles:
    counts = np.zeros((len(votes), len(values)))
    for row, own in zip(counts, votes, strict=True):
        for vote in own:
            row[values.index(vote)] += 1
    return counts


def _stratum(name: str, votes: Sequence[Sequence[Vote]]) -> Stratum:
    several = [own for own in votes if len(own) >= 2]
    counts = _one_hot(several, list({vote for own in several for vote in own}))
    samples = weights(len(several))
    return Stratum(
        name,
        flags=len(several),
        decisions=int(counts.sum()),
        share=estimate(pairwise_share(counts, samples)),
        alpha=estimate(krippendorff_alpha(counts, samples)),
    )


def _pair(first: str, second: str, votes: Iterable[Mapping[str, Vote]]) -> Pair | None:
    both = [(own[first], own[second]) for own in votes if first in own and second in own]
    if not both:
        return None
    values = list({vote for pair in both for vote in pair})
    one, other = (_one_hot([[pair[side]] for pair in both], values) for side in (0, 1))
    samples = weights(len(both))
    same = samples @ (one * other).sum(axis=1) / samples.sum(axis=1)
    return Pair(first, second, len(both), estimate(same), estimate(cohen_kappa(one, other, samples)))


def agreement(decisions: Iterable[FeedbackRecord]) -> Agreement:
    """Return how far reviewers agree, and how many flags are open, disputed and settled."""
    flags = by_flag(decisions)
    statuses = Counter(adjudicate(records).status for records in flags.values())
    votes: dict[str, dict[str, Vote]] = {}
    strata: dict[str, list[str]] = defaultdict(list)
    for flag, records in flags.items():
        last = latest(records)
        votes[flag] = {r.reviewer: (r.decision, r.recommendation) for r in last if r.decision is not Decision.UNSURE}
        strata["all"].append(flag)
        strata[f"category: {last[-1].flag.category}"].append(flag)
        strata[f"recommendation: {last[-1].flag.evidence.recommendation}"].append(flag)
    names = sorted(strata, key=lambda name: (name != "all", name))
    reviewers = sorted({name for own in votes.values() for name in own})
    pairs = [_pair(first, second, votes.values()) for first, second in combinations(reviewers, 2)]
    return Agreement(
        statuses={status.value: statuses[status] for status in Status if status is not Status.OPEN},
        strata=[_stratum(name, [list(votes[flag].values()) for flag in strata[name]]) for name in names],
        pairs=[pair for pair in pairs if pair is not None],
    )
