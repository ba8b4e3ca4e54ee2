"""Finds the machines that train together, from the environment that the platform sets.

Kubeflow Trainer sets torchrun's variables (`PET_*`), Vertex AI `CLUSTER_SPEC`, Slurm `SLURM_*`. The platform starts one
process per machine, which starts one rank per GPU.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from twhin_core.errors import UserError

Environment = Mapping[str, str]

PORT = 29500
"""The rendezvous port of the first node, unless the platform sets another; torchrun's default."""

TRAINERS = ("workerpool0", "workerpool1")
"""Vertex AI's worker pools: the first trainer, then the others."""


@dataclass(frozen=True)
class Nodes:
    """The machines of a run, and this one's index among them."""

    count: int = 1
    index: int = 0
    ranks_per_node: int = 1
    host: str = "127.0.0.1"
    """Of the first node."""
    port: int = PORT

    @property
    def world_size(self) -> int:
        return self.count * self.ranks_per_node


def find_nodes(environment: Environment = os.environ) -> Nodes:
    """The nodes that the environment describes; by default, this machine alone.

    Raises:
        UserError: a variable is missing or invalid.
    """
    if "PET_NNODES" in environment:
        return _of_kubeflow_trainer(environment)
    if "CLUSTER_SPEC" in environment:
        return _of_vertex(environment)
    if "SLURM_JOB_ID" in environment and "SLURM_NODEID" in environment:
        return _of_slurm(environment)
    return Nodes(ranks_per_node=_one_per_gpu())


def _of_kubeflow_trainer(environment: Environment) -> Nodes:
    count = _number(environment, "PET_NNODES")
    per_node = environment.get("PET_NPROC_PER_NODE", "auto")
    ranks = _one_per_gpu() if per_node in ("auto", "gpu", "cpu") else _number(environment, "PET_NPROC_PER_NODE")
    if count == 1:
        return Nodes(ranks_per_node=ranks)
    return Nodes(
        count=count,
        index=_number(environment, "PET_NODE_RANK", below=count),
        ranks_per_node=ranks,
        host=_text(environment, "PET_MASTER_ADDR"),
        port=_number(environment, "PET_MASTER_PORT", default=PORT),
    )


def _of_vertex(environment: Environment) -> Nodes:
    spec = read_cluster_spec(environment)
    addresses = [address for pool in TRAINERS for address in spec.cluster.get(pool, [])]
    if len(addresses) <= 1:
        return Nodes(ranks_per_node=_one_per_gpu())
    before = 0 if spec.task.type == TRAINERS[0] else len(spec.cluster[TRAINERS[0]])
    host, _, port = addresses[0].rpartition(":")
    return Nodes(
        count=len(addresses),
        index=before + spec.task.index,
        ranks_per_node=_one_per_gpu(),
        host=environment.get("MASTER_ADDR", host),
        port=_number(environment, "MASTER_PORT", default=int(port)),
    )


def _of_slurm(environment: Environment) -> Nodes:
    count = _number(environment, "SLURM_NNODES")
    # Those of srun; sbatch sets a number only if it is asked for some, and itself starts one process.
    tasks = next((name for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if environment.get(name)), "SLURM_NTASKS")
    started = _number(environment, tasks, default=1)
    if started != count:
        raise UserError(
            f"{tasks}: {started} {'task' if started == 1 else 'tasks'} on {count} {'node' if count == 1 else 'nodes'}; "
            "start one per node: srun --ntasks-per-node=1"
        )
    if count == 1:
        return Nodes(ranks_per_node=_one_per_gpu())
    return Nodes(
        count=count,
        index=_number(environment, "SLURM_NODEID", below=count),
        ranks_per_node=_one_per_gpu(),
        host=_first_host(_text(environment, "SLURM_JOB_NODELIST")),
        # Jobs that share a machine must not share a port.
        port=PORT + _number(environment, "SLURM_JOB_ID") % 1000,
    )


def _first_host(hosts: str) -> str:
    """The first of a Slurm host list: `gpu[03-05,9],cpu1` → `gpu03`."""
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", hosts)
    if found is None:
        raise UserError(f"SLURM_JOB_NODELIST: {hosts!r} names no host")
    return "".join(part or "" for part in found.groups())


class _Task(BaseModel):
    type: str
    index: int


class ClusterSpec(BaseModel):
    """Vertex AI's description of the worker pools and this process. Ignores further fields."""

    cluster: dict[str, list[str]]
    task: _Task


def read_cluster_spec(environment: Environment) -> ClusterSpec:
    """Reads Vertex AI's `CLUSTER_SPEC`. Raises UserError if it is invalid."""
    try:
        return ClusterSpec.model_validate_json(environment["CLUSTER_SPEC"])
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"CLUSTER_SPEC: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _one_per_gpu() -> int:
    """The number of ranks on this machine: one per GPU, or one without GPUs."""
    import torch  # reader processes do not need it

    return max(1, torch.cuda.device_count())


def _text(environment: Environment, name: str) -> str:
    if not environment.get(name):
        raise UserError(f"{name}: is not set, but several nodes need it")
    return environment[name]


def _number(environment: Environment, name: str, below: int | None = None, default: int | None = None) -> int:
    text = environment.get(name) or ("" if default is None else str(default))
    if not re.fullmatch(r"\d{1,9}", text) or (below is not None and int(text) >= below):
        wanted = "a number" if below is None else f"a number below {below}"
        raise UserError(f"{name}: {text!r} is not {wanted}")
    return int(text)
