"""What a restart must not forget, in the store: what a lane has delivered, which groups it suppresses, what it spent.

Written after the sink has taken the alert, so a crash in between repeats that alert and loses none. With Redis it
outlives the process, for GUARDLINE_CACHE_EXPIRY seconds; in memory it does not, and a worker that dies repeats what it
had delivered and not yet committed. Fails open: without the store it goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import structlog

from monitor.alerts import metrics
from monitor.alerts.lanes import Lane, Outgoing
from monitor.errors import StoreUnavailable

_log = structlog.get_logger(__name__)


class Store(Protocol):
    """The part of `monitor.screening.VerdictStore` that is needed."""

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, in order; None where there is none."""
        ...

    async def put(self, values: dict[str, bytes]) -> None:
        """Remember values until they expire."""
        ...


def _number(value: bytes | None) -> float:
    """Return a remembered number; 0 where there is none that can be read."""
    try:
        return float(value or 0)
    except ValueError:
        return 0.0


class Marks:
    """Reads and writes them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._budgets: set[tuple[str, str]] = set()

    async def _get(self, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        try:
            return await self._store.get(keys)
        except StoreUnavailable as error:
            self._failed(error)
            return [None] * len(keys)

    def _failed(self, error: StoreUnavailable) -> None:
        metrics.STORE_FAILURES.inc()
        _log.warning("store_unavailable", error=str(error), action="going on: after a crash alerts may come twice")

    async def delivered(self, pairs: Sequence[tuple[Lane, str]]) -> set[tuple[str, str]]:
        """Return those (lane's name, flag's id) of the pairs that were delivered before."""
        found = await self._get([f"alerts:done:{lane.name}:{id_}" for lane, id_ in pairs])
        return {(lane.name, id_) for (lane, id_), mark in zip(pairs, found, strict=True) if mark is not None}

    async def restore(self, pairs: Collection[tuple[Lane, str]], now: float) -> None:
        """Take over windows, of groups given as (lane, fingerprint), and budgets from before a restart."""
        unknown = [(lane, group) for lane, group in dict.fromkeys(pairs) if not lane.knows(group)]
        found = await self._get([f"alerts:window:{lane.name}:{group}" for lane, group in unknown])
        for (lane, group), closes in zip(unknown, found, strict=True):
            lane.restore_window(group, _number(closes), now)
        fresh = {lane: lane.today(now) for lane, _ in pairs if (lane.name, lane.today(now)) not in self._budgets}
        spent = await self._get([f"alerts:budget:{lane.name}:{day}" for lane, day in fresh.items()])
        for (lane, day), count in zip(fresh.items(), spent, strict=True):
            lane.restore_budget(day, int(_number(count)))
            self._budgets.add((lane.name, day))

    async def write(self, sent: Outgoing) -> None:
        """Note that an alert was delivered."""
        lane, (day, spent) = sent.lane, sent.spent
        values = {f"alerts:done:{lane.name}:{place.id}": b"1" for place in sent.places}
        if sent.suppressed_until is not None:
            values[f"alerts:window:{lane.name}:{sent.notification.key}"] = b"%.3f" % sent.suppressed_until
        if day:
            values[f"alerts:budget:{lane.name}:{day}"] = b"%d" % spent
        try:
            await self._store.put(values)
        except StoreUnavailable as error:
            self._failed(error)
