"""Prometheus's counters, gauges and histograms, or silent ones where prometheus-client is not installed.

A bare `guardline check`, or a program that only publishes answers, has no endpoint to serve metrics on; they exist all
the same, and count nothing.
"""

from __future__ import annotations

from typing import Any

try:
    from prometheus_client import Counter, Gauge, Histogram
except ImportError:  # the extra `monitor` is not installed

    class _Silent:
        """Stands in for any metric."""

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def labels(self, *_: Any, **__: Any) -> _Silent:
            return self

        def inc(self, amount: float = 1) -> None: ...

        def dec(self, amount: float = 1) -> None: ...

        def set(self, value: float) -> None: ...

        def observe(self, amount: float) -> None: ...

    Counter = Gauge = Histogram = _Silent  # type: ignore[assignment,misc]

__all__ = ["Counter", "Gauge", "Histogram"]
