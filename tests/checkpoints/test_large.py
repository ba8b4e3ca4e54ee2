"""Large tensors are loaded block by block, whatever their sharding, as torch loads them whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from tests.ranks import run_ranks
from tests.training.test_sharding import build_one, make_config
from twhin_core.checkpoints import checkpoint, large
from twhin_core.checkpoints.checkpoint import Position
from twhin_core.checkpoints.description import model_description
from twhin_core.checkpoints.writer import CheckpointWriter
from twhin_core.distributed.ranks import process_group
from twhin_core.schema import Schema

KINDS = ("row_wise", "table_wise", "column_wise", "data_parallel")


def load_in_both_ways(folder: str) -> list[tuple[str, bool]]:
    """Of each sharding: whether a checkpoint loads block by block as torch loads it. Bounds are in mid-shard."""
    found = []
    with process_group() as ranks:
        for kind in KINDS:
            config = make_config(kind)
            schema, root = Schema({"user": 7, "tweet": 131_077}, config.model.relations), f"{folder}/{kind}"
            model = build_one(config, ranks)
            before = {name: local(value) for name, value in model.state().items()}
            with CheckpointWriter(root, model_description(config, schema), None, ranks, copies=False) as writer:
                writer.save(model.state(), Position(step=1))
            ranks.wait()
            (entry,) = checkpoint.complete(root)
            for bound in (2**30, 0):
                for value in model.state().values():
                    for tensor in tensors(value):
                        tensor.fill_(-3)
                with patch.object(large, "LARGE_BYTES", bound), patch.object(large, "PIECE_BYTES", 10_000):
                    checkpoint.load(entry, model.state())
                after = {name: local(value) for name, value in model.state().items()}
                found.append((kind, all(torch.equal(before[name], after[name]) for name in before)))
    return found


def tensors(value: Any) -> list[torch.Tensor]:
    shards = value.local_shards() if hasattr(value, "local_shards") else None
    return [value.detach()] if shards is None else [shard.tensor.detach() for shard in shards]


def local(value: Any) -> torch.Tensor:
    parts = [tensor.flatten().float() for tensor in tensors(value)]
    return torch.cat(parts) if parts else torch.zeros(0)


@pytest.mark.slow
def test_large_tensors_are_loaded_block_by_block(tmp_path: Path) -> None:
    for found in run_ranks(2, load_in_both_ways, str(tmp_path)):
        assert found == [(kind, True) for kind in KINDS for _ in range(2)]
