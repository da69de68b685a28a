"""Metrics against scikit-learn and values worked out by hand; intervals, paired differences, twins, kappa."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from trainer.evaluation import measures
from trainer.evaluation.measures import (
    BINS,
    FINE_METRICS,
    METRICS,
    calibrated_ece,
    calibration_bins,
    difference_rows,
    draws,
    estimate,
    kappa,
    measure,
    score_rows,
    share,
    strata,
    twin_rows,
    twins,
)
from trainer.settings import EvaluationSettings
from trainer.types import Difficulty, Example, Label, Metric, Split

SETTINGS = EvaluationSettings(bootstrap=50, seed=3)
UNSAFE = np.array([True, True, True, False, False, False, False])
P = np.array([0.9, 0.6, 0.3, 0.7, 0.4, 0.2, 0.1])
ONCE = np.ones((1, 7), dtype=np.uint16)


def example(i: int, unsafe: bool, family: str, difficulty: Difficulty | None = None, rule: str = "r1") -> Example:
    own = (difficulty or Difficulty.HARD) if unsafe else None
    return Example(f"e-{i}", f"text {i}", Label.UNSAFE if unsafe else Label.SAFE, rule, "dose", own, family, "a")


def families(n: int = 30, seed: int = 1) -> tuple[list[Example], np.ndarray]:
    """A safe statement and one unsafe variant of each difficulty a family; the scores overlap."""
    rng = np.random.default_rng(seed)
    examples, p = [], []
    for f in range(n):
        for difficulty in (None, *Difficulty):
            examples.append(example(len(examples), difficulty is not None, f"f{f}", difficulty))
            p.append(rng.beta(2, 4) if difficulty is None else rng.beta(4, 2))
    return examples, np.array(p)


def rows_of(examples: list[Example], p: np.ndarray, **settings: int) -> list[Metric]:
    own = EvaluationSettings(**{"bootstrap": 50, "seed": 3, **settings})
    return score_rows(examples, p, model="m", split=Split.TEST_ID, settings=own)


# Metrics


def test_metrics_by_hand() -> None:
    found = {name: values[0] for name, values in measure(UNSAFE, P, ONCE).items()}
    # At one half: 2 of 3 unsafe are found, 1 of 4 safe is flagged.
    assert found["F1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["balanced accuracy"] == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert (found["precision"], found["recall"], found["specificity"]) == pytest.approx((2 / 3, 2 / 3, 3 / 4))
    pairs = [a > b for a in P[UNSAFE] for b in P[~UNSAFE]]
    assert found["AUC"] == pytest.approx(sum(pairs) / len(pairs))
    # Ranks of the unsafe ones: 1, 3, 5.
    assert found["AP"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)
    # No safe one may be flagged (4 x 5% is less than one): the threshold lies above 0.7.
    assert found["recall at 5% FPR"] == found["recall at 1% FPR"] == pytest.approx(1 / 3)
    assert found["Brier"] == pytest.approx(np.mean((P - UNSAFE) ** 2))
    assert found["ECE"] == pytest.approx(np.mean(np.abs(P - UNSAFE)))  # each its own bin


def scikit(unsafe: np.ndarray, p: np.ndarray, w: np.ndarray) -> dict[str, float]:
    flagged = p >= 0.5
    fpr, tpr, _ = sk.roc_curve(unsafe, p, sample_weight=w, drop_intermediate=False)
    return {
        "F1": sk.f1_score(unsafe, flagged, sample_weight=w, zero_division=0),
        "AUC": sk.roc_auc_score(unsafe, p, sample_weight=w),
        "AP": sk.average_precision_score(unsafe, p, sample_weight=w),
        "balanced accuracy": sk.balanced_accuracy_score(unsafe, flagged, sample_weight=w),
        "precision": sk.precision_score(unsafe, flagged, sample_weight=w, zero_division=np.nan),
        "recall": sk.recall_score(unsafe, flagged, sample_weight=w),
        "specificity": sk.recall_score(~unsafe, ~flagged, sample_weight=w),
        "recall at 5% FPR": tpr[fpr <= 0.05 + 1e-9].max(),
        "recall at 1% FPR": tpr[fpr <= 0.01 + 1e-9].max(),
        "Brier": sk.brier_score_loss(unsafe, p, sample_weight=w),
    }


@given(st.data())
def test_metrics_are_those_of_scikit_learn(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 40))
    # Few distinct scores, so that ties within and across the classes are common.
    p = np.array(data.draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))) / 12
    unsafe = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=np.uint16)
    found = measure(unsafe, p, counts[None])
    if not (counts[unsafe].sum() and counts[~unsafe].sum()):
        assert all(np.isnan(values).all() for values in found.values())
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of empty classes at a threshold
        expected = scikit(unsafe, p, counts.astype(float))
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, nan_ok=True), name


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_counting_a_row_twice_is_having_it_twice(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    unsafe, p, counts = rng.random(n) < 0.5, rng.random(n).round(1), rng.integers(0, 4, n).astype(np.uint16)
    repeated = np.repeat(np.arange(n), counts)
    once = np.ones((1, len(repeated)), dtype=np.uint16)
    by_count, by_hand = measure(unsafe, p, counts[None]), measure(unsafe[repeated], p[repeated], once)
    for name in METRICS:
        if name != "ECE":  # its bins are those of the data, not of the sample
            assert by_count[name] == pytest.approx(by_hand[name], nan_ok=True), name


def test_blocks_do_not_change_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = draws(list("abcdefg"), SETTINGS)
    whole = measure(UNSAFE, P, counts)
    monkeypatch.setattr(measures, "_BLOCK", 7 * 3)
    for name, values in measure(UNSAFE, P, counts).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-12)


def test_a_score_of_one_half_counts_as_unsafe() -> None:
    found = measure(np.array([True, False]), np.array([0.5, 0.4999]), np.ones((1, 2), dtype=np.uint16))
    assert found["F1"][0] == 1


def test_precision_is_undefined_where_nothing_is_flagged() -> None:
    found = measure(UNSAFE, P / 10, ONCE)
    assert np.isnan(found["precision"][0])
    assert found["F1"][0] == found["recall"][0] == 0


# Calibration


@given(st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_bins_hold_equal_shares_and_equal_scores_stay_together(n: int, seed: int) -> None:
    p = np.random.default_rng(seed).random(n)
    bins = calibration_bins(p)
    assert bins.shape == (n,)
    if n >= BINS:
        sizes = np.bincount(bins, minlength=BINS)
        assert sizes.max() - sizes.min() <= 2
    assert len(set(calibration_bins(p.round(1))[p.round(1) == 0.5])) <= 1


def test_a_calibrated_model_has_the_error_that_chance_gives_it() -> None:
    rng = np.random.default_rng(5)
    p = rng.random(3000)
    unsafe = rng.random(3000) < p
    once = np.ones((1, 3000), dtype=np.uint16)
    expected = calibrated_ece(p, SETTINGS)
    assert measure(unsafe, p, once)["ECE"][0] == pytest.approx(expected, abs=0.01)
    assert measure(unsafe, np.clip(p + 0.2, 0, 1), once)["ECE"][0] > 3 * expected
    assert np.isnan(calibrated_ece(np.zeros(0), SETTINGS))


def test_the_interval_of_the_calibration_error_holds_its_value() -> None:
    rng = np.random.default_rng(6)
    p = rng.random(300)
    examples = [example(i, bool(rng.random() < p[i]), f"f{i}") for i in range(300)]
    (row,) = (r for r in rows_of(examples, p) if (r.stratum, r.metric) == ("all", "ECE"))
    assert 0 <= row.low < row.value < row.high


# Samples and intervals


def test_families_are_drawn_whole_and_the_first_row_is_the_data() -> None:
    counts = draws(["a", "b", "a", "c", "c", "c"], SETTINGS)
    assert counts.shape == (51, 6)
    assert counts[0].tolist() == [1] * 6
    np.testing.assert_array_equal(counts[:, 0], counts[:, 2])
    np.testing.assert_array_equal(counts[:, 3], counts[:, 5])
    assert set(counts[:, [0, 1, 3]].sum(axis=1)) == {3}
    assert draws([], SETTINGS).shape == (51, 0)


def test_every_stratum_holds_its_unsafe_statements_and_all_safe_ones() -> None:
    examples, p = families()
    rows = rows_of(examples, p)
    assert {(r.suite, r.model, r.split) for r in rows} == {("statements", "m", "test_id")}
    coarse = {(s, m): 120 if s == "all" else 60 for s in ("all", *Difficulty) for m in METRICS}
    fine = {(s, m): 120 for s in ("category: dose", "recommendation: r1", "style: a") for m in FINE_METRICS}
    assert {(r.stratum, r.metric): r.n for r in rows} == coarse | fine
    keep = [i for i, e in enumerate(examples) if e.difficulty in (None, Difficulty.EASY)]
    unsafe = np.array([examples[i].label is Label.UNSAFE for i in keep])
    (auc,) = (r.value for r in rows if (r.stratum, r.metric) == ("easy", "AUC"))
    assert auc == pytest.approx(sk.roc_auc_score(unsafe, p[keep]), abs=5e-5)


def test_strata_by_kind_hold_both_labels_of_their_own() -> None:
    examples = [example(0, False, "a", rule="r1"), example(1, True, "a", rule="r1"), example(2, False, "b", rule="r2")]
    found = strata(examples)
    assert (found["recommendation: r1"], found["recommendation: r2"]) == ([0, 1], [2])


def test_intervals_enclose_the_value_and_are_no_points() -> None:
    for r in rows_of(*families()):
        assert 0 <= r.low <= r.value <= r.high <= 1, r
        assert r.low < r.high, r


def test_intervals_are_reproducible_and_depend_on_the_seed() -> None:
    assert rows_of(*families(), seed=3) == rows_of(*families(), seed=3)
    assert rows_of(*families(), seed=3) != rows_of(*families(), seed=4)


def test_one_family_leaves_no_doubt() -> None:
    """Resampling the only family always gives the whole: drawing rows instead would not."""
    examples, p = families(20)
    same = [example(i, e.label is Label.UNSAFE, "only", e.difficulty) for i, e in enumerate(examples)]
    assert all(r.low == r.value == r.high for r in rows_of(same, p))


def test_resamples_of_one_class_are_left_out() -> None:
    examples = [example(0, True, "a"), example(1, False, "b"), example(2, True, "c"), example(3, False, "d")]
    rows = rows_of(examples, np.array([0.9, 0.1, 0.8, 0.2]))
    assert all(r.low == r.value == r.high == 1 for r in rows if r.metric == "AUC")


@pytest.mark.parametrize("labels", [[], [True], [False], [True, True], [False, False]])
def test_a_split_of_one_class_has_no_rows(labels: list[bool]) -> None:
    examples = [example(i, unsafe, f"f{i}") for i, unsafe in enumerate(labels)]
    assert rows_of(examples, np.linspace(0.2, 0.8, len(labels))) == []


def test_what_is_not_defined_has_no_estimate() -> None:
    assert estimate(np.array([np.nan, 0.5])) is None
    assert estimate(np.array([0.5, np.nan])) is None
    assert estimate(np.array([0.5, np.nan, 0.4, 0.6])) is not None


# Differences


def test_a_model_does_not_differ_from_itself() -> None:
    examples, p = families()
    rows = difference_rows(examples, {"a": p, "b": p}, better="a", split=Split.TEST_ID, settings=SETTINGS)
    assert {r.model for r in rows} == {"a minus b"}
    assert all(r.low == r.value == r.high == 0 for r in rows)


def test_a_paired_difference_is_surer_than_the_models_are() -> None:
    examples, p = families(60)
    worse = np.clip(p + np.random.default_rng(2).normal(0, 0.05, len(p)), 0, 1)
    rows = difference_rows(examples, {"a": p, "b": worse}, better="a", split=Split.TEST_ID, settings=SETTINGS)
    (difference,) = (r for r in rows if (r.stratum, r.metric) == ("all", "AUC"))
    (alone,) = (r for r in rows_of(examples, p) if (r.stratum, r.metric) == ("all", "AUC"))
    assert difference.high - difference.low < (alone.high - alone.low) / 2
    unsafe = [e.label is Label.UNSAFE for e in examples]
    assert difference.value == pytest.approx(sk.roc_auc_score(unsafe, p) - sk.roc_auc_score(unsafe, worse), abs=1e-4)


# Twins


def test_twins_are_a_child_and_the_safe_statement_of_its_family() -> None:
    examples = [
        example(0, True, "e-1"), example(1, False, "e-1"), example(2, False, "e-1"), example(3, True, "e-1"),
        example(4, True, "orphan"), example(5, False, "e-5"),
    ]  # fmt: skip
    assert twins(examples) == [(1, 0), (1, 3)]


def test_twin_rows_by_hand() -> None:
    pairs = [(0.1, 0.9), (0.6, 0.9), (0.1, 0.4), (0.7, 0.2)]  # right; told apart; told apart; neither
    examples, p = [], []
    for i, (parent, child) in enumerate(pairs):
        examples += [example(2 * i, False, f"f{i}"), example(2 * i + 1, True, f"f{i}", Difficulty.EASY)]
        p += [parent, child]
    rows = twin_rows(examples, np.array(p), model="m", split=Split.TEST_OOD, settings=SETTINGS)
    assert {(r.stratum, r.metric): (r.value, r.n) for r in rows} == {
        ("all", "both right"): (0.25, 4), ("all", "told apart"): (0.75, 4),
        ("easy", "both right"): (0.25, 4), ("easy", "told apart"): (0.75, 4),
    }  # fmt: skip
    assert all(r.low < r.value < r.high for r in rows)
    assert twin_rows([], np.zeros(0), model="m", split=Split.TEST_OOD, settings=SETTINGS) == []


# Agreement


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=30))
def test_kappa_is_that_of_scikit_learn(rows: list[tuple[str, str, int]]) -> None:
    first, second, counts = zip(*rows, strict=True)
    seen = {label for a, b, n in rows for label in (a, b) if n}
    found = kappa(first, second, np.array([counts], dtype=np.uint16))[0]
    if len(seen) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(sk.cohen_kappa_score(first, second, sample_weight=counts))


def test_shares() -> None:
    hits = np.array([True, False, False])
    counts = np.array([[1, 1, 1], [2, 1, 0], [0, 0, 0]], dtype=np.uint16)
    np.testing.assert_allclose(share(hits, counts), [1 / 3, 2 / 3, np.nan])
