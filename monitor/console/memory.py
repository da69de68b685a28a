"""The console's state in this process: for the demo and for tests.

Where it differs from Redis: it forgets on exit, and the console then fills it from Kafka again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from monitor.console.store import MAX_PROBLEMS, Item, Problem
from monitor.records import Origin

_CHANGES = 100_000


class MemoryConsoleStore:
    """A `ConsoleStore` in dictionaries."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._problems: dict[Origin, Problem] = {}
        self._changes: deque[tuple[int, str]] = deque(maxlen=_CHANGES)
        self._count = 0
        self._changed = asyncio.Event()
        self._revoked: dict[str, float] = {}

    async def put(self, items: Sequence[Item]) -> None:
        """See `ConsoleStore.put`."""
        for item in items:
            known = self._items.get(item.flag.id)
            self._items[item.flag.id] = known.merged(item) if known else item
            self._count += 1
            self._changes.append((self._count, item.flag.id))
        self._changed.set()

    async def get(self, ids: Sequence[str]) -> list[Item]:
        """See `ConsoleStore.get`."""
        return [self._items[id_] for id_ in ids if id_ in self._items]

    async def load(self) -> AsyncIterator[list[Item]]:
        """See `ConsoleStore.load`."""
        yield list(self._items.values())

    async def report(self, problems: Sequence[Problem]) -> None:
        """See `ConsoleStore.report`."""
        self._problems.update({problem.place: problem for problem in problems})
        while len(self._problems) > MAX_PROBLEMS:
            del self._problems[next(iter(self._problems))]

    async def problems(self) -> list[Problem]:
        """See `ConsoleStore.problems`."""
        return list(reversed(self._problems.values()))

    async def position(self) -> str:
        """See `ConsoleStore.position`."""
        return str(self._count)

    async def changes(self, after: str, wait: float) -> tuple[str, list[str]]:
        """See `ConsoleStore.changes`."""
        if int(after) >= self._count:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()
        return str(self._count), [id_ for number, id_ in self._changes if number > int(after)]

    async def forget(self, before: datetime) -> None:
        """See `ConsoleStore.forget`."""
        self._items = {id_: item for id_, item in self._items.items() if item.flag.received_at >= before}

    async def revoke(self, session: str, seconds: float) -> None:
        """See `ConsoleStore.revoke`."""
        now = time.monotonic()
        self._revoked = {s: until for s, until in self._revoked.items() if until > now}
        self._revoked[session] = now + seconds

    async def revoked(self, session: str) -> bool:
        """See `ConsoleStore.revoked`."""
        return self._revoked.get(session, 0.0) > time.monotonic()

    async def close(self) -> None:
        """Nothing to release."""
