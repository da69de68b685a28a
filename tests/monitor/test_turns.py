import asyncio
from collections.abc import Sequence

import pytest

from monitor.publisher import Event
from monitor.turns import OrderedPublisher


class Broker:
    """Keeps what arrives, one list a call; a call takes until the test lets it end."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gates: list[asyncio.Future[list[Event]]] = []

    async def publish(self, events: Sequence[Event]) -> list[Event]:
        self.calls.append([event.topic for event in events])
        self.gates.append(asyncio.get_running_loop().create_future())
        return await self.gates[-1]

    async def end(self, refused: Sequence[Event] = (), error: Exception | None = None) -> None:
        gate = self.gates[-1]
        if error is None:
            gate.set_result(list(refused))
        else:
            gate.set_exception(error)
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def event(name: str) -> Event:
    return Event(name, None, None)


async def test_a_chunk_publishes_only_after_those_before_it_and_with_all_that_are_ready() -> None:
    broker = Broker()
    ordered = OrderedPublisher(broker)
    turns = [ordered.turn("p") for _ in range(4)]
    tasks = {i: asyncio.create_task(turns[i].publish([event(f"{i}")])) for i in (1, 2)}
    await settle()
    assert broker.calls == [], "the first chunk has not said what it publishes"
    tasks[0] = asyncio.create_task(turns[0].publish([event("0a"), event("0b")]))
    await settle()
    assert broker.calls == [["0a", "0b", "1", "2"]]
    tasks[3] = asyncio.create_task(turns[3].publish([event("3")]))
    await settle()
    assert len(broker.calls) == 1, "the group before is not acknowledged"
    await broker.end()
    assert broker.calls[1:] == [["3"]]
    assert [tasks[i].done() for i in range(4)] == [True, True, True, False]
    await broker.end()
    assert await tasks[3] == []


async def test_partitions_do_not_wait_for_each_other() -> None:
    broker = Broker()
    ordered = OrderedPublisher(broker)
    ordered.turn("p")
    task = asyncio.create_task(ordered.turn("q").publish([event("q")]))
    await settle()
    assert broker.calls == [["q"]]
    await broker.end()
    assert await task == []


async def test_a_chunk_without_events_waits_for_nobody_and_holds_up_nobody() -> None:
    broker = Broker()
    ordered = OrderedPublisher(broker)
    first, empty, last = (ordered.turn("p") for _ in range(3))
    assert await empty.publish([]) == []
    task = asyncio.create_task(last.publish([event("last")]))
    first.leave()
    await settle()
    assert broker.calls == [["last"]]
    await broker.end()
    await task


async def test_a_turn_that_is_left_after_it_was_used_changes_nothing() -> None:
    broker = Broker()
    ordered = OrderedPublisher(broker)
    first, second = ordered.turn("p"), ordered.turn("p")
    tasks = [asyncio.create_task(turn.publish([event(name)])) for turn, name in ((first, "a"), (second, "b"))]
    await settle()
    first.leave()
    await broker.end()
    assert [await task for task in tasks] == [[], []]
    assert broker.calls == [["a", "b"]]


async def test_each_chunk_hears_of_its_own_refused_events() -> None:
    broker = Broker()
    ordered = OrderedPublisher(broker)
    large, small = event("large"), event("small")
    tasks = [asyncio.create_task(ordered.turn("p").publish([e])) for e in (large, small)]
    await settle()
    await broker.end(refused=[large])
    assert await tasks[0] == [large]
    assert await tasks[1] == []


async def test_a_failed_group_fails_its_chunks_and_the_next_go_on() -> None:
    broker = Broker()
    ordered = OrderedPublisher(broker)
    failing = asyncio.create_task(ordered.turn("p").publish([event("a")]))
    await settle()
    after = asyncio.create_task(ordered.turn("p").publish([event("b")]))
    await settle()
    await broker.end(error=RuntimeError("closed"))
    with pytest.raises(RuntimeError, match="closed"):
        await failing
    await broker.end()
    assert await after == []


async def test_a_chunk_that_is_cancelled_while_its_events_are_under_way_stops_nobody_else() -> None:
    broker = Broker()
    ordered = OrderedPublisher(broker)
    gone, other = (asyncio.create_task(ordered.turn("p").publish([event(name)])) for name in "ab")
    await settle()
    gone.cancel()
    await broker.end()
    assert gone.cancelled()
    assert await other == []
