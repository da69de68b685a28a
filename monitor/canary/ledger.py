"""What became of each canary: back in time, late, lost, or decided otherwise than it should be.

Pure: times come in with every call, in seconds of one clock. An unsafe canary is done with when its flag is there; one
that is not unsafe when its verdict is, or when the bound passes without a flag. One that is not back after the bound is
*overdue*; it is *lost* when it is not back after `_LOST` bounds, else *late*. A flag of a canary that should have none
is wrong whenever it comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from monitor.types import Verdict

#: A monitor that waits for Triton loses nothing; after so many bounds it is taken for having lost it nevertheless.
_LOST = 20
#: Canaries that are remembered after they are done with: flags come at least once, and a message may have several.
_REMEMBERED = 10_000


class Outcome(StrEnum):
    """What became of a canary."""

    OK = "ok"
    LATE = "late"
    LOST = "lost"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Canary:
    """A text and the verdict that the model in use should give it."""

    text: str
    verdict: Verdict

    @property
    def flagged(self) -> bool:
        """Whether it must come back as a flag."""
        return self.verdict is Verdict.UNSAFE


@dataclass(frozen=True, slots=True)
class Sent:
    """A canary on its way."""

    id: str
    canary: Canary
    partition: int
    at: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of one; `seconds` from sending it to its return, None where it did not come back."""

    sent: Sent
    outcome: Outcome
    seconds: float | None = None


class CanaryLedger:
    """Keeps the account of one process."""

    def __init__(self, within: float) -> None:
        """Expect canaries back `within` seconds."""
        self._within = within
        self._pending: dict[str, Sent] = {}
        self._done: dict[str, Judgement] = {}
        self._by_partition: dict[int, Outcome] = {}
        self._by_text: dict[str, Outcome] = {}

    def send(self, sent: Iterable[Sent]) -> None:
        """Note canaries that are about to be published."""
        self._pending.update((one.id, one) for one in sent)

    def expect(self, canaries: Iterable[Canary]) -> None:
        """Forget what became of texts that are not sent any more."""
        texts = {canary.text for canary in canaries}
        self._by_text = {text: outcome for text, outcome in self._by_text.items() if text in texts}

    def knows(self, id_: str) -> bool:
        """Tell whether a canary of this id was sent here."""
        return id_ in self._pending or id_ in self._done

    def flag(self, id_: str, now: float) -> Judgement | None:
        """Take note of a flag; return what that decides, None where that was decided before."""
        if (pending := self._pending.get(id_)) is not None:
            return self._close(pending, self._in_time(pending, now) if pending.canary.flagged else Outcome.WRONG, now)
        done = self._done.get(id_)
        if done is None or done.sent.canary.flagged or done.outcome is Outcome.WRONG:
            return None
        return self._close(done.sent, Outcome.WRONG, now)

    def verdict(self, id_: str, verdict: Verdict, now: float) -> Judgement | None:
        """Take note of the verdict on a message; return what that decides."""
        pending = self._pending.get(id_)
        if pending is None:
            return None
        if verdict is not pending.canary.verdict:
            return self._close(pending, Outcome.WRONG, now)
        return None if pending.canary.flagged else self._close(pending, self._in_time(pending, now), now)

    def due(self, now: float) -> list[Judgement]:
        """Return what is decided because its time has passed."""
        quiet = [s for s in self._pending.values() if not s.canary.flagged and now - s.at > self._within]
        lost = [s for s in self._pending.values() if s.canary.flagged and now - s.at > self._within * _LOST]
        return [self._close(s, Outcome.OK, None) for s in quiet] + [self._close(s, Outcome.LOST, None) for s in lost]

    def overdue(self, now: float) -> list[Sent]:
        """Return the canaries whose flags should be back."""
        return [s for s in self._pending.values() if s.canary.flagged and now - s.at > self._within]

    @property
    def losing(self) -> list[int]:
        """Partitions whose last unsafe canary was lost."""
        return sorted(p for p, outcome in self._by_partition.items() if outcome is Outcome.LOST)

    @property
    def wrong(self) -> int:
        """Texts that were decided wrongly when they were last decided."""
        return sum(outcome is Outcome.WRONG for outcome in self._by_text.values())

    def _in_time(self, sent: Sent, now: float) -> Outcome:
        return Outcome.OK if now - sent.at <= self._within else Outcome.LATE

    def _close(self, sent: Sent, outcome: Outcome, now: float | None) -> Judgement:
        self._pending.pop(sent.id, None)
        judgement = Judgement(sent, outcome, None if now is None else now - sent.at)
        self._done[sent.id] = judgement
        if len(self._done) > _REMEMBERED:
            del self._done[next(iter(self._done))]
        if sent.canary.flagged and outcome is not Outcome.WRONG:
            self._by_partition[sent.partition] = outcome
        if outcome is not Outcome.LOST:  # which says nothing of the verdict
            self._by_text[sent.canary.text] = outcome
        return judgement
