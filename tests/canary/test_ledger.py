"""What becomes of canaries, in any order of flags, verdicts and time."""

from __future__ import annotations

import pytest

from monitor.canary.ledger import Canary, CanaryLedger, Judgement, Outcome, Sent
from monitor.types import Verdict

UNSAFE = Canary("wrong", Verdict.UNSAFE)
SAFE = Canary("right", Verdict.SAFE)
WITHIN = 10.0


def ledger(*canaries: Canary, partition: int = 3) -> CanaryLedger:
    """Return a ledger with canaries `0`, `1`, ... sent at time 0."""
    made = CanaryLedger(WITHIN)
    made.send(Sent(str(i), canary, partition, 0.0) for i, canary in enumerate(canaries))
    return made


def outcome(judgement: Judgement | None) -> Outcome | None:
    return judgement.outcome if judgement else None


def test_an_unsafe_canary_is_ok_with_its_flag_and_further_flags_say_nothing_new() -> None:
    own = ledger(UNSAFE)
    judgement = own.flag("0", 4.0)
    assert judgement is not None
    assert (judgement.outcome, judgement.seconds) == (Outcome.OK, 4.0)
    assert own.flag("0", 5.0) is None
    assert own.due(10_000) == []
    assert own.knows("0")


@pytest.mark.parametrize(("at", "expected"), [(10.0, Outcome.OK), (10.1, Outcome.LATE), (199.0, Outcome.LATE)])
def test_a_flag_after_the_bound_is_late(at: float, expected: Outcome) -> None:
    own = ledger(UNSAFE)
    assert own.due(at) == []
    assert [sent.id for sent in own.overdue(at)] == ([] if expected is Outcome.OK else ["0"])
    assert outcome(own.flag("0", at)) is expected
    assert own.overdue(at) == []


def test_an_unsafe_canary_that_never_comes_back_is_lost_and_the_next_one_makes_up_for_it() -> None:
    own = ledger(UNSAFE)
    (judgement,) = own.due(201.0)
    assert (judgement.outcome, judgement.seconds) == (Outcome.LOST, None)
    assert (own.losing, own.wrong) == ([3], 0)
    own.send([Sent("again", UNSAFE, 3, 300.0)])
    own.flag("again", 301.0)
    assert own.losing == []


def test_a_safe_canary_is_ok_without_a_flag() -> None:
    own = ledger(SAFE)
    assert own.due(10.0) == []
    assert [j.outcome for j in own.due(10.1)] == [Outcome.OK]
    assert own.overdue(10.1) == []


@pytest.mark.parametrize("at", [1.0, 50.0])
def test_a_flag_for_a_safe_canary_is_wrong_whenever_it_comes_and_once(at: float) -> None:
    own = ledger(SAFE)
    own.due(at)
    assert outcome(own.flag("0", at)) is Outcome.WRONG
    assert own.flag("0", at + 1) is None
    assert own.wrong == 1
    own.send([Sent("again", SAFE, 0, 100.0)])
    assert outcome(own.flag("again", 101.0)) is Outcome.WRONG
    own.send([Sent("right", SAFE, 0, 200.0)])
    own.due(211.0)
    assert own.wrong == 0


@pytest.mark.parametrize(
    ("canary", "verdict", "expected"),
    [
        (UNSAFE, Verdict.UNSAFE, None),
        (UNSAFE, Verdict.REVIEW, Outcome.WRONG),
        (SAFE, Verdict.SAFE, Outcome.OK),
        (SAFE, Verdict.OUT_OF_SCOPE, Outcome.WRONG),
    ],
)
def test_a_verdict_says_more_than_a_flag(canary: Canary, verdict: Verdict, expected: Outcome | None) -> None:
    own = ledger(canary)
    assert outcome(own.verdict("0", verdict, 1.0)) is expected
    assert own.verdict("unknown", verdict, 1.0) is None


def test_texts_that_are_not_sent_any_more_are_not_wrong_for_ever() -> None:
    own = ledger(UNSAFE, SAFE)
    own.verdict("0", Verdict.SAFE, 1.0)
    own.flag("1", 1.0)
    assert own.wrong == 2
    own.expect([SAFE])
    assert own.wrong == 1


def test_what_was_not_sent_here_is_not_known() -> None:
    own = ledger(UNSAFE)
    assert not own.knows("7")
    assert own.flag("7", 1.0) is None
