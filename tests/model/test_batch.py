"""A batch holds its edges with their weights, and each row that they need exactly once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import SmallConfig
from twhin_core.config import Relation
from twhin_core.data.edges import Edges
from twhin_core.model.batch import Batch
from twhin_core.model.batch_maker import BatchMaker
from twhin_core.schema import Schema

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
        node = batch.gathers[queries.node]
        weights = [float(weight) for weight in queries.weight.flatten() if weight]
        assert sorted(weights) == [0.5, 1.0, 6.0, 12.0]
        assert len(node) == queries.weight.numel()


def test_each_row_is_looked_up_once_and_found_again(batch: Batch) -> None:
    rows = {table: ids.values().tolist() for table, ids in batch.lookups.to_dict().items()}
    for nodes in rows.values():
        assert len(nodes) == len(set(nodes))
    looked_up = [(table, node) for table, nodes in rows.items() for node in nodes]
    users = {(0, 5, 3, 2.0), (0, 9, 5, 4.0)}  # relation, lhs, rhs, weight: from a user to a user
    tweets = {(1, 3, 2, 1.0), (1, 3, 2, 0.5)}  # and to a tweet
    for side, queries in batch.queries.items():
        node, answer, candidates = (
            [looked_up[index] for index in batch.gathers[gather].tolist()]
            for gather in (queries.node, queries.answer, queries.candidate)
        )
        lhs, rhs = (answer, node) if side == "lhs" else (node, answer)
        slots = zip(queries.rel.flatten().tolist(), lhs, rhs, queries.weight.flatten().tolist(), strict=True)
        found = {(rel, *ends, weight) for rel, *ends, weight in slots if weight}
        assert found == {(0, ("user", s), ("user", t), 3 * w) for _, s, t, w in users} | {
            (1, ("user", s), ("tweet", t), w) for _, s, t, w in tweets
        }
        tables = [candidates[index][0] for index in range(0, len(candidates), len(candidates) // len(queries.rel))]
        assert tables == [answer[index][0] for index in range(0, len(answer), queries.rel.shape[1])]


def test_all_gathers_are_sorted_by_the_rows_that_they_read(batch: Batch) -> None:
    everything = torch.cat(batch.gathers).tolist()
    assert sorted(batch.order.tolist()) == list(range(len(everything)))
    for index in range(len(batch.lookups.values())):
        listed = batch.order[batch.start[index] : batch.start[index + 1]].tolist()
        assert listed == [row for row, other in enumerate(everything) if other == index]
        assert listed, "no row is looked up in vain"


def test_a_querys_own_node_is_a_negative_where_it_could_be_the_answer(small_config: SmallConfig) -> None:
    relations = [Relation(name="follow", lhs="user", rhs="user"), Relation(name="fav", lhs="user", rhs="tweet")]
    edges = Edges(
        lhs=np.array([3, 5, 9]), rel=np.array([0, 0, 1]), rhs=np.array([4, 5, 2]), weight=np.ones(3, np.float32)
    )
    config = small_config(train_data={"global_negatives": 3, "chunk_size": 2, "self_negatives": True})
    maker = BatchMaker(Schema({"user": 10, "tweet": 4}, relations), config.model, config.train_data)
    batch = maker.make(edges, 3, torch.Generator().manual_seed(0))
    for queries in batch.queries.values():
        assert queries.has_self
        masked = {divmod(position, 2 + 3) for position in queries.masked.tolist()}
        node = batch.gathers[queries.node].tolist()
        answer = batch.gathers[queries.answer].tolist()
        candidates = batch.gathers[queries.candidate].view(-1, 3).tolist()
        chunks, length = queries.rel.shape
        # User 3 is a negative of its own; user 5 follows itself, and user 9 is no tweet.
        expected = {(slot, 1) for slot in range(chunks * length) if _is_no_negative(queries.rel, node, answer, slot)}
        for slot, index in enumerate(answer):
            expected |= {(slot, 2 + at) for at, one in enumerate(candidates[slot // length]) if one == index}
        assert masked == expected
        assert 0 < len({slot for slot, column in masked if column == 1}) < chunks * length


def _is_no_negative(rel: torch.Tensor, node: list[int], answer: list[int], slot: int) -> bool:
    return bool(rel.flatten()[slot] == 1) or node[slot] == answer[slot]
