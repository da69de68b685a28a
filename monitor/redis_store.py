"""The Redis store: shared by all workers of a deployment, one round trip per call.

Fails open: every failure of the connection becomes `StoreUnavailable`, and the client reconnects by itself on a later
call. Entries expire; nothing in Redis is needed to be correct.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from redis.exceptions import RedisError

from monitor.connections.redis import denied
from monitor.errors import StoreUnavailable


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Raise every failure of the connection as `StoreUnavailable`."""
    try:
        yield
    except (RedisError, OSError) as error:
        reason = denied(error) or f"Redis does not answer: {error}"
        raise StoreUnavailable(str(reason)) from error


class RedisStore:
    """A `VerdictStore` in Redis."""

    def __init__(self, client: Redis, *, expiry: int = 86_400, prefix: str = "guardline:") -> None:
        """Keep values with `client`, which is closed with the store.

        Args:
            client: see `monitor.connections.redis.redis_client`.
            expiry: seconds until an entry is forgotten.
            prefix: put before every key.
        """
        self._redis = client
        self._expiry = expiry
        self._prefix = prefix

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, in order."""
        if not keys:
            return []
        async with translated():
            values: list[bytes | None] = await self._redis.mget([self._prefix + key for key in keys])  # type: ignore[assignment]
            return values

    async def put(self, values: Mapping[str, bytes]) -> None:
        """Remember values until they expire."""
        if not values:
            return
        async with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for key, value in values.items():
                pipeline.set(self._prefix + key, value, ex=self._expiry)
            await pipeline.execute()

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
