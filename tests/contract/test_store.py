"""One port, two sides: the in-memory store and a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from monitor.connections.redis import redis_client
from monitor.errors import StoreUnavailable
from monitor.memory import MemoryStore
from monitor.redis_store import RedisStore
from monitor.screening import VerdictStore
from monitor.settings import Settings
from tests.fixtures_services import LocalRedis


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.connected)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[VerdictStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    store = RedisStore(redis_client(Settings(redis_url=request.getfixturevalue("redis_server").url)))
    yield store
    await store.close()


async def test_what_was_put_is_got_in_order(store: VerdictStore) -> None:
    await store.put({"a": b"1", "b": b"\x00\xff"})
    assert await store.get(["b", "missing", "a", "b"]) == [b"\x00\xff", None, b"1", b"\x00\xff"]


async def test_the_last_value_wins(store: VerdictStore) -> None:
    await store.put({"a": b"1"})
    await store.put({"a": b"2"})
    assert await store.get(["a"]) == [b"2"]


async def test_nothing_asked_nothing_given(store: VerdictStore) -> None:
    await store.put({})
    assert await store.get([]) == []


async def test_memory_forgets_the_oldest() -> None:
    store = MemoryStore(capacity=2)
    await store.put({"a": b"1", "b": b"2", "c": b"3"})
    assert await store.get(["a", "b", "c"]) == [None, b"2", b"3"]


@pytest.mark.connected
async def test_redis_entries_expire_and_have_the_prefix(redis_server: LocalRedis) -> None:
    from redis.asyncio import Redis

    store = RedisStore(redis_client(Settings(redis_url=redis_server.url)), expiry=50, prefix="mine:")
    await store.put({"a": b"1"})
    async with Redis.from_url(redis_server.url) as client:
        assert await client.keys() == [b"mine:a"]
        assert 0 < await client.ttl("mine:a") <= 50
    await store.close()


@pytest.mark.connected
async def test_redis_away_and_back(redis_server: LocalRedis) -> None:
    store = RedisStore(redis_client(Settings(redis_url=redis_server.url)))
    await store.put({"a": b"1"})
    redis_server.stop()
    with pytest.raises(StoreUnavailable):
        await store.get(["a"])
    with pytest.raises(StoreUnavailable):
        await store.put({"a": b"1"})
    redis_server.start()
    assert await store.get(["a"]) == [None]
    await store.put({"a": b"2"})
    assert await store.get(["a"]) == [b"2"]
    await store.close()
