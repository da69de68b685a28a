"""The tests against scipy, by simulation, and on the cases that decide whether somebody is woken."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from monitor.canary import drift
from monitor.canary.drift import LEAST, MAJOR, MOST, REFERENCE_SECONDS, WINDOW_SECONDS, DriftState, ScoreDrift
from monitor.canary.flag_rate import (
    ALPHA,
    EXPECTED,
    TRAILING,
    FlagRate,
    FlagRateState,
    Span,
    binomial_cdf,
    probability_of_so_few,
)


@given(st.integers(0, 400), st.integers(0, 400), st.floats(1e-6, 1 - 1e-6))
def test_the_binomial_tail_is_exact(k: int, n: int, p: float) -> None:
    assert binomial_cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-9, abs=1e-300)


@given(st.integers(1, 10**6), st.integers(0, 300), st.integers(1, 10**6), st.integers(0, 300))
def test_so_few_is_the_conditional_test_of_two_poisson_rates(m1: int, f1: int, m0: int, f0: int) -> None:
    found = probability_of_so_few(Span(m1, f1), Span(m0, f0))
    exact = stats.binomtest(f1, f0 + f1, m1 / (m1 + m0), alternative="less").pvalue if f0 + f1 else 1.0
    assert found == pytest.approx(exact, rel=1e-9, abs=1e-300)


def fed(rate: FlagRate, share: float, messages: int, rng: Random, *, step: int = 50) -> list[float]:
    """Feed messages of which a share is flagged; return the probabilities of the windows that ended."""
    found = []
    for _ in range(messages // step):
        rate.add(step, sum(rng.random() < share for _ in range(step)))
        if not found or rate.probability != found[-1]:
            found.append(rate.probability)
    return found


def test_the_probabilities_of_a_steady_stream_are_those_of_chance() -> None:
    # Of a discrete test they are at most uniform: P(p <= x) <= x.
    found = fed(FlagRate(), 0.02, 600_000, Random(5))
    for level in (0.5, 0.1, 0.01):
        below = sum(p <= level for p in found)
        assert stats.binomtest(below, len(found), level, alternative="greater").pvalue > 1e-4
    assert min(found) > ALPHA


def test_the_alarm_goes_off_when_no_message_is_flagged_any_more_and_ends_when_they_are_again() -> None:
    rate, rng = FlagRate(), Random(6)
    fed(rate, 0.02, 100_000, rng)
    assert not rate.too_few
    fed(rate, 0.0, int(1.3 * EXPECTED / 0.02), rng)
    assert rate.too_few
    fed(rate, 0.02, 5_000, rng)
    assert not rate.too_few


def test_a_window_is_as_long_as_its_rate_needs() -> None:
    rare, rng = FlagRate(), Random(7)
    fed(rare, 0.001, 200_000, rng)
    fed(rare, 0.0, 5_000, rng)  # five flagged ones would be usual, and none is chance
    assert not rare.too_few
    fed(rare, 0.0, 40_000, rng)
    assert rare.too_few


def test_without_any_flag_ever_there_is_no_rate_to_compare_with() -> None:
    rate = FlagRate()
    rate.add(10_000_000, 0)
    assert (rate.probability, rate.reference.messages) == (1.0, 0)


def test_more_flags_than_usual_are_no_alarm_of_this_kind() -> None:
    rate, rng = FlagRate(), Random(8)
    fed(rate, 0.02, 50_000, rng)
    fed(rate, 0.9, 5_000, rng)
    assert not rate.too_few


def test_a_lasting_change_becomes_the_rule() -> None:
    rate, rng = FlagRate(), Random(9)
    fed(rate, 0.02, 100_000, rng)
    fed(rate, 0.001, 2_000_000, rng)
    assert not rate.too_few
    assert rate.reference.rate == pytest.approx(0.001, rel=0.3)


def test_the_rate_survives_a_restart() -> None:
    rate = FlagRate()
    fed(rate, 0.02, 100_000, Random(10))
    again = FlagRate(FlagRateState.model_validate_json(rate.state.model_dump_json()))
    assert (again.state, again.reference) == (rate.state, rate.reference)
    assert len(rate.state.windows) == TRAILING
    again.add(5_000, 0)
    assert again.too_few


@pytest.mark.parametrize("degrees", [1, 2, 5, 9])
def test_the_chi_squared_quantile_is_close_and_never_too_low_at_our_level(degrees: int) -> None:
    exact = stats.chi2.ppf(1 - drift.ALPHA, degrees)
    assert exact <= drift.chi_squared_quantile(1 - drift.ALPHA, degrees) <= 1.12 * exact


def test_psi_is_the_published_sum() -> None:
    # Shares 0.1, 0.2, 0.7 against 0.3, 0.3, 0.4, of so many that half a score more makes no difference.
    expected = 0.2 * 1.0986123 + 0.1 * 0.4054651 + -0.3 * -0.5596158
    found = drift.psi([10_000_000, 20_000_000, 70_000_000], [30_000_000, 30_000_000, 40_000_000])
    assert found == pytest.approx(expected, rel=1e-5)
    assert drift.psi([5, 5], [5, 5]) == 0
    assert drift.psi([100, 0], [0, 100]) < float("inf")


def test_under_no_change_psi_stays_below_chance_s_bound() -> None:
    rng = Random(11)
    n, m, beyond = 1000, 250, 0
    spread = 1 / n + 1 / m
    for _ in range(400):
        reference, window = ([rng.betavariate(0.3, 0.8) for _ in range(k)] for k in (n, m))
        inner = drift.edges(reference)
        found = drift.psi(drift.counts(reference, inner), drift.counts(window, inner))
        beyond += found > stats.chi2.ppf(0.99, len(inner)) * spread
    assert stats.binomtest(beyond, 400, 0.01, alternative="greater").pvalue > 1e-4


def test_the_bound_is_chance_s_with_few_scores_and_the_major_shift_with_many() -> None:
    assert drift.psi_bound(10, 2000, 2000) == MAJOR
    assert drift.psi_bound(10, 250, 250) > MAJOR
    assert drift.psi_bound(1, 250, 250) == MAJOR


def hours(scores: ScoreDrift, begin: float, count: int, draw: object, *, each: int = 300) -> float:
    """Feed hours of scores; return when they end."""
    assert callable(draw)
    for number in range(count * each):
        scores.add(draw(), begin + number * WINDOW_SECONDS / each)
    return begin + count * WINDOW_SECONDS


def test_drift_is_found_against_the_first_day_and_a_steady_stream_has_none() -> None:
    rng = Random(12)
    scores = ScoreDrift(0.0, rng=rng)
    now = hours(scores, 0.0, 25, lambda: rng.betavariate(0.3, 0.8))
    assert scores.psi == 0
    now = hours(scores, now, 4, lambda: rng.betavariate(0.3, 0.8))
    assert 0 < scores.psi < scores.bound == MAJOR
    assert not scores.drifted
    now = hours(scores, now, 3, lambda: rng.betavariate(2, 2))
    assert scores.drifted
    hours(scores, now, 3, lambda: rng.betavariate(0.3, 0.8))
    assert not scores.drifted


def test_a_reference_and_a_window_wait_for_enough_scores() -> None:
    scores = ScoreDrift(0.0, rng=Random(13))
    for number in range(LEAST - 1):
        scores.add(0.5, 10 * REFERENCE_SECONDS + number)
    assert scores.state.window is None
    scores.add(0.5, 11 * REFERENCE_SECONDS)
    assert scores.state.window is not None


def test_the_same_score_again_and_again_has_no_bins_and_no_drift() -> None:
    scores = ScoreDrift(0.0, rng=Random(14))
    hours(scores, 0.0, 30, lambda: 0.9)
    assert not scores.drifted
    assert scores.psi == pytest.approx(0, abs=0.01)


def test_what_is_kept_of_scores_is_bounded_and_survives_a_restart() -> None:
    scores = ScoreDrift(0.0, rng=Random(15))
    hours(scores, 0.0, 26, iter(i / 130_000 for i in range(130_000)).__next__, each=5_000)
    state = scores.state
    assert len(state.reference.scores) == MOST
    # A uniform sample of the whole day, and not its beginning.
    assert stats.kstest(state.reference.scores, "uniform", args=(0, 24 / 26)).pvalue > 1e-4
    again = ScoreDrift(0.0, DriftState.model_validate_json(state.model_dump_json()))
    assert again.state == state
