"""Windows, budgets and digests on a clock that the test moves."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from aiokafka import TopicPartition

from monitor.alerts import lanes
from monitor.alerts.lanes import Lane, Outgoing, next_digest
from monitor.alerts.notification import MOST_SHOWN, Kind, title
from tests.alerts.flags import NOON, make_item, make_lane

HOUR = 3600.0


def told(out: list[Outgoing]) -> list[tuple[str, int]]:
    return [(sent.notification.kind.value, sent.notification.count) for sent in out]


def add(lane: Lane, number: int, now: float, **changes: Any) -> list[Outgoing]:
    return lane.add(make_item(number, **changes), now)[1]


def test_a_storm_becomes_one_alert_with_a_count() -> None:
    lane = make_lane({"group": {"wait": "10s", "suppress": "1h"}})
    assert not any(add(lane, n, NOON + n / 100, statement=f"Give John {n} mg.") for n in range(500))
    assert lane.due(NOON + 9.9) == []
    (sent,) = lane.due(NOON + 10)
    assert (sent.notification.kind, sent.notification.count) == (Kind.ALERT, 500)
    assert len(sent.notification.shown) == MOST_SHOWN
    assert title(sent.notification) == "Unsafe statement: dose, recommendation rem-1.2 (500 flags)"
    assert {place.offset for place in sent.places} == set(range(500))


def test_what_comes_while_a_group_is_suppressed_follows_at_the_end_of_the_window() -> None:
    lane = make_lane({"group": {"wait": 0, "suppress": "1h"}})
    assert told(add(lane, 1, NOON)) == [("alert", 1)]
    assert not add(lane, 2, NOON + 1)
    assert not add(lane, 3, NOON + HOUR - 1)
    assert told(add(lane, 4, NOON + 2, recommendation="rem-9")) == [("alert", 1)]  # another group is not suppressed
    assert told(lane.due(NOON + HOUR)) == [("follow-up", 2)]
    assert lane.due(NOON + 2 * HOUR) == []  # a window in which nothing came ends it
    assert told(add(lane, 5, NOON + 2 * HOUR)) == [("alert", 1)]


def test_without_windows_every_flag_is_an_alert() -> None:
    lane = make_lane({"group": {"wait": 0, "suppress": 0}})
    assert [told(add(lane, n, NOON)) for n in (1, 2)] == [[("alert", 1)], [("alert", 1)]]


def test_repeats_are_dropped_until_they_are_forgotten() -> None:
    lane = make_lane({"group": {"wait": 0, "suppress": 0}})
    item = make_item(1)
    assert lane.add(item, NOON)[0]
    assert lane.add(item, NOON + 1) == (False, [])
    lane.forget([item.flag.id])
    assert lane.add(item, NOON + 2)[0]


def test_over_the_budget_flags_wait_for_the_digest() -> None:
    route = {"group": {"wait": 0, "suppress": 0}, "budget": {"per_day": 2, "digest_at": "18:00"}}
    lane = make_lane(route, link="https://console.example.org/{id}")
    out = [told(add(lane, n, NOON + n, recommendation=f"rem-{n % 3}")) for n in range(6)]
    assert out == [[("alert", 1)], [("alert", 1)], [], [], [], []]
    assert lane.due(NOON + 6 * HOUR - 1) == []
    (sent,) = lane.due(NOON + 6 * HOUR)
    assert (sent.notification.kind, sent.notification.count) == (Kind.DIGEST, 4)
    assert [group.count for group in sent.notification.groups] == [2, 1, 1]
    assert title(sent.notification) == "Digest: 4 flags in 3 groups"
    assert {place.offset for place in sent.places} == {2, 3, 4, 5}


def test_a_new_day_in_the_files_time_zone_has_a_new_budget() -> None:
    route = {"group": {"wait": 0, "suppress": 0}, "budget": {"per_day": 1}}
    lane = make_lane(route, timezone="Asia/Tokyo")  # midnight there is 15:00 UTC
    assert told(add(lane, 1, NOON)) == [("alert", 1)]
    assert not add(lane, 2, NOON + 3 * HOUR - 1)
    assert told(add(lane, 3, NOON + 3 * HOUR)) == [("alert", 1)]


def test_a_budget_of_none_makes_digests_at_an_interval() -> None:
    lane = make_lane({"group": {"wait": 0}, "budget": {"per_day": 0, "digest_every": "4h"}})
    assert not add(lane, 1, NOON)
    assert not add(lane, 2, NOON + HOUR, recommendation="rem-9")
    assert told(lane.due(NOON + 4 * HOUR)) == [("digest", 2)]
    assert lane.due(NOON + 24 * HOUR) == []


def test_old_flags_go_to_the_digest() -> None:
    lane = make_lane({"group": {"wait": 0}}, stale_after="1d")
    old = datetime.fromtimestamp(NOON - 25 * HOUR, UTC)
    assert not add(lane, 1, NOON, received_at=old)
    assert told(lane.due(NOON + 20 * HOUR)) == [("digest", 1)]  # at 08:00, by default


def test_a_stop_sends_everything_that_waits() -> None:
    route = {"group": {"wait": "10s", "suppress": "1h"}, "budget": {"per_day": 1}}
    lane = make_lane(route)
    add(lane, 1, NOON)
    add(lane, 2, NOON, recommendation="rem-9")
    assert told(lane.flush(NOON + 1)) == [("alert", 1), ("digest", 1)]
    assert lane.flush(NOON + 2) == []


def test_windows_and_budgets_go_on_after_a_restart() -> None:
    route = {"group": {"wait": 0, "suppress": "1h"}, "budget": {"per_day": 3}}
    lane = make_lane(route)
    (sent,) = add(lane, 1, NOON)
    again = make_lane(route)
    day, spent = sent.spent
    again.restore_budget(day, spent + 1)
    assert sent.suppressed_until is not None
    again.restore_window(sent.notification.key, sent.suppressed_until, NOON + 60)
    assert not add(again, 2, NOON + 60)
    assert told(add(again, 3, NOON + 60, recommendation="rem-8")) == [("alert", 1)]
    assert not add(again, 4, NOON + 60, recommendation="rem-9")  # two were spent before
    again.restore_window("of old", NOON, NOON + 60)
    assert not again.knows("of old")


def test_flags_of_a_partition_that_is_taken_away_are_left_to_others_and_may_come_back() -> None:
    lane = make_lane({"group": {"wait": "10s", "suppress": "1h"}, "budget": {"per_day": 1}})
    add(lane, 1, NOON, partition=0)
    add(lane, 2, NOON, partition=1)
    lane.due(NOON + 10)
    for number, partition in ((3, 0), (4, 1)):
        add(lane, number, NOON + 11, partition=partition)
        add(lane, number + 2, NOON + 11, partition=partition, recommendation="rem-9")
    lane.due(NOON + 21)  # rem-9 is over the budget
    lane.revoke({TopicPartition("safety.flags", 1)})
    places = [place for sent in lane.flush(NOON + 22) for place in sent.places]
    assert {place.offset for place in places} == {3, 5}
    assert lane.add(make_item(4, partition=1), NOON + 30)[0]


@pytest.mark.parametrize("budget", [{"per_day": None}, {"per_day": 0}])
def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, budget: dict[str, Any]) -> None:
    monkeypatch.setattr(lanes, "MOST_FLAGS", 10)
    monkeypatch.setattr(lanes, "MOST_WINDOWS", 3)
    monkeypatch.setattr(lanes, "MOST_KEPT", 4)
    lane = make_lane({"group": {"wait": "1h", "suppress": "1h"}, "budget": budget})
    out = [sent for n in range(25) for sent in add(lane, n, NOON)]
    assert [len(list(sent.places)) for sent in out] == [10, 10]
    assert all(len(bundle.kept) == 4 for sent in out for bundle in sent.bundles)
    many = make_lane({"group": {"wait": "1h", "suppress": 0}})
    assert len([sent for n in range(10) for sent in add(many, n, NOON, recommendation=f"rem-{n}")]) == 7


@pytest.mark.parametrize(("include", "statement"), [(True, "Give Maria 400 mg on day 1."), (False, None)])
def test_text_is_shown_where_the_route_says_so(include: bool, statement: str | None) -> None:
    (sent,) = add(make_lane({"include_text": include, "group": {"wait": 0}}), 1, NOON)
    (flag,) = sent.notification.shown
    assert flag.statement == statement
    assert (flag.reason is None) == (statement is None)
    assert b"Maria" in (sent.bundles[0].kept[0].record.value or b"")  # a dead letter is the record as it was read


def test_the_same_flags_make_the_same_alert() -> None:
    one, other = (add(make_lane({"group": {"wait": 0}}), 1, NOON + n)[0].notification.id for n in (0, 1))
    assert one == other


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-03-02T06:59:59+00:00", "2026-03-02T07:00:00+00:00"),
        ("2026-03-02T07:00:00+00:00", "2026-03-03T07:00:00+00:00"),
        ("2026-03-28T12:00:00+00:00", "2026-03-29T06:00:00+00:00"),  # summer time begins
    ],
)
def test_a_digest_is_due_at_the_local_hour(now: str, due: str) -> None:
    found = next_digest(datetime.fromisoformat(now).timestamp(), time(8), ZoneInfo("Europe/Berlin"))
    assert datetime.fromtimestamp(found, UTC).isoformat() == due
