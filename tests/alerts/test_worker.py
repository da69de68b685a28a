"""The worker without a broker: what is committed, what becomes a dead letter, who holds up whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from monitor.alerts.config import AlertsConfig
from monitor.alerts.marks import Store
from monitor.alerts.sinks import SinkRefused
from monitor.alerts.worker import AlertsWorker
from monitor.memory import MemoryStore
from monitor.replay.dead_letters import reason_of
from tests.alerts.flags import Clock, RecordingSink, away, flag_record_of, make_config, make_flag
from tests.monitor.fakes import FailingStore, RecordingPublisher, make_record

P = TopicPartition("safety.flags", 0)
QUICK = {"attempts": 2, "first": 0, "most": 0}


class FakeConsumer:
    """Hands out records and takes commits."""

    def __init__(self, *batches: Sequence[ConsumerRecord]) -> None:
        self._batches = list(batches)
        self._client = SimpleNamespace(cluster=SimpleNamespace(unauthorized_topics=set()))
        self.commits: list[Mapping[TopicPartition, int]] = []

    def subscribe(self, topics: list[str], listener: object) -> None:
        self.topics = topics

    def subscription(self) -> frozenset[str]:
        return frozenset(self.topics)

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        await asyncio.sleep(0.001)
        return {P: list(self._batches.pop(0))} if self._batches else {}

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self.commits.append(dict(offsets))

    @property
    def committed(self) -> int | None:
        """The last committed offset."""
        return self.commits[-1][P] if self.commits else None


def records(*numbers: int, **changes: Any) -> list[ConsumerRecord]:
    """Return flags, one message each, whose offset is their number."""
    return [flag_record_of(make_flag(n, **changes), offset=n) for n in numbers]


class Stage:
    """A worker at work."""

    def __init__(
        self,
        config: AlertsConfig,
        sinks: Sequence[RecordingSink],
        consumer: FakeConsumer,
        *,
        store: Store | None = None,
        publisher: RecordingPublisher | None = None,
    ) -> None:
        self.sinks = {sink.name: sink for sink in sinks}
        self.consumer = consumer
        self.publisher = publisher or RecordingPublisher()
        self.clock = Clock()
        self.stop = asyncio.Event()
        self.worker = AlertsWorker(
            config, sinks=self.sinks, store=store or MemoryStore(), publisher=self.publisher, clock=self.clock
        )

    async def until(self, condition: Any) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - conditions are of any kind
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def running(self, drain: float = 30) -> AsyncIterator[asyncio.Task[bool]]:
        task = asyncio.create_task(self.worker.run(self.consumer, ["safety.flags"], self.stop, drain))
        try:
            yield task
        finally:
            self.stop.set()
            await task


def config_of(sinks: Sequence[str], **changes: Any) -> AlertsConfig:
    part = {"type": "terminal", "retry": QUICK, "queue": 2}
    route = {"name": "all", "sinks": list(sinks), "group": {"wait": 0, "suppress": 0}} | changes
    return make_config(sinks=dict.fromkeys(sinks, part), routes=[route])


async def test_offsets_are_committed_when_their_alerts_are_delivered() -> None:
    gate = asyncio.Event()

    class Held(RecordingSink):
        async def send(self, notification: Any) -> None:
            if notification.first.message_id == "message-1":
                await gate.wait()
            await super().send(notification)

    one, other = Held("one"), RecordingSink("other")
    stage = Stage(config_of(["one", "other"]), [one, other], FakeConsumer(records(0, 1, 2)))
    async with stage.running():
        await stage.until(lambda: len(other.sent) == 3 and stage.consumer.committed == 1)
        gate.set()
        await stage.until(lambda: stage.consumer.committed == 3)
    assert one.messages == other.messages == ["message-0", "message-1", "message-2"]


async def test_flags_in_a_window_are_committed_with_its_alert() -> None:
    sink = RecordingSink()
    stage = Stage(config_of(["out"], group={"wait": "10s"}), [sink], FakeConsumer(records(0, 1, 2)))
    async with stage.running():
        await stage.until(lambda: any(p.lag == 0 for p in stage.worker.progress()))
        await stage.until(lambda: not stage.consumer._batches)
        assert stage.consumer.commits == []
        stage.clock.now += 10
        await stage.until(lambda: stage.consumer.committed == 3)
    (sent,) = sink.sent
    assert sent.count == 3


async def test_flags_that_no_route_wants_are_passed_over() -> None:
    sink = RecordingSink()
    stage = Stage(config_of(["out"], match={"tenants": ["south"]}), [sink], FakeConsumer(records(0, 1)))
    async with stage.running():
        await stage.until(lambda: stage.consumer.committed == 2)
    assert sink.sent == []


async def test_repeats_are_dropped_also_after_a_restart() -> None:
    store = MemoryStore()
    for first in (0, 3):  # the second worker reads what the first had done again, and one more
        sink = RecordingSink()
        batch = [*records(0, 1, 2), flag_record_of(make_flag(1), offset=3), *records(*([4] if first else []))]
        stage = Stage(config_of(["out"]), [sink], FakeConsumer(batch), store=store)
        async with stage.running():
            await stage.until(lambda n=first, s=stage: s.consumer.committed == (5 if n else 4))
        assert sink.messages == (["message-4"] if first else ["message-0", "message-1", "message-2"])


async def test_suppression_and_budget_outlive_a_restart() -> None:
    store = MemoryStore()
    changes = {"group": {"wait": 0, "suppress": "1h"}, "budget": {"per_day": 2}}
    told = []
    for number in range(2):
        sink = RecordingSink()
        batch = [*records(number), *records(2 + number, recommendation=f"rem-{number}")]
        stage = Stage(config_of(["out"], **changes), [sink], FakeConsumer(batch), store=store)
        async with stage.running():
            await stage.until(lambda s=stage: not s.consumer._batches)
        told.append([(n.kind.value, n.count) for n in sink.sent])
    assert told == [[("alert", 1), ("alert", 1)], [("digest", 2)]]


async def test_without_a_store_it_goes_on() -> None:
    sink = RecordingSink()
    stage = Stage(config_of(["out"]), [sink], FakeConsumer(records(0, 1)), store=FailingStore())
    async with stage.running():
        await stage.until(lambda: stage.consumer.committed == 2)
    assert len(sink.sent) == 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "invalid_field"),
        (None, "empty"),
        (b'{"id": 3}', "wrong_type"),
        (b"\xff", "invalid_field"),
        (b"[]", "wrong_type"),
    ],
)
async def test_what_is_no_flag_becomes_a_dead_letter_as_it_came(value: bytes | None, reason: str) -> None:
    bad = make_record(value, offset=0, topic="safety.flags", headers=(("own", b"\xff"),))
    stage = Stage(config_of(["out"]), [RecordingSink()], FakeConsumer([bad, *records(1)]))
    async with stage.running():
        await stage.until(lambda: stage.consumer.committed == 2)
    (letter,) = stage.publisher.on("safety.alerts.deadletter")
    assert (letter.key, letter.value, letter.headers[0]) == (b"key", value, ("own", b"\xff"))
    assert dict(letter.headers)["guardline.reason"] == reason.encode()


async def test_fields_of_a_newer_monitor_pass() -> None:
    newer = make_flag(0).model_dump_json()[:-1] + ', "new": {"field": 1}}'
    newer = newer.replace('"guideline"', '"also_new": 1, "guideline"')
    sink = RecordingSink()
    stage = Stage(config_of(["out"]), [sink], FakeConsumer([make_record(newer.encode(), topic="safety.flags")]))
    async with stage.running():
        await stage.until(lambda: stage.consumer.committed == 1)
    assert sink.sent[0].first.message_id == "message-0"


async def test_an_alert_that_is_given_up_leaves_every_flag_as_it_was_read_with_the_reason() -> None:
    sink = RecordingSink(fail=lambda _: SinkRefused("HTTP 400"))
    stage = Stage(config_of(["out"], group={"wait": "10s"}), [sink], FakeConsumer(records(0, 1, 2)))
    async with stage.running():
        await stage.until(lambda: not stage.consumer._batches)
        stage.clock.now += 10
        await stage.until(lambda: stage.consumer.committed == 3)
    letters = stage.publisher.on("safety.alerts.deadletter")
    for record, letter in zip(records(0, 1, 2), letters, strict=True):
        assert (letter.key, letter.value) == (record.key, record.value)
        headers = dict(letter.headers)
        assert headers["ce_id"] == make_flag(record.offset).id.encode()
        assert headers["guardline.alerts.sink"] == b"out"
        assert headers["guardline.alerts.count"] == b"3"
        assert headers["__connect.errors.exception.message"] == b"HTTP 400"
        assert headers["__connect.errors.offset"] == str(record.offset).encode()
        as_read = make_record(letter.value, headers=letter.headers, topic="safety.alerts.deadletter")
        assert reason_of(as_read) == "refused"  # as `guardline replay --dead-letters` reads it


async def test_a_replayed_dead_letter_is_alerted() -> None:
    sink = RecordingSink(fail=lambda n: SinkRefused("HTTP 400") if n == 1 else None)
    again = flag_record_of(make_flag(0), offset=1)
    stage = Stage(config_of(["out"]), [sink], FakeConsumer(records(0), *[[]] * 50, [again]))
    async with stage.running():
        await stage.until(lambda: stage.consumer.committed == 2)
    assert sink.messages == ["message-0"]


async def test_a_letter_that_the_broker_finds_too_large_goes_without_the_flag() -> None:
    publisher = RecordingPublisher(refuse=lambda event: event.value is not None)
    sink = RecordingSink(fail=lambda _: SinkRefused("HTTP 400"))
    stage = Stage(config_of(["out"]), [sink], FakeConsumer(records(7)), publisher=publisher)
    async with stage.running():
        await stage.until(lambda: stage.consumer.committed == 8)
    (letter,) = stage.publisher.events
    assert (letter.key, letter.value) == (b"safety.flags-0-7", None)
    assert dict(letter.headers)["guardline.payload"] == b"omitted"


async def test_a_dead_sink_does_not_hold_up_the_others() -> None:
    dead, well = RecordingSink("dead", fail=away(range(1, 1000))), RecordingSink("well")
    batches = [records(*range(n, n + 5)) for n in range(0, 100, 5)]
    stage = Stage(config_of(["dead", "well"]), [dead, well], FakeConsumer(*batches))
    async with stage.running():
        await stage.until(lambda: stage.consumer.committed == 100)
    assert len(well.sent) == 100
    assert dead.tries == QUICK["attempts"]
    letters = stage.publisher.on("safety.alerts.deadletter")
    assert len(letters) == 100
    assert {dict(letter.headers)["guardline.alerts.sink"] for letter in letters} == {b"dead"}


async def test_a_slow_sink_stops_intake_and_nothing_is_dropped() -> None:
    gate = asyncio.Event()

    class Slow(RecordingSink):
        async def send(self, notification: Any) -> None:
            await gate.wait()
            await super().send(notification)

    slow = Slow("slow")
    batches = [records(*range(n, n + 5)) for n in range(0, 50, 5)]
    consumer = FakeConsumer(*batches)
    stage = Stage(config_of(["slow"]), [slow], consumer)
    async with stage.running():
        await stage.until(lambda: len(consumer._batches) == 9)
        await asyncio.sleep(0.1)
        assert len(consumer._batches) == 9
        gate.set()
        await stage.until(lambda: consumer.committed == 50)
    assert len(slow.sent) == 50


async def test_a_stop_sends_what_waits_and_commits_it() -> None:
    sink = RecordingSink()
    stage = Stage(config_of(["out"], group={"wait": "1h"}), [sink], FakeConsumer(records(0, 1)))
    async with stage.running() as task:
        await stage.until(lambda: not stage.consumer._batches)
    assert task.result() is True
    assert (sink.sent[0].count, stage.consumer.committed) == (2, 2)


async def test_a_stop_that_cannot_finish_says_so_and_commits_nothing_undelivered() -> None:
    class Silent(RecordingSink):
        async def send(self, notification: Any) -> None:
            await asyncio.Event().wait()

    stage = Stage(config_of(["out"]), [Silent()], FakeConsumer(records(0)))
    async with stage.running(drain=0.1) as task:
        await stage.until(lambda: not stage.consumer._batches)
    assert task.result() is False
    assert stage.consumer.commits == []


async def test_partitions_that_leave_take_their_waiting_flags_with_them() -> None:
    sink = RecordingSink()
    stage = Stage(config_of(["out"], group={"wait": "10s"}), [sink], FakeConsumer(records(0, 1)))
    async with stage.running():
        await stage.until(lambda: not stage.consumer._batches)
        await stage.worker.on_partitions_revoked([P])
        stage.worker.on_partitions_assigned([P])
        stage.clock.now += 10
        stage.consumer._batches.append(records(0))  # read again from the committed offset
        await stage.until(lambda: not stage.consumer._batches)
        stage.clock.now += 10
        await stage.until(lambda: stage.consumer.committed == 1)
    assert [sent.count for sent in sink.sent] == [1]


async def test_a_rebalance_that_begins_while_flags_are_waited_for_is_not_waited_for_in_turn() -> None:
    """aiokafka's `getmany` waits for the end of a rebalance, and that for the partitions to be given away."""

    class Rebalancing(FakeConsumer):
        assigned = asyncio.Event()

        async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[ConsumerRecord]]:
            await self.assigned.wait()
            return await super().getmany(timeout_ms=timeout_ms, max_records=max_records)

    consumer, sink = Rebalancing(records(0)), RecordingSink()
    stage = Stage(config_of(["out"]), [sink], consumer)
    async with stage.running(), asyncio.timeout(30):
        await asyncio.sleep(0)
        await stage.worker.on_partitions_revoked([P])
        consumer.assigned.set()
        stage.worker.on_partitions_assigned([P])
        await stage.until(lambda: consumer.committed == 1)
    assert sink.messages == ["message-0"]
