"""The gate's rules on made-up judgements: what passes, what refuses, what shows nothing."""

import numpy as np
import pytest

from trainer.retraining.comparison import Compared, FrozenSets, Item, Judgement, Suite
from trainer.retraining.gate import Outcome, Rule, Verdict, decide
from trainer.retraining.settings import FrozenSettings, GateSettings

FROZEN = FrozenSettings(bootstrap=300, seed=3)
SETTINGS = GateSettings()


def statements(
    suite: Suite, n: int, strata: tuple[str, ...] = ("recommendation: r0", "recommendation: r1")
) -> list[Item]:
    """Return n statements in families of two, one safe and one unsafe, in strata by turns."""
    return [
        Item(suite, f"{suite}-{i}", f"{suite}-{i // 2}", (f"text {i}",), bool(i % 2), (strata[i // 2 % len(strata)],))
        for i in range(n)
    ]


def outside(n: int) -> list[Item]:
    return [Item(Suite.OUTSIDE, f"o-{i}", f"o-{i}", ("text",), False) for i in range(n)]


def decided(suite: Suite, n: int) -> list[Item]:
    return [Item(suite, f"{suite}-{i}", f"{suite}-{i}", ("text",), False) for i in range(n)]


def judged(items: list[Item], wrong: set[str]) -> list[Judgement]:
    """Return judgements that are right but for the items named in `wrong`."""
    rng = np.random.default_rng(1)
    result = []
    for item in items:
        flagged = item.unsafe is not (item.id in wrong)
        p = float(np.clip((0.8 if flagged else 0.2) + rng.normal(0, 0.05), 0, 1))
        result.append(Judgement(p, flagged, item.id not in wrong))
    return result


def verdict(items: list[Item], champion: set[str], challenger: set[str], settings: GateSettings = SETTINGS) -> Verdict:
    compared = Compared(FrozenSets(tuple(items)), judged(items, champion), judged(items, challenger))
    return decide(compared, settings, FROZEN)


def ids(items: list[Item], share: float, seed: int = 0) -> set[str]:
    rng = np.random.default_rng(seed)
    return {items[i].id for i in rng.permutation(len(items))[: round(share * len(items))]}


LARGE = [*statements(Suite.HEARD, 400), *statements(Suite.UNHEARD, 400), *outside(200)]


def test_the_same_decisions_pass_with_differences_of_nothing() -> None:
    found = verdict(LARGE, ids(LARGE, 0.1), ids(LARGE, 0.1))
    assert found.passed
    assert {(f.difference, f.low, f.high) for f in found.findings} == {(0, 0, 0)}
    shown = [f for f in found.findings if f.rule is Rule.SHOWN]
    assert {f.suite for f in shown} == {Suite.HEARD, Suite.UNHEARD, Suite.OUTSIDE}
    assert {f.outcome for f in shown} == {Outcome.HOLDS}


def test_a_better_challenger_passes() -> None:
    assert verdict(LARGE, ids(LARGE, 0.15), ids(LARGE, 0.05)).passed


def test_one_whose_labels_were_shuffled_is_refused_by_every_large_set() -> None:
    found = verdict(LARGE, ids(LARGE, 0.1), ids(LARGE, 0.5))
    worse = {f.suite for f in found.findings if f.rule is Rule.SHOWN and f.outcome is Outcome.WORSE}
    assert worse == {Suite.HEARD, Suite.UNHEARD, Suite.OUTSIDE}
    assert not found.passed
    assert any(r.startswith("voices never heard: AUC 0.9") for r in found.reasons)


def test_a_loss_within_the_margin_passes_and_one_that_may_exceed_it_does_not() -> None:
    everything = [i.id for i in LARGE if i.suite is Suite.UNHEARD]
    little, more = set(everything[:2]), set(everything[:12])
    assert verdict(LARGE, set(), little).passed
    found = verdict(LARGE, set(), more)
    (reason,) = [r for r in found.reasons if "balanced accuracy" in r]
    # The estimate itself is on the margin; it is the interval that reaches beyond.
    assert "difference -0.030" in reason
    assert verdict(LARGE, set(), more, GateSettings(margin=0.1)).passed


def test_more_flags_out_of_scope_refuse() -> None:
    flagged = {i.id for i in LARGE if i.suite is Suite.OUTSIDE and int(i.id[2:]) < 8}
    found = verdict(LARGE, set(), flagged)
    assert [r.partition(":")[0] for r in found.reasons] == ["out of scope"]
    assert verdict(LARGE, flagged, set()).passed


def test_a_certain_loss_in_one_recommendation_refuses_though_the_whole_holds() -> None:
    strata = tuple(f"recommendation: r{i}" for i in range(20))
    items = [*statements(Suite.HEARD, 1600, strata), *outside(100)]
    lost = {i.id for i in items if i.strata == ("recommendation: r7",)}
    lost = set(sorted(lost)[::2])
    found = verdict(items, set(), lost, GateSettings(margin=0.06))
    refusing = [f for f in found.findings if f.outcome is Outcome.WORSE]
    assert {(f.stratum, f.rule) for f in refusing} == {("recommendation: r7", Rule.NOT_WORSE)}
    # A twentieth of that, spread over all of them, is what chance does.
    assert verdict(items, set(), ids(items[:1600], 0.02), GateSettings(margin=0.06)).passed


def test_small_strata_show_nothing_and_are_named() -> None:
    items = [*LARGE, *statements(Suite.PAIRS, 12, ("number",))]
    found = verdict(items, set(), {i.id for i in items if i.suite is Suite.PAIRS})
    assert found.passed
    assert {(f.suite, f.stratum) for f in found.not_shown} == {("minimal pairs", "all"), ("minimal pairs", "number")}


def test_where_nothing_large_can_be_shown_the_challenger_is_refused() -> None:
    found = verdict([*statements(Suite.HEARD, 10), *outside(5)], set(), set())
    assert found.reasons == ["no frozen set has enough statements to show that nothing was lost"]


@pytest.mark.parametrize(
    ("suite", "n", "champion", "challenger", "passes"),
    [
        (Suite.LEARNT, 1, 1, 0, True),
        (Suite.LEARNT, 1, 0, 1, False),
        (Suite.LEARNT, 4, 2, 2, True),
        (Suite.RECENT, 5, 0, 2, True),  # too few to tell
        (Suite.RECENT, 40, 2, 3, False),
        (Suite.RECENT, 40, 3, 2, True),
    ],
)
def test_decisions_must_not_be_decided_worse(
    suite: Suite, n: int, champion: int, challenger: int, passes: bool
) -> None:
    own = decided(suite, n)
    wrong = [{i.id for i in own[:k]} for k in (champion, challenger)]
    found = verdict([*LARGE, *own], *wrong)
    assert found.passed is passes
    assert [f.rule for f in found.findings if f.suite == suite] == [Rule.DECISIONS]


def test_the_verdict_is_the_same_each_time_and_says_what_it_rests_on() -> None:
    first, again = (verdict(LARGE, ids(LARGE, 0.1), ids(LARGE, 0.12, seed=5)) for _ in range(2))
    assert first == again
    content = first.as_json()
    assert content["settings"]["margin"] == SETTINGS.margin
    assert len(content["findings"]) == len(first.findings)
