"""The Redis store: shared by all workers of a deployment, one round trip per call.

Fails open: every failure of the connection becomes `StoreUnavailable`, and the client reconnects by itself on a later
call. Entries expire; nothing in Redis is needed to be correct.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from redis.exceptions import RedisError

from monitor.errors import StoreUnavailable


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Raise every failure of the connection as `StoreUnavailable`."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"Redis does not answer: {error}") from error


class RedisStore:
    """A `VerdictStore` in Redis."""

    def __init__(self, url: str, *, expiry: int = 86_400, timeout: float = 1.0, prefix: str = "guardline:") -> None:
        """Connect lazily to `url` (redis:// or rediss://).

        Args:
            url: where Redis is.
            expiry: seconds until an entry is forgotten.
            timeout: seconds to connect, and to wait for an answer.
            prefix: put before every key.
        """
        self._redis = Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)
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
