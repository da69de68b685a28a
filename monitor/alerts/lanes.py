"""One sink of one route: repeats are dropped, storms grouped, alerts counted against the budget, the rest digested.

Pure: time comes in with every call (seconds since the epoch), what is to be sent comes out. The flags that wait here
keep their offsets from being committed, so a restart reads them again and windows and digests come about anew.

Bounds: a window or a digest that has gathered 10,000 flags, and the oldest of more than 10,000 windows, go out early.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from aiokafka import ConsumerRecord, TopicPartition

from monitor.alerts import metrics
from monitor.alerts.config import Route
from monitor.alerts.fingerprint import fingerprint
from monitor.alerts.notification import (
    MOST_GROUPS,
    MOST_SHOWN,
    Group,
    Kind,
    Notification,
    redacted,
    severity_of,
)
from monitor.records import FlagRecord, event_id

MOST_FLAGS = 10_000
MOST_WINDOWS = 10_000
#: Flags of one group whose records are kept, for dead letters.
MOST_KEPT = 100
_MOST_REMEMBERED = 100_000
_DIGEST_AT = time(8)


@dataclass(frozen=True, slots=True)
class Item:
    """A flag, the record that it came in, and the epoch of its hold (see `offsets`)."""

    flag: FlagRecord
    record: ConsumerRecord
    epoch: int = 0

    @property
    def place(self) -> Place:
        """Where the record lies."""
        record = self.record
        return Place(self.flag.id, TopicPartition(record.topic, record.partition), record.offset, self.epoch)


@dataclass(frozen=True, slots=True)
class Place:
    """What is kept of every flag: its id, and where its record lies."""

    id: str
    partition: TopicPartition
    offset: int
    epoch: int


@dataclass(slots=True)
class Bundle:
    """Flags of one group on their way."""

    fingerprint: str
    places: list[Place] = field(default_factory=list)
    kept: list[Item] = field(default_factory=list)

    def add(self, item: Item) -> None:
        """Put one flag in."""
        self.places.append(item.place)
        if len(self.kept) < MOST_KEPT:
            self.kept.append(item)

    def extend(self, other: Bundle) -> None:
        """Put another bundle of the same group in."""
        self.places += other.places
        self.kept += other.kept[: MOST_KEPT - len(self.kept)]

    def without(self, partitions: Collection[TopicPartition]) -> Bundle:
        """Return what does not lie in these partitions."""
        return Bundle(
            self.fingerprint,
            [p for p in self.places if p.partition not in partitions],
            [i for i in self.kept if i.place.partition not in partitions],
        )


@dataclass(slots=True)
class _Window:
    """Flags of one group are gathered until `closes`. `kind` is what goes out then, if there are any."""

    closes: float
    kind: Kind
    waiting: Bundle


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An alert, and the flags that are done with once it is."""

    notification: Notification
    bundles: tuple[Bundle, ...]
    lane: Lane
    suppressed_until: float | None
    spent: tuple[str, int]
    """The day, and how many alerts of the budget are used up with this one."""

    @property
    def places(self) -> Iterator[Place]:
        """Every flag that the alert stands for."""
        return (place for bundle in self.bundles for place in bundle.places)


def next_digest(now: float, at: time, zone: ZoneInfo) -> float:
    """Return when it is next `at` o'clock in `zone`, in seconds since the epoch; later than `now`."""
    day = datetime.fromtimestamp(now, zone).date()
    for days in (0, 1, 2):
        due = datetime.combine(day + timedelta(days=days), at, tzinfo=zone).timestamp()
        if due > now:
            return due
    raise AssertionError("one of three days is later")  # pragma: no cover


class Lane:
    """One sink of one route."""

    def __init__(self, route: Route, sink: str, *, zone: ZoneInfo, link: str | None, stale_after: float) -> None:
        """Gather the flags of `route` for `sink`; see `AlertsConfig` for the rest."""
        self.route = route
        self.sink = sink
        self.name = f"{route.name}/{sink}"
        self._zone = zone
        self._link = link
        self._stale_after = stale_after
        self._seen: dict[str, None] = {}
        self._windows: dict[str, _Window] = {}
        self._digest: dict[str, Bundle] = {}
        self._digest_due: float | None = None
        self._day = ""
        self._spent = 0

    def knows(self, fingerprint_: str) -> bool:
        """Tell whether a window of this group is open."""
        return fingerprint_ in self._windows

    def today(self, now: float) -> str:
        """Return the day of the budget."""
        return datetime.fromtimestamp(now, self._zone).date().isoformat()

    def restore_budget(self, day: str, spent: int) -> None:
        """Go on with what was spent before a restart."""
        if day > self._day:
            self._day, self._spent = day, 0
        if day == self._day:
            self._spent = max(self._spent, spent)

    def restore_window(self, fingerprint_: str, closes: float, now: float) -> None:
        """Go on with a suppression window from before a restart."""
        if closes > now and fingerprint_ not in self._windows:
            self._open(fingerprint_, closes, Kind.FOLLOW_UP)

    def forget(self, ids: Iterable[str]) -> None:
        """Let these flags in again: they were not delivered, and may be replayed."""
        for id_ in ids:
            self._seen.pop(id_, None)

    def add(self, item: Item, now: float) -> tuple[bool, list[Outgoing]]:
        """Take one flag; return whether it is new here, and what goes out because of it."""
        flag = item.flag
        if flag.id in self._seen:
            metrics.REPEATS.labels(self.route.name, self.sink).inc()
            return False, []
        self._seen[flag.id] = None
        if len(self._seen) > _MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        group = fingerprint(flag)
        if flag.received_at.timestamp() < now - self._stale_after:
            bundle = Bundle(group)
            bundle.add(item)
            return True, self._to_digest(bundle, now)
        window = self._windows.get(group)
        if window is None:
            window = self._open(group, now + self.route.group.wait, Kind.ALERT)
        window.waiting.add(item)
        if window.kind is Kind.FOLLOW_UP:
            metrics.SUPPRESSED.labels(self.route.name, self.sink).inc()
        out = []
        if window.closes <= now or len(window.waiting.places) >= MOST_FLAGS:
            out += self._close(group, now)
        if len(self._windows) > MOST_WINDOWS:
            out += self._close(next(iter(self._windows)), now)
        return True, out

    def due(self, now: float) -> list[Outgoing]:
        """Return what goes out because its time has come."""
        closing = [group for group, window in self._windows.items() if window.closes <= now]
        out = [sent for group in closing for sent in self._close(group, now)]
        if self._digest_due is not None and self._digest_due <= now:
            out += self._send_digest()
        return out

    def flush(self, now: float) -> list[Outgoing]:
        """Return everything that waits, before its time: the process ends."""
        out = [sent for group in list(self._windows) for sent in self._close(group, now)]
        return out + self._send_digest()

    def revoke(self, partitions: Collection[TopicPartition]) -> None:
        """Drop what waits of these partitions: another worker reads it again."""
        waiting = [*(window.waiting for window in self._windows.values()), *self._digest.values()]
        self.forget(p.id for bundle in waiting for p in bundle.places if p.partition in partitions)
        for group, window in list(self._windows.items()):
            window.waiting = window.waiting.without(partitions)
            if not window.waiting.places and window.kind is Kind.ALERT:
                del self._windows[group]
        left = {group: bundle.without(partitions) for group, bundle in self._digest.items()}
        self._digest = {group: bundle for group, bundle in left.items() if bundle.places}
        if not self._digest:
            self._digest_due = None

    def _open(self, group: str, closes: float, kind: Kind) -> _Window:
        window = _Window(closes, kind, Bundle(group))
        self._windows[group] = window
        return window

    def _close(self, group: str, now: float) -> list[Outgoing]:
        window = self._windows.pop(group)
        if not window.waiting.places:
            return []
        until = now + self.route.group.suppress if self.route.group.suppress else None
        if until is not None:
            self._open(group, until, Kind.FOLLOW_UP)
        day = self.today(now)
        if day != self._day:
            self._day, self._spent = day, 0
        limit = self.route.budget.per_day
        if limit is not None and self._spent >= limit:
            return self._to_digest(window.waiting, now)
        self._spent += 1
        return [self._outgoing(window.kind, [window.waiting], until)]

    def _to_digest(self, bundle: Bundle, now: float) -> list[Outgoing]:
        metrics.DIGESTED.labels(self.route.name, self.sink).inc(len(bundle.places))
        self._digest.setdefault(bundle.fingerprint, Bundle(bundle.fingerprint)).extend(bundle)
        if self._digest_due is None:
            budget = self.route.budget
            self._digest_due = (
                now + budget.digest_every
                if budget.digest_every is not None
                else next_digest(now, budget.digest_at or _DIGEST_AT, self._zone)
            )
        if sum(len(b.places) for b in self._digest.values()) >= MOST_FLAGS:
            return self._send_digest()
        return []

    def _send_digest(self) -> list[Outgoing]:
        bundles, self._digest, self._digest_due = list(self._digest.values()), {}, None
        if not bundles:
            return []
        bundles.sort(key=lambda bundle: -len(bundle.places))
        return [self._outgoing(Kind.DIGEST, bundles, None)]

    def _outgoing(self, kind: Kind, bundles: list[Bundle], until: float | None) -> Outgoing:
        show: Callable[[FlagRecord], FlagRecord] = (lambda flag: flag) if self.route.include_text else redacted
        groups = tuple(
            Group(b.fingerprint, len(b.places), tuple(show(item.flag) for item in b.kept[:MOST_SHOWN]))
            for b in bundles[:MOST_GROUPS]
        )
        ids = [place.id for bundle in bundles for place in bundle.places]
        shown = [flag for group in groups for flag in group.flags]
        id_ = event_id(self.name, kind, *ids)
        notification = Notification(
            id=id_,
            kind=kind,
            route=self.route.name,
            sink=self.sink,
            key=f"digest-{id_}" if kind is Kind.DIGEST else bundles[0].fingerprint,
            count=len(ids),
            groups=groups,
            groups_left_out=len(bundles) - len(groups),
            severity=severity_of(shown, self.route.severity),
            link=self._link,
        )
        return Outgoing(notification, tuple(bundles), self, until, (self._day, self._spent))
