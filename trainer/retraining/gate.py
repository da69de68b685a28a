"""Whether a challenger takes over: better or as good where it matters, and certainly worse nowhere. Pure.

Every difference is challenger minus champion on the same items, with a bootstrap over families that draws the same
samples for both: a paired difference. Three rules, as in non-inferiority trials (Piaggio et al., "Reporting of
noninferiority and equivalence randomized trials", JAMA 2012):

*Must be shown.* On each large set as a whole the lower end of the 95% interval has to lie above minus the margin: no
more than the margin can have been lost. An interval that reaches beyond it refuses, whether the loss is real or the set
is too small to tell (fails closed).

*Must not be worse.* Difficulties, categories, recommendations, styles, kinds of pairs are many and small. To ask proof
of each would refuse every challenger, and to look for a difference in each at 95% would find one by chance. There a
loss refuses if its estimate exceeds the fine margin and it is certain: the upper end of an interval that holds for all
of them at once (Bonferroni; normal, with the bootstrap's standard error) lies below zero.

*Decisions.* Of those learnt, at least as many are decided right as before; of those kept, not fewer.

What has too few statements or families shows nothing, and the result says so. Where no large set could show anything
the challenger is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from trainer.evaluation.measures import Counts, Doubles, draws, measure, share
from trainer.retraining.comparison import Compared, Judgement, Suite
from trainer.retraining.settings import FrozenSettings, GateSettings
from trainer.settings import EvaluationSettings

#: Its artefact in the folder of a retraining.
FILE = "gate.json"


class Outcome(StrEnum):
    """What one comparison says."""

    HOLDS = "holds"
    WORSE = "worse"  # refuses
    NOT_SHOWN = "not shown"  # too few to tell


class Rule(StrEnum):
    """Which rule a comparison is under."""

    SHOWN = "must be shown"
    NOT_WORSE = "must not be worse"
    DECISIONS = "decisions"


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison: the metric of both, challenger minus champion with its interval, and what follows.

    Metrics are oriented: more is better, so that of out-of-scope statements is the share that gets no flag.
    """

    suite: str
    stratum: str
    metric: str
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    margin: float
    n: int
    families: int
    rule: Rule
    outcome: Outcome


@dataclass(frozen=True)
class Verdict:
    """The findings, the reasons of a refusal (none: passed), and what could not be shown."""

    findings: list[Finding]
    reasons: list[str]
    settings: GateSettings

    @property
    def passed(self) -> bool:
        """Whether the challenger may take over."""
        return not self.reasons

    @property
    def not_shown(self) -> list[Finding]:
        """What had too few statements to tell."""
        return [f for f in self.findings if f.outcome is Outcome.NOT_SHOWN]

    def as_json(self) -> dict[str, Any]:
        """Return it for `gate.json`."""
        return {
            "passed": self.passed,
            "reasons": self.reasons,
            "settings": asdict(self.settings),
            "findings": [asdict(f) for f in self.findings],
        }


AUC, BALANCE, PASSED, RIGHT = "AUC", "balanced accuracy, as served", "not flagged", "decided right"
#: What is measured of the suites; statements have two metrics.
_METRICS = {
    Suite.HEARD: (AUC, BALANCE),
    Suite.UNHEARD: (AUC, BALANCE),
    Suite.OUTSIDE: (PASSED,),
    Suite.PAIRS: (RIGHT,),
    Suite.ANSWERS: (RIGHT,),
    Suite.RECENT: (RIGHT,),
    Suite.LEARNT: (RIGHT,),
}
#: Sets whose whole must be shown. Whole answers and pairs are too few to prove anything of a margin.
_LARGE = (Suite.HEARD, Suite.UNHEARD, Suite.OUTSIDE)
_DECIDED = (Suite.RECENT, Suite.LEARNT)


def _values(metric: str, unsafe: NDArray[np.bool_], own: Sequence[Judgement], counts: Counts) -> Doubles:
    """Return a metric of each bootstrap sample, fp64 [samples]; NaN where it is not defined."""
    flagged = np.array([j.flagged for j in own], dtype=bool)
    if metric == AUC:
        return measure(unsafe, np.array([j.p for j in own], dtype=np.float64), counts)["AUC"]
    if metric == BALANCE:
        return measure(unsafe, flagged.astype(np.float64), counts)["balanced accuracy"]
    return share(~flagged if metric == PASSED else np.array([j.right for j in own], dtype=bool), counts)


@dataclass(frozen=True, slots=True)
class _Paired:
    """Both metrics, their difference and the difference's samples."""

    suite: Suite
    stratum: str
    metric: str
    champion: float
    challenger: float
    samples: Doubles
    n: int
    families: int
    both: bool  # statements of both labels are enough for the metric


def _strata(compared: Compared, suite: Suite) -> dict[str, list[int]]:
    places = compared.sets.of(suite)
    result = {"all": places}
    for name in dict.fromkeys(s for i in places for s in compared.sets.items[i].strata):
        result[name] = [i for i in places if name in compared.sets.items[i].strata]
    return result


def _pairs(compared: Compared, settings: GateSettings, frozen: FrozenSettings) -> Iterator[_Paired]:
    bootstrap = EvaluationSettings(bootstrap=frozen.bootstrap, seed=frozen.seed)
    for suite, metrics in _METRICS.items():
        for stratum, places in _strata(compared, suite).items():
            if not places:
                continue
            items = [compared.sets.items[i] for i in places]
            unsafe = np.array([i.unsafe for i in items], dtype=bool)
            counts = draws([i.family for i in items], bootstrap)
            sides = [[side[i] for i in places] for side in (compared.champion, compared.challenger)]
            for metric in metrics:
                before, after = (_values(metric, unsafe, side, counts) for side in sides)
                if not np.isfinite([before[0], after[0]]).all():
                    continue  # one label only: there is nothing to tell apart
                least = min(int(unsafe.sum()), int((~unsafe).sum())) if metric in (AUC, BALANCE) else len(items)
                yield _Paired(
                    suite, stratum, metric, float(before[0]), float(after[0]), after - before, len(items),
                    len({i.family for i in items}), least >= settings.least // 2,
                )  # fmt: skip


def _finding(own: _Paired, rule: Rule, margin: float, outcome: Outcome, low: float, high: float) -> Finding:
    return Finding(
        own.suite.value, own.stratum, own.metric, round(own.champion, 4), round(own.challenger, 4),
        round(own.challenger - own.champion, 4), round(low, 4), round(high, 4), margin, own.n, own.families, rule,
        outcome,
    )  # fmt: skip


def _interval(own: _Paired) -> tuple[float, float]:
    """Return the 95% percentile interval of the difference."""
    samples = own.samples[1:][np.isfinite(own.samples[1:])]
    if not len(samples):
        return float("-inf"), float("inf")
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def _judged(own: _Paired, settings: GateSettings, comparisons: int) -> Finding:
    """Return what one comparison says; `comparisons` is how many the interval of small strata has to hold for."""
    few = own.n < settings.least or own.families < settings.least_families or not own.both
    low, high = _interval(own)
    difference = own.challenger - own.champion
    if own.suite in _DECIDED:
        worse = difference < 0 and (own.suite is Suite.LEARNT or not few)
        unknown = few and own.suite is Suite.RECENT
        outcome = Outcome.WORSE if worse else Outcome.NOT_SHOWN if unknown else Outcome.HOLDS
        return _finding(own, Rule.DECISIONS, 0.0, outcome, low, high)
    if own.stratum == "all" and own.suite in _LARGE:
        margin = settings.outside_margin if own.suite is Suite.OUTSIDE else settings.margin
        outcome = Outcome.NOT_SHOWN if few else Outcome.HOLDS if low > -margin else Outcome.WORSE
        return _finding(own, Rule.SHOWN, margin, outcome, low, high)
    samples = own.samples[1:][np.isfinite(own.samples[1:])]
    half = float(norm.ppf(1 - 0.025 / max(comparisons, 1)) * samples.std()) if len(samples) else float("inf")
    low, high = difference - half, difference + half
    lost = difference < -settings.fine_margin and high < 0
    outcome = Outcome.NOT_SHOWN if few else Outcome.WORSE if lost else Outcome.HOLDS
    return _finding(own, Rule.NOT_WORSE, settings.fine_margin, outcome, low, high)


def _in_words(finding: Finding) -> str:
    place = finding.suite if finding.stratum == "all" else f"{finding.suite}, {finding.stratum}"
    return (
        f"{place}: {finding.metric} {finding.champion:.3f} -> {finding.challenger:.3f}, difference "
        f"{finding.difference:+.3f} ({finding.low:+.3f} to {finding.high:+.3f}), margin {finding.margin:g}, "
        f"n {finding.n}"
    )


def decide(compared: Compared, settings: GateSettings, frozen: FrozenSettings) -> Verdict:
    """Return what the rules say of a challenger."""
    pairs = list(_pairs(compared, settings, frozen))
    fine = sum(not (p.stratum == "all" and p.suite in _LARGE) and p.suite not in _DECIDED for p in pairs)
    # The strata of decisions repeat what "all" says of a few.
    findings = [_judged(p, settings, fine) for p in pairs if p.suite not in _DECIDED or p.stratum == "all"]
    reasons = [_in_words(f) for f in findings if f.outcome is Outcome.WORSE]
    shown = [f for f in findings if f.rule is Rule.SHOWN]
    if not any(f.outcome is Outcome.HOLDS for f in shown) and not reasons:
        reasons.append("no frozen set has enough statements to show that nothing was lost")
    return Verdict(findings, reasons, settings)


Say = Callable[[str], None]
