"""How long to wait between tries on a service that is away: the same everywhere, and for as long as it takes."""

from __future__ import annotations

from collections.abc import Iterator


def delays(first: float = 0.1, most: float = 5.0) -> Iterator[float]:
    """Yield seconds to wait before each next try, doubling from `first` up to `most`, without end."""
    delay = first
    while True:
        yield delay
        delay = min(delay * 2, most)
