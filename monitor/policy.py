"""From scores to verdicts. Pure: no clock, no I/O, so its tests are tables."""

from __future__ import annotations

from collections.abc import Iterable

from monitor.records import Thresholds
from monitor.types import GRAVITY, StatementScore, StatementVerdict, Verdict


def judge(score: StatementScore, thresholds: Thresholds) -> Verdict:
    """Return the verdict of one statement: out of scope first, then by the two thresholds of `p_unsafe`."""
    if score.p_in_scope < thresholds.in_scope:
        return Verdict.OUT_OF_SCOPE
    if score.p_unsafe >= thresholds.unsafe:
        return Verdict.UNSAFE
    return Verdict.REVIEW if score.p_unsafe >= thresholds.review else Verdict.SAFE


def gravest(statements: Iterable[StatementVerdict]) -> tuple[Verdict, float]:
    """Return the verdict and the score of a message: (out_of_scope, 0) when it holds no statement."""
    verdict, score = Verdict.OUT_OF_SCOPE, 0.0
    for statement in statements:
        verdict = min(verdict, statement.verdict, key=GRAVITY.index)
        score = max(score, statement.score)
    return verdict, score
