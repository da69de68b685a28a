"""An event for PagerDuty's Events API v2.

https://developer.pagerduty.com/docs/events-api-v2/trigger-events/ (a summary of 1,024 characters, a `dedup_key` of 255)
and https://developer.pagerduty.com/docs/events-api-v2/overview/ (512 KB; 429 and 5xx are tried again, 400 is not). The
`dedup_key` is the group of the flags: what comes again while an incident is open is added to it.
"""

from __future__ import annotations

from pydantic import SecretStr

from monitor.alerts.notification import Notification, group_line, source_line, title
from monitor.alerts.sinks.http import JsonPoster
from monitor.records import FlagRecord

_SUMMARY, _KEY = 1024, 255
#: Characters of a text and of a name, and flags: in any script the event stays below 512 KB.
_TEXT, _NAME = 1000, 200


def _flag(flag: FlagRecord) -> dict[str, object]:
    names = {"id": flag.id, "message_id": flag.message_id, "tenant": flag.tenant or "-", "category": flag.category}
    shown: dict[str, object] = {name: value[:_NAME] for name, value in names.items()}
    shown |= {"verdict": flag.verdict, "score": flag.score}
    if flag.statement is not None:
        shown["statement"] = flag.statement[:_TEXT]
    if flag.reason is not None:
        shown["reason"] = flag.reason[:_TEXT]
    return shown


def payload(notification: Notification, routing_key: SecretStr) -> dict[str, object]:
    """Return the body of the request; the routing key is part of it."""
    flag = notification.first
    link = notification.link_to(flag)
    groups = notification.groups
    shown = notification.shown if len(groups) == 1 else [group.flags[0] for group in groups]
    event: dict[str, object] = {
        "routing_key": routing_key.get_secret_value(),
        "event_action": "trigger",
        "dedup_key": f"guardline-{notification.route}-{notification.key}"[:_KEY],
        "client": "Guardline",
        "payload": {
            "summary": title(notification)[:_SUMMARY],
            "source": f"{flag.model.name}@{flag.model.version}"[:_NAME],
            "severity": notification.severity,
            "timestamp": flag.received_at.isoformat(),
            "component": flag.evidence.guideline[:_NAME],
            "group": (flag.tenant or "-")[:_NAME],
            "class": flag.category[:_NAME],
            "custom_details": {
                "alert": notification.id,
                "kind": notification.kind.value,
                "count": notification.count,
                "groups": [group_line(group)[:_TEXT] for group in groups],
                "recommendation": flag.evidence.text[:_TEXT],
                "source": source_line(flag)[:_TEXT],
                "flags": [_flag(each) for each in shown],
            },
        },
    }
    if link is not None:
        event |= {"client_url": link, "links": [{"href": link, "text": "Look at the flag"}]}
    return event


class PagerDuty:
    """Posts to one service."""

    def __init__(self, name: str, endpoint: str, routing_key: SecretStr) -> None:
        self.name = name
        self._routing_key = routing_key
        self._poster = JsonPoster(SecretStr(endpoint))

    async def send(self, notification: Notification) -> None:
        """See `Sink.send`."""
        await self._poster.post(payload(notification, self._routing_key), key=notification.id)

    async def close(self) -> None:
        """See `Sink.close`."""
        await self._poster.close()
