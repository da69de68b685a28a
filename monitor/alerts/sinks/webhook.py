"""Alertmanager's webhook payload, version 4, so that whatever takes Alertmanager's alerts takes these.

https://prometheus.io/docs/alerting/latest/configuration/#webhook_config and
https://prometheus.io/docs/alerting/latest/notifications/#data. A flag is an alert that fires and is never resolved by
Guardline (`endsAt` is Go's zero time, as in Alertmanager's own). Flags that are not shown count in `truncatedAlerts`.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from pydantic import SecretStr

from monitor.alerts.notification import Kind, Notification, source_line, title
from monitor.alerts.sinks.http import JsonPoster, bearer
from monitor.records import FlagRecord

_NEVER = "0001-01-01T00:00:00Z"
_ALERT_NAME = "GuardlineFlag"


def _quoted(value: str) -> str:
    return orjson.dumps(value).decode()


def _group_labels(notification: Notification) -> dict[str, str]:
    if notification.kind is Kind.DIGEST:
        return {"alertname": "GuardlineDigest", "route": notification.route}
    flag = notification.first
    labels = {
        "alertname": _ALERT_NAME,
        "category": flag.category,
        "guideline": flag.evidence.guideline,
        "recommendation": flag.evidence.recommendation,
        "route": notification.route,
        "verdict": flag.verdict,
    }
    return labels | ({"tenant": flag.tenant} if flag.tenant else {})


def labels_of(flag: FlagRecord, notification: Notification) -> dict[str, str]:
    """Return what tells a flag from others."""
    labels = {
        "alertname": _ALERT_NAME,
        "category": flag.category,
        "flag_id": flag.id,
        "guideline": flag.evidence.guideline,
        "message_id": flag.message_id,
        "model": f"{flag.model.name}@{flag.model.version}",
        "recommendation": flag.evidence.recommendation,
        "route": notification.route,
        "severity": notification.severity,
        "verdict": flag.verdict,
    }
    return labels | ({"tenant": flag.tenant} if flag.tenant else {})


def annotations_of(flag: FlagRecord) -> dict[str, str]:
    """Return what people want to know of a flag; its statement only where the route shows it."""
    annotations = {
        "summary": f"{flag.verdict}: {flag.category}, recommendation {flag.evidence.recommendation}",
        "recommendation_text": flag.evidence.text,
        "score": f"{flag.score:.6f}",
        "source": source_line(flag),
    }
    if flag.statement is not None:
        annotations["statement"] = flag.statement
    if flag.reason is not None:
        annotations["reason"] = flag.reason
    return annotations


def _common(maps: Sequence[dict[str, str]]) -> dict[str, str]:
    return {k: v for k, v in maps[0].items() if all(other.get(k) == v for other in maps[1:])}


def payload(notification: Notification) -> dict[str, object]:
    """Return the body of the request."""
    flags = notification.shown
    labels = [labels_of(flag, notification) for flag in flags]
    annotations = [annotations_of(flag) for flag in flags]
    group = _group_labels(notification)
    matchers = ", ".join(f"{name}={_quoted(value)}" for name, value in sorted(group.items()))
    return {
        "version": "4",
        "groupKey": f'{{}}/{{route="{notification.route}"}}:{{{matchers}}}',
        "truncatedAlerts": notification.count - len(flags),
        "status": "firing",
        "receiver": notification.sink,
        "groupLabels": group,
        "commonLabels": _common(labels),
        "commonAnnotations": _common(annotations) | {"title": title(notification), "count": str(notification.count)},
        "externalURL": (notification.link or "").partition("{id}")[0],
        "alerts": [
            {
                "status": "firing",
                "labels": own,
                "annotations": notes,
                "startsAt": flag.received_at.isoformat(),
                "endsAt": _NEVER,
                "generatorURL": notification.link_to(flag) or "",
                "fingerprint": flag.id[:16],
            }
            for flag, own, notes in zip(flags, labels, annotations, strict=True)
        ],
    }


class Webhook:
    """Posts to a receiver."""

    def __init__(self, name: str, url: SecretStr, token: SecretStr | None = None) -> None:
        self.name = name
        self._poster = JsonPoster(url, bearer(token))

    async def send(self, notification: Notification) -> None:
        """See `Sink.send`."""
        await self._poster.post(payload(notification), key=notification.id)

    async def close(self) -> None:
        """See `Sink.close`."""
        await self._poster.close()
