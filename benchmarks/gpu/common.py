"""What the parts of `bench_gpu` share: sizes, clocks and the ceilings of the device."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Sizes:
    """How large the parts are: on a GPU, and small enough for a test on a CPU."""

    rows: int
    dim: int
    edges: int
    batch: int
    chunk: int
    negatives: tuple[int, ...]
    steps: int
    ranked_rows: int
    ranked_queries: int


GPU = Sizes(
    rows=100_000_000, dim=128, edges=16_000_000, batch=65_536, chunk=8192, negatives=(1024, 4096, 8192), steps=100,
    ranked_rows=10_000_000, ranked_queries=10_000,
)  # fmt: skip
SMALL = Sizes(
    rows=20_000, dim=16, edges=20_000, batch=1024, chunk=256, negatives=(64,), steps=4,
    ranked_rows=4000, ranked_queries=200,
)  # fmt: skip


def options(doc: str | None, parts: list[str]) -> tuple[torch.device, Sizes, str]:
    """The device, sizes and part of the work that the command line names."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--only", choices=["all", *parts], default="all")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    return device, GPU if device.type == "cuda" else SMALL, chosen.only


def report(part: str, **figures: Any) -> None:
    print(json.dumps({"part": part, **figures}), flush=True)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Seconds that one call takes, the median of `repeats` after three to warm up."""
    taken = []
    for number in range(repeats + 3):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        if number >= 3:
            taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 2]


def ceilings(device: torch.device) -> tuple[float, float]:
    """Bytes/s of a copy, read and written, and FLOP/s of a bf16 product, both large."""
    size, side = (2**32, 8192) if device.type == "cuda" else (2**24, 256)
    source = torch.empty(size // 4, device=device).normal_()
    target = torch.empty_like(source)
    copied = 2 * size / seconds(lambda: target.copy_(source), device)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return copied, 2 * side**3 / seconds(lambda: a @ b, device)


def warm_up(steps: Iterator[Any], count: int) -> None:
    """Takes a tenth of `count` steps, at least one."""
    for _ in itertools.islice(steps, max(count // 10, 1)):
        pass


def timed(steps: Iterator[Any], count: int, device: torch.device) -> float:
    """Seconds per step of the next `count`."""
    synchronize(device)
    started = time.perf_counter()
    for _ in itertools.islice(steps, count):
        pass
    synchronize(device)
    return (time.perf_counter() - started) / count


def peak(device: torch.device) -> float | None:
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 1) if device.type == "cuda" else None
