"""How many records a chunk may hold: as many as are done with in half a second.

A large chunk spares what Faust costs for each, 100 microseconds of CPU and more; a small one publishes its first flag
sooner, drains sooner and repeats less after a crash. Which matters more depends on the model: on CPU 16 records take
seconds, and with verdicts from the cache 512 take milliseconds.
"""

from __future__ import annotations

#: Seconds that a chunk should take from intake to acknowledgement.
_SECONDS = 0.5
#: With fewer the model's batches are no fuller for it, and each costs as much.
_LEAST = 16


class ChunkPace:
    """The size of the next chunks, from how long the last ones took."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = min(_LEAST, most)
        self._records = self._least

    @property
    def records(self) -> int:
        """The most records that the next chunk should hold."""
        return self._records

    def observe(self, records: int, seconds: float) -> None:
        """Take note that a chunk of so many records took so long, among others: it grows slowly and shrinks at once."""
        fitting = int(records * _SECONDS / max(seconds, 1e-6))
        self._records = max(self._least, min(fitting, 2 * self._records, self._most))
