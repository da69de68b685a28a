"""Chunks of one partition publish in their order, and all that are ready at once publish together.

Flags of a conversation keep its order only if a chunk's events are with the broker before the next chunk's are sent. To
wait for the broker once a chunk would hold the stream to one chunk a round trip; so, as databases commit in groups,
whatever has become ready while one group was on its way makes the next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence

from monitor.publisher import Event, Publisher


class Turn:
    """The place of one chunk among those of its partition, taken when the chunk comes in."""

    def __init__(self, lane: _Lane) -> None:
        self._lane = lane
        self.events: Sequence[Event] | None = None
        self.refused: asyncio.Future[list[Event]] = asyncio.get_running_loop().create_future()

    async def publish(self, events: Sequence[Event]) -> list[Event]:
        """Publish once the chunks before have published or left; see `Publisher.publish`."""
        if not events:  # nothing whose order could matter
            self.leave()
            return []
        self.events = events
        self._lane.advance()
        return await self.refused

    def leave(self) -> None:
        """Give the place up; nothing happens where it was used."""
        self._lane.leave(self)


class _Lane:
    """The chunks of one partition that have not published yet."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._waiting: deque[Turn] = deque()
        self._publishing: asyncio.Task[None] | None = None

    def enter(self) -> Turn:
        turn = Turn(self)
        self._waiting.append(turn)
        return turn

    def leave(self, turn: Turn) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
            self.advance()

    def advance(self) -> None:
        if self._publishing is None and self._waiting and self._waiting[0].events is not None:
            self._publishing = asyncio.create_task(self._publish())

    async def _publish(self) -> None:
        try:
            while group := self._ready():
                await self._publish_group(group)
        finally:
            self._publishing = None

    def _ready(self) -> list[tuple[Turn, Sequence[Event]]]:
        group = []
        while self._waiting and (events := self._waiting[0].events) is not None:
            group.append((self._waiting.popleft(), events))
        return group

    async def _publish_group(self, group: Sequence[tuple[Turn, Sequence[Event]]]) -> None:
        try:
            refused = {id(event) for event in await self._publisher.publish([e for _, events in group for e in events])}
        except asyncio.CancelledError:
            for turn, _ in group:
                turn.refused.cancel()
            raise
        except Exception as error:
            for turn, _ in group:
                if not turn.refused.done():  # its chunk was not cancelled meanwhile
                    turn.refused.set_exception(error)
            return
        for turn, events in group:
            if not turn.refused.done():
                turn.refused.set_result([event for event in events if id(event) in refused])


class OrderedPublisher:
    """Gives out turns, one order a partition."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._lanes: dict[Hashable, _Lane] = {}

    def turn(self, partition: Hashable) -> Turn:
        """Return the next turn of a partition; it has to be used or left, else all after it wait for ever."""
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = _Lane(self._publisher)
        return lane.enter()
