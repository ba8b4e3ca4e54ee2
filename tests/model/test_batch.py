"""A batch holds its edges with their weights, and each row that they need once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import SmallConfig
from twhin_core.config import Relation
from twhin_core.data.edges import Edges
from twhin_core.graph.manifest import Schema
from twhin_core.model.batch import Batch, BatchMaker

EDGES = Edges(
    lhs=np.array([3, 5, 3, 9]),
    rel=np.array([1, 0, 1, 0]),
    rhs=np.array([2, 3, 2, 5]),
    weight=np.array([1.0, 2.0, 0.5, 4.0], np.float32),
)


@pytest.fixture
def batch(small_config: SmallConfig) -> Batch:
    relations = [
        Relation(name="follow", lhs="user", rhs="user", weight=3.0),
        Relation(name="fav", lhs="user", rhs="tweet"),
    ]
    config = small_config(train_data={"in_batch_negatives": 2, "global_negatives": 3, "chunk_size": 2})
    maker = BatchMaker(Schema({"user": 10, "tweet": 4}, relations), config.model, config.train_data)
    return maker.make(EDGES, 4, torch.Generator().manual_seed(0))


def test_an_edges_weight_is_multiplied_by_its_relations(batch: Batch) -> None:
    for queries in batch.queries.values():
        assert queries.edge is not None
        weight = {
            int(edge): float(slot) for edge, slot in zip(queries.edge, queries.weight.flatten(), strict=True) if slot
        }
        assert weight == {0: 1.0, 1: 6.0, 2: 0.5, 3: 12.0}


def test_each_row_is_looked_up_once_and_found_again(batch: Batch) -> None:
    rows = {table: ids.values().tolist() for table, ids in batch.lookups.to_dict().items()}
    for nodes in rows.values():
        assert len(nodes) == len(set(nodes))
    looked_up = [(table, node) for table, nodes in rows.items() for node in nodes]
    requested = [looked_up[place] for place in batch.position.tolist()]
    assert requested[:4] == [("user", 3), ("user", 5), ("user", 3), ("user", 9)]
    assert requested[4:8] == [("tweet", 2), ("user", 3), ("tweet", 2), ("user", 5)]
    assert set(looked_up) == set(requested)
    assert len(requested) == sum(batch.requested)
