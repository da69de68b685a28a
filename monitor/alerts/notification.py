"""What sinks get to see: one alert, with the flags that it stands for. No statements, unless a route wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from monitor.alerts.config import Severity
from monitor.records import FlagRecord

#: Flags shown of one group; the count tells of the rest.
MOST_SHOWN = 5
#: Groups shown of one digest.
MOST_GROUPS = 20


class Kind(StrEnum):
    """Why an alert goes out."""

    ALERT = "alert"
    """The first of its group."""
    FOLLOW_UP = "follow-up"
    """What came while its group was suppressed."""
    DIGEST = "digest"
    """What was over the budget, or old."""
    TEST = "test"
    """Somebody asked for it."""


@dataclass(frozen=True, slots=True)
class Group:
    """Flags that are alike: `count` of them, of which `flags` (the first, at least one) are shown."""

    fingerprint: str
    count: int
    flags: tuple[FlagRecord, ...]


@dataclass(frozen=True, slots=True)
class Notification:
    """One alert for one sink. `groups` has one member, except in a digest, which shows the largest."""

    id: str
    kind: Kind
    route: str
    sink: str
    key: str
    """Stable for all alerts about the same thing; sinks that know duplicates or threads get it."""
    count: int
    groups: tuple[Group, ...]
    groups_left_out: int
    severity: Severity
    link: str | None
    """Template; `link_to` fills it."""

    @property
    def first(self) -> FlagRecord:
        """The flag to speak of."""
        return self.groups[0].flags[0]

    @property
    def shown(self) -> list[FlagRecord]:
        """All flags that are shown."""
        return [flag for group in self.groups for flag in group.flags]

    def link_to(self, flag: FlagRecord) -> str | None:
        """Return where a flag can be looked at."""
        return None if self.link is None else self.link.replace("{id}", flag.id)


def redacted(flag: FlagRecord) -> FlagRecord:
    """Return the flag without the statement, and without the reason, which quotes it."""
    return flag.model_copy(update={"statement": None, "reason": None})


def severity_of(flags: Sequence[FlagRecord], configured: Severity | None) -> Severity:
    """Return the route's severity; by default that of the gravest verdict."""
    if configured is not None:
        return configured
    return "error" if any(flag.verdict == "unsafe" for flag in flags) else "warning"


def short(name: str) -> str:
    """Return a name that a producer chose, in at most 100 characters."""
    return name if len(name) <= 100 else name[:99] + "…"


def _times(count: int) -> str:
    return "1 flag" if count == 1 else f"{count} flags"


def title(notification: Notification) -> str:
    """Return one line without message text: what, how often, which recommendation."""
    flag = notification.first
    what = "Unsafe statement" if flag.verdict == "unsafe" else "Statement to review"
    about = f"{short(flag.category)}, recommendation {short(flag.evidence.recommendation)}"
    if notification.kind is Kind.DIGEST:
        groups = len(notification.groups) + notification.groups_left_out
        return f"Digest: {_times(notification.count)} in {groups} group{'s' * (groups != 1)}"
    if notification.kind is Kind.TEST:
        return f"TEST of route {notification.route}: {what}: {about}"
    many = f" ({_times(notification.count)})" if notification.count > 1 else ""
    again = "Still: " if notification.kind is Kind.FOLLOW_UP else ""
    return f"{again}{what}: {about}{many}"


def group_line(group: Group) -> str:
    """Return one line about a group, without message text."""
    flag = group.flags[0]
    tenant = f", tenant {short(flag.tenant)}" if flag.tenant else ""
    about = f"{flag.verdict}, {short(flag.category)}, recommendation {short(flag.evidence.recommendation)}"
    return f"{_times(group.count)}: {about}{tenant}, score {flag.score:.2f}"


def source_line(flag: FlagRecord) -> str:
    """Return which guideline and which model a flag comes from."""
    evidence, model = flag.evidence, flag.model
    return f"{evidence.guideline} {evidence.version}, section {evidence.section}; model {model.name} {model.version}"
