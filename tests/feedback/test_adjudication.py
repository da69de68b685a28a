from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from monitor.feedback.adjudication import Outcome, Status, adjudicate, latest
from monitor.records import Decision, FeedbackRecord, event_id
from tests.alerts.flags import make_flag

_START = datetime(2026, 3, 1, tzinfo=UTC)


def decided(
    reviewer: str, decision: Decision, *, minute: int = 0, flag: int = 0, recommendation: str | None = None
) -> FeedbackRecord:
    at = _START + timedelta(minutes=minute)
    return FeedbackRecord(
        id=event_id(flag, reviewer, at),
        flag=make_flag(flag),
        reviewer=reviewer,
        decision=decision,
        recommendation=recommendation,
        decided_at=at,
    )


ACCEPT, REJECT, WRONG, UNSURE = Decision
SETTLED = Status.SETTLED


@pytest.mark.parametrize(
    ("decisions", "outcome"),
    [
        ([], Outcome(Status.OPEN)),
        ([decided("a", ACCEPT)], Outcome(Status.SECOND)),
        ([decided("a", UNSURE)], Outcome(Status.DISPUTED)),
        ([decided("a", ACCEPT), decided("b", ACCEPT)], Outcome(SETTLED, ACCEPT)),
        ([decided("a", ACCEPT), decided("b", REJECT)], Outcome(Status.DISPUTED)),
        ([decided("a", ACCEPT), decided("b", REJECT), decided("c", REJECT)], Outcome(SETTLED, REJECT)),
        ([decided("a", ACCEPT), decided("b", UNSURE), decided("c", ACCEPT)], Outcome(SETTLED, ACCEPT)),
        ([decided("a", ACCEPT), decided("b", REJECT), decided("c", UNSURE)], Outcome(Status.DISPUTED)),
        (
            [decided("a", ACCEPT), decided("b", REJECT), decided("c", REJECT), decided("d", ACCEPT)],
            Outcome(Status.DISPUTED),
        ),
        (
            [decided("a", WRONG, recommendation="1"), decided("b", WRONG, recommendation="2")],
            Outcome(Status.DISPUTED),
        ),
        (
            [decided("a", WRONG, recommendation="1"), decided("b", WRONG, recommendation="1")],
            Outcome(SETTLED, WRONG, "1"),
        ),
    ],
)
def test_the_outcome_is_that_of_the_rules_in_any_order(decisions: list[FeedbackRecord], outcome: Outcome) -> None:
    assert {adjudicate(order) for order in permutations(decisions)} == {outcome}


def test_a_reviewer_who_decides_again_has_one_voice() -> None:
    twice = [decided("a", ACCEPT), decided("a", REJECT, minute=1)]
    assert adjudicate(twice).status is Status.SECOND
    assert adjudicate([*twice, decided("b", REJECT)]) == Outcome(SETTLED, REJECT)
    assert [r.decision for r in latest([*twice, *twice])] == [REJECT]


def test_one_reviewer_suffices_where_the_deployment_says_so() -> None:
    assert adjudicate([decided("a", REJECT)], reviewers=1) == Outcome(SETTLED, REJECT)


def test_decisions_on_several_flags_are_refused() -> None:
    with pytest.raises(ValueError, match="several flags"):
        adjudicate([decided("a", ACCEPT), decided("a", ACCEPT, flag=1)])
