"""What the console keeps, and the port behind which it is kept.

No text of a message is kept: `Item.of` takes statement and reason out of the flag and notes where the flag lies in
Kafka, from where they are read while somebody looks at them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from monitor.records import FeedbackRecord, FlagRecord, Origin

#: So many unreadable records are remembered; metrics count all of them.
MAX_PROBLEMS = 500


def without_text(flag: FlagRecord) -> FlagRecord:
    """Return the flag without what quotes the message."""
    return flag.model_copy(update={"statement": None, "reason": None})


@dataclass(frozen=True, slots=True)
class Item:
    """One flag or review and what was decided on it.

    `place` is where the flag's own record lies, `origin` where the message does; either may be unknown.
    """

    flag: FlagRecord
    origin: Origin | None
    place: Origin | None = None
    decisions: tuple[FeedbackRecord, ...] = ()

    @classmethod
    def of(cls, flag: FlagRecord, *, origin: Origin | None, place: Origin | None) -> Item:
        """Return what is kept of a flag that was read."""
        return cls(without_text(flag), origin, place)

    @classmethod
    def of_decision(cls, record: FeedbackRecord) -> Item:
        """Return what is kept of a decision, its flag included, because it may be known from nowhere else."""
        bare = record.model_copy(update={"flag": without_text(record.flag)})
        return cls(bare.flag, record.origin, None, (bare,))

    def merged(self, later: Item) -> Item:
        """Return this with what a later sight of the same flag adds."""
        decisions = {record.id: record for record in (*self.decisions, *later.decisions)}
        return replace(
            self,
            origin=later.origin or self.origin,
            place=later.place or self.place,
            decisions=tuple(sorted(decisions.values(), key=lambda record: (record.decided_at, record.id))),
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """A record that could not be read, without anything of its content."""

    place: Origin
    reason: str
    detail: str
    at: datetime


class ConsoleStore(Protocol):
    """Keeps items until they are forgotten. Every method may raise `StoreUnavailable`, and then nothing was lost:
    callers wait and try again (fails closed).
    """

    async def put(self, items: Sequence[Item]) -> None:
        """Add flags, or what is new about known ones. Repeats change nothing."""
        ...

    async def get(self, ids: Sequence[str]) -> list[Item]:
        """Return the items of these flags, in order; unknown ones are left out."""
        ...

    def load(self) -> AsyncIterator[list[Item]]:
        """Yield all items, some at a time."""
        ...

    async def report(self, problems: Sequence[Problem]) -> None:
        """Remember records that could not be read, the latest `MAX_PROBLEMS`."""
        ...

    async def problems(self) -> list[Problem]:
        """Return them, the latest first, each place once."""
        ...

    async def position(self) -> str:
        """Return where the list of changes ends now."""
        ...

    async def changes(self, after: str, wait: float) -> tuple[str, list[str]]:
        """Return the flags that changed after a position, and the position after them; wait up to `wait` seconds."""
        ...

    async def forget(self, before: datetime) -> None:
        """Drop flags that were received before then, and all that is known of them."""
        ...

    async def revoke(self, session: str, seconds: float) -> None:
        """Let a session be known as ended for so long."""
        ...

    async def revoked(self, session: str) -> bool:
        """Tell whether a session was ended."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
