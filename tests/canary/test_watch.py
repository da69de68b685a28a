"""From records of the topics to alarms."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from monitor.alerts import metrics as alert_metrics
from monitor.alerts.config import Match
from monitor.alerts.routing import matches
from monitor.alerts.worker import AlertsWorker
from monitor.canary import metrics
from monitor.canary.alarms import Name
from monitor.canary.backlog import PartitionBacklog
from monitor.canary.drift import REFERENCE_SECONDS, WINDOW_SECONDS
from monitor.canary.identity import PREFIX, TENANT, is_canary
from monitor.canary.ledger import Canary, CanaryLedger, Sent
from monitor.canary.watch import Watch, WatchState
from monitor.memory import MemoryStore
from monitor.records import ModelReference, VerdictRecord
from monitor.types import Verdict
from tests.alerts.flags import NOON, Clock, RecordingSink, flag_record_of, make_config, make_flag
from tests.monitor.fakes import RecordingPublisher

OURS = f"{PREFIX}1"


def made(*canaries: Verdict, state: WatchState | None = None) -> tuple[Watch, CanaryLedger]:
    ledger = CanaryLedger(30)
    ledger.send(Sent(f"{PREFIX}{i}", Canary(v, v), 0, NOON) for i, v in enumerate(canaries, 1))
    return Watch(ledger, backlog_age=300, now=NOON, state=state), ledger


def flag(message: str, tenant: str | None = "north", **changes: Any) -> bytes:
    return make_flag(message_id=message, tenant=tenant, **changes).model_dump_json().encode()


def verdict(message: str | None, verdict: Verdict, score: float = 0.5, tenant: str | None = None, **more: Any) -> bytes:
    record = VerdictRecord(
        id="x", message_id=message, tenant=tenant, verdict=verdict, score=score, reason=None, counts={}, statements=[],
        model=more.get("model", ModelReference(name="tiny", version="1")), topic="t", partition=0, offset=0,
        received_at="2026-03-02T12:00:00Z",  # type: ignore[arg-type]
    )  # fmt: skip
    return record.model_dump_json().encode()


def partition(committed: int, *, end: int | None = None, age: float | None = None, expired: int = 0) -> list[Any]:
    oldest = None if age is None else int((NOON - age) * 1000)
    return [PartitionBacklog(0, committed, committed if end is None else end, expired, oldest)]


def names(watch: Watch, now: float = NOON) -> set[Name]:
    return {alarm.name for alarm in watch.alarms(now)}


def test_a_canary_goes_to_the_ledger_and_is_neither_counted_nor_scored() -> None:
    watch, ledger = made(Verdict.UNSAFE)
    before = watch.state
    assert watch.flag(flag(OURS, TENANT), NOON + 1) is not None
    assert ledger.overdue(NOON + 100) == []
    assert watch.state.flag_rate == before.flag_rate
    assert watch.state.drift == before.drift


def test_overdue_lost_and_wrong_canaries_are_alarms() -> None:
    watch, ledger = made(Verdict.UNSAFE, Verdict.SAFE)
    assert names(watch) == set()
    assert names(watch, NOON + 31) == {Name.OVERDUE}
    ledger.due(NOON + 601)
    assert names(watch, NOON + 601) == {Name.LOST}
    watch.verdict(verdict(OURS, Verdict.UNSAFE, tenant=TENANT), NOON)
    watch.flag(flag(f"{PREFIX}2", TENANT), NOON + 602)
    assert names(watch, NOON + 602) == {Name.LOST, Name.WRONG}


def test_a_flag_that_only_looks_like_a_canary_s_is_told_of_and_for_a_while() -> None:
    watch, _ = made()
    before = metrics.FOREIGN._value.get()
    watch.flag(flag(f"{PREFIX}somebody-else", TENANT), NOON)
    assert metrics.FOREIGN._value.get() == before + 1
    assert names(watch, NOON + 599) == {Name.FOREIGN}
    assert names(watch, NOON + 601) == set()


def test_canaries_of_the_process_before_may_come_back_for_an_hour() -> None:
    watch, _ = made()
    sent_before = {"received_at": datetime.fromtimestamp(NOON - 1, UTC)}
    watch.flag(flag(f"{PREFIX}old", TENANT, **sent_before), NOON + 3599)
    assert names(watch, NOON + 3599) == set()
    watch.flag(flag(f"{PREFIX}older", TENANT, **sent_before), NOON + 3600)
    assert names(watch, NOON + 3600) == {Name.FOREIGN}


def test_backlog_and_what_retention_took_are_alarms() -> None:
    watch, _ = made()
    watch.backlog(partition(10, end=20, age=299), NOON)
    assert names(watch, NOON + 100) == set()  # judged by when it was looked at
    watch.backlog(partition(10, end=20, age=301), NOON)
    assert names(watch) == {Name.BACKLOG}
    watch.backlog(partition(10, end=20, age=5, expired=3), NOON)
    assert names(watch) == {Name.EXPIRED}


def test_flagged_messages_are_counted_once_and_canaries_are_no_messages() -> None:
    watch, _ = made()
    watch.flag(flag("before"), NOON)  # of how many messages, nobody knows
    watch.backlog(partition(1_000), NOON)
    for message in ("a", "b", "b"):
        watch.flag(flag(message), NOON)
    watch.flag(flag("a", "south"), NOON)
    watch.sent(100)
    watch.backlog(partition(2_000), NOON)
    assert watch.state.flag_rate.current == (900, 3)
    watch.backlog(partition(0), NOON)  # somebody moved the group back
    assert watch.state.flag_rate.current == (900, 3)


def test_no_flags_where_there_were_some_is_an_alarm() -> None:
    watch, _ = made()
    committed = 0
    watch.backlog(partition(committed), NOON)
    for step in range(400):
        if step < 200:
            watch.flag(flag(str(step)), NOON)
        committed += 50
        watch.backlog(partition(committed), NOON)
        if step == 199:
            assert names(watch) == set()
    assert names(watch) == {Name.FEW_FLAGS}


def test_scores_are_those_of_verdicts_where_there_are_any_else_of_flags() -> None:
    watch, _ = made()
    watch.flag(flag("a", score=0.9), NOON)
    state = watch.state.drift
    assert state is not None
    assert state.reference.scores == [0.9]
    for message, kind in (("a", Verdict.SAFE), ("b", Verdict.OUT_OF_SCOPE), (None, Verdict.INVALID)):
        watch.verdict(verdict(message, kind, 0.2), NOON)
    watch.flag(flag("b", score=0.9), NOON)
    state = watch.state.drift
    assert state is not None
    assert state.reference.scores == [0.2]


def test_scores_that_moved_are_an_alarm() -> None:
    watch, _ = made()
    for day, base in ((0, 0.0), (1, 0.5)):
        for i in range(1000):
            now = NOON + day * REFERENCE_SECONDS + i * WINDOW_SECONDS / 250 * (6 if day == 0 else 1)
            watch.verdict(verdict(str(i), Verdict.SAFE, base + i % 100 / 250), now)
    assert names(watch) == {Name.DRIFT}


def test_another_model_has_its_own_rate_and_scores() -> None:
    watch, _ = made()
    watch.backlog(partition(0), NOON)
    watch.flag(flag("a"), NOON)
    watch.backlog(partition(50), NOON)
    watch.flag(flag("b", model=ModelReference(name="tiny", version="2")), NOON)
    state = watch.state
    assert state.model == ("tiny", "2")
    assert state.flag_rate.current == (0, 0)
    assert state.drift is not None
    assert len(state.drift.reference.scores) == 1


def test_a_restart_goes_on_with_what_was_usual() -> None:
    watch, _ = made()
    watch.backlog(partition(0), NOON)
    watch.verdict(verdict("a", Verdict.SAFE), NOON)
    watch.flag(flag("a"), NOON)
    watch.backlog(partition(50), NOON)
    state = WatchState.model_validate_json(watch.state.model_dump_json())
    again, _ = made(state=state)
    again.verdict(verdict("b", Verdict.SAFE), NOON)
    again.backlog(partition(900), NOON)  # what was done meanwhile came with flags that nobody counted
    assert again.state.flag_rate.current == (50, 1)
    assert again.state.drift is not None
    assert len(again.state.drift.reference.scores) == 2


def test_what_cannot_be_read_is_passed_over() -> None:
    watch, _ = made()
    for value in (None, b"", b"{", b"[]", b'{"message_id": 1}'):
        assert watch.flag(value, NOON) is watch.verdict(value, NOON) is None
    assert names(watch) == set()


def test_alarms_quote_no_message() -> None:
    watch, ledger = made(Verdict.UNSAFE, Verdict.SAFE)
    ledger.due(NOON + 601)
    watch.flag(flag(f"{PREFIX}2", TENANT), NOON)
    watch.flag(flag(f"{PREFIX}x", TENANT), NOON)
    assert all("400 mg" not in alarm.detail for alarm in watch.alarms(NOON))


def test_both_marks_make_a_canary() -> None:
    assert is_canary(TENANT, OURS)
    assert not is_canary("north", OURS)
    assert not is_canary(TENANT, "message-1")
    assert not is_canary(TENANT, None)


def test_canaries_take_no_route_that_does_not_name_them() -> None:
    canary = make_flag(message_id=OURS, tenant=TENANT)
    assert not matches(Match(), canary)
    assert not matches(Match(tenants=("*",)), canary)
    assert matches(Match(tenants=(TENANT,)), canary)
    assert not matches(Match(tenants=(TENANT,), score_at_least=0.99), canary)
    assert matches(Match(tenants=("*",)), make_flag(message_id="m", tenant=TENANT))


async def test_alerts_leave_canaries_out_and_count_them() -> None:
    sink, counted = RecordingSink(), alert_metrics.FLAGS.labels("canary")
    worker = AlertsWorker(
        make_config(), sinks={"out": sink}, store=MemoryStore(), publisher=RecordingPublisher(), clock=Clock()
    )
    before = counted._value.get()
    await worker.take([flag_record_of(make_flag(message_id=OURS, tenant=TENANT), offset=0)])
    worker.tick()
    assert counted._value.get() == before + 1
    assert [waiting.lag for waiting in worker.progress()] == [0]
    await worker.take([flag_record_of(make_flag(1), offset=1)])
    worker.tick()
    assert [waiting.lag for waiting in worker.progress()] == [1]
