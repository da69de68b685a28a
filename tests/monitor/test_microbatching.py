"""The micro-batcher with a backend that tells what it was given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitor.batching import BatchLimits
from monitor.errors import ScorerFailed, ScorerUnavailable
from monitor.microbatching import MicroBatcher
from monitor.package import VerifierSpec

SPEC = VerifierSpec(model="pairs", model_version=1, base="fake", max_length=64)
POISON, AWAY = 999, 998


class Sums:
    """Answers with the sum of each row's tokens; NaN for poison; holds batches back until it is let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []  # lengths of the rows of each batch
        self.now = self.most = 0
        self.go = asyncio.Event()
        if not held:
            self.go.set()

    async def infer(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        self.batches.append(attention_mask.sum(axis=1).tolist())
        self.now += 1
        self.most = max(self.most, self.now)
        await self.go.wait()
        await asyncio.sleep(0)
        self.now -= 1
        if (input_ids == AWAY).any():
            raise ScorerUnavailable("away")
        sums = (input_ids * attention_mask).sum(axis=1).astype(np.float32)
        sums[(input_ids == POISON).any(axis=1)] = np.nan
        return [sums]

    async def close(self) -> None: ...


def rows(*lengths: int, token: int = 1) -> list[list[int]]:
    return [[token] * length for length in lengths]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_rows_of_several_callers_share_a_batch() -> None:
    backend = Sums()
    batcher = MicroBatcher(SPEC, [()], backend, BatchLimits())
    found = await asyncio.gather(*(batcher.run(rows(8, 8)) for _ in range(5)))
    assert backend.batches == [[8] * 10]
    assert all(answer[0].tolist() == [8, 8] for answer in found)


async def test_what_arrives_while_the_backend_is_busy_gathers() -> None:
    backend = Sums(held=True)
    batcher = MicroBatcher(SPEC, [()], backend, BatchLimits(in_flight=1, wait=0))
    first = asyncio.create_task(batcher.run(rows(4)))
    await settle()
    others = [asyncio.create_task(batcher.run(rows(5))) for _ in range(7)]
    await settle()
    assert backend.batches == [[4]]
    backend.go.set()
    await asyncio.gather(first, *others)
    assert backend.batches == [[4], [5] * 7]


async def test_a_lone_row_does_not_wait_for_a_full_window() -> None:
    batcher = MicroBatcher(SPEC, [()], Sums(), BatchLimits(wait=0.01))
    async with asyncio.timeout(30):  # a window is never filled here
        assert (await batcher.run(rows(3)))[0].tolist() == [3]


async def test_a_full_window_does_not_wait_at_all() -> None:
    batcher = MicroBatcher(SPEC, [()], Sums(), BatchLimits(window=4, wait=3600))
    async with asyncio.timeout(30):
        assert (await batcher.run(rows(3, 3, 3, 3)))[0].tolist() == [3] * 4


async def test_no_more_batches_in_flight_than_allowed() -> None:
    backend = Sums()
    batcher = MicroBatcher(SPEC, [()], backend, BatchLimits(max_rows=1, in_flight=3))
    await asyncio.gather(*(batcher.run(rows(5, 6, 7)) for _ in range(10)))
    assert backend.most == 3
    assert len(backend.batches) == 30


async def test_a_huge_caller_does_not_hold_up_a_small_one() -> None:
    backend = Sums()
    batcher = MicroBatcher(SPEC, [()], backend, BatchLimits(window=64, max_rows=64, in_flight=1))
    huge = asyncio.create_task(batcher.run(rows(*[9] * 2000)))
    await settle()
    before = len(backend.batches)
    small = await batcher.run(rows(9))
    assert small[0].tolist() == [9]
    assert len(backend.batches) - before <= 3
    assert (await huge)[0].tolist() == [9] * 2000


async def test_beyond_the_room_callers_wait_before_they_hand_in() -> None:
    backend = Sums(held=True)
    batcher = MicroBatcher(SPEC, [()], backend, BatchLimits(window=2, max_rows=1, in_flight=1, room=4, wait=0))
    callers = [asyncio.create_task(batcher.run(rows(1, 1))) for _ in range(20)]
    await settle()
    assert batcher._waiting <= 4 + 1
    backend.go.set()
    assert all(answer[0].tolist() == [1, 1] for answer in await asyncio.gather(*callers))


async def test_the_poison_of_one_caller_fails_no_other() -> None:
    backend = Sums()
    batcher = MicroBatcher(SPEC, [()], backend, BatchLimits())
    found = await asyncio.gather(
        batcher.run(rows(6)), batcher.run(rows(6, token=POISON)), batcher.run(rows(6, 6)), return_exceptions=True
    )
    assert backend.batches[0] == [6] * 4  # they were one batch
    assert isinstance(found[1], ScorerFailed)
    assert found[0][0].tolist() == [6]  # type: ignore[index]
    assert found[2][0].tolist() == [6, 6]  # type: ignore[index]


async def test_a_backend_that_is_away_fails_all_of_the_batch_and_the_next_one_works() -> None:
    batcher = MicroBatcher(SPEC, [()], Sums(), BatchLimits())
    found = await asyncio.gather(batcher.run(rows(6, token=AWAY)), batcher.run(rows(6)), return_exceptions=True)
    assert [type(error) for error in found] == [ScorerUnavailable] * 2
    assert (await batcher.run(rows(6)))[0].tolist() == [6]


async def test_rows_of_a_caller_that_has_gone_are_not_run() -> None:
    backend = Sums(held=True)
    batcher = MicroBatcher(SPEC, [()], backend, BatchLimits(in_flight=1, wait=0))
    first = asyncio.create_task(batcher.run(rows(1)))
    await settle()
    gone = asyncio.create_task(batcher.run(rows(2)))
    await settle()
    gone.cancel()
    await settle()
    backend.go.set()
    await first
    assert (await batcher.run(rows(3)))[0].tolist() == [3]
    assert backend.batches == [[1], [3]]


async def test_closing_ends_those_who_wait() -> None:
    backend = Sums(held=True)
    batcher = MicroBatcher(SPEC, [()], backend, BatchLimits(in_flight=1, wait=0))
    callers = [asyncio.create_task(batcher.run(rows(n))) for n in (1, 2, 3)]
    await settle()
    await batcher.close()
    async with asyncio.timeout(30):
        ended = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended)


def test_it_works_in_one_event_loop_after_the_other() -> None:
    backend = Sums()
    batcher = MicroBatcher(SPEC, [()], backend, BatchLimits())
    for length in (1, 2, 3):
        assert asyncio.run(batcher.run(rows(length)))[0].tolist() == [length]


@given(
    st.lists(st.lists(st.integers(1, 30), max_size=12), max_size=12),
    st.builds(
        BatchLimits,
        max_tokens=st.integers(1, 100),
        max_rows=st.integers(1, 8),
        window=st.integers(1, 16),
        in_flight=st.integers(1, 3),
        room=st.integers(1, 20),
        wait=st.just(0.0),
    ),
)
def test_every_caller_gets_its_own_answers(calls: Sequence[Sequence[int]], limits: BatchLimits) -> None:
    async def all_of_them() -> None:
        backend = Sums()
        batcher = MicroBatcher(SPEC, [()], backend, limits)
        found = await asyncio.gather(*(batcher.run([[k + 1] * n for n in call]) for k, call in enumerate(calls)))
        for k, (call, answer) in enumerate(zip(calls, found, strict=True)):
            assert answer[0].tolist() == [(k + 1) * n for n in call]
        assert sum(map(len, backend.batches)) == sum(map(len, calls))

    asyncio.run(all_of_them())


@pytest.mark.parametrize("calls", [0, 3])
async def test_nothing_to_run_asks_nobody(calls: int) -> None:
    backend = Sums()
    batcher = MicroBatcher(SPEC, [()], backend, BatchLimits())
    for _ in range(calls):
        assert (await batcher.run([]))[0].shape == (0,)
    assert backend.batches == []
