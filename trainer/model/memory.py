"""Keep freed memory instead of giving it back to the system after every step.

Training on a CPU frees and takes hundreds of megabytes a step. By default glibc maps such blocks anew each time, and
the kernel clears every page: half of the time of a verifier's training went there on two cores (33 pairs/s, and 41
without, beside the same other work; system time fell from 50% to 0%).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys

# mallopt(3): parameters and their numbers in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_GIGABYTE = 1 << 30


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed; return whether there was one to tell."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    if not hasattr(libc, "mallopt"):  # musl has none
        return False
    # 32 bits signed each. Of the three the threshold of mapping matters most.
    told = [libc.mallopt(_MMAP_THRESHOLD, _GIGABYTE), libc.mallopt(_TRIM_THRESHOLD, 2 * _GIGABYTE - 1)]
    told.append(libc.mallopt(_TOP_PAD, 256 << 20))
    return all(told)
