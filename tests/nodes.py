"""Machines that train together, stood in for by process groups with the environment that a platform gives each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.command_line import COMMAND, ROOT

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


@contextlib.contextmanager
def two_nodes(platform: Platform, *arguments: str | Path) -> Iterator[list[subprocess.Popen[str]]]:
    """`twhin …` on two nodes; all of their processes are ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    started = [
        subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
                 "PYTHONFAULTHANDLER": "1", **platform(index, port)},
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )
        for index in range(2)
    ]  # fmt: skip
    try:
        yield started
    finally:
        for node in started:
            kill(node)


def kill(node: subprocess.Popen[str]) -> None:
    """SIGKILL to every process of a node, as when its machine is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    if node.poll() is None:
        node.wait()


def ends(started: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """The exit code of each, and what it said; a node that hangs says where each of its threads is."""
    deadline = time.monotonic() + SECONDS
    said = [_end(node, deadline) for node in started]
    return [(node.returncode, text) for node, text in zip(started, said, strict=True)]


def _end(node: subprocess.Popen[str], deadline: float) -> str:
    try:
        return node.communicate(timeout=deadline - time.monotonic())[1]
    except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGABRT)  # Python's fault handler prints the stacks
        raise AssertionError(f"a node hangs:\n{node.communicate()[1]}") from None
