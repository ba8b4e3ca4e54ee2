"""Checks whether this machine or image can execute runs."""

from __future__ import annotations

import os
import platform
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from twhin.components.task import SHARED_MEMORY
from twhin_core import __version__, libraries, limits, storage
from twhin_core.errors import StorageError, UserError

PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "pyarrow", "duckdb", "kfp", "gcsfs", "obstore")
ENOUGH_SHARED_MEMORY = 1 << 30
"""Ranks of one machine exchange data there. A container has 64 MiB unless more is mounted."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    found: str
    passed: bool = True


def examine(url: str | None) -> Iterator[Finding]:
    """Checks versions, devices and memory and, if `url` is given, writes and reads there."""
    yield Finding("twhin", f"{__version__}, Python {platform.python_version()} on {platform.machine()}")
    for package in PACKAGES:
        if (found := _version(package)) is not None:
            yield Finding(package, found)
    yield _tried("tables", libraries.check)
    yield _devices()
    if _has_gpu():
        yield _fused_loss()
    yield _shared_memory()
    if url is not None:
        yield _tried(url, lambda: _write_and_read(url))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tried(name: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(name, attempt())
    except (UserError, StorageError) as error:
        return Finding(name, str(error), passed=False)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _devices() -> Finding:
    import torch

    of_machine = "" if limits.cores() == os.cpu_count() else f" of the machine's {os.cpu_count()}"
    cores = f"{limits.cores()} CPU cores{of_machine}, {limits.memory() / 2**30:.1f} GiB"
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda is None else f"; torch is built for CUDA {torch.version.cuda} but finds no GPU"
        return Finding("devices", f"{cores}{built}")
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    memory = ", ".join(f"{gpu.name} {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus)
    return Finding("devices", f"{cores}, {len(gpus)} GPUs: {memory}; CUDA {torch.version.cuda}")


def _fused_loss() -> Finding:
    import torch

    from twhin_core.model.fused_softmax import is_available

    with torch.autocast("cuda", torch.bfloat16):
        is_fused = is_available(torch.device("cuda"), dim=1)
    if is_fused:
        return Finding("softmax loss", "fused, by Triton")
    return Finding("softmax loss", "slow, not fused: install Triton and a C compiler (gcc)", passed=False)


def _shared_memory() -> Finding:
    import torch

    if not os.path.isdir(SHARED_MEMORY):
        return Finding("shared memory", f"there is no {SHARED_MEMORY}")
    size = shutil.disk_usage(SHARED_MEMORY).total
    short = size < ENOUGH_SHARED_MEMORY and torch.cuda.device_count() > 1
    return Finding(
        "shared memory", f"{size / 2**20:,.0f} MiB" + ("; too small for several GPUs" if short else ""), not short
    )


def _write_and_read(url: str) -> str:
    place = storage.join(url, f".doctor-{uuid.uuid4().hex}")
    storage.write_text(place, "well")
    try:
        if storage.read_text(place) != "well":
            raise StorageError(f"{place}: what was read differs from what was written")
        _, generation = storage.read_generation(place)
        storage.write_text(place, "better")
        for condition, replaced in (("If-None-Match", 0), ("If-Match", generation)):
            if storage.write_if(place, "ill", replaced) is not None:
                raise StorageError(f"{url}: the store ignores {condition}, so two runs could write under one root")
    finally:
        storage.remove(place)
    return "can be written, read and deleted from"
