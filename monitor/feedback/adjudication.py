"""From the decisions on one flag to its outcome: two reviewers, and a third where they differ.

Pure: the same decisions in any order give the same outcome, so a topic read again from the beginning says the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from monitor.records import Decision, FeedbackRecord

#: So many reviewers must say the same of a flag before anything follows from it.
REVIEWERS = 2


class Status(StrEnum):
    """How far the review of a flag has come."""

    OPEN = "open"
    SECOND = "second"
    DISPUTED = "disputed"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the decisions on one flag come to.

    `decision` and `recommendation` are given only where `status` is settled, and `decision` is never `unsure` there.
    `open`: nobody decided. `second`: more reviewers must see it, those who did agree. `disputed`: they differ, or one
    was unsure, and a further reviewer decides.
    """

    status: Status
    decision: Decision | None = None
    recommendation: str | None = None


def latest(records: Iterable[FeedbackRecord]) -> list[FeedbackRecord]:
    """Return the last decision of each reviewer on each flag, oldest first; repeats by id are dropped with it."""
    last: dict[tuple[str, str], FeedbackRecord] = {}
    for record in sorted(records, key=lambda r: (r.decided_at, r.id)):
        last[record.flag.id, record.reviewer] = record
    return sorted(last.values(), key=lambda r: (r.decided_at, r.id))


def adjudicate(records: Sequence[FeedbackRecord], *, reviewers: int = REVIEWERS) -> Outcome:
    """Return the outcome of the decisions on one flag.

    A decision is settled once `reviewers` reviewers made it (for `wrong_recommendation`: naming the same one) and no
    other decision has as many.

    Raises:
        ValueError: the records are of several flags, or `reviewers` is below 1.
    """
    if reviewers < 1:
        raise ValueError("at least one reviewer must decide")
    if len({record.flag.id for record in records}) > 1:
        raise ValueError("these decisions are on several flags")
    last = latest(records)
    if not last:
        return Outcome(Status.OPEN)
    votes = Counter((r.decision, r.recommendation) for r in last if r.decision is not Decision.UNSURE)
    ranked = votes.most_common(2)
    if ranked and ranked[0][1] >= reviewers and (len(ranked) == 1 or ranked[1][1] < ranked[0][1]):
        return Outcome(Status.SETTLED, *ranked[0][0])
    differ = len(votes) > 1 or sum(votes.values()) < len(last)
    return Outcome(Status.DISPUTED if differ else Status.SECOND)
