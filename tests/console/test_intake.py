"""From records to the desk: what is kept, what cannot be read, what is told to whom."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import orjson
import pytest

from monitor.canary.identity import PREFIX, TENANT
from monitor.console.desk import Desk
from monitor.console.intake import Intake, Kind
from monitor.console.live import Channel
from monitor.console.memory import MemoryConsoleStore
from monitor.errors import StoreUnavailable
from monitor.records import Decision, Origin
from tests.alerts.flags import flag_record_of, make_flag
from tests.console.stage import NOW, decided, item
from tests.monitor.fakes import make_record

TOPICS = {"safety.flags": Kind.FLAG, "safety.review": Kind.REVIEW, "safety.feedback": Kind.DECISION}


def desk(store: MemoryConsoleStore | None = None) -> Desk:
    return Desk(store or MemoryConsoleStore(), retention=timedelta(days=90), clock=lambda: NOW)


async def test_flags_and_decisions_are_kept_in_any_order() -> None:
    kept = desk()
    flag = make_flag(received_at=NOW)
    headers = (("ce_origintopic", b"llm.outputs"), ("ce_originpartition", b"2"), ("ce_originoffset", b"9"))
    record = make_record(flag.model_dump_json().encode(), topic="safety.flags", offset=4, headers=headers)
    decision = decided(flag, "anna", Decision.REJECT).model_dump_json().encode()
    intake = Intake(kept, TOPICS, from_beginning=False)
    await intake.take([make_record(decision, topic="safety.feedback"), record])
    await intake.take([record])
    (found,) = await kept.store.get([flag.id])
    assert found.origin == Origin(topic="llm.outputs", partition=2, offset=9)
    assert found.place == Origin(topic="safety.flags", partition=0, offset=4)
    assert [r.reviewer for r in found.decisions] == ["anna"]
    row = kept.register.get(flag.id)
    assert row is not None
    assert row.outcome.status == "second"
    assert len(kept.register) == 1


async def test_what_cannot_be_read_is_reported_and_the_rest_goes_on() -> None:
    kept = desk()
    bad = [
        make_record(None, topic="safety.flags", offset=1),
        make_record(b'{"id": "a flag of 400 mg"', topic="safety.flags", offset=2),
        make_record(
            orjson.dumps(make_flag().model_dump(mode="json") | {"score": "400 mg"}), topic="safety.review", offset=3
        ),
        make_record(b"{}", topic="safety.feedback", offset=4),
    ]
    await Intake(kept, TOPICS, from_beginning=False).take([*bad, flag_record_of(make_flag(received_at=NOW), offset=5)])
    assert len(kept.register) == 1
    assert [(p.place.topic, p.place.offset) for p in kept.problems] == [
        ("safety.feedback", 4), ("safety.review", 3), ("safety.flags", 2), ("safety.flags", 1),
    ]  # fmt: skip
    assert not any("400" in p.detail for p in kept.problems)


async def test_nobody_reviews_canaries() -> None:
    kept = desk()
    canary = make_flag(1, tenant=TENANT, message_id=f"{PREFIX}1", received_at=NOW)
    other = make_flag(2, tenant=TENANT, received_at=NOW)
    await Intake(kept, TOPICS, from_beginning=False).take(
        [flag_record_of(flag, offset=n) for n, flag in enumerate((canary, other))]
    )
    assert (kept.register.get(canary.id), len(kept.register)) == (None, 1)


async def test_a_flag_of_a_newer_monitor_is_read() -> None:
    kept = desk()
    value = orjson.dumps(make_flag(received_at=NOW).model_dump(mode="json") | {"new": 1})
    await Intake(kept, TOPICS, from_beginning=False).take([make_record(value, topic="safety.flags")])
    assert len(kept.register) == 1


async def test_records_wait_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryConsoleStore()
    kept = desk(store)
    intake = Intake(kept, TOPICS, from_beginning=False)
    put, tries = store.put, 0

    async def failing(items: object) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise StoreUnavailable("Redis does not answer")
        assert [p.lag for p in intake.progress()] == [1]
        await put(items)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "put", failing)
    assert await intake._insist([flag_record_of(make_flag(received_at=NOW), offset=0)], asyncio.Event())
    assert len(kept.register) == 1
    assert [p.lag for p in intake.progress()] == [0]


async def test_a_stop_does_not_wait_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryConsoleStore()

    async def away(_: object) -> None:
        raise StoreUnavailable("Redis does not answer")

    monkeypatch.setattr(store, "put", away)
    stop = asyncio.Event()
    stop.set()
    intake = Intake(desk(store), TOPICS, from_beginning=False)
    assert not await intake._insist([flag_record_of(make_flag(received_at=NOW), offset=0)], stop)


async def test_consoles_that_share_a_store_follow_each_other() -> None:
    store = MemoryConsoleStore()
    one, two = desk(store), desk(store)
    await one.open()
    await two.open()
    following = asyncio.create_task(two.follow())
    await one.put([item()])
    async with asyncio.timeout(10):
        while not len(two.register):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    following.cancel()


async def test_old_flags_leave_the_register() -> None:
    now = NOW
    kept = Desk(MemoryConsoleStore(), retention=timedelta(days=1), clock=lambda: now)
    await kept.put([item(0), item(1)])
    now += timedelta(days=1, minutes=30)
    await kept.open()
    assert [row.id for row in kept.register.rows] == [item(1).flag.id]
    assert kept.register.beside(next(iter(kept.register.rows))) == [item(1).flag.id]


async def test_pages_are_told_what_changed() -> None:
    channel = Channel()
    events = channel.events(lambda: {"waiting": 3})

    def data(event: bytes) -> dict[str, object]:
        assert event.startswith(b"event: queue\ndata: ")
        assert event.endswith(b"\n\n")
        found: dict[str, object] = orjson.loads(event.split(b"data: ")[1])
        return found

    assert data(await anext(events)) == {"waiting": 3, "changed": []}
    channel.tell(["b", "a"])
    channel.tell(["a"])
    assert data(await anext(events)) == {"waiting": 3, "changed": ["a", "b"]}
    channel.tell(map(str, range(1000)))
    assert data(await anext(events)) == {"waiting": 3, "changed": None}
    channel.close()
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    assert len(channel) == 0
