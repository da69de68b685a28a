"""Retries, what a sink is given up for, and what that does to the others; against receivers on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from monitor.alerts.config import Retry
from monitor.alerts.delivery import MOST_RETRY_AFTER, PROBE_EVERY, Delivery
from monitor.alerts.lanes import Outgoing
from monitor.alerts.sinks import Sink, SinkRefused
from monitor.alerts.sinks.webhook import Webhook
from tests.alerts.flags import NOON, Clock, RecordingSink, away, make_item, make_lane
from tests.alerts.servers import Answer, receiving


def outgoing(number: int) -> Outgoing:
    lane = make_lane({"group": {"wait": 0, "suppress": 0}})
    return lane.add(make_item(number), NOON)[1][0]


class Bench:
    """A delivery whose waits take no time and are written down."""

    def __init__(self, sink: Sink, *, attempts: int = 4, timeout: float = 30) -> None:
        self.clock = Clock()
        self.finished = asyncio.Event()
        self.waits: list[float] = []
        self.settled: list[tuple[str, str | None]] = []
        self.delivery = Delivery(
            sink,
            retry=Retry(attempts=attempts, first=1, most=4),
            timeout=timeout,
            capacity=3,
            settle=self._settle,
            finished=self.finished,
            clock=self.clock,
            sleep=self._sleep,
        )

    async def _settle(self, sent: Outgoing, given_up: tuple[str, str] | None) -> None:
        self.settled.append((sent.notification.first.message_id, given_up[0] if given_up else None))

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.now += seconds
        await asyncio.sleep(0)

    async def send(self, *numbers: int) -> list[str | None]:
        """Deliver flags, and return what became of each."""
        before = len(self.settled)
        task = asyncio.create_task(self.delivery.run())
        for number in numbers:
            self.delivery.offer(outgoing(number))
        try:
            async with asyncio.timeout(60):
                while len(self.settled) < before + len(numbers):
                    await self.finished.wait()
                    self.finished.clear()
        finally:
            task.cancel()
        return [why for _, why in self.settled[before:]]


@asynccontextmanager
async def webhook(*answers: Answer | None) -> AsyncIterator[tuple[Webhook, Callable[[], list[str]]]]:
    """Yield a sink, and what tells the messages that its receiver has taken, repeats left out."""
    async with receiving(*answers) as receiver:
        sink = Webhook("out", SecretStr(receiver.url))
        try:
            yield sink, lambda: [body["alerts"][0]["labels"]["message_id"] for body in receiver.taken]
        finally:
            await sink.close()


@pytest.mark.parametrize(
    ("answers", "waits"),
    [
        ([(500, {})] * 3, [1, 2, 4]),
        ([(429, {"Retry-After": "7"}), (503, {"Retry-After": "1"})], [7, 2]),
        ([(429, {"Retry-After": "0"})], [1]),
        ([(502, {}), (429, {"Retry-After": "100"}), (500, {})], [1, 100, 4]),
    ],
)
async def test_a_sink_that_comes_back_has_the_alert_once(answers: list[Answer], waits: list[float]) -> None:
    async with webhook(*answers) as (sink, taken):
        bench = Bench(sink)
        assert await bench.send(1, 2) == [None, None]
        assert bench.waits == waits
        assert taken() == ["message-1", "message-2"]


async def test_no_answer_in_time_is_tried_again() -> None:
    async with webhook(None) as (sink, taken):
        assert await Bench(sink, timeout=0.2).send(1) == [None]
        assert taken() == ["message-1"]


async def test_a_lost_answer_makes_a_repeat_that_the_receiver_can_tell() -> None:
    async with receiving((500, {})) as receiver:  # it has the alert, and says otherwise
        sink = Webhook("out", SecretStr(receiver.url))
        assert await Bench(sink).send(1) == [None]
        await sink.close()
    first, second = receiver.headers
    assert first["Idempotency-Key"] == second["Idempotency-Key"]
    assert receiver.bodies[0] == receiver.bodies[1]


async def test_a_refusal_is_not_tried_again_and_does_not_take_the_sink_down() -> None:
    async with webhook((400, {})) as (sink, taken):
        bench = Bench(sink)
        assert await bench.send(1, 2) == ["refused", None]
        assert bench.waits == []
        assert taken() == ["message-2"]


async def test_a_dead_sink_costs_one_schedule_of_retries_and_then_nothing() -> None:
    sink = RecordingSink(fail=away(range(1, 100)))
    bench = Bench(sink)
    assert await bench.send(1, 2, 3) == ["unavailable", "sink_down", "sink_down"]
    assert (sink.tries, bench.waits) == (4, [1, 2, 4])
    bench.clock.now += PROBE_EVERY
    assert await bench.send(4, 5) == ["unavailable", "sink_down"]
    assert sink.tries == 5


async def test_a_sink_that_is_back_is_found_by_the_next_try() -> None:
    sink = RecordingSink(fail=away(range(1, 5)))
    bench = Bench(sink)
    assert await bench.send(1, 2) == ["unavailable", "sink_down"]
    bench.clock.now += PROBE_EVERY
    assert await bench.send(3, 4) == [None, None]
    assert sink.messages == ["message-3", "message-4"]


async def test_a_sink_that_asks_for_too_long_is_left_alone_for_that_long() -> None:
    long = MOST_RETRY_AFTER * 2
    sink = RecordingSink(fail=away([1], retry_after=long))
    bench = Bench(sink)
    assert await bench.send(1) == ["unavailable"]
    bench.clock.now += long - 1
    assert await bench.send(2) == ["sink_down"]
    bench.clock.now += 1
    assert await bench.send(3) == [None]


async def test_a_fault_of_our_own_is_given_up_with_the_place_and_without_the_words() -> None:
    sink = RecordingSink(fail=lambda n: ValueError("hush") if n == 1 else None)
    with capture_logs() as logs:
        assert await Bench(sink).send(1, 2) == ["internal_error", None]
    (line,) = [line for line in logs if line["event"] == "alert_given_up"]
    assert line["detail"].startswith("ValueError in RecordingSink.send, line ")
    assert "hush" not in str(logs)


async def test_logs_hold_neither_address_nor_text() -> None:
    async with webhook((500, {}), (400, {})) as (sink, _):
        with capture_logs() as logs:
            await Bench(sink).send(1, 2)
    assert logs
    assert not any(word in str(logs) for word in ("127.0.0.1", "hush-hush", "Maria", "400 mg"))


async def test_a_queue_takes_no_more_than_it_has_room_for() -> None:
    delivery = Bench(RecordingSink(fail=lambda _: SinkRefused("no"))).delivery
    for number in range(3):
        assert delivery.has_room
        delivery.offer(outgoing(number))
    assert not delivery.has_room
