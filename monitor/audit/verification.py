"""Check a log from end to end, without being its writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from monitor.audit.chain import ChainBroken, Follower, Head
from monitor.audit.log import AuditLog


@dataclass(frozen=True, slots=True)
class Problem:
    """The first line that is not what was appended, and why; what comes after it was not looked at."""

    place: str
    why: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found: entries in order, the last of them, and what is wrong, if anything is."""

    entries: int
    head: Head
    problem: Problem | None


async def verify(
    log: AuditLog, *, head: str | None = None, after: str | None = None, advance: Callable[[int], object]
) -> Result:
    """Follow the chain of a log to its end, or to the first line that breaks it.

    Args:
        log: what to check.
        head: hash of an entry that was noted elsewhere: it must be in the chain, or entries were cut off the end.
        after: hash of the last entry that was moved elsewhere; the log must follow it.
        advance: is told how many entries were checked since it was told before.

    Raises:
        ConfigurationError, GuardlineError: there is no log, or it cannot be read.
    """
    follower = Follower(after=after)
    entries, met, place = 0, head is None or head == after, "the end"
    async for lines in log.read():
        for line in lines:
            place = line.place
            try:
                if not line.finished:
                    raise ChainBroken("the last line is unfinished: a crash left it, or it was cut")
                met |= follower.follow(line.value)["hash"] == head
            except ChainBroken as error:
                return Result(entries, follower.head, Problem(line.place, str(error)))
            entries += 1
        advance(len(lines))
    if not entries:
        return Result(0, follower.head, Problem("the beginning", "the log is empty: not even its first entry is there"))
    if not met:
        why = f"no entry has the hash {head}: entries were cut off the end, or the log was rewritten"
        return Result(entries, follower.head, Problem(place, why))
    return Result(entries, follower.head, None)
