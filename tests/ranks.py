"""Runs a function on several gloo ranks, within a time box."""

from __future__ import annotations

import os
import queue
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from tests.preloaded import CONTEXT


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any, seconds: float = 90) -> list[Any]:
    """`function(*arguments)` in `world_size` fresh processes that find each other as torchrun's do; their results.

    The function must be importable, and its result plain data or arrays (tensors would be shared, and die with a rank).
    If one rank fails or the time is up, all are ended and the first traceback shown.
    """
    answers = CONTEXT.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with_gpus = torch.cuda.device_count() >= world_size  # else all are on the CPU
    processes = [
        CONTEXT.Process(
            target=_rank,
            args=(answers, rank, world_size, port, dict(os.environ), with_gpus, function, arguments),
            daemon=True,
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    results: dict[int, Any] = {}
    deadline = time.monotonic() + seconds
    try:
        while len(results) < world_size:
            try:
                rank, failure, result = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(
                    f"ranks {set(range(world_size)) - set(results)} did not end in {seconds} s"
                ) from None
            assert failure is None, f"rank {rank} failed:\n{failure}"
            results[rank] = result
        return [results[rank] for rank in range(world_size)]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _rank(
    answers: Any,
    rank: int,
    world_size: int,
    port: int,
    variables: dict[str, str],
    with_gpus: bool,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.clear()  # it is that of the server, which started before the test changed it
    os.environ.update(variables)
    if not with_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
    )
    try:
        answers.put((rank, None, function(*arguments)))
    except BaseException:  # noqa: BLE001 -- whatever it is, the test must show it
        answers.put((rank, traceback.format_exc(), None))
