"""The console's state in Redis, shared by all consoles of a deployment; it survives their restarts.

Keys, all below `guardline:console:`

    flag:<id>    hash: `flag`, `origin`, `place`, and `decision:<id>` for each; expires with the retention
    flags        sorted set of the ids, by the time the message was received
    changes      stream of the ids that changed, which the other consoles follow
    problems     stream of records that could not be read
    ended:<id>   a session that was ended before it expired

Use a Redis that evicts nothing (`maxmemory-policy noeviction`), or keep it apart from the cache of scores. Were all of
it lost, the console would read the topics again from their beginning.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis

from monitor.alerts.reading import read_flag
from monitor.console.store import MAX_PROBLEMS, Item, Problem
from monitor.feedback.reading import read_feedback
from monitor.records import Origin
from monitor.redis_store import translated

#: Seconds that a client for this store should wait for an answer.
TIMEOUT = 5.0
_LONGEST_WAIT = TIMEOUT / 2  # a blocking read must end before the socket gives up
_BATCH = 500
_CHANGES = 100_000
_DECISION = b"decision:"


class RedisConsoleStore:
    """A `ConsoleStore` in Redis; one round trip a call, but for `load`."""

    def __init__(self, client: Redis, *, retention: float, prefix: str = "guardline:console:") -> None:
        """Keep state with `client`, which is closed with the store.

        Args:
            client: see `monitor.connections.redis.redis_client`; `TIMEOUT` suits it.
            retention: seconds from a message's reception until all that is known of its flags expires.
            prefix: put before every key.
        """
        self._redis: Any = client  # redis-py types every answer as whatever any protocol and encoding may give
        self._retention = retention
        self._prefix = prefix

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    async def put(self, items: Sequence[Item]) -> None:
        """See `ConsoleStore.put`."""
        if not items:
            return
        async with translated():
            pipeline = self._redis.pipeline(transaction=True)
            for item in items:
                received = item.flag.received_at.timestamp()
                key = self._key("flag", item.flag.id)
                pipeline.hset(key, mapping=_fields(item))
                pipeline.expireat(key, int(received + self._retention) + 1)
                pipeline.zadd(self._key("flags"), {item.flag.id: received})
                pipeline.xadd(self._key("changes"), {"flag": item.flag.id}, maxlen=_CHANGES, approximate=True)
            await pipeline.execute()

    async def get(self, ids: Sequence[str]) -> list[Item]:
        """See `ConsoleStore.get`."""
        if not ids:
            return []
        async with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for id_ in ids:
                pipeline.hgetall(self._key("flag", id_))
            return [_item(fields) for fields in await pipeline.execute() if b"flag" in fields]

    async def load(self) -> AsyncIterator[list[Item]]:
        """See `ConsoleStore.load`."""
        async with translated():
            ids = [id_.decode() for id_ in await self._redis.zrange(self._key("flags"), 0, -1)]
        for start in range(0, len(ids), _BATCH):
            yield await self.get(ids[start : start + _BATCH])

    async def report(self, problems: Sequence[Problem]) -> None:
        """See `ConsoleStore.report`."""
        if not problems:
            return
        async with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for problem in problems:
                fields = {
                    "place": problem.place.model_dump_json(),
                    "reason": problem.reason,
                    "detail": problem.detail,
                    "at": problem.at.isoformat(),
                }
                # Exactly: an approximate limit keeps whole blocks of a hundred more.
                pipeline.xadd(self._key("problems"), fields, maxlen=MAX_PROBLEMS, approximate=False)
            await pipeline.execute()

    async def problems(self) -> list[Problem]:
        """See `ConsoleStore.problems`."""
        async with translated():
            entries = await self._redis.xrevrange(self._key("problems"))
        found = [
            Problem(
                Origin.model_validate_json(fields[b"place"]),
                fields[b"reason"].decode(),
                fields[b"detail"].decode(),
                datetime.fromisoformat(fields[b"at"].decode()),
            )
            for _, fields in entries
        ]
        return list({problem.place: problem for problem in found}.values())

    async def position(self) -> str:
        """See `ConsoleStore.position`."""
        async with translated():
            last = await self._redis.xrevrange(self._key("changes"), count=1)
            return str(last[0][0].decode()) if last else "0-0"

    async def changes(self, after: str, wait: float) -> tuple[str, list[str]]:
        """See `ConsoleStore.changes`; waits for half of `TIMEOUT` at most."""
        async with translated():
            block = max(int(min(wait, _LONGEST_WAIT) * 1000), 1)
            found = await self._redis.xread({self._key("changes"): after}, count=_BATCH, block=block)
        if not found:
            return after, []
        streams = found.values() if isinstance(found, dict) else [entries for _, entries in found]
        entries = [entry for stream in streams for entry in _flat(stream)]
        return entries[-1][0].decode(), [fields[b"flag"].decode() for _, fields in entries]

    async def forget(self, before: datetime) -> None:
        """See `ConsoleStore.forget`."""
        async with translated():
            ids = await self._redis.zrangebyscore(self._key("flags"), "-inf", f"({before.astimezone(UTC).timestamp()}")
            if ids:
                pipeline = self._redis.pipeline(transaction=True)
                pipeline.delete(*(self._key("flag", id_.decode()) for id_ in ids))
                pipeline.zrem(self._key("flags"), *ids)
                await pipeline.execute()

    async def revoke(self, session: str, seconds: float) -> None:
        """See `ConsoleStore.revoke`."""
        async with translated():
            await self._redis.set(self._key("ended", session), b"1", ex=max(int(seconds), 1))

    async def revoked(self, session: str) -> bool:
        """See `ConsoleStore.revoked`."""
        async with translated():
            return bool(await self._redis.exists(self._key("ended", session)))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _flat(stream: Any) -> list[Any]:
    """Return the entries of one stream, which redis-py wraps in a list more when it speaks RESP3."""
    return stream[0] if stream and isinstance(stream[0], list) else stream


def _fields(item: Item) -> dict[str | bytes, bytes]:
    fields: dict[str | bytes, bytes] = {"flag": item.flag.model_dump_json().encode()}
    if item.origin is not None:
        fields["origin"] = item.origin.model_dump_json().encode()
    if item.place is not None:
        fields["place"] = item.place.model_dump_json().encode()
    for record in item.decisions:
        fields[_DECISION + record.id.encode()] = record.model_dump_json().encode()
    return fields


def _item(fields: Mapping[bytes, bytes]) -> Item:
    decisions = [read_feedback(value) for name, value in fields.items() if name.startswith(_DECISION)]
    origin, place = fields.get(b"origin"), fields.get(b"place")
    return Item(
        read_flag(fields[b"flag"]),
        Origin.model_validate_json(origin) if origin else None,
        Origin.model_validate_json(place) if place else None,
        tuple(sorted(decisions, key=lambda record: (record.decided_at, record.id))),
    )
