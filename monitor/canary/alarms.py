"""What is wrong, in words; and whom that is told: the log, /metrics and, where there is one, Alertmanager.

An alarm is posted again every minute for as long as it goes off, and ends by itself when that stops, so a process that
dies leaves no alarm behind. Alertmanager being away fails open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

import structlog

from monitor.alerts.config import Severity
from monitor.alerts.sinks import SinkRefused, SinkUnavailable
from monitor.alerts.sinks.alertmanager import postable
from monitor.canary import metrics
from monitor.records import event_id

_log = structlog.get_logger(__name__)
_AGAIN = timedelta(seconds=60)
#: Three posts may be missed before an alarm ends that goes on.
_LASTS = timedelta(minutes=4)


class Name(StrEnum):
    """Every alarm; the docs' runbook has a section on each."""

    OVERDUE = "overdue"
    LOST = "lost"
    WRONG = "wrong"
    FOREIGN = "foreign"
    BACKLOG = "backlog"
    EXPIRED = "expired"
    FEW_FLAGS = "few_flags"
    DRIFT = "drift"
    BROKER = "broker"

    @property
    def alert(self) -> str:
        """The name of the alert."""
        return f"GuardlineCanary{self.value.title().replace('_', '')}"


_SEVERITIES: dict[Name, Severity] = {
    Name.OVERDUE: "critical",
    Name.LOST: "critical",
    Name.WRONG: "critical",
    Name.FOREIGN: "warning",
    Name.BACKLOG: "critical",
    Name.EXPIRED: "critical",
    Name.FEW_FLAGS: "warning",
    Name.DRIFT: "warning",
    Name.BROKER: "critical",
}


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that is wrong, and the figures that say so."""

    name: Name
    detail: str

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return _SEVERITIES[self.name]


class Poster(Protocol):
    """See `monitor.alerts.sinks.http.JsonPoster`."""

    async def post(self, payload: list[dict[str, object]], *, key: str) -> None:
        """Hand alerts over; raises as `monitor.alerts.sinks.Sink.send` does."""
        ...


class Announcer:
    """Tells what begins, goes on and ends."""

    def __init__(self, poster: Poster | None, *, group: str) -> None:
        self._poster = poster
        self._group = group
        self._since: dict[Name, tuple[datetime, Alarm]] = {}
        self._posted: datetime | None = None
        for name in Name:
            metrics.ALARM.labels(name.value).set(0)

    async def tell(self, alarms: Iterable[Alarm], now: datetime) -> None:
        """Tell of the alarms that go off now; those that went off before and are not among them have ended."""
        current = {alarm.name: alarm for alarm in alarms}
        ended = {name: known for name, known in self._since.items() if name not in current}
        begun = current.keys() - self._since.keys()
        for name, alarm in current.items():
            self._since[name] = (self._since[name][0] if name in self._since else now, alarm)
        for name in begun:
            metrics.ALARM.labels(name.value).set(1)
            _log.error("alarm", alarm=name.value, detail=current[name].detail, action=f"see the runbook, {name.alert}")
        for name in ended:
            metrics.ALARM.labels(name.value).set(0)
            _log.info("alarm_ended", alarm=name.value)
        posts = [self._alert(since, alarm, now + _LASTS) for since, alarm in map(self._since.__getitem__, current)]
        posts += [self._alert(since, alarm, now) for since, alarm in ended.values()]
        if posts and (begun or ended or self._posted is None or now - self._posted >= _AGAIN):
            await self._post(posts, now)
        for name in ended:
            del self._since[name]

    def _alert(self, since: datetime, alarm: Alarm, ends: datetime) -> dict[str, object]:
        labels = {"alertname": alarm.name.alert, "severity": alarm.severity, "group": self._group, "job": "canary"}
        return postable(labels, {"summary": alarm.detail}, starts=since, ends=ends)

    async def _post(self, posts: list[dict[str, object]], now: datetime) -> None:
        if self._poster is None:
            return
        self._posted = now
        try:
            await self._poster.post(posts, key=event_id("guardline-canary", now.isoformat()))
        except (SinkRefused, SinkUnavailable) as error:
            metrics.FAILURES.labels("alertmanager").inc()
            _log.warning("alertmanager_unavailable", error=str(error), action=f"again in {_AGAIN.seconds} s")
