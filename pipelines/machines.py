"""The platforms' names for GPUs, and the machine types of Vertex AI that have them.

Source: https://cloud.google.com/vertex-ai/docs/training/configure-compute
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from twhin_core.errors import UserError

GpuType = Literal["t4", "l4", "a100-40gb", "a100-80gb", "h100-80gb", "h100-mega-80gb", "h200-141gb"]


@dataclass(frozen=True)
class Machine:
    """A machine type of Vertex AI."""

    name: str
    cpu: int
    memory: int
    """GiB."""


@dataclass(frozen=True)
class Gpu:
    """A GPU model."""

    vertex: str
    """Vertex AI's AcceleratorType."""
    gke: str
    """Value of the label `cloud.google.com/gke-accelerator` of GKE's nodes."""
    machines: dict[int, list[Machine]]
    """Machine types by number of GPUs, smallest first."""
    disk: str = "pd-ssd"
    """The type of boot disk that these machines support."""


def _n1(*sizes: int) -> list[Machine]:
    return [Machine(f"n1-standard-{cpu}", cpu, cpu * 15 // 4) for cpu in sizes]


def _g2(*sizes: int) -> list[Machine]:
    return [Machine(f"g2-standard-{cpu}", cpu, cpu * 4) for cpu in sizes]


def _each(family: str, cpu: int, memory: int, *counts: int) -> dict[int, list[Machine]]:
    """Machine types with `cpu` cores and `memory` GiB per GPU."""
    return {count: [Machine(f"{family}-{count}g", cpu * count, memory * count)] for count in counts}


GPUS: dict[GpuType, Gpu] = {
    "t4": Gpu(
        "NVIDIA_TESLA_T4",
        "nvidia-tesla-t4",
        {1: _n1(4, 8, 16), 2: _n1(4, 8, 16, 32), 4: _n1(4, 8, 16, 32, 64, 96)},
    ),
    "l4": Gpu("NVIDIA_L4", "nvidia-l4", {1: _g2(4, 8, 12, 16, 32), 2: _g2(24), 4: _g2(48), 8: _g2(96)}),
    "a100-40gb": Gpu(
        "NVIDIA_TESLA_A100",
        "nvidia-tesla-a100",
        {**_each("a2-highgpu", 12, 85, 1, 2, 4, 8), 16: [Machine("a2-megagpu-16g", 96, 1360)]},
    ),
    "a100-80gb": Gpu("NVIDIA_A100_80GB", "nvidia-a100-80gb", _each("a2-ultragpu", 12, 170, 1, 2, 4, 8)),
    "h100-80gb": Gpu("NVIDIA_H100_80GB", "nvidia-h100-80gb", _each("a3-highgpu", 26, 234, 1, 2, 4, 8)),
    "h100-mega-80gb": Gpu("NVIDIA_H100_MEGA_80GB", "nvidia-h100-mega-80gb", _each("a3-megagpu", 26, 234, 8)),
    "h200-141gb": Gpu(
        "NVIDIA_H200_141GB", "nvidia-h200-141gb", _each("a3-ultragpu", 28, 369, 8), disk="hyperdisk-balanced"
    ),
}
assert set(GPUS) == set(get_args(GpuType))

CPU_MACHINES = [Machine("n2-highmem-2", 2, 16)] + [
    Machine(f"n2-{family}-{cpu}", cpu, memory)
    for cpu in (4, 8, 16, 32, 48, 64, 80)
    for family, memory in (("standard", cpu * 4), ("highmem", cpu * 8))
]

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTPE", start=1)}


def in_gib(quantity: str) -> float:
    """A Kubernetes quantity such as "16Gi" in GiB."""
    digits = quantity.rstrip("KMGTPEi")
    return int(digits) * UNITS[quantity[len(digits) :]] / 1024**3


def in_cores(quantity: str) -> float:
    """A Kubernetes quantity such as "500m" in cores."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def pick(cpu: str, memory: str, gpu: tuple[GpuType, int] | None, what: str) -> Machine:
    """The smallest machine type of Vertex AI with these resources.

    Raises:
        UserError: there is none. Names the key below `what` that asks for too much.
    """
    machines = CPU_MACHINES
    if gpu is not None:
        kind, count = gpu
        by_count = GPUS[kind].machines
        if count not in by_count:
            counts = ", ".join(map(str, by_count))
            raise UserError(f"{what}.accelerator.count: Vertex AI has machines with {counts} {kind}, not {count}")
        machines = by_count[count]
    for machine in machines:
        if machine.cpu >= in_cores(cpu) and machine.memory >= in_gib(memory):
            return machine
    largest = machines[-1]
    key = f"cpu: {cpu}" if in_cores(cpu) > largest.cpu else f"memory: {memory}"
    raise UserError(
        f"{what}.{key} is more than Vertex AI's largest such machine has: "
        f"{largest.name} with {largest.cpu} cores and {largest.memory}Gi"
    )
