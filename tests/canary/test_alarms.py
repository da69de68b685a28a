"""Who is told what, how often, and when it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from monitor.alerts.sinks import SinkRefused, SinkUnavailable
from monitor.canary import metrics
from monitor.canary.alarms import Alarm, Announcer, Name
from tests.alerts.schemas import PostableAlert, PostableAlerts

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
LOST, DRIFT = Alarm(Name.LOST, "lost"), Alarm(Name.DRIFT, "moved")


class Recorder:
    """Takes alerts, or raises `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.posts: list[list[PostableAlert]] = []
        self.error = error

    async def post(self, payload: list[dict[str, object]], *, key: str) -> None:
        self.posts.append(PostableAlerts.model_validate(payload).root)
        if self.error is not None:
            raise self.error


def gauge(alarm: Alarm) -> float:
    return metrics.ALARM.labels(alarm.name.value)._value.get()


async def test_an_alarm_is_posted_at_once_again_every_minute_and_ended() -> None:
    recorder = Recorder()
    announcer = Announcer(recorder, group="g")
    for second in range(130):
        await announcer.tell([LOST], START + timedelta(seconds=second))
    assert len(recorder.posts) == 3
    assert gauge(LOST) == 1
    for (alert,), seconds in zip(recorder.posts, (0, 60, 120), strict=True):
        assert alert.labels == {
            "alertname": "GuardlineCanaryLost", "severity": "critical", "group": "g", "job": "canary",
        }  # fmt: skip
        assert alert.startsAt == START
        assert alert.endsAt == START + timedelta(seconds=seconds + 240)
    await announcer.tell([], START + timedelta(seconds=131))
    (ended,) = recorder.posts[-1]
    assert ended.endsAt == START + timedelta(seconds=131)
    assert gauge(LOST) == 0
    await announcer.tell([], START + timedelta(seconds=300))
    assert len(recorder.posts) == 4


async def test_each_alarm_has_its_own_beginning_and_end() -> None:
    recorder = Recorder()
    announcer = Announcer(recorder, group="g")
    await announcer.tell([LOST], START)
    await announcer.tell([LOST, DRIFT], START + timedelta(seconds=5))
    await announcer.tell([DRIFT], START + timedelta(seconds=9))
    starts = [{a.labels["alertname"]: (a.startsAt - START).seconds for a in post} for post in recorder.posts]
    lost, drift = "GuardlineCanaryLost", "GuardlineCanaryDrift"
    assert starts == [{lost: 0}, {lost: 0, drift: 5}, {drift: 5, lost: 0}]
    ends = {a.labels["alertname"]: (a.endsAt - START).seconds for a in recorder.posts[-1]}
    assert ends == {lost: 9, drift: 249}


@pytest.mark.parametrize("error", [SinkUnavailable("away"), SinkRefused("HTTP 400")])
async def test_alertmanager_away_fails_open_and_is_tried_again_in_a_minute(error: Exception) -> None:
    recorder = Recorder(error)
    failures = metrics.FAILURES.labels("alertmanager")
    before = failures._value.get()
    announcer = Announcer(recorder, group="g")
    for second in range(61):
        await announcer.tell([LOST], START + timedelta(seconds=second))
    assert (len(recorder.posts), failures._value.get() - before) == (2, 2)
    assert gauge(LOST) == 1


async def test_without_alertmanager_metrics_say_it() -> None:
    announcer = Announcer(None, group="g")
    await announcer.tell([DRIFT], START)
    assert (gauge(DRIFT), gauge(LOST)) == (1, 0)
