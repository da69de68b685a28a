"""The state of the console: what is stored, what of it is in memory, and who is told when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import structlog

from monitor.backoff import delays
from monitor.console import metrics
from monitor.console.live import Channel
from monitor.console.register import Register
from monitor.console.store import ConsoleStore, Item, Problem
from monitor.errors import StoreUnavailable

_log = structlog.get_logger(__name__)
_WAIT = 1.0
_FORGET_EVERY = timedelta(hours=1)


def _now() -> datetime:
    return datetime.now(UTC)


class Desk:
    """Keeps store, register and open pages in step."""

    def __init__(
        self,
        store: ConsoleStore,
        *,
        retention: timedelta,
        register: Register | None = None,
        channel: Channel | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        """Forget flags `retention` after their message was received."""
        self.store = store
        self.register = register or Register()
        self.channel = channel or Channel()
        self.problems: list[Problem] = []
        self._retention = retention
        self._clock = clock
        self._position = "0"
        self._forgotten = clock() - _FORGET_EVERY

    async def open(self) -> bool:
        """Fill the register from the store; tell whether the store was empty.

        Raises:
            StoreUnavailable: it cannot be read now.
        """
        self._position = await self.store.position()
        await self._forget()
        async for items in self.store.load():
            self.register.put(items)
            await asyncio.sleep(0)  # health is answered meanwhile
        self.problems = await self.store.problems()
        metrics.FLAGS_KEPT.set(len(self.register))
        return len(self.register) == 0

    async def put(self, items: Sequence[Item]) -> None:
        """Store items, then show them.

        Raises:
            StoreUnavailable: they may or may not be stored; repeating changes nothing.
        """
        await self.store.put(items)
        await self._refresh([item.flag.id for item in items])

    async def report(self, problems: Sequence[Problem]) -> None:
        """Remember records that could not be read.

        Raises:
            StoreUnavailable: see `put`.
        """
        if problems:
            await self.store.report(problems)
            self.problems = await self.store.problems()

    async def follow(self) -> None:
        """Take over what other consoles have stored, and forget what is too old, for ever."""
        waits = delays()
        while True:
            try:
                self._position, changed = await self.store.changes(self._position, _WAIT)
                if changed:
                    await self._refresh(list(dict.fromkeys(changed)))
                if self._clock() - self._forgotten >= _FORGET_EVERY:
                    await self._forget()
                waits = delays()
            except StoreUnavailable as error:
                metrics.STORE_FAILURES.inc()
                delay = next(waits)
                _log.warning("store_unavailable", error=str(error), action=f"again in {delay:.1f} s")
                await asyncio.sleep(delay)

    async def _refresh(self, ids: Sequence[str]) -> None:
        self.register.put(await self.store.get(ids))
        metrics.FLAGS_KEPT.set(len(self.register))
        self.channel.tell(ids)

    async def _forget(self) -> None:
        before = self._clock() - self._retention
        await self.store.forget(before)
        self.register.forget(before)
        self._forgotten = self._clock()
