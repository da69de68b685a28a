"""Calibration: recovered parameters, a table that stays monotone, and the same numbers in numpy and torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit

from trainer.model.calibration import (
    MAX_KNOTS,
    Calibration,
    CalibrationModule,
    brier,
    calibrate,
    choose_calibration,
    expected_calibration_error,
    isotonic,
    log_loss,
    platt,
)
from trainer.model.heads import Folds, held_out_folds

FITS = (platt, isotonic)
BENT = Calibration(0.8, -0.1, ((-2.0, -3.0), (-0.5, -0.4), (0.0, 0.1), (1.5, 4.0)))


def drawn(n: int, seed: int, curve: object) -> tuple[NDArray, NDArray, Folds]:
    """Margins, labels drawn from p = curve(margin), and folds."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(scale=2, size=n)
    unsafe = rng.random(n) < curve(margins)
    return margins, unsafe, held_out_folds(unsafe, [str(i) for i in range(n)], 5, 0)


def plateau(margins: NDArray) -> NDArray:
    """Frequencies that no line in the log-odds follows: nearly flat, then a step."""
    return np.where(margins < 1, 0.3, 0.97)


# Platt


def test_calibration_on_separated_classes_stays_unsure() -> None:
    margins = np.concatenate([np.linspace(-2, -0.1, 50), np.linspace(0.1, 2, 50)])
    slope, intercept = calibrate(margins, margins > 0)
    assert slope > 0
    assert expit(slope * 0.1 + intercept) < 0.95  # the unsafe one that is nearest to the safe ones


@pytest.mark.parametrize(("slope", "intercept"), [(1.7, -0.4), (0.5, 1.0), (3.0, 0.0)])
def test_calibrate_recovers_slope_and_intercept(slope: float, intercept: float) -> None:
    margins, unsafe, _ = drawn(5000, 3, lambda m: expit(slope * m + intercept))
    assert calibrate(margins, unsafe) == pytest.approx((slope, intercept), abs=0.17)


def test_without_knots_it_is_a_line() -> None:
    margins = np.array([-3.0, 0.0, 2.5])
    np.testing.assert_allclose(Calibration(2.0, -1.0).log_odds(margins), 2 * margins - 1)
    assert Calibration().method == "platt"
    assert BENT.method == "isotonic"


# The table


def test_the_table_by_hand() -> None:
    own = Calibration(1.0, 0.0, ((-1.0, -2.0), (0.0, 0.0), (2.0, 1.0)))
    given_, expected = [-3.0, -1.0, -0.25, 0.0, 1.0, 2.0, 5.0], [-4.0, -2.0, -0.5, 0.0, 0.5, 1.0, 4.0]
    np.testing.assert_allclose(own.log_odds(np.array(given_)), expected)


def test_one_knot_shifts() -> None:
    np.testing.assert_allclose(Calibration(1.0, 0.0, ((1.0, 3.0),)).log_odds(np.array([-1.0, 1.0, 4.0])), [1, 3, 6])


@hypothesis_settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.lists(st.tuples(st.floats(-8, 8).map(lambda x: round(x, 2)), st.booleans()), min_size=8, max_size=120).filter(
        lambda rows: 0 < sum(u for _, u in rows) < len(rows) and len({m for m, _ in rows}) > 2
    )
)
def test_isotonic_never_turns_the_order_of_two_margins(rows: list[tuple[float, bool]]) -> None:
    margins, unsafe = np.array([m for m, _ in rows]), np.array([u for _, u in rows])
    own = isotonic(margins, unsafe)
    direction = np.sign(own.slope)  # negative only where the head is worse than chance
    before = np.linspace(-12, 12, 500)
    after = own.log_odds(before)
    assert np.isfinite(after).all()
    assert (np.diff(after) * direction > 0).all()
    assert 1 <= len(own.knots) <= MAX_KNOTS
    assert all(b[0] - a[0] > 0.049 and b[1] > a[1] for a, b in zip(own.knots, own.knots[1:], strict=False))


def test_isotonic_follows_what_no_line_follows() -> None:
    margins, unsafe, _ = drawn(4000, 5, plateau)
    off = {f.__name__: abs(f(margins, unsafe).probabilities(margins) - plateau(margins)).mean() for f in FITS}
    assert off["isotonic"] < 0.05 < 2 * off["isotonic"] < off["platt"]


def test_many_blocks_become_at_most_64_knots() -> None:
    margins, unsafe, _ = drawn(4000, 6, lambda m: expit(m))
    assert 20 < len(isotonic(margins, unsafe).knots) <= MAX_KNOTS


@pytest.mark.parametrize("own", [Calibration(1.3, 0.2), BENT, Calibration(1.0, 0.0, ((1.0, 3.0),))])
def test_the_module_gives_the_same_probabilities(own: Calibration) -> None:
    margins = np.concatenate([np.linspace(-30, 30, 999), [0.0, 1e-6]])
    with torch.inference_mode():
        found = CalibrationModule(own)(torch.from_numpy(margins).float())
    np.testing.assert_allclose(found.numpy(), own.probabilities(margins), atol=2e-6)


# The choice


def test_where_a_line_is_right_it_is_platt() -> None:
    margins, unsafe, folds = drawn(3000, 7, lambda m: expit(0.6 * m - 0.2))
    own, report = choose_calibration(margins, unsafe, folds, isotonic_from=500)
    assert own.method == report.method == "platt"
    assert own == platt(margins, unsafe)
    assert report.expected_calibration_error["platt"] < 0.03 < report.expected_calibration_error["raw"]
    assert report.log_loss["platt"] < report.log_loss["raw"]


def test_where_a_line_is_wrong_it_is_isotonic() -> None:
    margins, unsafe, folds = drawn(3000, 8, plateau)
    own, report = choose_calibration(margins, unsafe, folds, isotonic_from=500)
    assert own.method == report.method == "isotonic"
    assert report.brier["isotonic"] < report.brier["platt"]


def test_with_few_statements_isotonic_is_not_tried() -> None:
    margins, unsafe, folds = drawn(499, 8, plateau)
    own, report = choose_calibration(margins, unsafe, folds, isotonic_from=500)
    assert own.method == "platt"
    assert "isotonic" not in report.log_loss
    assert "500" in report.reason


def test_without_folds_there_are_no_figures() -> None:
    margins, unsafe, _ = drawn(600, 8, plateau)
    own, report = choose_calibration(margins, unsafe, [], isotonic_from=500)
    assert (own.method, report.log_loss) == ("platt", {})


def test_figures_are_of_families_that_the_fit_has_not_seen() -> None:
    """Labels by chance: in its own sample isotonic regression looks better than a coin, outside it cannot."""
    rng = np.random.default_rng(9)
    margins, unsafe = rng.normal(size=600), rng.random(600) < 0.5
    folds = held_out_folds(unsafe, [str(i) for i in range(600)], 5, 0)
    _, report = choose_calibration(margins, unsafe, folds, isotonic_from=500)
    own_sample = log_loss(isotonic(margins, unsafe).probabilities(margins), unsafe)
    assert own_sample < np.log(2) < report.log_loss["isotonic"]


# Figures


def test_figures_by_hand() -> None:
    p, unsafe = np.array([0.8, 0.2, 0.8, 0.2]), np.array([True, False, True, True])
    assert expected_calibration_error(p, unsafe, bins=2) == pytest.approx((0.3 + 0.2) / 2)
    assert brier(p, unsafe) == pytest.approx((0.04 * 3 + 0.64) / 4)
    assert log_loss(p, unsafe) == pytest.approx(-(3 * np.log(0.8) + np.log(0.2)) / 4)


def test_perfect_calibration_has_next_to_no_error() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(50_000)
    assert expected_calibration_error(p, rng.random(50_000) < p) < 0.01
