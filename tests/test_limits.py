"""The cores and the memory of a container, as control groups of both versions state them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.command_line import ROOT
from twhin_core import limits

GIB = 2**30
TOP = Path("/sys/fs/cgroup/cpu")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """96 cores and 512 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)))
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 128 * 2**20, "SC_PAGE_SIZE": 4096}.__getitem__)


def make_tree(root: Path, groups: str, **files: str) -> Path:
    """A root folder with /proc/self/cgroup and files of control groups; `__` in a name stands for `/`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_at_", ",").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("groups", "files", "cores", "memory"),
    [
        ("0::/\n", {}, 96, 512 * GIB),
        ("0::/\n", {"cpu_dot_max": "max 100000", "memory_dot_max": "max"}, 96, 512 * GIB),
        ("0::/\n", {"cpu_dot_max": "400000 100000", "memory_dot_max": str(8 * GIB)}, 4, 8 * GIB),
        ("0::/\n", {"cpu_dot_max": "250000 100000"}, 2, 512 * GIB),
        ("0::/\n", {"cpu_dot_max": "50000 100000"}, 1, 512 * GIB),
        # The pod's limit is above the container's group.
        ("0::/pod/main\n", {"pod__cpu_dot_max": "300000 100000", "pod__main__cpu_dot_max": "max 100000"}, 3, 512 * GIB),
        # The host's path, which the container does not see: its own group is the top folder.
        ("0::/kubepods/pod1/abc\n", {"cpu_dot_max": "600000 100000"}, 6, 512 * GIB),
        (
            "5:memory:/\n3:cpu,cpuacct:/\n",
            {
                "cpu_at_cpuacct__cpu_dot_cfs_quota_us": "700000",
                "cpu_at_cpuacct__cpu_dot_cfs_period_us": "100000",
                "memory__memory_dot_limit_in_bytes": str(3 * GIB),
            },
            7,
            3 * GIB,
        ),
        (
            "5:memory:/\n3:cpu,cpuacct:/\n",
            {
                "cpu__cpu_dot_cfs_quota_us": "-1",
                "cpu__cpu_dot_cfs_period_us": "100000",
                "memory__memory_dot_limit_in_bytes": str(2**63 - 4096),
            },
            96,
            512 * GIB,
        ),
    ],
)
def test_limits_are_those_of_the_container(
    groups: str, files: dict[str, str], cores: int, memory: int, tmp_path: Path
) -> None:
    root = make_tree(tmp_path, groups, **files)
    assert (limits.cores(root), limits.memory(root)) == (cores, memory)


@settings(max_examples=50)
@given(quotas=st.lists(st.none() | st.integers(1_000, 10_000_000), min_size=1, max_size=4))
def test_the_tightest_of_nested_quotas_counts(
    quotas: list[int | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folders = [Path(*"abcd"[:depth]) for depth in range(len(quotas))]
    root = make_tree(tmp_path_factory.mktemp("tree"), f"0::/{folders[-1]}\n")
    for folder, quota in zip(folders, quotas, strict=True):
        path = root / "sys/fs/cgroup" / folder / "cpu.max"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{'max' if quota is None else quota} 100000\n")
    stated = [quota // 100_000 for quota in quotas if quota is not None]
    machine = len(os.sched_getaffinity(0))
    assert limits.cores(root) == max(1, min([machine, *stated]))


@contextlib.contextmanager
def control_group(quota: int) -> Iterator[Path]:
    """A control group of version 1 with a CPU quota, in microseconds per 100,000."""
    group = TOP / f"twhin-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text(str(quota))
    except OSError:
        pytest.skip("no control group can be made here")
    try:
        yield group
    finally:
        group.rmdir()


SHOW = """
from twhin_core import limits
limits.use_cores()
import torch, pyarrow
from twhin_core.graph.duckdb_backend import open_backend
threads = open_backend(":memory:").raw_sql("SELECT current_setting('threads')").fetchone()[0]
print(limits.cores(), torch.get_num_threads(), pyarrow.cpu_count(), threads)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core leaves nothing to limit")
def test_a_process_in_a_control_group_has_its_threads() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (limits.THREADS, limits.SET_HERE)}
    with control_group(quota=150_000) as group:
        command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$0" -c "$1"', sys.executable, SHOW]
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["1"] * 4


PARENT = """
import subprocess, sys
from twhin_core import limits
limits.use_cores()
CHILD = "import os; from twhin_core import limits; limits.use_cores(64); print(os.environ[limits.THREADS])"
subprocess.run([sys.executable, "-c", CHILD])
"""


@pytest.mark.parametrize(("stated", "expected"), [(None, "1"), ("3", "3")])
def test_a_child_divides_the_cores_anew_unless_the_user_chose(stated: str | None, expected: str) -> None:
    """As `twhin run` starts steps, which start ranks."""
    environment = {name: value for name, value in os.environ.items() if name not in (limits.THREADS, limits.SET_HERE)}
    if stated is not None:
        environment[limits.THREADS] = stated
    ran = subprocess.run([sys.executable, "-c", PARENT], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.stdout.split() == [expected], ran.stderr


@pytest.mark.parametrize(("processes", "stated", "expected"), [(1, None, "6"), (4, None, "1"), (4, "5", "5")])
def test_processes_share_the_cores_unless_the_user_says_otherwise(
    processes: int, stated: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "cores", lambda: 6)
    monkeypatch.setattr(limits, "_SET_BY_USER", stated is not None)
    monkeypatch.setenv(limits.THREADS, stated or "?")
    monkeypatch.setenv(limits.SET_HERE, "?")  # is put back
    limits.use_cores(processes)
    assert os.environ[limits.THREADS] == expected
