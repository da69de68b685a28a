"""Alerts for Prometheus Alertmanager, through its API v2: `POST /api/v2/alerts`.

https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml (`postableAlerts`). Every flag that is shown is
an alert of its own; grouping, silences and routing are Alertmanager's. A flag is an event and has no end, so each says
when it ends by itself (`endsAt`): without that Alertmanager would resolve it after its own `resolve_timeout`. The same
flag sent again has the same labels and is the same alert.

Members of an Alertmanager cluster do not pass alerts on to each other: give each its own sink, and a route all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from pydantic import SecretStr

from monitor.alerts.notification import Notification, title
from monitor.alerts.sinks.http import JsonPoster, bearer
from monitor.alerts.sinks.webhook import annotations_of, labels_of

_PATH = "/api/v2/alerts"


def postable(
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    *,
    starts: datetime,
    ends: datetime,
    generator: str | None = None,
) -> dict[str, object]:
    """Return one alert as the API takes it; it must not end before it starts, whatever a platform's clock says."""
    alert: dict[str, object] = {
        "labels": dict(labels),
        "annotations": dict(annotations),
        "startsAt": min(starts, ends).isoformat(),
        "endsAt": ends.isoformat(),
    }
    return alert if generator is None else alert | {"generatorURL": generator}


def payload(notification: Notification, ends: datetime) -> list[dict[str, object]]:
    """Return the body of the request: an alert for each flag that is shown, `count` saying how many it stands for."""
    about = {"title": title(notification), "kind": notification.kind.value}
    return [
        postable(
            labels_of(flag, notification),
            annotations_of(flag) | about | {"count": str(group.count)},
            starts=flag.received_at,
            ends=ends,
            generator=notification.link_to(flag),
        )
        for group in notification.groups
        for flag in group.flags
    ]


def poster(url: SecretStr, token: SecretStr | None = None) -> JsonPoster:
    """Return what posts alerts to the Alertmanager that is served at `url`."""
    return JsonPoster(SecretStr(url.get_secret_value().rstrip("/") + _PATH), bearer(token))


class Alertmanager:
    """Posts to one Alertmanager."""

    def __init__(
        self,
        name: str,
        url: SecretStr,
        token: SecretStr | None = None,
        *,
        resolve_after: float,
        clock: Callable[[], datetime],
    ) -> None:
        """Post below `url`, the address at which Alertmanager is served; alerts end `resolve_after` seconds later."""
        self.name = name
        self._resolve_after = timedelta(seconds=resolve_after)
        self._clock = clock
        self._poster = poster(url, token)

    async def send(self, notification: Notification) -> None:
        """See `Sink.send`."""
        await self._poster.post(payload(notification, self._clock() + self._resolve_after), key=notification.id)

    async def close(self) -> None:
        """See `Sink.close`."""
        await self._poster.close()
