"""Micro-batches across callers: token sequences of many messages and partitions go through a graph together.

Callers hand in their sequences and wait. While the backend is busy, what arrives gathers; as soon as it has a free
slot, a window of up to `BatchLimits.window` rows is planned into batches of like length. So batches grow with the load
by themselves, and when there is none a lone sequence waits `BatchLimits.wait` seconds at most (for the company of
whatever else is being parsed in that moment), or not at all once a window is full. Rows are taken from the callers in
turn, a few each, so that a message of ten megabytes does not make the others wait for all of it. No more than `room`
rows gather; beyond that callers wait before they hand in, and Kafka's consumer waits with them.

A failure reaches only those whose rows were in the batch. Where the model itself failed (`ScorerFailed`) on rows of
several callers, each caller's rows are tried again by themselves: nobody pays for another's poison.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from monitor import metrics
from monitor.batching import BatchLimits, plan
from monitor.errors import ModelMismatch, ScorerFailed
from monitor.heartbeat import HEARTBEAT
from monitor.package import EncoderSpec, VerifierSpec

#: Rows taken from one caller before it is the next one's turn.
_TURN = 32

Floats = NDArray[np.float32]


class Backend(Protocol):
    """Runs one graph on one batch."""

    async def infer(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Return the graph's outputs, in the order of its specification, for a batch, [batch, tokens] in.

        Raises:
            ScorerUnavailable: no answer now; the caller may try again.
        """
        ...

    async def close(self) -> None:
        """Release connections and threads."""
        ...


class _Caller:
    """One call of `run`: its sequences, how many were taken, and the answers as they come."""

    def __init__(self, sequences: Sequence[Sequence[int]], shapes: Sequence[tuple[int, ...]]) -> None:
        self.sequences = sequences
        self.results = [np.zeros((len(sequences), *shape), dtype=np.float32) for shape in shapes]
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._taken = 0
        self._left = len(sequences)

    def take(self, most: int) -> list[_Row]:
        """Return the next rows, `most` at most."""
        start, self._taken = self._taken, min(self._taken + most, len(self.sequences))
        return [_Row(self, i) for i in range(start, self._taken)]

    @property
    def waiting(self) -> int:
        """Rows not taken yet; none once the caller has its answer or has gone."""
        return 0 if self.done.done() else len(self.sequences) - self._taken

    def finish(self, indices: Sequence[int], outputs: Sequence[NDArray[Any]]) -> None:
        """Note the outputs of some rows; the last ones wake the caller."""
        for result, output in zip(self.results, outputs, strict=True):
            result[list(indices)] = output
        self._left -= len(indices)
        if not self._left and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """Wake the caller with the first failure of its rows."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Row:
    caller: _Caller
    index: int

    @property
    def sequence(self) -> Sequence[int]:
        return self.caller.sequences[self.index]


class MicroBatcher:
    """Runs token sequences of any number of callers through one backend."""

    def __init__(
        self,
        spec: EncoderSpec | VerifierSpec,
        shapes: Sequence[tuple[int, ...]],
        backend: Backend,
        limits: BatchLimits,
    ) -> None:
        """Take the graph's specification, the shape of each output's rows, what runs it, and the limits."""
        self._spec = spec
        self._shapes = list(shapes)
        self._backend = backend
        self._limits = limits
        self._callers: deque[_Caller] = deque()  # those with rows to be taken
        self._unanswered: set[_Caller] = set()
        self._running = 0
        self._batches: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._change = asyncio.Event()

    async def run(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        """Return each output of all sequences, fp32 [n, ...], in order.

        Raises:
            ScorerUnavailable: the backend does not answer now.
            ScorerFailed: it answered with an error or nonsense.
            ModelMismatch: it is another model than the specification's.
        """
        caller = _Caller(sequences, self._shapes)
        if not len(sequences):
            return caller.results
        while self._waiting >= self._limits.room:
            await self._changed()
        self._callers.append(caller)
        self._unanswered.add(caller)
        self._notify()
        if self._dispatcher is None or self._dispatcher.done():
            # Lives as long as there is work, and so never outlives its event loop.
            self._dispatcher = asyncio.create_task(self._dispatch())
        try:
            await caller.done
        finally:
            self._unanswered.discard(caller)
            caller.done.cancel()  # of a caller that has gone no more rows are taken
        return caller.results

    @property
    def _waiting(self) -> int:
        return sum(caller.waiting for caller in self._callers)

    def _notify(self) -> None:
        """Wake everyone who waits for rows to come, be taken or be done."""
        before, self._change = self._change, asyncio.Event()
        before.set()

    async def _changed(self) -> None:
        await self._change.wait()

    async def _dispatch(self) -> None:
        while self._waiting:
            await self._gather()
            batches = self._window()
            for batch in batches:
                while self._running >= self._limits.in_flight:
                    await self._changed()
                self._running += 1
                task = asyncio.create_task(self._work(batch))
                self._batches.add(task)  # the loop keeps only weak references to tasks
                task.add_done_callback(self._batches.discard)

    async def _gather(self) -> None:
        """Wait until a window is full, or a backend with nothing to do has waited long enough."""
        until = asyncio.get_running_loop().time() + self._limits.wait
        try:
            async with asyncio.timeout_at(until):
                while self._waiting < self._limits.window:
                    await self._changed()
        except TimeoutError:
            pass
        while self._running >= self._limits.in_flight:
            await self._changed()

    def _window(self) -> list[list[_Row]]:
        """Take up to a window of rows from the callers in turn, and plan them into batches."""
        rows: list[_Row] = []
        while self._callers and len(rows) < self._limits.window:
            caller = self._callers.popleft()
            if caller.waiting:
                rows += caller.take(min(_TURN, self._limits.window - len(rows)))
            if caller.waiting:
                self._callers.append(caller)
        self._notify()
        batches = [[rows[i] for i in batch] for batch in plan([len(row.sequence) for row in rows], self._limits)]
        for batch in batches:
            metrics.BATCH_ROWS.observe(len(batch))
        return batches

    async def _work(self, rows: Sequence[_Row]) -> None:
        try:
            await self._answer(rows)
        finally:
            self._running -= 1
            self._notify()

    async def _answer(self, rows: Sequence[_Row]) -> None:
        """Run one batch and hand out its outputs, or its failure."""
        owned = [(c, list(own)) for c, own in groupby(sorted(rows, key=lambda r: id(r.caller)), lambda r: r.caller)]
        try:
            outputs = await self._infer([row.sequence for _, own in owned for row in own])
        except ScorerFailed as error:
            if len(owned) > 1:
                for _, own in owned:
                    await self._answer(own)
            else:
                owned[0][0].fail(error)
            return
        except Exception as error:
            for caller, _ in owned:
                caller.fail(error)
            return
        start = 0
        for caller, own in owned:
            part = slice(start, start + len(own))
            caller.finish([row.index for row in own], [output[part] for output in outputs])
            start += len(own)

    async def _infer(self, rows: Sequence[Sequence[int]]) -> list[NDArray[Any]]:
        """Run one batch, and check what comes back."""
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        outputs = await self._backend.infer(ids, mask)
        HEARTBEAT.beat()  # one message may keep the model busy for an hour
        expected = [(len(rows), *shape) for shape in self._shapes]
        given = [output.shape for output in outputs]
        if given != expected:
            raise ModelMismatch(
                f"the model `{self._spec.model}` gave {given} for {len(rows)} rows, not {expected}: export it again"
            )
        if not all(np.isfinite(output).all() for output in outputs):
            raise ScorerFailed(f"the model `{self._spec.model}` gave NaN or infinity; no verdict is made of that")
        return outputs

    async def close(self) -> None:
        """Give up what is unfinished and release the backend."""
        tasks = [task for task in (*self._batches, self._dispatcher) if task and not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for caller in self._unanswered:
            caller.done.cancel()
        await self._backend.close()
