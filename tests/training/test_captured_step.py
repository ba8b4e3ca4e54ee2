"""Steps replayed as CUDA graphs equal those taken one kernel after the other; only on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.data.edges import Edges
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.model.device_batch import DeviceBatchMaker
from twhin_core.schema import Schema
from twhin_core.training import captured_step
from twhin_core.training.build import build

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")

ROWS, BATCH, STEPS = 500, 256, 8
RAMP = {"linear_ramp_to_constant": {"learning_rate": 0.1, "num_ramp_steps": 6}}


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with process_group() as group:
        yield group


def make_config(optimizer: str, comparator: str, relations: int) -> Config:
    choice = {optimizer: {"lr": 0.1}, "learning_rate": RAMP}
    table = {"name": "node", "num_embeddings": ROWS, "embedding_dim": 32, "optimizer": choice}
    names = [{"name": f"r{number}", "lhs": "node", "rhs": "node"} for number in range(relations)]
    tree = {
        "runtime": {"enable_amp": True},
        "model": {
            "embeddings": {"tables": [table]},
            "relations": names,
            "translation_optimizer": {"adagrad": {"lr": 0.1}, "learning_rate": RAMP},
            "loss": "softmax",
            "comparator": comparator,
            "reciprocal": relations > 1,
        },
        "train_data": {
            "data_root": "in memory",
            "per_replica_batch_size": BATCH,
            "in_batch_negatives": 0 if relations > 1 else 10,
            "global_negatives": 40,
            "chunk_size": 100,
        },
    }
    return config_file.validate(Config, tree, "test")


def train(config: Config, ranks: Ranks, relations: int) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of the steps, and the weights and optimizer state after them."""
    schema = Schema({"node": ROWS}, config.model.relations)
    maker = DeviceBatchMaker(schema, config.model, config.train_data, None, ranks.device, are_joined=True)
    model, rng, losses = build(config, schema, ranks), np.random.default_rng(0), []
    for step in range(STEPS):
        count = BATCH if step != 6 else 100  # a shorter step, as at the end of an epoch
        lhs, rhs = (rng.integers(ROWS, size=count) for _ in range(2))
        edges = Edges(lhs, rng.integers(relations, size=count), rhs, rng.random(count).astype(np.float32) + 1)
        losses.append(float(model.step(maker.lay_out(edges, count, seed=step))))
    return losses, {name: value.cpu().clone() for name, value in model.state().items()}  # type: ignore[union-attr]


@pytest.mark.parametrize("relations", [1, 3])
@pytest.mark.parametrize(
    ("optimizer", "comparator"),
    [("sgd", "dot"), ("adagrad", "l2"), ("rowwise_adagrad", "cos"), ("spherical_adagrad", "cos"), ("adam", "dot")],
)
def test_recorded_steps_equal_the_others(
    optimizer: str, comparator: str, relations: int, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate changes from step to step, and so must what the graph reads."""
    config = make_config(optimizer, comparator, relations)
    replayed: list[int] = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replayed.append(1), replay(graph)))
    recorded = train(config, ranks, relations)
    assert len(replayed) == STEPS - captured_step.STEPS_BEFORE - 1  # and the shorter step
    monkeypatch.setattr(captured_step, "STEPS_BEFORE", STEPS)
    plain = train(config, ranks, relations)
    assert recorded[0] == plain[0]
    assert recorded[1].keys() == plain[1].keys()
    for name, value in plain[1].items():
        assert torch.equal(recorded[1][name], value), name
