"""Plan batches of token sequences so that the model multiplies tokens, not padding.

In arrival order a batch of mixed lengths is mostly padding. Sorted by length and cut at 1,024 tokens or 10% padding,
the shipped answers ran 1.8 times as fast as in arrival order on two cores (`make bench`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of one batch, and of how batches come about (see `microbatching`). On a GPU raise `max_tokens`."""

    max_tokens: int = 1024  # on a GPU 16,384 and more
    max_padding: float = 0.10  # share of a batch
    max_rows: int = 128
    window: int = 256  # rows planned together
    wait: float = 0.002  # seconds that rows wait for company while the backend has nothing to do
    in_flight: int = 2  # batches
    room: int = 4096  # rows that wait at most; callers with more to hand in wait themselves


def plan(lengths: Sequence[int], limits: BatchLimits) -> Iterator[list[int]]:
    """Yield lists of indices into `lengths`, each a batch; every index exactly once, shortest sequences first."""
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        longest = lengths[index]  # sorted: the newcomer sets the width
        padded = longest * (len(batch) + 1)
        wasteful = padded - (tokens + longest) > limits.max_padding * padded
        if batch and (padded > limits.max_tokens or wasteful or len(batch) >= limits.max_rows):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += longest
    if batch:
        yield batch
