"""The cores and the memory that this process may use: those of its container, where it has one, not of the machine.

A container of 4 cores on a machine of 96 still sees 96. Libraries that start a thread per core then run 96 threads on 4
cores' time, which is far slower than 4 threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
"""Environment variable that torch, BLAS, faiss and Arrow take their number of threads from when they are loaded."""

SET_HERE = "TWHIN_SET_THREADS"
"""Environment variable: tells processes started by this one that it was not the user who chose `THREADS`."""

_SET_BY_USER = THREADS in os.environ and SET_HERE not in os.environ
_ROOT = Path("/")


def use_cores(processes: int = 1) -> None:
    """Divides the cores among `processes` of this container, for libraries that are loaded from now on.

    `OMP_NUM_THREADS` in the user's environment takes precedence.
    """
    if not _SET_BY_USER:
        os.environ |= {THREADS: str(max(1, cores() // processes)), SET_HERE: "1"}


def cores(root: Path = _ROOT) -> int:
    """The cores that this process may use, at least 1: its affinity mask, cut to the quotas of its control groups.

    A quota of 2.5 cores counts as 2: a third thread would be stopped half of the time, and the others wait for it.
    """
    available = float(len(os.sched_getaffinity(0)))
    for folder in _control_groups(root, "cpu"):
        of_version_1 = *_numbers(folder / "cpu.cfs_quota_us"), *_numbers(folder / "cpu.cfs_period_us")
        quota, period = _numbers(folder / "cpu.max") or of_version_1 or (-1, 1)
        if quota > 0:
            available = min(available, quota / period)
    return max(1, int(available))


def memory(root: Path = _ROOT) -> int:
    """The bytes that this process may use: the machine's memory, cut to the limits of its control groups."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder in _control_groups(root, "memory"):
        for limit in _numbers(folder / "memory.max") or _numbers(folder / "memory.limit_in_bytes"):
            available = min(available, limit)
    return available


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups, of either version, that this process is in: its own and those above.

    A container may see the host's path of its group while its own group is mounted as the top folder, so only the
    folders that exist count.
    """
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            tops = [root / "sys/fs/cgroup" / controllers, root / "sys/fs/cgroup" / controller]
        else:
            continue
        for top in tops:
            group = top / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top) and folder.is_dir())


def _numbers(path: Path) -> tuple[int, ...]:
    """The numbers in a file of a control group; none if the file is missing or says that there is no limit."""
    if not path.is_file():
        return ()
    words = path.read_text().split()
    return () if "max" in words else tuple(map(int, words))
