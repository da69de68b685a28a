from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from monitor.feedback.adjudication import Status
from monitor.feedback.agreement import agreement, cohen_kappa, estimate, krippendorff_alpha, pairwise_share, weights
from monitor.records import FeedbackRecord
from tests.feedback.decisions import ACCEPT, REJECT, UNSURE, WRONG, decided, flag_on

#: Krippendorff 2011, section C: four observers, twelve units, nominal alpha 0.743.
OBSERVERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def published() -> np.ndarray:
    rows = zip(*(line.split() for line in OBSERVERS), strict=True)
    return np.array([[row.count(value) for value in "12345"] for row in rows], dtype=np.float64)


def test_alpha_is_that_of_the_published_example() -> None:
    assert krippendorff_alpha(published(), np.ones((1, 12)))[0] == pytest.approx(0.743, abs=5e-4)


def test_a_flag_drawn_twice_counts_twice() -> None:
    counts = published()
    drawn = np.array([[2, 0, 1, 1, 1, 3, 1, 0, 1, 1, 0, 1]], dtype=np.float64)
    repeated = np.repeat(counts, drawn[0].astype(int), axis=0)
    ones = np.ones((1, len(repeated)))
    assert krippendorff_alpha(counts, drawn)[0] == pytest.approx(krippendorff_alpha(repeated, ones)[0])
    assert pairwise_share(counts, drawn)[0] == pytest.approx(pairwise_share(repeated, ones)[0])


def test_kappa_is_that_of_scikit_learn_in_every_sample() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    samples = weights(40)[:20]
    mine = cohen_kappa(np.eye(3)[one], np.eye(3)[other], samples)
    theirs = [cohen_kappa_score(one, other, sample_weight=drawn) for drawn in samples]
    assert mine == pytest.approx(theirs)


def test_where_all_say_the_same_neither_is_defined() -> None:
    same = np.array([[2.0, 0.0], [2.0, 0.0]])
    assert estimate(krippendorff_alpha(same, weights(2))) is None
    assert estimate(cohen_kappa(same / 2, same / 2, weights(2))) is None
    share = estimate(pairwise_share(same, weights(2)))
    assert share is not None
    assert (share.value, share.low, share.high) == (1, 1, 1)


def decisions() -> list[FeedbackRecord]:
    return [
        *decided(flag_on("1", 1), ACCEPT, ACCEPT),
        *decided(flag_on("2", 2), ACCEPT, REJECT, ACCEPT),
        *decided(flag_on("3", 3, category="timing", recommendation="rem-2"), REJECT, REJECT),
        *decided(flag_on("4", 4, category="timing", recommendation="rem-2"), (WRONG, "a"), (WRONG, "b")),
        *decided(flag_on("5", 5), UNSURE, ACCEPT),
        *decided(flag_on("6", 6), ACCEPT),
    ]


def test_agreement_is_told_for_all_by_category_by_recommendation_and_by_pair() -> None:
    found = agreement(decisions())
    assert found.statuses == {Status.SECOND: 1, Status.DISPUTED: 2, Status.SETTLED: 3}
    strata = {row.name: row for row in found.strata}
    assert list(strata) == [
        "all", "category: dose", "category: timing", "recommendation: rem-1.2", "recommendation: rem-2",
    ]  # fmt: skip
    everything = strata["all"]
    assert (everything.flags, everything.decisions) == (4, 9)
    assert everything.share is not None
    assert everything.share.value == pytest.approx(3 / 6, abs=1e-4)  # 1 of 1, 1 of 3, 1 of 1, 0 of 1
    assert everything.share.low < everything.share.value < everything.share.high
    assert everything.alpha is not None
    assert strata["category: timing"].share is not None
    assert strata["category: timing"].share.value == 0.5
    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    assert {names: pair.flags for names, pair in pairs.items()} == {("a", "b"): 4, ("a", "c"): 1, ("b", "c"): 1}
    assert pairs["a", "c"].kappa is None


def test_no_decisions_are_no_agreement() -> None:
    found = agreement([])
    assert (found.strata, found.pairs, sum(found.statuses.values())) == ([], [], 0)
    (alone, *_) = agreement(decided(flag_on("1", 1), ACCEPT)).strata
    assert (alone.flags, alone.share, alone.alpha) == (0, None, None)
