"""All flags in memory, in the few fields that lists, filters and trends ask for; a row takes some 700 bytes.

Filtering and sorting are plain passes over the rows: a list of a hundred thousand takes a quarter of a second.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any, Literal, Self
from urllib.parse import urlencode

from monitor.console.store import Item
from monitor.feedback.adjudication import Outcome, Status, adjudicate, latest
from monitor.records import Decision, FlagRecord

#: Tenant of messages that name none.
NO_TENANT = "(none)"
PAGE = 50

#: How much harm an error of a category tends to do, for ordering only: a judgement, not a measurement. What is not
#: listed counts as `_OTHER`.
_WEIGHTS = {
    "contraindication": 1.0,
    "interaction": 1.0,
    "dose": 1.0,
    "organ_function": 0.95,
    "population": 0.9,
    "route": 0.9,
    "frequency": 0.9,
    "combination": 0.85,
    "duration": 0.8,
    "timing": 0.8,
    "indication": 0.8,
    "severity": 0.8,
    "monitoring": 0.7,
    "outdated": 0.7,
    "efficacy": 0.6,
}
_OTHER = 0.8


@dataclass(frozen=True, slots=True)
class Vote:
    """The last word of one reviewer."""

    reviewer: str
    decision: Decision
    recommendation: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """One flag, for lists and figures."""

    id: str
    message_id: str
    tenant: str
    category: str
    recommendation: str
    section: str
    model: str
    verdict: Literal["unsafe", "review"]
    score: float
    threshold: float
    review_threshold: float
    received_at: datetime
    outcome: Outcome
    votes: tuple[Vote, ...]

    @classmethod
    def of(cls, item: Item) -> Row:
        """Summarise an item."""
        flag = item.flag
        return cls(
            id=flag.id,
            message_id=flag.message_id,
            tenant=flag.tenant or NO_TENANT,
            category=flag.category,
            recommendation=flag.evidence.recommendation,
            section=flag.evidence.section,
            model=model_of(flag),
            verdict=flag.verdict,
            score=flag.score,
            threshold=flag.thresholds.unsafe,
            review_threshold=flag.thresholds.review,
            received_at=flag.received_at,
            outcome=adjudicate(item.decisions),
            votes=tuple(Vote(r.reviewer, r.decision, r.recommendation) for r in latest(item.decisions)),
        )

    @property
    def day(self) -> date:
        """The day on which the message was received (UTC)."""
        return self.received_at.astimezone(UTC).date()

    @property
    def gravity(self) -> float:
        """Score times the weight of the category."""
        return self.score * _WEIGHTS.get(self.category, _OTHER)

    def waits_for(self, reviewer: str) -> bool:
        """Tell whether this reviewer can bring the flag nearer to a settlement."""
        return self.outcome.status is not Status.SETTLED and all(v.reviewer != reviewer for v in self.votes)


def model_of(flag: FlagRecord) -> str:
    """Return name and version of the model in one word."""
    return f"{flag.model.name}@{flag.model.version}"


class View(StrEnum):
    """Which flags a list shows, by how far their review has come."""

    MINE = "mine"
    OPEN = "open"
    SECOND = "second"
    DISPUTED = "disputed"
    SETTLED = "settled"
    ALL = "all"


class Sort(StrEnum):
    """What comes first."""

    GRAVITY = "gravity"
    UNCERTAINTY = "uncertainty"
    OLDEST = "oldest"
    NEWEST = "newest"


_KEYS: Mapping[Sort, Callable[[Row], Any]] = {
    Sort.GRAVITY: lambda row: (row.verdict != "unsafe", -row.gravity, row.received_at),
    Sort.UNCERTAINTY: lambda row: (abs(row.score - row.threshold), row.received_at),
    Sort.OLDEST: lambda row: row.received_at,
    Sort.NEWEST: lambda row: -row.received_at.timestamp(),
}
#: Fields of a row that can be filtered by, in the order of the page.
FACETS = ("tenant", "category", "recommendation", "model", "verdict")


@dataclass(frozen=True, slots=True)
class Filters:
    """What the address of a list says; what it says wrongly is taken for the default."""

    view: View = View.MINE
    sort: Sort = Sort.GRAVITY
    tenant: str = ""
    category: str = ""
    recommendation: str = ""
    model: str = ""
    verdict: str = ""
    q: str = ""
    page: int = 1

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Self:
        """Read the parameters of an address."""
        given = {f.name: parameters[f.name].strip() for f in fields(cls) if parameters.get(f.name)}
        view, sort, page = given.pop("view", ""), given.pop("sort", ""), given.pop("page", "")
        return cls(
            view=View(view) if view in {*View} else View.MINE,
            sort=Sort(sort) if sort in {*Sort} else Sort.GRAVITY,
            page=int(page) if page.isascii() and page.isdigit() and 0 < len(page) < 7 else 1,
            **given,
        )

    def query(self, **changes: object) -> str:
        """Return these filters, with changes, as the query of an address; defaults are left out."""
        values = {f.name: changes.get(f.name, getattr(self, f.name)) for f in fields(self)}
        defaults = {f.name: f.default for f in fields(self)}
        return urlencode({name: str(value) for name, value in values.items() if value != defaults[name]})

    @property
    def narrowed(self) -> bool:
        """Whether anything but the view restricts the list."""
        return any(getattr(self, name) for name in (*FACETS, "q"))

    def narrow(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows that fit everything but the view."""
        wanted = [(attrgetter(name), value) for name in FACETS if (value := getattr(self, name))]
        q = self.q.lower()
        for row in rows:
            if all(field(row) == value for field, value in wanted) and (
                not q or q in row.message_id.lower() or row.id.startswith(q)
            ):
                yield row


class Register:
    """The rows, by flag and by message."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._messages: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Collection[Row]:
        """All rows."""
        return self._rows.values()

    def put(self, items: Iterable[Item]) -> None:
        """Add items, or replace what was known of them."""
        for item in items:
            row = Row.of(item)
            self._rows[row.id] = row
            self._messages[row.tenant, row.message_id].add(row.id)

    def forget(self, before: datetime) -> None:
        """Drop rows of messages that were received before then."""
        for row in [row for row in self._rows.values() if row.received_at < before]:
            del self._rows[row.id]
            same = self._messages[row.tenant, row.message_id]
            same.discard(row.id)
            if not same:
                del self._messages[row.tenant, row.message_id]

    def get(self, flag: str) -> Row | None:
        """Return the row of a flag."""
        return self._rows.get(flag)

    def beside(self, row: Row) -> list[str]:
        """Return the ids of all flags of the same message."""
        return sorted(self._messages.get((row.tenant, row.message_id), {row.id}))

    def select(self, filters: Filters, reviewer: str) -> list[Row]:
        """Return the rows of a list, all pages, in order."""
        rows: Iterable[Row] = filters.narrow(self.rows)
        if filters.view is View.MINE:
            rows = (row for row in rows if row.waits_for(reviewer))
        elif filters.view is not View.ALL:
            rows = (row for row in rows if row.outcome.status == filters.view.value)
        return sorted(rows, key=_KEYS[filters.sort])

    def counts(self, filters: Filters, reviewer: str) -> dict[View, int]:
        """Return how many rows each view would have under these filters."""
        rows = list(filters.narrow(self.rows))
        statuses = Counter(row.outcome.status.value for row in rows)
        whole = {View.MINE: sum(row.waits_for(reviewer) for row in rows), View.ALL: len(rows)}
        return {view: whole[view] if view in whole else statuses[view.value] for view in View}

    def waiting(self, reviewer: str) -> int:
        """Return how many flags wait for this reviewer."""
        return sum(row.waits_for(reviewer) for row in self.rows)

    def facets(self) -> dict[str, list[tuple[str, int]]]:
        """Return the values of each facet and how many flags have them, the most frequent first."""
        return {name: Counter(getattr(row, name) for row in self.rows).most_common() for name in FACETS}
