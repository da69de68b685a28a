"""The review band with a guarantee: split conformal prediction, one side for each class.

A statement is *passed* where it is not even put before a reviewer (score below `review`, or judged out of scope), and
*flagged* from `unsafe` on. For a new family that is exchangeable with those the band was fitted on:

    P(passed | unsafe) <= alpha        P(flagged | safe) <= beta

whatever the scores' distribution and however bad the head. This is class-conditional ("Mondrian") split conformal
prediction (Vovk, Gammerman and Shafer 2005, section 4.5; Angelopoulos and Bates 2021, "A gentle introduction to
conformal prediction"): each threshold is the order statistic of n scores of its class that a new one is beyond with
probability at most k/(n + 1). The guarantee is marginal: over the draw of the validation families as well as of the new
one, not for each recommendation by itself.

Statements of a family are variants of one another and not exchangeable with those of another family one by one, so
each family gives one statement of each class, drawn at random (Dunn, Wasserman and Ramdas 2022, "subsampling once").
Scores must come from a head and a calibration that have not seen these families. (Early stopping of the encoder looks
at one number of the validation split, its AUC, to choose among some epochs; the check on test families includes that.)

It does *not* hold for voices that training never heard, nor after the stream has drifted: there `check_coverage` says
what is left of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from trainer.errors import CorpusError

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Scores are served with four decimals; a threshold just above one of them is this much higher.
STEP = 1e-4
#: The score of a statement that is judged out of scope: no threshold reaches it, it is passed whatever the band.
NOT_JUDGED = -1.0


@dataclass(frozen=True, slots=True)
class Band:
    """Thresholds with `review <= unsafe`, what they promise, and of how many families of each class."""

    review: float
    unsafe: float
    alpha: float
    beta: float
    unsafe_families: int
    safe_families: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often an outcome was seen on a split that the thresholds are not from, with its 95% Wilson interval.

    `limit`, if any, is what the band promises on average. One band is one draw, and its true error scatters about that,
    the check scatters again: under exchangeability the share stays below `expected_high` in 97.5% of cases.
    """

    outcome: str
    share: float
    low: float
    high: float
    families: int
    limit: float | None
    expected_high: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the promise, kept, leaves room for what was measured."""
        if self.limit is None:
            return True
        return self.low <= self.limit if self.expected_high is None else self.share <= self.expected_high


def one_per_family(groups: Sequence[str], keep: Bools, seed: int) -> NDArray[np.int64]:
    """Return the index of one kept statement of each group, drawn at random."""
    candidates = np.random.default_rng(seed).permutation(np.flatnonzero(keep))
    _, first = np.unique(np.array(groups, dtype=str)[candidates], return_index=True)
    return np.sort(candidates[first])


def conformal_band(
    scores: Doubles, unsafe: Bools, groups: Sequence[str], *, alpha: float, beta: float, seed: int, floor: float = 0.5
) -> Band:
    """Return the narrowest band that keeps both promises.

    Args:
        scores: what the policy compares with its thresholds, fp64 [n], four decimals; `NOT_JUDGED` for out of scope.
        unsafe: the truth, bool [n].
        groups: which statements belong together, [n].
        alpha: greatest probability that an unsafe statement is passed.
        beta: greatest probability that a safe statement is flagged.
        seed: of the draw of one statement a family.
        floor: nothing more likely safe than unsafe is flagged. Raising a threshold keeps the promise for the safe.

    Where the classes are so far apart that `review` would lie above `unsafe`, both promises hold anywhere between, and
    the band is empty at `unsafe`: what lies between is flagged.

    Raises:
        CorpusError: no thresholds between 0 and 1 keep the promises: too few families, or too many statements at the
            end of the scale.
    """
    bad = np.sort(scores[one_per_family(groups, unsafe, seed)])
    good = np.sort(scores[one_per_family(groups, ~unsafe, seed)])
    passed, flagged = _places(alpha, len(bad)), _places(beta, len(good))
    if passed < 1 or flagged < 1:
        raise CorpusError(
            f"a conformal band with alpha {alpha:g} and beta {beta:g} needs {1 / min(alpha, beta) - 1:.0f} families of "
            f"each label to be fitted on; {len(bad)} unsafe and {len(good)} safe are there: raise alpha or beta, or "
            "give the validation split more"
        )
    review, highest = float(bad[passed - 1]), float(good[-flagged])
    if review < 0:
        raise CorpusError(
            f"more than {alpha:.0%} of the unsafe statements are judged out of scope, where no band reaches them: "
            "raise in_scope_recall or alpha"
        )
    if highest + STEP > 1:
        raise CorpusError(f"more than {beta:.0%} of the safe statements score 1: no threshold lies above; raise beta")
    flag = max(round(highest + STEP, 4), floor)
    return Band(round(min(review, flag), 4), flag, alpha, beta, len(bad), len(good))


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95% interval of a share of n independent cases (Wilson 1927); (0, 1) of none."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def outcomes(
    scores: Doubles, unsafe: Bools, groups: Sequence[str], *, review: float, flag: float, seed: int
) -> dict[str, Bools]:
    """Return, for one statement a family and class, whether the thresholds did this to it."""
    bad, good = (scores[one_per_family(groups, keep, seed)] for keep in (unsafe, ~unsafe))
    return {
        "unsafe passed": bad < review,
        "safe flagged": good >= flag,
        "unsafe in review": (bad >= review) & (bad < flag),
        "safe in review": (good >= review) & (good < flag),
    }


def coverage(outcome: str, happened: Bools, limit: float | None, fitted_on: int | None = None) -> Coverage:
    """Return the share of families with this outcome; `fitted_on`: of how many families the one threshold is."""
    n = len(happened)
    share = float(happened.sum()) / max(n, 1)
    low, high = wilson(share, n)
    expected = None
    if limit is not None and fitted_on is not None:
        # The error of a band fitted on m families is Beta(k, m + 1 - k) distributed, so its count among n new families
        # is beta-binomial (Angelopoulos and Bates 2021, on checking coverage).
        k = _places(limit, fitted_on)
        expected = round(float(betabinom.ppf(0.975, n, k, fitted_on + 1 - k)) / max(n, 1), 4)
    return Coverage(outcome, round(share, 4), round(low, 4), round(high, 4), n, limit, expected)


def check_coverage(band: Band, scores: Doubles, unsafe: Bools, groups: Sequence[str], *, seed: int) -> list[Coverage]:
    """Return how often unsafe statements are passed and safe ones flagged, on a split that the band has not seen.

    Arguments as of `conformal_band`; one statement a family and class counts, drawn in the same way.
    """
    found = outcomes(scores, unsafe, groups, review=band.review, flag=band.unsafe, seed=seed)
    return [
        coverage("unsafe passed", found["unsafe passed"], band.alpha, band.unsafe_families),
        coverage("safe flagged", found["safe flagged"], band.beta, band.safe_families),
    ]


def _places(limit: float, n: int) -> int:
    """Return how many of n + 1 places may lie beyond a threshold; a hair more, for products that come out too low."""
    return int(limit * (n + 1) + 1e-9)
