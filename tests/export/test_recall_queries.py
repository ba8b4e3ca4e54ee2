"""The queries of the measured recall are nodes that were trained, whatever the size of their tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import SmallConfig
from tests.export.exporting import export_as
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.export.recall import make_queries
from twhin_core.export.vector_set import TrainedRun, open_vector_sets
from twhin_core.graph.manifest import read_schema
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

NODES = {"user": 40, "tweet": 30}


@pytest.mark.parametrize(("users", "tweets"), [(None, None), (41, 30), (400, 3000)])
def test_rows_beyond_the_vocabulary_are_no_queries(
    users: int | None, tweets: int | None, small_config: SmallConfig, tmp_path: Path
) -> None:
    optimizer = {"rowwise_adagrad": {"lr": 0.1}}
    tables = [
        {"name": name, "embedding_dim": 8, "optimizer": optimizer, "num_embeddings": rows}
        for name, rows in (("user", users), ("tweet", tweets))
    ]
    config, root = small_config(model={"embeddings": {"tables": tables}}), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    checkpoint = newest(root)
    sets = open_vector_sets(TrainedRun(config, root, checkpoint, read_schema(config, root)))
    (translations,) = checkpoint.scorer(config.model, config.model.relations).operator.parameters()
    trained = checkpoint.rows("user").read(0, NODES["user"])
    for rel, vector_set in enumerate(sets):  # follow leads to users, fav to tweets
        queries = make_queries(vector_set).detach()
        allowed = trained + translations[rel].detach()
        distance = torch.cdist(queries, allowed, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
        assert distance.max() < 1e-5, vector_set.name
        assert len({tuple(row) for row in queries.tolist()}) > 20, "of many nodes"
    figures = export_as((config, root), "faiss").formats["faiss"]
    assert {name: of.figures["recall@10"] for name, of in figures.items()} == {"user": 1.0, "tweet": 1.0}
