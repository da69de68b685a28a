"""Properties of the mixture and of the regressions over it; what a package's own numbers do is in test_assessment."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitor import claims
from monitor.combination import (
    FEATURES,
    MODEL_FEATURES,
    SCOPE_FEATURES,
    Readings,
    apply,
    choose_candidates,
    claim_margin,
    evidence_index,
    gather,
    log_odds,
)
from monitor.package import LogisticSpec

Doubles = NDArray[np.float64]

#: A reading that conflicts in the dose speaks for a contradiction.
WEIGHING = LogisticSpec(features=["conflict_dose", "agree_dose"], weights=[2.0, -2.0], intercept=0.1)

probability = st.floats(0, 1)
#: What softmax and a sigmoid of 32 bits really give at their ends.
EXTREME = st.sampled_from([0.0, 5e-324, 1e-300, 1e-12, 0.5, 1 - 1e-16, 1.0])


@st.composite
def readings(draw: st.DrawFn, alignment: Any = None, p: Any = None) -> Readings:
    """Return readings of 1 to 3 statements beside 1 to 4 candidates, without padding."""
    n, k = draw(st.integers(1, 3)), draw(st.integers(1, 4))

    def table(elements: Any, *shape: int) -> Doubles:
        size = int(np.prod(shape))
        return np.array(draw(st.lists(elements, min_size=size, max_size=size)), dtype=np.float64).reshape(shape)

    p = probability if p is None else p
    neutral = table(p, n, k)
    return Readings(
        alignment=table(st.floats(1e-12, 1) if alignment is None else alignment, n, k),
        contradicts=table(p, n, k) * (1 - neutral),
        neutral=neutral,
        encoder=table(p, n),
        in_scope=table(p, n),
        claims=table(st.floats(-4, 4), n, k),
    )


def columns(own: Readings, order: list[int]) -> Readings:
    """Return the readings with their candidates in another order."""
    return Readings(
        own.alignment[:, order], own.contradicts[:, order], own.neutral[:, order], own.encoder, own.in_scope,
        own.claims[:, order],
    )  # fmt: skip


@given(readings())
def test_the_weights_of_the_candidates_sum_to_one(own: Readings) -> None:
    weights = own.weights()
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)


@given(readings())
def test_the_mixture_lies_between_the_least_and_the_greatest_conditional(own: Readings) -> None:
    conditional, mixture = own.conditional(), own.mixture()
    assert (mixture >= conditional.min(axis=1) - 1e-9).all()
    assert (mixture <= conditional.max(axis=1) + 1e-9).all()


def test_the_mixture_is_not_the_maximum() -> None:
    """The statement is almost surely about the first, which it keeps; that it "breaks" the second says little."""
    own = Readings(
        alignment=np.array([[0.9, 0.1]]),
        contradicts=np.array([[0.1, 0.2]]),
        neutral=np.array([[0.0, 0.8]]),
        encoder=np.array([0.5]),
        in_scope=np.array([1.0]),
        claims=np.zeros((1, 2)),
    )
    assert own.conditional()[0] == pytest.approx([0.1, 1.0])
    assert own.weights()[0] == pytest.approx([0.9 / 0.92, 0.02 / 0.92])
    assert own.mixture()[0] == pytest.approx((0.9 * 0.1 + 0.02 * 1.0) / 0.92)


@given(readings(), st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(own: Readings, rng: Any) -> None:
    order = rng.sample(range(own.alignment.shape[1]), own.alignment.shape[1])
    np.testing.assert_allclose(columns(own, order).features(), own.features(), atol=1e-9)


@given(readings(), probability, st.floats(-2, 2))
def test_padding_does_not_matter_whatever_it_holds(own: Readings, p: float, claim: float) -> None:
    n = len(own.encoder)

    def padded(table: Doubles, value: float) -> Doubles:
        return np.concatenate([table, np.full((n, 1, *table.shape[2:]), value)], axis=1)

    wider = Readings(
        padded(own.alignment, 0.0), padded(own.contradicts, p), padded(own.neutral, p), own.encoder, own.in_scope,
        padded(own.claims, claim),
    )  # fmt: skip
    np.testing.assert_allclose(wider.features(), own.features(), atol=1e-12)


@given(readings(alignment=EXTREME, p=EXTREME))
def test_extreme_probabilities_give_finite_features_and_probabilities(own: Readings) -> None:
    features = own.features()
    assert features.shape == (len(own.encoder), len(FEATURES))
    assert np.isfinite(features).all()
    p = apply(LogisticSpec(features=[*FEATURES], weights=[1e6] * len(FEATURES), intercept=-1e6), features)
    assert ((p >= 0) & (p <= 1)).all()


@given(probability)
def test_log_odds_are_bounded_and_of_opposite_sign_for_the_complement(p: float) -> None:
    one, other = log_odds(np.array([p, 1 - p]))
    assert abs(one) < 6
    assert one == pytest.approx(-other, abs=1e-9)


def test_every_feature_has_a_name_of_its_own() -> None:
    assert len({*FEATURES}) == len(FEATURES)
    assert {*SCOPE_FEATURES} <= {*MODEL_FEATURES} <= {*FEATURES}


def test_a_regression_reads_its_features_by_name() -> None:
    features = np.zeros((1, len(FEATURES)))
    features[0, FEATURES.index("scope")] = 2.0
    features[0, FEATURES.index("encoder")] = -1.0
    spec = LogisticSpec(features=["encoder", "scope"], weights=[3.0, 1.0], intercept=0.5)
    assert apply(spec, features) == pytest.approx([1 / (1 + np.exp(0.5))])


@st.composite
def aligned_rows(draw: st.DrawFn) -> Doubles:
    n, k = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    rows = draw(st.lists(st.lists(probability, min_size=k, max_size=k), min_size=n, max_size=n))
    return np.array(rows) / k


@given(aligned_rows(), st.integers(1, 8), st.floats(0.01, 1))
def test_candidates_are_the_likeliest_as_many_as_cover_the_mass(aligned: Doubles, most: int, mass: float) -> None:
    chosen = choose_candidates(aligned, most, mass)
    assert len(chosen) == len(aligned)
    for row, own in zip(aligned, chosen, strict=True):
        p = row[own]
        assert 1 <= len(own) == len({*own}) <= min(most, len(row))
        assert (np.diff(p) <= 0).all()
        assert p.min() >= np.delete(row, own).max(initial=0)
        enough = mass * row.sum()
        assert p.sum() >= enough - 1e-9 or len(own) == min(most, len(row))
        assert len(own) == 1 or p[:-1].sum() < enough + 1e-9


@pytest.mark.parametrize(
    ("most", "mass", "expected"),
    [(3, 1.0, [2, 0, 1]), (2, 1.0, [2, 0]), (3, 0.6, [2]), (3, 0.61, [2, 0]), (1, 0.99, [2])],
)
def test_choose_candidates(most: int, mass: float, expected: list[int]) -> None:
    assert choose_candidates(np.array([[0.2, 0.05, 0.45, 0.05]]), most, mass) == [expected]


def test_the_mass_is_of_what_the_recommendations_have_not_of_one() -> None:
    assert choose_candidates(np.array([[0.02, 0.18]]), 2, 0.85) == [[1]]


@pytest.mark.parametrize(("unsafe", "expected"), [(False, 0), (True, 1)])
def test_the_evidence_of_an_unsafe_statement_is_what_it_breaks(unsafe: bool, expected: int) -> None:
    weights, conditional = np.array([0.7, 0.3]), np.array([0.1, 0.9])
    assert evidence_index(weights, conditional, unsafe=unsafe) == expected


def test_gather_puts_each_pair_in_its_place() -> None:
    aligned = np.array([[0.5, 0.3, 0.1], [0.0, 0.0, 0.9]])
    found = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    rules = [claims.read(text) for text in ("Give 200 mg.", "Give 100 mg.", "Avoid in pregnancy.")]
    stated = [claims.read(text) for text in ("Give 100 mg.", "Avoid in pregnancy.")]
    own = gather(aligned, np.array([0.9, 0.8]), np.array([0.6, 0.7]), [[1, 0], [2]], found, rules, stated, WEIGHING)
    assert own.alignment.tolist() == [[0.3, 0.5], [0.9, 0.0]]
    assert own.contradicts.tolist() == [[0.1, 0.3], [0.5, 0.0]]
    assert own.neutral.tolist() == [[0.2, 0.4], [0.6, 0.0]]
    assert own.in_scope.tolist() == [0.9, 0.8]
    assert own.encoder.tolist() == [0.6, 0.7]
    same, other = (claims.compare(rule, stated[0]) for rule in (rules[1], rules[0]))
    assert own.claims[0].tolist() == [claim_margin(WEIGHING, same), claim_margin(WEIGHING, other)]
    assert own.claims[0, 0] < own.claims[0, 1]
    assert own.claims[1, 1] == 0


def test_what_was_not_read_says_nothing() -> None:
    nothing = claims.Comparison((0.0,) * len(claims.FEATURES), (), None)
    assert claim_margin(WEIGHING, nothing) == 0


def test_nothing_gathered_has_no_features() -> None:
    own = gather(np.zeros((0, 3)), np.zeros(0), np.zeros(0), [], np.zeros((0, 2)), [], [], WEIGHING)
    assert own.features().shape == (0, len(FEATURES))
