"""Are scores distributed as they were? The population stability index, with a bound that chance does not reach.

PSI = sum over bins of (w - r) ln(w / r), where r and w are the shares of the reference and of a window in the bins
that cut the reference into ten of like size. Where both come from one distribution, PSI is about (1/n + 1/m) times a
chi-squared variable with bins - 1 degrees of freedom (B. Yurdakul, "Statistical Properties of Population Stability
Index", Western Michigan University, 2018). The alarm goes off where it exceeds both that variable's quantile of
1 - `ALPHA`, which chance alone exceeds in one of 100,000 windows, and 0.25, from which on risk management takes a shift
for a major one: with many scores a shift that matters to nobody is significant.

The reference is the first day under a model; a window is an hour, or longer until it has `LEAST` scores. Of both a
uniform sample is kept (J. S. Vitter, "Random sampling with a reservoir", ACM TOMS 11, 1985, algorithm R). Only scores
are kept, and never what was scored.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import log, sqrt
from random import Random
from statistics import NormalDist

from pydantic import BaseModel, ConfigDict

BINS = 10
#: Scores that a reference and a window have at least.
LEAST = 250
#: Scores that are kept of each at most.
MOST = 2000
WINDOW_SECONDS = 3600.0
REFERENCE_SECONDS = 86_400.0
#: Probability that chance alone exceeds the bound.
ALPHA = 1e-5
#: N. Siddiqi, "Credit Risk Scorecards", Wiley, 2006: above it the population has shifted.
MAJOR = 0.25


def edges(scores: Sequence[float]) -> list[float]:
    """Return the inner edges, ascending, of up to ten bins of like size; fewer where many scores are the same."""
    ordered = sorted(scores)
    return sorted({ordered[len(ordered) * i // BINS] for i in range(1, BINS)})


def counts(scores: Sequence[float], inner: Sequence[float]) -> list[int]:
    """Return how many scores lie in each bin: [-inf, e0), [e0, e1), ..., [en, inf)."""
    found = [0] * (len(inner) + 1)
    for score in scores:
        found[bisect_right(inner, score)] += 1
    return found


def psi(reference: Sequence[int], window: Sequence[int]) -> float:
    """Return the population stability index of two histograms; half a score is added to each bin, so none is empty."""

    def shares(histogram: Sequence[int]) -> list[float]:
        whole = sum(histogram) + len(histogram) / 2
        return [(count + 0.5) / whole for count in histogram]

    return sum((w - r) * log(w / r) for r, w in zip(shares(reference), shares(window), strict=True))


def chi_squared_quantile(q: float, degrees: int) -> float:
    """Return the quantile, by E. B. Wilson and M. M. Hilferty (PNAS 17, 1931).

    At `ALPHA` it is 2% (nine degrees) to 11% (one) too high, so the alarm is by as much too slow and never too quick.
    """
    spread = 2 / (9 * degrees)
    return degrees * float((1 - spread + NormalDist().inv_cdf(q) * sqrt(spread)) ** 3)


def psi_bound(bins: int, n: int, m: int) -> float:
    """Return the PSI above which histograms of `n` and `m` scores differ: by more than chance, and by enough."""
    if bins < 2:
        return MAJOR
    return max(MAJOR, chi_squared_quantile(1 - ALPHA, bins - 1) * (1 / n + 1 / m))


class SampleState(BaseModel):
    """A uniform sample of the scores since a time (seconds since the epoch)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    since: float
    seen: int = 0
    scores: list[float] = []


class DriftState(BaseModel):
    """What a restart should not forget."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    reference: SampleState
    window: SampleState | None = None


class _Sample:
    def __init__(self, state: SampleState, rng: Random) -> None:
        self.since, self._seen, self.scores = state.since, state.seen, list(state.scores)
        self._rng = rng

    @property
    def state(self) -> SampleState:
        return SampleState(since=self.since, seen=self._seen, scores=self.scores)

    def add(self, score: float) -> None:
        self._seen += 1
        if len(self.scores) < MOST:
            self.scores.append(score)
        elif (place := self._rng.randrange(self._seen)) < MOST:
            self.scores[place] = score

    def full(self, now: float, seconds: float) -> bool:
        return now - self.since >= seconds and len(self.scores) >= LEAST


class ScoreDrift:
    """Gathers a reference, then compares window after window with it."""

    def __init__(self, now: float, state: DriftState | None = None, rng: Random | None = None) -> None:
        """Begin at `now` (seconds since the epoch), or go on with `state`."""
        self._rng = rng or Random()
        state = state or DriftState(reference=SampleState(since=now))
        self._reference = _Sample(state.reference, self._rng)
        self._window = _Sample(state.window, self._rng) if state.window else None
        #: Of the last window, and what it would have had to exceed; 0 and infinity before there was one.
        self.psi, self.bound = 0.0, float("inf")

    @property
    def state(self) -> DriftState:
        """What to go on with after a restart."""
        return DriftState(reference=self._reference.state, window=self._window.state if self._window else None)

    @property
    def drifted(self) -> bool:
        """Whether the last window was distributed otherwise than the reference."""
        return self.psi > self.bound

    def add(self, score: float, now: float) -> None:
        """Take one score."""
        if self._window is None:
            self._reference.add(score)
            if self._reference.full(now, REFERENCE_SECONDS):
                self._window = self._begin(now)
            return
        self._window.add(score)
        if self._window.full(now, WINDOW_SECONDS):
            inner = edges(self._reference.scores)
            before, after = counts(self._reference.scores, inner), counts(self._window.scores, inner)
            self.psi = psi(before, after)
            self.bound = psi_bound(len(before), len(self._reference.scores), len(self._window.scores))
            self._window = self._begin(now)

    def _begin(self, now: float) -> _Sample:
        return _Sample(SampleState(since=now), self._rng)
