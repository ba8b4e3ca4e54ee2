"""A run resumes with another number of ranks: it restores what was saved, bit for bit.

What one rank does after that differs from what two would only by the negatives that each draws; that a step of theirs
on the same negatives is the same is `test_step.py`'s matter. Resuming on as many ranks as before is `test_kills.py`'s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.conftest import SmallConfig
from tests.ranks import run_ranks
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.ranks import process_group
from twhin_core.stages.prepare import prepare
from twhin_core.training.trainer import Trainer

STEPS = 11
"""In the middle of the second epoch: an epoch has 8 steps."""

Parts = dict[str, list[tuple[tuple[int, ...], npt.NDArray[Any]]]]


def local_parts(trainer: Trainer) -> Parts:
    """The offsets and values of this rank's parts of every tensor."""
    parts: Parts = {}
    for name, value in trainer.model.state().items():
        if hasattr(value, "local_shards"):
            shards = [(tuple(shard.metadata.shard_offsets), shard.tensor) for shard in value.local_shards()]
        else:
            shards = [((0,) * value.dim(), value)]
        parts[name] = [(offsets, tensor.detach().cpu().numpy().copy()) for offsets, tensor in shards]
    return parts


def whole(ranks: list[Parts]) -> dict[str, npt.NDArray[Any]]:
    """Every tensor, assembled from the parts of all ranks."""
    state = {}
    for name in ranks[0]:
        parts = [part for rank in ranks for part in rank[name]]
        shape = np.max([np.add(offsets, values.shape) for offsets, values in parts], axis=0).astype(int)
        tensor = np.full(shape, np.nan)
        for offsets, values in parts:
            tensor[tuple(slice(at, at + size) for at, size in zip(offsets, values.shape, strict=True))] = values
        assert not np.isnan(tensor).any()
        state[name] = tensor
    return state


def run_and_read(config: Config, root: str) -> tuple[Parts, dict[str, int]]:
    with process_group() as ranks:
        trainer = Trainer(config, root, ranks)
        trainer.run()
        return local_parts(trainer), trainer.position.model_dump()


def restore_and_read(config: Config, root: str) -> tuple[Parts, dict[str, int]]:
    with process_group() as ranks:
        trainer = Trainer(config, root, ranks)
        return local_parts(trainer), trainer.position.model_dump()


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_everything_saved_is_restored_on_another_number_of_ranks(
    before: int, after: int, small_config: SmallConfig, tmp_path: Path
) -> None:
    root = tmp_path / "run"

    def sized(ranks: int, steps: int | None) -> Config:
        """A step takes 64 edges in all; user is sharded row_wise, tweet column_wise."""
        optimizers = {"user": {"rowwise_adagrad": {"lr": 0.1}}, "tweet": {"adagrad": {"lr": 0.1}}}
        shardings = {"user": "row_wise", "tweet": "column_wise"}
        tables = [
            {"name": name, "embedding_dim": 8, "optimizer": optimizers[name], "sharding": shardings[name]}
            for name in optimizers
        ]
        return small_config(
            model={"embeddings": {"tables": tables}, "translation_optimizer": {"adagrad": None, "adam": {"lr": 0.01}}},
            training={"num_train_steps": steps, "checkpoint_every_n": 1000},
            train_data={"per_replica_batch_size": 64 // ranks},
        )

    prepare(sized(before, STEPS), str(root))
    kept = run_ranks(before, run_and_read, sized(before, STEPS), str(root))
    (root / "config.yaml").write_text(config_file.to_yaml(sized(after, None)))
    restored = run_ranks(after, restore_and_read, sized(after, None), str(root))

    edges = json.loads((root / "graph/manifest.json").read_text())["splits"]["train"]["edges"]
    for _, position in kept + restored:
        assert position == {"step": STEPS, "epoch": 1, "edges": (STEPS - -(-edges // 64)) * 64}
    at_cut, at_start = whole([parts for parts, _ in kept]), whole([parts for parts, _ in restored])
    assert at_cut.keys() == at_start.keys()
    assert {"tables.embeddings.user.weight", "tables.embeddings.tweet.weight"} <= at_cut.keys()
    assert sum(name.startswith("optimizer.") for name in at_cut) >= 5
    for name, tensor in at_cut.items():
        assert tensor.any(), f"{name} says nothing while it is zero"
        assert np.array_equal(tensor, at_start[name]), name

    ends = run_ranks(after, run_and_read, sized(after, None), str(root))
    newest = checkpoint.newest(str(root))
    assert newest is not None
    assert newest.step == ends[0][1]["step"] == 2 * -(-edges // 64)
    assert not torch.equal(newest.rows("user").read(0, 40), torch.from_numpy(at_cut["tables.embeddings.user.weight"]))
