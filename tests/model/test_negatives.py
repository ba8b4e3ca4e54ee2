"""Chunks hold every edge once, and negatives come from the right nodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import SmallConfig
from twhin_core.config import Relation
from twhin_core.data.edges import Edges
from twhin_core.model.batch_maker import BatchMaker
from twhin_core.model.losses import Softmax
from twhin_core.model.negatives import Negatives, draw, draw_edges, lay_out_chunks, note_small_tables
from twhin_core.schema import Schema


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_every_edge_has_one_slot_in_a_chunk_of_its_group(size: int) -> None:
    group = torch.tensor([2, 0, 2, 2, 0, 7, 2, 2, 0, 2])
    chunks = lay_out_chunks(group, size)
    count, length = chunks.edge.shape
    assert length <= size
    assert sorted(chunks.edge[chunks.filled].tolist()) == list(range(len(group)))
    for edges, filled, own in zip(chunks.edge, chunks.filled, chunks.group, strict=True):
        assert set(group[edges[filled]].tolist()) == {int(own)}
    assert count == len(chunks.group)


@pytest.mark.parametrize(("group", "size", "expected"), [([0] * 6, 3, True), ([0] * 5, 3, False), ([0, 1], 3, False)])
def test_slots_are_the_edges_where_nothing_is_padded_or_moved(group: list[int], size: int, expected: bool) -> None:
    chunks = lay_out_chunks(torch.tensor(group), size)
    assert chunks.is_identity == expected
    assert (chunks.edge[chunks.filled].tolist() == list(range(len(group))) and bool(chunks.filled.all())) >= expected


def test_chunks_are_filled_evenly() -> None:
    chunks = lay_out_chunks(torch.zeros(1001, dtype=torch.int64), 1000)
    assert chunks.edge.shape == (2, 501)


def test_in_batch_negatives_are_edges_of_the_same_relation() -> None:
    rel = torch.tensor([0, 4, 1, 0, 1, 0])
    chunks = lay_out_chunks(rel, 2)
    sampled = draw_edges(chunks, 50, torch.Generator().manual_seed(0))
    for group, edges in zip(chunks.group, sampled, strict=True):
        assert set(rel[edges].tolist()) == {int(group)}
    assert set(sampled.flatten().tolist()) == set(range(len(rel))), "each edge of a relation can be drawn"


def test_a_sampled_node_that_is_the_true_one_is_masked() -> None:
    node = torch.tensor([5, 6, 5, 7])
    chunks = lay_out_chunks(torch.zeros(4, dtype=torch.int64), 2)
    candidates = torch.tensor([[5, 6, 9], [7, 5, 5]])
    masked = Negatives(chunks, candidates, torch.empty(2, 0, dtype=torch.int64)).masked(node)
    # Slots hold edges 0, 1 | 2, 3: node 5 meets 5; 6 meets 6; 5 meets the second and third; 7 meets 7. Each slot has
    # four scores, the edge's own first.
    assert sorted(masked.tolist()) == [1, 6, 10, 11, 13]


def test_uniform_candidates_are_those_after_the_in_batch_ones() -> None:
    chunks = lay_out_chunks(torch.zeros(2, dtype=torch.int64), 2)
    negatives = Negatives(chunks, torch.tensor([[1, 2, 3]]), torch.tensor([[0]]))
    assert negatives.uniform.tolist() == [[2, 3]]


def test_draws_cover_their_range_and_no_more() -> None:
    drawn = draw(torch.tensor([3, 7]), 300, torch.Generator().manual_seed(1))
    assert [set(row.tolist()) for row in drawn] == [set(range(3)), set(range(7))]


def test_draws_are_uniform() -> None:
    drawn = draw(torch.tensor([4]), 40_000, torch.Generator().manual_seed(2))
    counts = drawn.flatten().bincount(minlength=4)
    # The standard deviation of a count is √(40000 · ¼ · ¾) ≈ 87.
    assert (counts - 10_000).abs().max() < 5 * 87


def test_draws_reach_beyond_the_precision_of_float32() -> None:
    drawn = draw(torch.tensor([2**40]), 1000, torch.Generator().manual_seed(3))
    assert (drawn % 2).float().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("section", ["train_data", "validation_data"])
def test_a_table_of_fewer_rows_than_negatives_is_noted(
    section: str, small_config: SmallConfig, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"per_replica_batch_size": 64, "global_negatives": 31}
    config = small_config(**{section: data})
    with caplog.at_level("INFO"):
        note_small_tables(Schema({"user": 40, "tweet": 31, "unused": 1}, [FAV]), config)
        assert not caplog.messages
        note_small_tables(Schema({"user": 40, "tweet": 30, "unused": 1}, [FAV]), config)
    assert caplog.messages == [
        f"{section}.global_negatives: 31 is more than the rows of some tables, whose negatives count as many as they "
        "have rows: tweet 30"
    ]


@pytest.mark.parametrize("seed", range(10))
def test_many_draws_of_a_small_table_weigh_as_its_rows_do(seed: int, small_config: SmallConfig) -> None:
    """With ever more draws, the softmax among them becomes that among the rows, whatever `global_negatives` is."""
    rng = np.random.default_rng(seed)
    rows, wanted = int(rng.integers(2, 9)), int(10 ** rng.uniform(2, 6))
    schema = Schema({"movie": 20_000, "genre": rows}, [Relation(name="has", lhs="movie", rhs="genre")])
    config = small_config(train_data={"global_negatives": wanted, "chunk_size": 1})
    data, model = config.train_data, config.model
    answer = int(rng.integers(rows))
    edges = Edges(np.array([3]), np.array([0]), np.array([answer]), np.ones(1, np.float32))
    batch = BatchMaker(schema, model, data).make(edges, 1, torch.Generator().manual_seed(seed))
    queries = batch.queries["rhs"]
    drawn = batch.ids(queries.candidate)
    assert len(drawn) == min(wanted, 20_000)
    of_rows = torch.from_numpy(rng.normal(size=rows)).float()
    scores = torch.cat([of_rows[answer : answer + 1], of_rows[drawn]]).view(1, 1, -1)
    loss = Softmax(1.0)(scores, queries.masked, queries.log_weight)
    expected = -of_rows.log_softmax(0)[answer]
    deviation = 4 * (rows / len(drawn)) ** 0.5
    assert loss.item() == pytest.approx(expected.item(), abs=deviation)
    assert batch.queries["lhs"].log_weight.tolist() == [0], "a large table is as before"


FAV = Relation(name="fav", lhs="user", rhs="tweet")
