"""The band's guarantee: as arithmetic that must hold for any scores, and measured on draws."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from trainer.errors import CorpusError
from trainer.model.conformal import (
    NOT_JUDGED,
    Band,
    check_coverage,
    conformal_band,
    coverage,
    one_per_family,
    outcomes,
    wilson,
)


def band_of(bad: list[float] | NDArray, good: list[float] | NDArray, **own: float) -> Band:
    """The band of these scores, each of a family of its own."""
    scores, unsafe = np.array([*bad, *good]), np.repeat([True, False], [len(bad), len(good)])
    settings = {"alpha": 0.1, "beta": 0.1, "seed": 0, "floor": 0.0} | own
    return conformal_band(scores, unsafe, [f"f-{i}" for i in range(len(scores))], **settings)


def tens(first: float) -> list[float]:
    return [round(first + i / 100, 2) for i in range(19)]


def test_by_hand() -> None:
    found = band_of(tens(0.3), tens(0.2))  # two of twenty places may lie beyond
    assert found == Band(review=0.31, unsafe=0.3701, alpha=0.1, beta=0.1, unsafe_families=19, safe_families=19)


# Whatever the scores: of n + 1 statements of a class, each held against the band of the others, at most the share that
# was promised errs. By exchangeability this is the guarantee for a new statement.
SCORES = st.lists(st.one_of(st.floats(0, 0.99).map(lambda x: round(x, 4)), st.sampled_from([0.2, 0.5])), min_size=21)
SHARES = st.sampled_from([0.05, 0.1, 0.25, 0.3])


@hypothesis_settings(deadline=None, max_examples=40, derandomize=True)
@given(SCORES, SHARES)
def test_at_most_alpha_of_the_unsafe_are_passed(bad: list[float], alpha: float) -> None:
    passed = 0
    for i, score in enumerate(bad):
        passed += score < band_of(bad[:i] + bad[i + 1 :], [0.0] * 30, alpha=alpha, floor=1.0).review
    assert passed <= alpha * len(bad) + 1e-9


@hypothesis_settings(deadline=None, max_examples=40, derandomize=True)
@given(SCORES, SHARES)
def test_at_most_beta_of_the_safe_are_flagged(good: list[float], beta: float) -> None:
    flagged = 0
    for i, score in enumerate(good):
        flagged += score >= band_of([1.0] * 30, good[:i] + good[i + 1 :], beta=beta).unsafe
    assert flagged <= beta * len(good) + 1e-9


def test_it_gives_away_no_more_than_it_must() -> None:
    """On average over draws the errors are k/(n + 1), not just below the limit."""
    rng = np.random.default_rng(1)
    passed, flagged = [], []
    for _ in range(400):
        found = band_of(np.round(rng.beta(4, 2, 59), 4), np.round(rng.beta(2, 4, 59), 4))
        passed.append((np.round(rng.beta(4, 2, 500), 4) < found.review).mean())
        flagged.append((np.round(rng.beta(2, 4, 500), 4) >= found.unsafe).mean())
    assert np.mean(passed) == pytest.approx(0.1, abs=0.006)
    assert np.mean(flagged) == pytest.approx(0.1, abs=0.006)


def test_large_families_weigh_no_more_than_small_ones() -> None:
    """One family of 200 alike statements beside 60 of one: counted one by one they would set the threshold."""
    rng = np.random.default_rng(2)
    bad = np.concatenate([np.full(200, 0.01), rng.uniform(0.5, 1, 60).round(4)])
    scores, unsafe = np.concatenate([bad, np.zeros(60)]), np.repeat([True, False], [260, 60])
    groups = ["large"] * 200 + [f"f-{i}" for i in range(120)]
    assert conformal_band(scores, unsafe, groups, alpha=0.1, beta=0.1, seed=0).review >= 0.5


def test_one_kept_statement_of_each_family() -> None:
    groups = ["a", "a", "b", "a", "c", "b"]
    keep = np.array([True, True, True, False, False, True])
    found = {tuple(one_per_family(groups, keep, seed)) for seed in range(40)}
    assert found == {(0, 2), (0, 5), (1, 2), (1, 5)}  # each of them may be drawn
    assert tuple(one_per_family(groups, keep, 3)) == tuple(one_per_family(groups, keep, 3))


def test_classes_far_apart_leave_nothing_to_review() -> None:
    found = band_of(np.linspace(0.8, 0.99, 30), np.linspace(0.01, 0.2, 30))
    assert found.review == found.unsafe
    assert 0.18 < found.unsafe < 0.82


def test_nothing_more_likely_safe_than_unsafe_is_flagged() -> None:
    assert band_of(tens(0.3), tens(0.0), floor=0.5).unsafe == 0.5


@pytest.mark.parametrize(
    ("bad", "good", "says"),
    [
        ([0.9] * 8, [0.1] * 30, "8 unsafe and 30 safe"),
        ([0.9] * 30, [], "30 unsafe and 0 safe"),
        ([NOT_JUDGED] * 10 + [0.9] * 20, [0.1] * 30, "judged out of scope"),
        ([0.9] * 30, [1.0] * 10 + [0.1] * 20, "score 1"),
    ],
)
def test_a_promise_that_cannot_be_kept_is_refused(bad: list[float], good: list[float], says: str) -> None:
    with pytest.raises(CorpusError, match=says):
        band_of(bad, good)


def test_nine_families_are_the_fewest_for_a_tenth() -> None:
    assert band_of([0.9] * 9, [0.1] * 9).unsafe_families == 9


# The check


def test_outcomes_by_hand() -> None:
    scores = np.array([0.3, 0.2999, 0.7, NOT_JUDGED, 0.7, 0.6999, 0.1])
    unsafe = np.array([True, True, True, True, False, False, False])
    found = outcomes(scores, unsafe, list("abcdefg"), review=0.3, flag=0.7, seed=0)
    assert found["unsafe passed"].tolist() == [False, True, False, True]
    assert found["unsafe in review"].tolist() == [True, False, False, False]
    assert found["safe flagged"].tolist() == [True, False, False]
    assert found["safe in review"].tolist() == [False, True, False]


def test_coverage_on_the_same_population_holds_and_on_another_it_does_not() -> None:
    rng = np.random.default_rng(4)
    own = band_of(rng.beta(4, 2, 300).round(4), rng.beta(2, 4, 300).round(4))
    unsafe, groups = np.repeat([True, False], 300), [f"f-{i}" for i in range(600)]
    same = np.concatenate([rng.beta(4, 2, 300), rng.beta(2, 4, 300)]).round(4)
    assert all(row.holds for row in check_coverage(own, same, unsafe, groups, seed=0))
    drifted = np.concatenate([rng.beta(2, 2, 300), rng.beta(2, 4, 300)]).round(4)
    found = {row.outcome: row for row in check_coverage(own, drifted, unsafe, groups, seed=0)}
    assert not found["unsafe passed"].holds
    assert found["unsafe passed"].low > 0.1
    assert found["safe flagged"].holds


def test_a_true_promise_is_rarely_called_broken() -> None:
    rng = np.random.default_rng(5)
    unsafe, groups = np.repeat([True, False], [80, 60]), [f"f-{i}" for i in range(140)]
    broken = 0
    for _ in range(400):
        own = band_of(rng.beta(4, 2, 60).round(4), rng.beta(2, 4, 60).round(4))
        scores = np.concatenate([rng.beta(4, 2, 80), rng.beta(2, 4, 60)]).round(4)
        broken += not check_coverage(own, scores, unsafe, groups, seed=0)[0].holds
    assert broken / 400 < 0.045  # 2.5% and what chance adds


def test_coverage_without_a_limit_or_without_families() -> None:
    assert coverage("safe flagged", np.array([True, True]), None).holds
    empty = coverage("safe flagged", np.zeros(0, dtype=bool), 0.1, 50)
    assert (empty.share, empty.low, empty.high, empty.families) == (0.0, 0.0, 1.0, 0)
    assert empty.holds


def test_without_a_known_band_the_interval_decides() -> None:
    row = coverage("safe flagged", np.repeat([True, False], [30, 70]), 0.2)
    assert not row.holds
    assert replace(row, limit=0.25).holds


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (31, 308)])
def test_wilson_is_scipys(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)
