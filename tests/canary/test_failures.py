"""What the worker does when something that it needs is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from monitor.alerts.marks import Store
from monitor.canary import metrics
from monitor.canary.alarms import Announcer, Name
from monitor.canary.backlog import PartitionBacklog
from monitor.canary.expected import Expected
from monitor.canary.watch import WatchState
from monitor.canary.worker import Broker, CanaryWorker
from monitor.errors import AccessDenied, GuardlineError
from monitor.memory import MemoryStore
from monitor.publisher import Event
from monitor.settings import Settings
from tests.alerts.flags import Clock, flag_record_of, make_flag
from tests.monitor.fakes import FailingStore, RecordingPublisher, RecordingStore


class FakeBroker:
    """Tells of one partition, or that it is away."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.committed = 0

    async def partitions(self) -> Sequence[int]:
        if self.error:
            raise self.error
        return [0]

    async def measure(self) -> Sequence[PartitionBacklog]:
        if self.error:
            raise self.error
        return [PartitionBacklog(0, self.committed, self.committed, 0, None)]


class Stuck(RecordingPublisher):
    """Waits for a broker for ever."""

    async def publish(self, events: Sequence[Event]) -> list[Event]:
        await asyncio.Event().wait()
        raise AssertionError("never")


class Stage:
    """A worker and all that it speaks to."""

    def __init__(self, folder: Path, store: Store | None = None, publisher: RecordingPublisher | None = None) -> None:
        canaries = folder / "canaries.jsonl"
        canaries.write_text('{"text": "a", "verdict": "unsafe"}\n{"text": "b", "verdict": "safe"}\n')
        self.settings = Settings(_env_file=None, canary_messages=canaries)  # type: ignore[call-arg]
        self.publisher, self.broker, self.clock = publisher or RecordingPublisher(), FakeBroker(), Clock()
        self.expected = Expected(self.settings, None)
        self.worker = CanaryWorker(
            self.settings,
            expected=self.expected,
            publisher=self.publisher,
            broker=Broker(self.broker.partitions, self.broker.measure),
            announcer=Announcer(None, group="g"),
            store=store or MemoryStore(),
            clock=self.clock,
        )

    async def alarms(self) -> set[str]:
        await self.worker.tell()
        return {name.value for name in Name if metrics.ALARM.labels(name.value)._value.get()}


async def test_a_broker_that_is_away_is_an_alarm_after_four_looks_and_no_canary_is_missed(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.broker.error = GuardlineError("away")
    for _ in range(3):
        await stage.worker.measure()
        await stage.worker.send_round()
    assert (await stage.alarms(), stage.publisher.events) == (set(), [])
    await stage.worker.measure()
    assert await stage.alarms() == {"broker"}
    stage.broker.error = None
    await stage.worker.measure()
    await stage.worker.send_round()
    assert (await stage.alarms(), len(stage.publisher.events)) == (set(), 2)


async def test_canaries_that_cannot_be_published_are_overdue(tmp_path: Path) -> None:
    stage = Stage(tmp_path, publisher=Stuck())
    sending = asyncio.create_task(stage.worker.send_round())
    await asyncio.sleep(0)
    stage.clock.now += 31
    assert await stage.alarms() == {"overdue"}
    sending.cancel()


async def test_a_refused_credential_ends_the_process(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.broker.error = AccessDenied("no")
    for job in (stage.worker.measure, stage.worker.send_round):
        with pytest.raises(AccessDenied):
            await job()


async def test_the_store_away_costs_what_was_usual_and_nothing_else(tmp_path: Path) -> None:
    stage = Stage(tmp_path, FailingStore())
    failures = metrics.FAILURES.labels("store")
    before = failures._value.get()
    await stage.worker.restore()
    await stage.worker.measure()
    assert failures._value.get() == before + 2
    assert await stage.alarms() == set()


async def test_what_was_usual_is_kept_without_any_text_and_found_again(tmp_path: Path) -> None:
    store = RecordingStore()
    stage = Stage(tmp_path, store)
    await stage.worker.measure()
    stage.worker.take([flag_record_of(make_flag(1), offset=0)])
    stage.broker.committed = 70
    await stage.worker.measure()
    ((key, value),) = store.content.items()
    assert key == "canary:guardline:llm.outputs"
    assert b"400" not in value
    assert WatchState.model_validate_json(value).flag_rate.current == (70, 1)
    again = Stage(tmp_path, store)
    await again.worker.restore()
    assert again.worker._watch.state.flag_rate.current == (70, 1)


async def test_a_state_of_another_version_is_gathered_anew(tmp_path: Path) -> None:
    stage = Stage(tmp_path, store := MemoryStore())
    await store.put({"canary:guardline:llm.outputs": b'{"flag_rate": 7}'})
    await stage.worker.restore()
    assert stage.worker._watch.state.flag_rate.current == (0, 0)


async def test_after_a_switch_of_models_a_round_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path)
    answers = iter([True, False])

    async def changed() -> bool:
        return next(answers)

    monkeypatch.setattr(stage.expected, "changed", changed)
    await stage.worker.send_round()
    assert stage.publisher.events == []
    await stage.worker.send_round()
    assert len(stage.publisher.events) == 2
