"""The accounting: a ledger of inputs that the broker acknowledged, an account of what came out, and the findings.

Pure: no broker, no clock. An input is known by its position (partition, offset) in the input topic, which its audit
record and its dead letter both name; a flag names the message.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

Position = tuple[int, int]
#: A dead letter that stands for an event which the broker refused; the audit record beside it is right.
REFUSED = "output_too_large"
INVALID = "invalid"


class Sort(StrEnum):
    """What has to become of an input: a verdict, a verdict and a flag, or a dead letter."""

    CLEAN = "clean"
    FLAGGED = "flagged"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Input:
    """One input that the broker acknowledged at `position`; unreadable ones have no id."""

    position: Position
    id: str | None
    sort: Sort


class Ledger:
    """Every acknowledged input, by position. An input whose acknowledgement failed is in no ledger: it may be lost."""

    def __init__(self, inputs: Iterable[Input] = ()) -> None:
        self._inputs = {item.position: item for item in inputs}

    def add(self, item: Input) -> None:
        """Note an input.

        Raises:
            ValueError: there is one at that position already: the broker has forgotten what it acknowledged.
        """
        if item.position in self._inputs:
            raise ValueError(f"two inputs at {item.position}")
        self._inputs[item.position] = item

    def __len__(self) -> int:
        return len(self._inputs)

    def __iter__(self) -> Iterator[Input]:
        return iter(self._inputs.values())

    def get(self, position: Position) -> Input | None:
        """Return the input at a position, or none."""
        return self._inputs.get(position)


class Record(Protocol):
    """What is read of an aiokafka `ConsumerRecord`."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Output:
    """One event that came out, reduced to what is judged. `time` is its time stamp in seconds."""

    role: str
    event: str
    digest: bytes
    time: float
    position: Position | None = None
    message: str | None = None
    outcome: str | None = None


def read_output(role: str, record: Record) -> Output:
    """Return what is judged of an event.

    Raises:
        KeyError, ValueError: it is no event of Guardline's.
    """
    headers = dict(record.headers)
    whole = repr((record.key, record.value, record.headers)).encode()
    digest, time = hashlib.sha256(whole).digest(), record.timestamp / 1000
    if role == "deadletter":
        partition, offset = (int(headers[f"__connect.errors.{name}"]) for name in ("partition", "offset"))
        reason = headers["guardline.reason"].decode()
        return Output(role, f"{partition}-{offset}-{reason}", digest, time, (partition, offset), outcome=reason)
    event, body = headers["ce_id"].decode(), json.loads(record.value or b"")
    if role == "verdicts":
        position = (body["partition"], body["offset"])
        return Output(role, event, digest, time, position, body["message_id"], body["verdict"])
    return Output(role, event, digest, time, message=body["message_id"])


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a fault may cost.

    `redeliveries`: how often what is in flight may be delivered again, beside once for every kill; each time at most
    `in_flight` records and what was finished in `commit_intervals` intervals of commits. `recovery_s`: seconds from
    healing to the first input that is finished after it; generous, because machines differ. `refused`: whether dead
    letters may stand for flags that the broker refuses.
    """

    redeliveries: int = 0
    commit_intervals: float = 2.0
    recovery_s: float = 60.0
    refused: bool = False

    def duplicates(self, in_flight: int, commit_interval: float, rate: float, refused_s: float = 0.0) -> int:
        """Return the most audit records that may be there twice, at `rate` finished records a second at most.

        `refused_s`: seconds in which the broker took no commits, beside the intervals.
        """
        uncommitted = self.commit_intervals * commit_interval + refused_s
        return round(self.redeliveries * (in_flight + uncommitted * rate))


@dataclass(frozen=True, slots=True)
class Findings:
    """What the account says about the ledger.

    `lost` are inputs below the committed offset of which nothing, or not enough, came out: nobody will deliver them
    again. `unfinished` are such inputs at or above it: they were not got to.
    `two_classes` got more than one verdict, or a verdict and a dead letter; `wrong_class` got another than theirs.
    `early` were below a committed offset before their events were there. `different_bytes` are ids of events that came
    with two contents. `duplicates` counts audit records beyond one an input.
    """

    inputs: int
    lost: int
    unfinished: int
    flags_missing: int
    two_classes: int
    wrong_class: int
    early: int
    different_bytes: int
    duplicates: int

    def problems(self, most_duplicates: int) -> list[str]:
        """Return what must not be, as sentences of two words."""
        forbidden = ("lost", "unfinished", "flags_missing", "two_classes", "wrong_class", "early", "different_bytes")
        found = [f"{name} {count}" for name in forbidden if (count := getattr(self, name))]
        if self.duplicates > most_duplicates:
            found.append(f"duplicates {self.duplicates} > {most_duplicates}")
        return found


@dataclass
class Account:
    """What came out so far. Fed with outputs in any order, repeats included."""

    audits: Counter[Position] = field(default_factory=Counter)
    verdicts: defaultdict[Position, set[str]] = field(default_factory=lambda: defaultdict(set))
    letters: defaultdict[Position, set[str]] = field(default_factory=lambda: defaultdict(set))
    flags: set[str] = field(default_factory=set)
    times: list[float] = field(default_factory=list)
    _digests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    _different: set[tuple[str, str]] = field(default_factory=set)
    _checked: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    _early: set[Position] = field(default_factory=set)

    def add(self, output: Output) -> None:
        """Note one event."""
        name = (output.role, output.event)
        if self._digests.setdefault(name, output.digest) != output.digest:
            self._different.add(name)
        if output.role == "verdicts" and output.position and output.outcome:
            self.audits[output.position] += 1
            self.verdicts[output.position].add(output.outcome)
            self.times.append(output.time)
        elif output.role == "deadletter" and output.position and output.outcome:
            self.letters[output.position].add(output.outcome)
        elif output.role == "flags" and output.message:
            self.flags.add(output.message)

    def complete(self, item: Input) -> bool:
        """Tell whether everything that must come of an input is there."""
        if item.position not in self.audits:
            return False
        if item.sort is Sort.CLEAN or item.position in self.letters:
            return True
        return item.sort is Sort.FLAGGED and item.id in self.flags

    def check(self, ledger: Ledger, committed: Mapping[int, int]) -> None:
        """Note inputs below the committed offsets that are not complete; call it with outputs read after the offsets.

        Each offset is looked at once, when the commit first passes it.
        """
        for partition, offset in committed.items():
            for number in range(self._checked[partition], offset):
                item = ledger.get((partition, number))
                if item is not None and not self.complete(item):
                    self._early.add(item.position)
            self._checked[partition] = max(self._checked[partition], offset)

    def peak_rate(self, until: float, seconds: float = 1.0) -> float:
        """Return the most audit records in any window of so many seconds, per second, of those written before `until`.

        What is written after the cause is gone is not delivered again, and often comes faster.
        """
        times = sorted(time for time in self.times if time <= until)
        most = max((i + 1 - bisect_left(times, time - seconds) for i, time in enumerate(times)), default=0)
        return most / seconds

    def _class(self, item: Input) -> set[str]:
        """Return the classes an input got; a dead letter and the audit record that tells of it are one."""
        verdicts, letters = set(self.verdicts.get(item.position, ())), self.letters.get(item.position, set())
        if letters:
            verdicts.discard(INVALID)
            return {"dead letter"} if letters == {REFUSED} else verdicts | {f"dead letter: {name}" for name in letters}
        return verdicts

    def _right(self, item: Input, classes: set[str], refused: bool) -> bool:
        if refused and item.sort is Sort.FLAGGED and classes == {"dead letter"}:
            return True
        expected = {
            Sort.UNREADABLE: lambda name: name == INVALID or name.startswith("dead letter: "),
            Sort.FLAGGED: lambda name: name == "unsafe",
            Sort.CLEAN: lambda name: name in ("safe", "out_of_scope"),
        }[item.sort]
        return all(map(expected, classes))

    def incomplete(self, ledger: Ledger) -> list[Position]:
        """Return the inputs of which something is still to come."""
        return [item.position for item in ledger if not self.complete(item)]

    def judge(self, ledger: Ledger, committed: Mapping[int, int], *, refused: bool = False) -> Findings:
        """Return the findings on every input, given the offsets committed in the end; `refused`: see `Bounds`."""
        flags = two = wrong = 0
        for item in ledger:
            classes = self._class(item)
            flag_missing = item.sort is Sort.FLAGGED and item.id not in self.flags and item.position not in self.letters
            flags += flag_missing
            two += len(classes) > 1
            wrong += not self._right(item, classes, refused) or (item.sort is Sort.CLEAN and item.id in self.flags)
        incomplete = self.incomplete(ledger)
        lost = sum(offset < committed.get(partition, 0) for partition, offset in incomplete)
        return Findings(
            inputs=len(ledger),
            lost=lost,
            unfinished=len(incomplete) - lost,
            flags_missing=flags,
            two_classes=two,
            wrong_class=wrong,
            early=len(self._early),
            different_bytes=len(self._different),
            duplicates=self.audits.total() - len(self.audits),
        )
