"""The worker's signs of life, for liveness: a process has one heart, as it has one set of metrics."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic


class Heartbeat:
    """The last sign of life: a batch, a chunk, or another try on a service that is away."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """Note a sign of life."""
        self._last = self._clock()

    @property
    def age(self) -> float:
        """Seconds since the last one."""
        return self._clock() - self._last


HEARTBEAT = Heartbeat()
