"""From a challenger that passed its gate to the champion: its time in the shadow, and the move of the pointer.

In the shadow the running monitors score a share of the stream with both (`monitor.models.shadow`); nobody is alerted
by the challenger. The frozen sets say how good it is; the stream says whether it behaves where it will work. Labels are
not known there, so what is judged is how often the two differ, against bounds that are stated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from monitor.errors import ConfigurationError
from monitor.models import promotion
from monitor.models.commands import shadow_records
from monitor.models.pointer import Alias, Choice, ModelPointer
from monitor.package import ModelPackage
from monitor.records import ShadowRecord
from monitor.settings import Settings
from monitor.types import Verdict
from trainer.retraining.lock import Held
from trainer.retraining.settings import ShadowSettings

_log = structlog.get_logger(__name__)
#: Seconds between two looks at the topic.
_EVERY = 5.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """What the two decided on the same messages: shares of `messages`."""

    messages: int
    new_flags: float
    lost_flags: float

    @classmethod
    def of(cls, records: Sequence[ShadowRecord]) -> Disagreement:
        """Count it."""
        n = max(len(records), 1)
        pairs = [(r.champion.verdict is Verdict.UNSAFE, r.challenger.verdict is Verdict.UNSAFE) for r in records]
        return cls(len(records), pairs.count((False, True)) / n, pairs.count((True, False)) / n)

    def reasons(self, bounds: ShadowSettings, wanted: int) -> list[str]:
        """Return why the challenger may not take over; none where it may."""
        reasons = []
        if self.messages < wanted:
            reasons.append(f"the shadow saw {self.messages} of {wanted} messages in time, so nothing was shown")
        for name, share, bound in (
            ("flagged by the challenger alone", self.new_flags, bounds.new_flags),
            ("flagged by the champion alone", self.lost_flags, bounds.lost_flags),
        ):
            if share > bound:
                reasons.append(f"{name}: {share:.1%} of {self.messages} messages, at most {bound:.1%} may be")
        return reasons


class FencedPointer:
    """A pointer that is moved only while the lock of retraining is ours."""

    def __init__(self, pointer: ModelPointer, lock: Held) -> None:
        self._pointer = pointer
        self._lock = lock

    async def history(self, alias: Alias) -> Sequence[Choice]:
        """See `ModelPointer.history`."""
        return await self._pointer.history(alias)

    async def move(self, alias: Alias, choice: Choice) -> None:
        """See `ModelPointer.move`.

        Raises:
            LockLost: another retraining may be at work; nothing was moved.
        """
        await asyncio.to_thread(self._lock.require)
        await self._pointer.move(alias, choice)

    async def clear(self, alias: Alias) -> None:
        """See `ModelPointer.clear`."""
        await asyncio.to_thread(self._lock.require)
        await self._pointer.clear(alias)

    async def close(self) -> None:
        """See `ModelPointer.close`."""
        await self._pointer.close()


async def shadow(
    challenger: ModelPackage,
    pointer: ModelPointer,
    settings: Settings,
    *,
    wanted: int,
    patience: float,
    advance: Callable[[int], None],
    say: Say,
    read: Callable[[Settings], Awaitable[list[ShadowRecord]]] = shadow_records,
) -> Disagreement:
    """Let the monitors score with the challenger until `wanted` messages are compared, or `patience` seconds are over.

    The alias is cleared again, whatever comes of it. `advance` is told how many messages were compared so far.

    Raises:
        ConfigurationError: there is no shadow topic.
        GuardlineError: as `monitor.models.promotion.promote`.
    """
    version = challenger.reference.version
    await promotion.promote(
        challenger.path, Alias.CHALLENGER, pointer, settings, why="retrained, in the shadow", say=say
    )
    deadline = time.monotonic() + patience
    try:
        while True:
            own = [r for r in await read(settings) if r.challenger.model.version == version]
            advance(len(own))
            if len(own) >= wanted or time.monotonic() >= deadline:
                return Disagreement.of(own)
            await asyncio.sleep(min(_EVERY, max(deadline - time.monotonic(), 0)))
    finally:
        await pointer.clear(Alias.CHALLENGER)


async def current(pointer: ModelPointer | None, settings: Settings) -> ModelPackage:
    """Return the champion: what the pointer says, else the package of the settings."""
    history = await pointer.history(Alias.CHAMPION) if pointer is not None else []
    return ModelPackage.load(history[0].path if history else settings.model)


async def promote(
    challenger: ModelPackage, champion: str, pointer: ModelPointer, settings: Settings, *, why: str, say: Say
) -> None:
    """Let the challenger be champion, and say so.

    Raises:
        ConfigurationError: another champion took over while this one was trained; nothing was moved.
        GuardlineError: as `monitor.models.promotion.promote`.
    """
    now = (await current(pointer, settings)).reference
    if f"{now.name}@{now.version}" != champion:
        raise ConfigurationError(
            f"{now.name}@{now.version} became champion meanwhile, and this challenger was held against {champion}: run "
            "`guardline retrain` again"
        )
    await promotion.promote(challenger.path, Alias.CHAMPION, pointer, settings, why=why, say=say)
    lineage = challenger.manifest.lineage
    facts: dict[str, Any] = lineage.model_dump() if lineage else {}
    _log.info("champion_promoted", model=challenger.reference.model_dump(), path=str(challenger.path), **facts)


def as_json(found: Disagreement, bounds: ShadowSettings) -> dict[str, Any]:
    """Return what the shadow saw, for the record."""
    return {**asdict(found), "bounds": asdict(bounds)}
