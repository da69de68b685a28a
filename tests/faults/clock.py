"""A wall clock that can jump, as far as Python code asks for it through `time.time` and `time.time_ns`.

Import it before anything that takes those names. The C function behind `datetime.now` goes on telling the true time,
and so does `time.monotonic`, as on a machine whose wall clock is set.
"""

from __future__ import annotations

import time

_true_time, _true_time_ns = time.time, time.time_ns
_offset = 0


def jump(seconds: int) -> None:
    """Set the clock on (or, negative, back)."""
    global _offset
    _offset += seconds


def install() -> None:
    """Put the clock in the place of the true one."""
    time.time = lambda: _true_time() + _offset
    time.time_ns = lambda: _true_time_ns() + _offset * 1_000_000_000
