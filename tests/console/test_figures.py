"""What the trends page counts, and where its marks go."""

from __future__ import annotations

import itertools

import pytest

from monitor.console import charts, trends
from monitor.console.register import Row
from monitor.console.trends import Share
from monitor.records import Decision
from tests.console.stage import NOW, decided, item


def row(number: int, *votes: Decision, **changes: object) -> Row:
    flag = item(number, **changes).flag
    names = ("anna", "ben", "cara")
    decisions = [decided(flag, name, vote, minute=n) for n, (name, vote) in enumerate(zip(names, votes, strict=False))]
    return Row.of(item(number, decisions=decisions, **changes))


ACCEPT, REJECT, UNSURE = Decision.ACCEPT, Decision.REJECT, Decision.UNSURE


def test_days_are_counted_and_small_series_put_together() -> None:
    rows = [row(24 * day, category=f"c{day % 9}") for day in range(12)]
    rows += [row(24 * 11 + 1, category="c0")]
    figures = trends.daily(rows, lambda r: r.category, last=rows[11].day, days=10)
    assert len(figures.days) == 10
    assert figures.days[-1] == rows[11].day
    assert figures.totals == [1] * 9 + [2]
    assert len(figures.counts) == trends.MAX_SERIES + 1
    assert sum(figures.counts[trends.OTHERS]) == 11 - sum(
        sum(counts) for name, counts in figures.counts.items() if name != trends.OTHERS
    )


def test_no_rows_no_series() -> None:
    figures = trends.daily([], lambda r: r.category, last=NOW.date(), days=3)
    assert (figures.counts, figures.totals) == ({}, [0, 0, 0])
    assert charts.stacked(figures).bars == []


def test_only_what_is_settled_counts_as_rejected() -> None:
    rows = [row(0, REJECT, REJECT), row(1, ACCEPT, ACCEPT), row(2, REJECT), row(3, REJECT, ACCEPT), row(4)]
    assert trends.rejected(rows, lambda r: r.category) == [("dose", Share(1, 2))]


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 0, 0.0, 1.0), (5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)],
)
def test_wilson_intervals(hits: int, n: int, low: float, high: float) -> None:
    assert Share(hits, n).interval == pytest.approx((low, high), abs=1e-4)


def test_agreement_of_pairs() -> None:
    wrong = decided(item(4).flag, "anna", Decision.WRONG_RECOMMENDATION, recommendation="rem-1.3")
    other = decided(item(4).flag, "ben", ACCEPT)
    rows = [
        row(0, REJECT, REJECT),
        row(1, ACCEPT, REJECT, REJECT),
        row(2, ACCEPT, ACCEPT),
        row(3, UNSURE, ACCEPT),  # no decision of anna's
        Row.of(item(4, decisions=[wrong, other])),  # both unsafe, against different recommendations
    ]
    found = {(a.first, a.second): (a.share, a.kappa) for a in trends.agreement(rows)}
    share, kappa = found["anna", "ben"]
    # Chance: reject 1/4 x 2/4, accept 2/4 x 2/4, the third kind never by both.
    assert (share, kappa) == (Share(2, 4), pytest.approx((0.5 - 0.375) / (1 - 0.375)))
    assert found["anna", "cara"] == (Share(0, 1), pytest.approx(0))
    assert found["ben", "cara"] == (Share(1, 1), None)  # one label only: not defined


def test_another_threshold() -> None:
    rows = [
        row(0, ACCEPT, ACCEPT, score=0.95),
        row(1, REJECT, REJECT, score=0.85),
        row(2, ACCEPT, ACCEPT, score=0.82, category="timing"),
        row(3, ACCEPT, ACCEPT, score=0.6, verdict="review"),
        row(4, score=0.5, verdict="review"),
    ]
    own = trends.what_if(rows, "tiny@1", None)
    assert own is not None
    assert (own.threshold, own.lowest, own.flagged, own.would) == (0.8, 0.4, 3, 3)
    assert own.precision == Share(2, 3)
    assert (own.missed, own.spared) == (0, 0)
    higher = trends.what_if(rows, "tiny@1", 0.9)
    assert higher is not None
    assert (higher.flagged, higher.would, higher.missed, higher.spared) == (3, 1, 1, 1)
    assert higher.by_category == [("dose", 2, 1), ("timing", 1, 0)]
    lower = trends.what_if(rows, "tiny@1", 0.55)
    assert lower is not None
    assert (lower.would, lower.precision) == (4, Share(3, 4))
    below = trends.what_if(rows, "tiny@1", 0.1)
    assert below is not None
    assert below.threshold == 0.4  # nothing is known below
    assert sum(below.bins) == 5
    assert trends.what_if(rows, "another@1", None) is None


def test_models_by_their_latest_message() -> None:
    assert trends.models([row(0), row(5, model={"name": "new", "version": "2"}), row(3)]) == ["new@2", "tiny@1"]


@pytest.mark.parametrize("most", [0, 1, 3, 4, 5, 7, 19, 20, 21, 99, 1234])
def test_scales_are_round_and_reach_the_top(most: int) -> None:
    scale = charts._scale(most)
    assert scale[0] == 0
    assert scale[-1] >= most
    assert len(scale) <= 6
    assert len({b - a for a, b in itertools.pairwise(scale)}) == 1


def test_bars_stand_on_each_other_within_the_chart() -> None:
    rows = [row(n, category=("dose", "timing")[n % 2]) for n in range(8)]
    chart = charts.stacked(trends.daily(rows, lambda r: r.category, last=rows[-1].day, days=2))
    by_x: dict[float, list[charts.Bar]] = {}
    for bar in chart.bars:
        by_x.setdefault(bar.x, []).append(bar)
    for bars in by_x.values():
        assert bars[0].y + bars[0].height == pytest.approx(chart.base, abs=0.02)
        for lower, upper in itertools.pairwise(bars):
            assert upper.y + upper.height == pytest.approx(lower.y, abs=0.02)
        assert min(b.y for b in bars) >= chart.top


def test_a_histogram_tells_flagged_from_not() -> None:
    found = charts.histogram([1, 2, 3, 4], lowest=0.6, threshold=0.8, current=0.9)
    assert [bar.series for bar in found.chart.bars] == [1, 1, 0, 0]
    assert found.threshold < found.current
    assert found.chart.left < found.threshold < found.chart.right
