"""Choose the statements by which a package is checked before it serves: what it decides far from its thresholds.

The check itself is `monitor.models.canaries`. Scores near a threshold would flip by rounding, and scores in the middle
move most from one processor to another; so of each verdict those farthest from the thresholds are taken, about
different recommendations. Nothing is drawn at random: the same package of the same statements has the same canaries.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from monitor.assessment import Assessment
from monitor.factory import build_assessment
from monitor.memory import MemoryStore
from monitor.package import CanarySpec, ModelPackage
from monitor.policy import judge
from monitor.records import Thresholds
from monitor.screening import Screening
from monitor.settings import Settings
from monitor.text import normalise
from monitor.types import Message, StatementScore, Verdict

#: Statements that are looked at, and those of one verdict that are taken.
_SCREENED, _EACH = 200, 8
#: Of one verdict about one recommendation.
_ALIKE = 2
#: Distance of a score from every threshold; an fp16 graph differs from fp32 by up to 0.02.
MARGIN = 0.1
_VERDICTS = (Verdict.UNSAFE, Verdict.SAFE, Verdict.OUT_OF_SCOPE)


def _distance(score: StatementScore, thresholds: Thresholds) -> float:
    """Return how far the nearest threshold is that could change the verdict."""
    scope = abs(score.p_in_scope - thresholds.in_scope)
    if score.p_in_scope < thresholds.in_scope:
        return scope
    return min(scope, abs(score.p_unsafe - thresholds.unsafe), abs(score.p_unsafe - thresholds.review))


def _picked(texts: Sequence[str], scores: Sequence[StatementScore], thresholds: Thresholds) -> list[str]:
    """Return the texts that stand farthest from the thresholds, a few of each verdict and recommendation."""
    order = sorted(range(len(texts)), key=lambda i: (-_distance(scores[i], thresholds), i))
    taken: Counter[tuple[Verdict, str]] = Counter()
    picked: dict[Verdict, list[str]] = {verdict: [] for verdict in _VERDICTS}
    for i in order:
        verdict = judge(scores[i], thresholds)
        about = "" if verdict is Verdict.OUT_OF_SCOPE else scores[i].recommendation
        if verdict not in picked or _distance(scores[i], thresholds) < MARGIN or len(picked[verdict]) == _EACH:
            continue
        if about and taken[verdict, about] == _ALIKE:
            continue
        taken[verdict, about] += 1
        picked[verdict].append(texts[i])
    return [text for verdict in _VERDICTS for text in picked[verdict]]


async def _choose(package: ModelPackage, assessment: Assessment, texts: Sequence[str]) -> list[CanarySpec]:
    thresholds = package.thresholds(verified=assessment.path == "verified")
    screening = Screening(package, assessment=assessment, store=MemoryStore(), thresholds=thresholds)
    try:
        scores = await assessment.assess([normalise(text) for text in texts])
        picked = _picked(texts, scores, thresholds)
        # As a monitor decides on it: with what its gates and the wording around a statement have to say.
        found = await screening.screen([Message(id=str(i), text=text) for i, text in enumerate(picked)])
    finally:
        await screening.close()
    near = (thresholds.unsafe, thresholds.review)
    return [
        CanarySpec(text=text, verdict=own.verdict, score=own.score)
        for text, own in zip(picked, found, strict=True)
        if own.verdict in _VERDICTS
        and (own.verdict is Verdict.OUT_OF_SCOPE or min(abs(own.score - t) for t in near) >= MARGIN)
    ]


def choose(package: ModelPackage, texts: Sequence[str]) -> list[CanarySpec]:
    """Return canaries among `texts`: up to eight each of unsafe, safe and out-of-scope ones, with their scores.

    None where the package is sure of nothing. Through its own graphs, in-process, as the monitor would.
    """
    texts = list(dict.fromkeys(texts))
    spread = texts[:: max(1, len(texts) // _SCREENED)][:_SCREENED]
    if not spread:
        return []
    return asyncio.run(_choose(package, build_assessment(Settings(scorer="onnx", verify=True), package), spread))


def in_words(canaries: Sequence[CanarySpec]) -> str:
    """Return how many there are of each verdict."""
    counts = Counter(c.verdict for c in canaries)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in _VERDICTS if counts[verdict]) or "none"
