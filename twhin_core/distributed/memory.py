"""How this process asks the operating system for memory."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's <malloc.h>
_BYTES = 2**30


def keep_freed_memory() -> None:
    """Keeps what tensors free for the next ones, instead of giving it back; where the C library is not glibc, nothing.

    A step frees and asks again for the same large tensors; handed back and forth, each of their pages is faulted in
    and cleared anew in every step, which takes longer than most of what the step does with them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BYTES)
        mallopt(_M_TRIM_THRESHOLD, _BYTES)
