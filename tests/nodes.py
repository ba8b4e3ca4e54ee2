"""Machines that train together, stood in for by process groups with the environment that a platform gives each."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from pathlib import Path

from tests.command_line import COMMAND, ROOT, become
from tests.preloaded import CONTEXT

SECONDS = 150
Platform = Callable[[int, int], dict[str, str]]
"""The variables of one of two nodes, by its index and the port where they meet."""


def kubeflow_trainer(index: int, port: int) -> dict[str, str]:
    return {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_NODE_RANK": str(index),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }


def vertex(index: int, port: int) -> dict[str, str]:
    cluster = {"workerpool0": [f"127.0.0.1:{port}"], "workerpool1": ["127.0.0.2:2222"]}
    spec = {"cluster": cluster, "environment": "cloud", "task": {"type": f"workerpool{index}", "index": 0}}
    return {
        "CLUSTER_SPEC": json.dumps(spec),
        "RANK": str(index),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


class PreloadedNode:
    """`twhin …` on a node, as `subprocess.Popen` has it, in a process that has imported everything before.

    So has its rank, which is forked from it.
    """

    def __init__(self, arguments: Sequence[str | Path], environment: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            errors = Path(folder, "errors")
            os.mkfifo(errors)
            self._process = CONTEXT.Process(target=_main, args=(["twhin", *map(str, arguments)], environment, errors))
            self._process.start()
            self.stderr = errors.open()  # once the node has opened it, too
        fcntl.fcntl(self.stderr, fcntl.F_SETPIPE_SZ, 1 << 20)  # holds all that it says until it has ended
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._asking = threading.Lock()  # the exit code can be read once

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        with self._asking:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        connection.wait([self._process.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("twhin", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        self.wait(timeout)
        return None, self.stderr.read()


def _main(command: list[str], environment: dict[str, str], errors: Path) -> None:
    os.setsid()
    become(environment, Path(os.devnull), errors)
    sys.argv = command
    from twhin.pipelines.cli import main
    from twhin_core.distributed import launch

    launch.LaunchConfig = functools.partial(launch.LaunchConfig, start_method="fork")  # type: ignore[misc]
    main()


Node = subprocess.Popen[str] | PreloadedNode


@contextlib.contextmanager
def two_nodes(platform: Platform, *arguments: str | Path, preloaded: bool = True) -> Iterator[list[Node]]:
    """`twhin …` on two nodes; all of their processes are ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    started = [
        _start(
            arguments,
            {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
             "PYTHONFAULTHANDLER": "1", **platform(index, port)},
            preloaded,
        )
        for index in range(2)
    ]  # fmt: skip
    try:
        yield started
    finally:
        for node in started:
            kill(node)


def _start(arguments: Sequence[str | Path], environment: dict[str, str], preloaded: bool) -> Node:
    if preloaded:
        return PreloadedNode(arguments, environment)
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def kill(node: Node) -> None:
    """SIGKILL to every process of a node, as when its machine is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    if node.poll() is None:
        node.wait()


def ends(started: Sequence[Node]) -> list[tuple[int, str]]:
    """The exit code of each, and what it said; a node that hangs says where each of its threads is."""
    deadline = time.monotonic() + SECONDS
    said = [_end(node, deadline) for node in started]
    return [(node.returncode, text) for node, text in zip(started, said, strict=True)]


def _end(node: Node, deadline: float) -> str:
    try:
        return node.communicate(timeout=deadline - time.monotonic())[1]
    except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGABRT)  # Python's fault handler prints the stacks
        raise AssertionError(f"a node hangs:\n{node.communicate()[1]}") from None
