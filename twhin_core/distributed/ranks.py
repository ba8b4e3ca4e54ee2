"""The processes that train together: a single process, or the ranks that torchrun started."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from twhin_core.distributed.memory import keep_freed_memory
from twhin_core.errors import TwhinError

T = TypeVar("T")

# Long enough for anything that ranks wait for, such as an upload to a bucket. A dead rank is noticed at once.
TIMEOUT = timedelta(minutes=10)

WAIT_SECONDS = 20.0
"""After which the first rank, which works, tells the others that it is there."""

# Errors of gloo and nccl when another process has exited.
LOST = re.compile("Connection (closed|reset) by peer|Broken pipe|remote process exited", re.IGNORECASE)


@dataclass(frozen=True)
class Ranks:
    """This process's rank, the number of ranks, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def local_world_size(self) -> int:
        """The number of ranks on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))

    @property
    def machines(self) -> int:
        """The number of machines."""
        return -(-self.world_size // self.local_world_size)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Waits until every rank has called it."""
        if self.world_size > 1:
            self.sum(torch.zeros((), device=self.device))

    def of_first(self, make: Callable[[], T]) -> T:
        """The result of `make` on the first rank, on every rank. A collective."""
        if self.world_size == 1:
            return make()
        made: list[Any] = [make() if self.is_first else None]
        dist.broadcast_object_list(made)
        found: T = made[0]
        return found

    def of_first_in_time(self, make: Callable[[], T]) -> T:
        """As `of_first`, where `make` may take longer than `TIMEOUT`. A collective."""
        if self.world_size == 1:
            return make()
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(make) if self.is_first else None
            while not self.of_first(lambda: work is not None and bool(wait([work], WAIT_SECONDS).done)):
                pass
            return self.of_first(make if work is None else work.result)  # the others call neither

    def of_all(self, value: T) -> list[T]:
        """The values of all ranks, in their order. A collective."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found

    def smallest(self, value: int) -> int:
        """The smallest of the ranks' numbers. A collective."""
        if self.world_size == 1:
            return value
        least = torch.tensor(value, device=self.device)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return int(least)

    def sum(self, value: torch.Tensor) -> float:
        """The sum of a scalar tensor over all ranks. A collective."""
        value = value.detach().clone()
        dist.all_reduce(value)
        return float(value)


def alone() -> Ranks:
    """This process by itself, without a process group."""
    return Ranks(0, 1, _device())


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun's environment describes, in a process group; without it, this process `alone`."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield alone()
    else:
        with process_group() as ranks:
            yield ranks


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextlib.contextmanager
def process_group() -> Iterator[Ranks]:
    """Joins the ranks that torchrun's environment describes, or forms a group of one; nccl on GPUs, else gloo.

    Raises:
        TwhinError: another rank has failed; its own output says why.
    """
    keep_freed_memory()
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = _device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Checkpoints are coordinated on the CPU, even if training runs on GPUs.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # A group of one needs no address and opens no port.
    store = dist.HashStore() if world_size == 1 else None
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    try:
        yield Ranks(rank, world_size, device)
    except RuntimeError as error:
        if world_size > 1 and LOST.search(str(error)):
            raise TwhinError(f"rank {rank} stops because another rank has failed; see its output") from error
        raise
    finally:
        dist.destroy_process_group()
