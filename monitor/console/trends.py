"""Figures of the trends page. Pure: rows in, numbers out.

Shares have 95% Wilson intervals (Wilson 1927). A settled `accept` or `wrong_recommendation` says that the statement is
unsafe, a settled `reject` that it is safe.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import combinations
from math import isfinite, sqrt

import numpy as np

from monitor.console.register import Row, Vote
from monitor.feedback.adjudication import Status
from monitor.feedback.agreement import cohen_kappa
from monitor.records import Decision

_Z = 1.959964  # of the normal distribution, for 95%
#: Series that a chart tells apart; the rest is one.
MAX_SERIES = 6
OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Share:
    """How many of n, with the 95% interval of the share; (0, 1) of none."""

    hits: int
    n: int

    @property
    def value(self) -> float | None:
        """The share; none of none."""
        return self.hits / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson interval."""
        if not self.n:
            return 0.0, 1.0
        p, n = self.hits / self.n, self.n
        centre = (p + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
        half = _Z * sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n)) / (1 + _Z * _Z / n)
        return max(centre - half, 0.0), min(centre + half, 1.0)


@dataclass(frozen=True, slots=True)
class Daily:
    """Counts by day and series: `counts[series][i]` belongs to `days[i]`."""

    days: list[date]
    counts: dict[str, list[int]]

    @property
    def totals(self) -> list[int]:
        """All series together, by day."""
        return (
            [sum(values) for values in zip(*self.counts.values(), strict=True)] if self.counts else [0] * len(self.days)
        )


def daily(rows: Collection[Row], by: Callable[[Row], str], *, last: date, days: int) -> Daily:
    """Count rows of the `days` days up to `last`; the `MAX_SERIES` largest series by name, the rest together."""
    first = last - timedelta(days=days - 1)
    within = [row for row in rows if first <= row.day <= last]
    sizes = Counter(by(row) for row in within)
    named = [name for name, _ in sizes.most_common(MAX_SERIES)]
    counts = {name: [0] * days for name in named}
    if len(sizes) > len(named):
        counts[OTHERS] = [0] * days
    for row in within:
        name = by(row)
        counts[name if name in counts else OTHERS][(row.day - first).days] += 1
    return Daily([first + timedelta(days=i) for i in range(days)], counts)


def is_safe(row: Row) -> bool | None:
    """Tell what reviewers settled of the statement: safe, unsafe, or nothing yet."""
    if row.outcome.status is not Status.SETTLED:
        return None
    return row.outcome.decision is Decision.REJECT


def rejected(rows: Iterable[Row], by: Callable[[Row], str]) -> list[tuple[str, Share]]:
    """Return the share of settled flags that were rejected, by group, the most settled first."""
    hits: Counter[str] = Counter()
    n: Counter[str] = Counter()
    for row in rows:
        if (safe := is_safe(row)) is not None:
            n[by(row)] += 1
            hits[by(row)] += safe
    return [(name, Share(hits[name], count)) for name, count in n.most_common()]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two reviewers agree on the flags that both decided on; `kappa` is none where it is not defined."""

    first: str
    second: str
    share: Share
    kappa: float | None


def _kappa(pairs: Sequence[tuple[Vote, Vote]]) -> float | None:
    said = [[(vote.decision, vote.recommendation) for vote in votes] for votes in zip(*pairs, strict=True)]
    values = list({value for own in said for value in own})
    first, second = (np.eye(len(values))[[values.index(value) for value in own]] for own in said)
    found = float(cohen_kappa(first, second, np.ones((1, len(pairs))))[0])
    return found if isfinite(found) else None


def agreement(rows: Iterable[Row]) -> list[Agreement]:
    """Return the agreement of every two reviewers, those with most flags in common first.

    As `guardline feedback agreement` has it: `unsure` is no decision, and two are the same if they name the same
    recommendation, too.
    """
    pairs: defaultdict[tuple[str, str], list[tuple[Vote, Vote]]] = defaultdict(list)
    for row in rows:
        made = sorted((v for v in row.votes if v.decision is not Decision.UNSURE), key=lambda v: v.reviewer)
        for a, b in combinations(made, 2):
            pairs[a.reviewer, b.reviewer].append((a, b))
    found = [
        Agreement(
            first,
            second,
            Share(sum((a.decision, a.recommendation) == (b.decision, b.recommendation) for a, b in both), len(both)),
            _kappa(both),
        )
        for (first, second), both in pairs.items()
    ]
    return sorted(found, key=lambda a: (-a.share.n, a.first, a.second))


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What another threshold would have flagged, of what the console knows: nothing below `lowest`.

    `precision` is of the settled flags at or above the threshold; `missed` of them were settled as unsafe and would no
    longer be flagged, `spared` as safe. `bins` counts scores between `lowest` and 1.
    """

    model: str
    threshold: float
    current: float
    lowest: float
    flagged: int
    would: int
    by_category: list[tuple[str, int, int]]
    precision: Share
    missed: int
    spared: int
    bins: list[int]


_BINS = 24


def models(rows: Iterable[Row]) -> list[str]:
    """Return the models that flagged anything, the one of the latest message first."""
    latest: dict[str, Row] = {}
    for row in rows:
        if row.model not in latest or latest[row.model].received_at < row.received_at:
            latest[row.model] = row
    return sorted(latest, key=lambda model: latest[model].received_at, reverse=True)


def what_if(rows: Iterable[Row], model: str, threshold: float | None) -> WhatIf | None:
    """Return what a threshold (without one: the model's own) would have flagged; none where the model flagged nothing.

    Workers may have been told other thresholds than the model's own: those of the latest message count.
    """
    own = [row for row in rows if row.model == model]
    if not own:
        return None
    latest = max(own, key=lambda row: row.received_at)
    lowest = max(row.review_threshold for row in own)
    t = min(max(latest.threshold if threshold is None else threshold, lowest), 1.0)
    now = Counter(row.category for row in own if row.verdict == "unsafe")
    then = Counter(row.category for row in own if row.score >= t)
    settled = [(row, safe) for row in own if (safe := is_safe(row)) is not None]
    above = [safe for row, safe in settled if row.score >= t]
    dropped = [safe for row, safe in settled if row.verdict == "unsafe" and row.score < t]
    bins = [0] * _BINS
    for row in own:
        place = (row.score - lowest) / (1 - lowest) if lowest < 1 else 1.0
        bins[min(max(int(place * _BINS), 0), _BINS - 1)] += 1
    return WhatIf(
        model=model,
        threshold=t,
        current=latest.threshold,
        lowest=lowest,
        flagged=sum(now.values()),
        would=sum(then.values()),
        by_category=sorted(((c, now[c], then[c]) for c in now | then), key=lambda entry: (-max(entry[1:]), entry[0])),
        precision=Share(sum(not safe for safe in above), len(above)),
        missed=sum(not safe for safe in dropped),
        spared=sum(dropped),
        bins=bins,
    )
