from itertools import permutations

import pytest

from monitor.policy import gravest, judge
from monitor.records import Thresholds
from monitor.types import GRAVITY, Statement, StatementScore, StatementVerdict, Verdict

THRESHOLDS = Thresholds(unsafe=0.8, review=0.4, in_scope=0.5)


def judged(verdict: Verdict, score: float) -> StatementVerdict:
    return StatementVerdict(Statement(0, 1, "x", "x"), verdict, score)


@pytest.mark.parametrize(
    ("p_unsafe", "p_in_scope", "expected"),
    [
        (1.0, 1.0, Verdict.UNSAFE),
        (0.8, 0.5, Verdict.UNSAFE),
        (0.7999, 1.0, Verdict.REVIEW),
        (0.4, 1.0, Verdict.REVIEW),
        (0.3999, 1.0, Verdict.SAFE),
        (0.0, 0.5, Verdict.SAFE),
        (1.0, 0.4999, Verdict.OUT_OF_SCOPE),
        (0.0, 0.0, Verdict.OUT_OF_SCOPE),
    ],
)
def test_judge(p_unsafe: float, p_in_scope: float, expected: Verdict) -> None:
    assert judge(StatementScore(p_unsafe, p_in_scope, "r", 1.0, "dose"), THRESHOLDS) is expected


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        (Thresholds(unsafe=0.6, review=0.6, in_scope=0), Verdict.UNSAFE),
        (Thresholds(unsafe=0.7, review=0.7, in_scope=0), Verdict.SAFE),
        (Thresholds(unsafe=0, review=0, in_scope=0), Verdict.UNSAFE),
        (Thresholds(unsafe=1, review=0, in_scope=0), Verdict.REVIEW),
    ],
)
def test_the_band_may_be_empty_or_everything(thresholds: Thresholds, expected: Verdict) -> None:
    assert judge(StatementScore(0.6, 0.0, "r", 1.0, "dose"), thresholds) is expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], (Verdict.OUT_OF_SCOPE, 0.0)),
        ([(Verdict.OUT_OF_SCOPE, 0.0)], (Verdict.OUT_OF_SCOPE, 0.0)),
        ([(Verdict.OUT_OF_SCOPE, 0.0), (Verdict.SAFE, 0.1)], (Verdict.SAFE, 0.1)),
        ([(Verdict.SAFE, 0.1), (Verdict.ABSTAIN, 0.0)], (Verdict.ABSTAIN, 0.1)),
        ([(Verdict.ABSTAIN, 0.0), (Verdict.REVIEW, 0.5), (Verdict.SAFE, 0.3)], (Verdict.REVIEW, 0.5)),
        ([(Verdict.REVIEW, 0.7), (Verdict.UNSAFE, 0.9), (Verdict.SAFE, 0.0)], (Verdict.UNSAFE, 0.9)),
    ],
)
def test_gravest_in_any_order(verdicts: list[tuple[Verdict, float]], expected: tuple[Verdict, float]) -> None:
    for order in permutations(verdicts):
        assert gravest(judged(*pair) for pair in order) == expected


def test_every_verdict_of_a_statement_has_its_gravity() -> None:
    assert {*GRAVITY} == {*Verdict} - {Verdict.INVALID}
