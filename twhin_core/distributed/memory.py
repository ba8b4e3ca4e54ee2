"""Settings of the memory allocator."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's <malloc.h>
_BYTES = 2**30


def keep_freed_memory() -> None:
    """Keeps freed memory instead of returning it to the system. Does nothing without glibc.

    Each step frees and reallocates the same large tensors. If their pages go back to the system, every step faults them
    in and clears them again, which takes longer than most of the step's work.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BYTES)
        mallopt(_M_TRIM_THRESHOLD, _BYTES)
