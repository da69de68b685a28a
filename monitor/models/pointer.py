"""Which package is in use: one pointer for all workers of a deployment, with what it pointed to before.

`FilePointer` is a JSON file on a volume that the workers share, `RedisPointer` a list in Redis. Reading fails open: a
pointer that cannot be read leaves the worker with the model that it has.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from redis.asyncio import Redis

from monitor.errors import ConfigurationError, StoreUnavailable
from monitor.redis_store import translated

#: So many choices are remembered.
_MOST = 50


class Alias(StrEnum):
    """The role of a package."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"


class Choice(BaseModel):
    """One setting of a pointer."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: Path = Field(description="The package, as the workers see it.")
    name: str
    version: str
    at: datetime
    why: str = Field(default="", description="Who moved the pointer here, or why.")

    @property
    def model(self) -> str:
        """Name and version in one word."""
        return f"{self.name}@{self.version}"


_Choices = TypeAdapter(list[Choice])


class ModelPointer(Protocol):
    """Aliases and the packages they stand for, the latest first."""

    async def history(self, alias: Alias) -> Sequence[Choice]:
        """Return what an alias stood for, the latest first; empty where it was never set or was cleared.

        Raises:
            StoreUnavailable: it cannot be read now.
        """
        ...

    async def move(self, alias: Alias, choice: Choice) -> None:
        """Let the alias stand for another package from now on."""
        ...

    async def clear(self, alias: Alias) -> None:
        """Let the alias stand for nothing, and forget what it stood for."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class FilePointer:
    """A JSON file `{alias: [choice, ...]}`, replaced whole so that a reader never sees half of it.

    For one writer at a time: two promotions in the same instant would lose one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def _read(self) -> dict[str, list[Choice]]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error
        try:
            return TypeAdapter(dict[str, list[Choice]]).validate_json(content)
        except ValidationError as error:
            raise ConfigurationError(
                f"{self._path} is no list of models: move it away and run `guardline promote` again"
            ) from error

    def _write(self, content: dict[str, list[Choice]]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        beside.write_bytes(TypeAdapter(dict[str, list[Choice]]).dump_json(content, indent=1))
        beside.replace(self._path)

    async def history(self, alias: Alias) -> Sequence[Choice]:
        """See `ModelPointer.history`."""
        return (await asyncio.to_thread(self._read)).get(alias, [])

    async def move(self, alias: Alias, choice: Choice) -> None:
        """See `ModelPointer.move`."""
        content = await asyncio.to_thread(self._read)
        content[alias] = [choice, *content.get(alias, [])][:_MOST]
        await asyncio.to_thread(self._write, content)

    async def clear(self, alias: Alias) -> None:
        """See `ModelPointer.clear`."""
        content = await asyncio.to_thread(self._read)
        if content.pop(alias, None):
            await asyncio.to_thread(self._write, content)

    async def close(self) -> None:
        """Nothing to release."""


class RedisPointer:
    """One list a role in Redis, the latest first. A Redis that may forget (`allkeys-lru`) may forget these, too."""

    def __init__(self, client: Redis, *, prefix: str = "guardline:models:") -> None:
        """Keep the lists with `client`, which is closed with the pointer."""
        self._redis = client
        self._prefix = prefix

    async def history(self, alias: Alias) -> Sequence[Choice]:
        """See `ModelPointer.history`."""
        async with translated():
            values = await self._redis.lrange(self._prefix + alias, 0, -1)
        try:
            return [Choice.model_validate_json(value) for value in values]
        except ValidationError as error:
            raise ConfigurationError(
                f"{self._prefix}{alias} in Redis holds no models: delete it and run `guardline promote` again"
            ) from error

    async def move(self, alias: Alias, choice: Choice) -> None:
        """See `ModelPointer.move`."""
        async with translated():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.lpush(self._prefix + alias, choice.model_dump_json())
            pipeline.ltrim(self._prefix + alias, 0, _MOST - 1)
            await pipeline.execute()

    async def clear(self, alias: Alias) -> None:
        """See `ModelPointer.clear`."""
        async with translated():
            await self._redis.delete(self._prefix + alias)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
