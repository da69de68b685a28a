"""One port, two sides: the console's state in memory and in a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from monitor.connections.redis import redis_client
from monitor.console.memory import MemoryConsoleStore
from monitor.console.redis import TIMEOUT, RedisConsoleStore
from monitor.console.store import MAX_PROBLEMS, ConsoleStore, Item, Problem
from monitor.errors import StoreUnavailable
from monitor.records import Decision, Origin
from monitor.settings import Settings
from tests.alerts.flags import make_flag
from tests.console.stage import decided, item
from tests.fixtures_services import LocalRedis

#: Redis forgets by its own clock, so what it is to keep must be of now.
NOW = datetime.now(UTC).replace(microsecond=0)


def recent(number: int = 0) -> Item:
    return item(number, received_at=NOW - timedelta(hours=number))


def redis_store(server: LocalRedis) -> RedisConsoleStore:
    return RedisConsoleStore(redis_client(Settings(redis_url=server.url), timeout=TIMEOUT), retention=86_400)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.connected)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ConsoleStore]:
    if request.param == "memory":
        yield MemoryConsoleStore()
        return
    store = redis_store(request.getfixturevalue("redis_server"))
    yield store
    await store.close()


def plain(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Return items as values: those that were read are of lenient subclasses of the records."""
    return [
        {
            "flag": i.flag.model_dump(),
            "origin": i.origin and i.origin.model_dump(),
            "place": i.place and i.place.model_dump(),
            "decisions": [record.model_dump() for record in i.decisions],
        }
        for i in items
    ]


async def loaded(store: ConsoleStore) -> list[Item]:
    return [item async for items in store.load() for item in items]


async def test_what_was_put_is_got_in_order_and_loaded(store: ConsoleStore) -> None:
    items = [recent(n) for n in range(3)]
    await store.put(items)
    ids = [i.flag.id for i in items]
    assert plain(await store.get([ids[2], "unknown", ids[0]])) == plain([items[2], items[0]])
    assert plain(sorted(await loaded(store), key=lambda i: -i.flag.received_at.timestamp())) == plain(items)


async def test_nothing_of_the_text_is_kept(store: ConsoleStore) -> None:
    flag = make_flag(received_at=NOW)
    assert flag.statement
    assert flag.reason
    await store.put([Item.of(flag, origin=None, place=None)])
    await store.put([Item.of_decision(decided(flag, "anna", Decision.ACCEPT))])
    kept = (await store.get([flag.id]))[0]
    assert (kept.flag.statement, kept.flag.reason) == (None, None)
    assert (kept.decisions[0].flag.statement, kept.decisions[0].flag.reason) == (None, None)


async def test_decisions_add_up_and_repeats_change_nothing(store: ConsoleStore) -> None:
    kept = recent()
    first = decided(kept.flag, "anna", Decision.ACCEPT, note="a note")
    second = decided(kept.flag, "ben", Decision.REJECT, minute=1)
    await store.put([Item.of_decision(second)])  # read before the flag itself
    await store.put([kept])
    await store.put([Item.of_decision(first)])
    await store.put([kept])
    await store.put([Item.of_decision(second)])
    bare = tuple(record.model_copy(update={"flag": kept.flag}) for record in (first, second))
    assert plain(await store.get([kept.flag.id])) == plain([Item(kept.flag, kept.origin, kept.place, bare)])


async def test_a_flag_seen_again_takes_the_later_place(store: ConsoleStore) -> None:
    kept = recent()
    await store.put([kept])
    moved = Origin(topic="llm.outputs", partition=1, offset=99)
    await store.put([Item(kept.flag, moved)])
    found = (await store.get([kept.flag.id]))[0]
    assert found.origin == moved
    assert found.place == kept.place


async def test_changes_are_told_in_order_and_once(store: ConsoleStore) -> None:
    await store.put([recent(0)])
    position = await store.position()
    assert await store.changes(position, 0.05) == (position, [])
    await store.put([recent(1), recent(2)])
    after, changed = await store.changes(position, 5)
    assert changed == [recent(1).flag.id, recent(2).flag.id]
    assert await store.changes(after, 0.05) == (after, [])


async def test_who_waits_for_a_change_is_told(store: ConsoleStore) -> None:
    position = await store.position()
    waiting = asyncio.create_task(store.changes(position, 30))
    await asyncio.sleep(0.1)
    await store.put([recent()])
    assert (await waiting)[1] == [recent().flag.id]


async def test_old_flags_are_forgotten(store: ConsoleStore) -> None:
    await store.put([recent(n) for n in range(4)])
    await store.forget(NOW - timedelta(hours=1))
    assert {i.flag.id for i in await loaded(store)} == {recent(n).flag.id for n in (0, 1)}
    assert await store.get([recent(3).flag.id]) == []


async def test_problems_are_the_latest_and_each_place_once(store: ConsoleStore) -> None:
    problems = [
        Problem(Origin(topic="safety.flags", partition=0, offset=n), "wrong_type", f"detail {n}", NOW)
        for n in range(MAX_PROBLEMS + 20)
    ]
    await store.report(problems[:3])
    await store.report(problems[:3])
    assert await store.problems() == problems[2::-1]
    await store.report(problems[3:])
    assert await store.problems() == problems[:19:-1]
    await store.report([])


async def test_an_ended_session_stays_ended(store: ConsoleStore) -> None:
    await store.revoke("mine", 60)
    assert await store.revoked("mine")
    assert not await store.revoked("other")


async def test_nothing_asked_nothing_given(store: ConsoleStore) -> None:
    await store.put([])
    assert await store.get([]) == []
    assert await loaded(store) == []


@pytest.mark.connected
async def test_redis_survives_a_restart_of_the_console_and_forgets_by_itself(redis_server: LocalRedis) -> None:
    first = redis_store(redis_server)
    await first.put([recent()])
    await first.close()
    second = redis_store(redis_server)
    assert plain(await loaded(second)) == plain([recent()])
    await second.close()
    async with redis_client(Settings(redis_url=redis_server.url)) as client:
        keys = await client.keys("guardline:console:flag:*")
        assert len(keys) == 1
        assert 0 < await client.ttl(keys[0]) <= 86_401


@pytest.mark.connected
async def test_redis_away_and_back(redis_server: LocalRedis) -> None:
    store = redis_store(redis_server)
    redis_server.stop()
    with pytest.raises(StoreUnavailable):
        await store.put([recent()])
    with pytest.raises(StoreUnavailable):
        await store.changes("0-0", 1)
    redis_server.start()
    await store.put([recent()])
    assert len(await loaded(store)) == 1
    await store.close()
