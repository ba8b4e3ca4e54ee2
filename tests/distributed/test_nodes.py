"""The nodes of a run, from the variables that each platform sets."""

from __future__ import annotations

import json

import pytest
import torch

from twhin_core.distributed.nodes import Nodes, find_nodes
from twhin_core.errors import UserError

TRAINER = {
    "PET_NNODES": "3",
    "PET_NPROC_PER_NODE": "8",
    "PET_NODE_RANK": "2",
    "PET_MASTER_ADDR": "twhin-node-0-0.twhin",
    "PET_MASTER_PORT": "29400",
}
SLURM = {
    "SLURM_JOB_ID": "81234",
    "SLURM_NNODES": "4",
    "SLURM_NTASKS": "4",
    "SLURM_NODEID": "3",
    "SLURM_JOB_NODELIST": "gpu[03-05,9],cpu1",
}


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def vertex(pool: str, index: int, workers: int = 2, readers: int = 1) -> dict[str, str]:
    cluster = {"workerpool0": ["job-workerpool0-0:2222"]}
    for name, count in (("workerpool1", workers), ("workerpool2", readers)):
        if count:
            cluster[name] = [f"job-{name}-{number}:2222" for number in range(count)]
    task = {"type": pool, "index": index, "trial": ""}
    return {"CLUSTER_SPEC": json.dumps({"cluster": cluster, "environment": "cloud", "task": task, "job": "{}"})}


def without(environment: dict[str, str], name: str) -> dict[str, str]:
    return {other: value for other, value in environment.items() if other != name}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Nodes(1, 0, 2)),
        (TRAINER, Nodes(3, 2, 8, "twhin-node-0-0.twhin", 29400)),
        (TRAINER | {"PET_NPROC_PER_NODE": "auto"}, Nodes(3, 2, 2, "twhin-node-0-0.twhin", 29400)),
        ({"PET_NNODES": "1", "PET_NPROC_PER_NODE": "4"}, Nodes(1, 0, 4)),
        (vertex("workerpool0", 0), Nodes(3, 0, 2, "job-workerpool0-0", 2222)),
        (vertex("workerpool1", 1), Nodes(3, 2, 2, "job-workerpool0-0", 2222)),
        (
            vertex("workerpool1", 0) | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "3333", "RANK": "1"},
            Nodes(3, 1, 2, "10.0.0.7", 3333),
        ),
        (vertex("workerpool0", 0, workers=0), Nodes(1, 0, 2)),
        (SLURM, Nodes(4, 3, 2, "gpu03", 29734)),
        (SLURM | {"SLURM_JOB_NODELIST": "host7"}, Nodes(4, 3, 2, "host7", 29734)),
        (SLURM | {"SLURM_JOB_NODELIST": "rack[1,3]-n,b"}, Nodes(4, 3, 2, "rack1-n", 29734)),
        (SLURM | {"SLURM_NNODES": "1", "SLURM_NTASKS": "1"}, Nodes(1, 0, 2)),
        (without(SLURM, "SLURM_NTASKS") | {"SLURM_NNODES": "1"}, Nodes(1, 0, 2)),  # sbatch without --ntasks
        (SLURM | {"SLURM_NNODES": "1", "SLURM_NTASKS": ""}, Nodes(1, 0, 2)),
        (without(SLURM, "SLURM_NTASKS") | {"SLURM_STEP_NUM_TASKS": "4"}, Nodes(4, 3, 2, "gpu03", 29734)),
        (SLURM | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4"}, Nodes(4, 3, 2, "gpu03", 29734)),
    ],
)
def test_nodes_are_read_from_the_environment(environment: dict[str, str], expected: Nodes) -> None:
    assert find_nodes(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (TRAINER | {"PET_NNODES": "1:4"}, "PET_NNODES: '1:4' is not a number"),
        (TRAINER | {"PET_NODE_RANK": "3"}, "PET_NODE_RANK: '3' is not a number below 3"),
        (TRAINER | {"PET_MASTER_ADDR": ""}, "PET_MASTER_ADDR: is not set, but several nodes need it"),
        ({"PET_NNODES": "2"}, "PET_NODE_RANK: '' is not a number below 2"),
        ({"CLUSTER_SPEC": "{"}, "CLUSTER_SPEC: "),
        ({"CLUSTER_SPEC": '{"cluster": {}}'}, "CLUSTER_SPEC: task: Field required"),
        (SLURM | {"SLURM_NTASKS": "8"}, "SLURM_NTASKS: 8 tasks on 4 nodes; start one per node"),
        (without(SLURM, "SLURM_NTASKS"), "SLURM_NTASKS: 1 task on 4 nodes; start one per node: srun"),
        (SLURM | {"SLURM_NTASKS": ""}, "SLURM_NTASKS: 1 task on 4 nodes; start one per node: srun"),
        (SLURM | {"SLURM_NTASKS": "4(x2)"}, "SLURM_NTASKS: '4(x2)' is not a number"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NUM_TASKS: 2 tasks on 4 nodes; start one per node"),
        (SLURM | {"SLURM_NNODES": "1", "SLURM_NTASKS": "2"}, "SLURM_NTASKS: 2 tasks on 1 node; start one per node"),
        (without(SLURM, "SLURM_NNODES"), "SLURM_NNODES: '' is not a number"),
    ],
)
def test_an_inconsistent_environment_is_a_user_error(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        find_nodes(environment)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
