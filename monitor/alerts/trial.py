"""A test alert: an invented flag through a route's own sinks, marked as a test everywhere."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import datetime

from monitor.alerts.config import AlertsConfig, Route
from monitor.alerts.fingerprint import fingerprint
from monitor.alerts.notification import Group, Kind, Notification, redacted, severity_of
from monitor.alerts.sinks import Sink, SinkRefused, SinkUnavailable
from monitor.records import EvidenceRecord, FlagRecord, ModelReference, Thresholds, event_id

_STATEMENT = "This is a test of Guardline's alerts: no patient and no message stands behind it."


def sample_flag(now: datetime) -> FlagRecord:
    """Return a flag that says that it is a test."""
    return FlagRecord(
        id=event_id("guardline-alerts-test", now.isoformat()),
        verdict="unsafe",
        message_id="guardline-alerts-test",
        tenant=None,
        conversation_id=None,
        source_model=None,
        start=0,
        end=len(_STATEMENT),
        statement=_STATEMENT,
        statement_sha256=hashlib.sha256(_STATEMENT.encode()).hexdigest(),
        score=1.0,
        category="test",
        reason="nothing: this is a test",
        evidence=EvidenceRecord(
            guideline="test", version="0", recommendation="test", section="test", text="Nothing is recommended here."
        ),
        model=ModelReference(name="guardline-alerts-test", version="0"),
        thresholds=Thresholds(unsafe=0.5, review=0.4, in_scope=0.5),
        created_at=None,
        received_at=now,
    )


def trial_of(config: AlertsConfig, route: Route, sink: str, now: datetime) -> Notification:
    """Return the test alert for one sink of a route."""
    flag = sample_flag(now)
    shown = flag if route.include_text else redacted(flag)
    group = fingerprint(flag)
    return Notification(
        id=event_id(flag.id, route.name, sink),
        kind=Kind.TEST,
        route=route.name,
        sink=sink,
        key=f"test-{group}",
        count=1,
        groups=(Group(group, 1, (shown,)),),
        groups_left_out=0,
        severity=severity_of([flag], route.severity),
        link=config.link,
    )


async def send_trial(config: AlertsConfig, route: Route, sinks: Mapping[str, Sink], now: datetime) -> dict[str, str]:
    """Try each sink of a route once; return what became of it: "delivered", or why not."""
    outcome = {}
    for name in route.sinks:
        try:
            async with asyncio.timeout(config.sinks[name].timeout):
                await sinks[name].send(trial_of(config, route, name, now))
            outcome[name] = "delivered"
        except SinkRefused as error:
            outcome[name] = f"refused: {error}"
        except SinkUnavailable as error:
            outcome[name] = f"unavailable: {error}"
        except TimeoutError:
            outcome[name] = "unavailable: no answer in time"
    return outcome
