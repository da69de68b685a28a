"""From a lane to a sink: one alert after the other, retried, and in the end delivered or given up.

`Delivery` owns one sink. An alert that cannot be delivered within the sink's retries is given up, and the sink counts
as down: what comes next is given up at once, but for one try every `PROBE_EVERY` seconds, until a try succeeds. So
the longest that a dead sink holds intake, and with it the others, is one schedule of retries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from monitor.alerts import metrics
from monitor.alerts.config import Retry
from monitor.alerts.lanes import Outgoing
from monitor.alerts.sinks import Sink, SinkRefused, SinkUnavailable
from monitor.backoff import delays
from monitor.heartbeat import HEARTBEAT

_log = structlog.get_logger(__name__)
#: Seconds between two tries on a sink that is down.
PROBE_EVERY = 30.0
#: The longest Retry-After that is waited for; a sink that asks for more is down until then.
MOST_RETRY_AFTER = 300.0

#: Called when an alert is done with: None for delivered, else why not, as a slug and a sentence.
Settle = Callable[[Outgoing, "tuple[str, str] | None"], Awaitable[None]]


class Delivery:
    """Sends the alerts of one sink, in order."""

    def __init__(
        self,
        sink: Sink,
        *,
        retry: Retry,
        timeout: float,
        capacity: int,
        settle: Settle,
        finished: asyncio.Event,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Send to `sink`, `timeout` seconds a try, and set `finished` whenever an alert is done with.

        `clock` tells seconds of any origin, `sleep` waits that many.
        """
        self._sink = sink
        self._retry = retry
        self._timeout = timeout
        self._capacity = capacity
        self._settle = settle
        self._finished = finished
        self._clock = clock
        self._sleep = sleep
        self._waiting: deque[Outgoing] = deque()
        self._current: Outgoing | None = None
        self._arrived = asyncio.Event()
        self._down_until: float | None = None
        metrics.SINK_UP.labels(sink.name).set(1)
        metrics.QUEUE.labels(sink.name).set(0)
        for reason in ("refused", "unavailable", "sink_down", "internal_error"):
            metrics.DEAD_LETTERS.labels(sink.name, reason)

    @property
    def unfinished(self) -> list[Outgoing]:
        """The alerts that are not done with."""
        return [*([self._current] if self._current else []), *self._waiting]

    @property
    def has_room(self) -> bool:
        """Whether `offer` may be called."""
        return len(self._waiting) < self._capacity

    def offer(self, outgoing: Outgoing) -> None:
        """Queue an alert."""
        self._waiting.append(outgoing)
        metrics.QUEUE.labels(self._sink.name).set(len(self._waiting))
        self._arrived.set()

    async def run(self) -> None:
        """Send what is offered, for ever."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            self._current = self._waiting.popleft()
            metrics.QUEUE.labels(self._sink.name).set(len(self._waiting))
            given_up = await self._deliver(self._current)
            await self._settle(self._current, given_up)
            self._report(self._current, given_up)
            self._current = None
            self._finished.set()

    def _report(self, sent: Outgoing, given_up: tuple[str, str] | None) -> None:
        notification = sent.notification
        outcome = given_up[0] if given_up else "delivered"
        metrics.NOTIFICATIONS.labels(self._sink.name, notification.kind, outcome).inc()
        line = {
            "alert": notification.id,
            "kind": notification.kind.value,
            "route": notification.route,
            "sink": notification.sink,
            "flags": notification.count,
            "recommendation": notification.first.evidence.recommendation,
        }
        if given_up:
            _log.error("alert_given_up", **line, reason=given_up[0], detail=given_up[1], action="dead letter")
        else:
            _log.info("alert_delivered", **line)

    async def _deliver(self, outgoing: Outgoing) -> tuple[str, str] | None:
        if self._down_until is not None and self._clock() < self._down_until:
            return "sink_down", "the sink did not answer before, and was not tried for this alert"
        attempts = self._retry.attempts if self._down_until is None else 1
        waits = delays(self._retry.first, self._retry.most)
        for attempt in range(1, attempts + 1):
            HEARTBEAT.beat()
            try:
                async with asyncio.timeout(self._timeout):
                    await self._sink.send(outgoing.notification)
            except SinkRefused as error:
                self._up()
                self._count("refused")
                return "refused", str(error)
            except (SinkUnavailable, TimeoutError) as error:
                self._count("unavailable")
                failed = error if isinstance(error, SinkUnavailable) else SinkUnavailable("no answer in time")
                asked = failed.retry_after or 0.0
                if attempt == attempts or asked > MOST_RETRY_AFTER:
                    self._down(max(PROBE_EVERY, asked))
                    return "unavailable", f"{failed} (after {attempt} of {self._retry.attempts} attempts)"
                delay = max(next(waits), asked)
                _log.warning(
                    "sink_unavailable",
                    sink=self._sink.name,
                    alert=outgoing.notification.id,
                    attempt=attempt,
                    error=str(failed),
                    action=f"again in {delay:.1f} s",
                )
                await self._sleep(delay)
            except Exception as error:  # a fault of our own: no other try would go better
                self._count("failed")
                return "internal_error", _without_content(error)
            else:
                self._up()
                self._count("delivered")
                return None
        raise AssertionError("the last attempt returns")  # pragma: no cover

    def _count(self, outcome: str) -> None:
        metrics.ATTEMPTS.labels(self._sink.name, outcome).inc()

    def _up(self) -> None:
        self._down_until = None
        metrics.SINK_UP.labels(self._sink.name).set(1)

    def _down(self, seconds: float) -> None:
        self._down_until = self._clock() + seconds
        metrics.SINK_UP.labels(self._sink.name).set(0)
        _log.error("sink_down", sink=self._sink.name, action=f"dead letters; next try in {seconds:.0f} s")


def _without_content(error: BaseException) -> str:
    """Return the kind of an error and where it arose; its message might quote a statement or a URL."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" in {trace.tb_frame.f_code.co_qualname}, line {trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{where}"
