"""Ties the life of a rank's process to that of the process that started it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""


def end_with_parent() -> None:
    """From now on, the kernel kills this process when its parent ends, however that ends. Does nothing but on Linux.

    The parent must have started it through `multiprocessing`.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent.pid:  # it ended before the kernel was told
        os.kill(os.getpid(), signal.SIGKILL)
