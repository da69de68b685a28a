"""The in-memory store: for tests, benchmarks, `guardline check` and the demo.

Where it differs from Redis: it is private to the process and forgets on exit; entries do not expire by time but, beyond
`capacity`, by age of insertion; it never fails.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence


class MemoryStore:
    """A `VerdictStore` in a dictionary."""

    def __init__(self, capacity: int = 100_000) -> None:
        # A plain dict looks for its first entry among those that were deleted, longer each time.
        self._values: OrderedDict[str, bytes] = OrderedDict()
        self._capacity = capacity

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, in order."""
        return [self._values.get(key) for key in keys]

    async def put(self, values: Mapping[str, bytes]) -> None:
        """Remember values; beyond the capacity the oldest go."""
        self._values.update(values)
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)

    async def close(self) -> None:
        """Nothing to release."""
