"""Chunks hold every edge once, and negatives come from where they should."""

from __future__ import annotations

import pytest
import torch

from twhin_core.model.negatives import draw, in_batch_negatives, make_chunks, uniform_negatives


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_every_edge_has_one_slot_in_a_chunk_of_its_group(size: int) -> None:
    group = torch.tensor([2, 0, 2, 2, 0, 7, 2, 2, 0, 2])
    chunks = make_chunks(group, size)
    count, length = chunks.edge.shape
    assert length <= size
    assert len(chunks.slot.unique()) == len(group)
    assert chunks.edge.flatten()[chunks.slot].tolist() == list(range(len(group)))
    assert chunks.group[chunks.slot // length].tolist() == group.tolist()
    assert count == len(chunks.group)


def test_chunks_are_filled_evenly() -> None:
    chunks = make_chunks(torch.zeros(1001, dtype=torch.int64), 1000)
    assert chunks.edge.shape == (2, 501)


def test_in_batch_negatives_are_other_edges_of_the_same_relation() -> None:
    rel = torch.tensor([0, 4, 1, 0, 1, 0])
    node = torch.tensor([10, 30, 20, 11, 21, 12])
    negatives = in_batch_negatives(rel, node, 50, 2, torch.Generator().manual_seed(0))
    assert negatives.sampled_edge is not None
    for group, sampled, nodes in zip(negatives.chunks.group, negatives.sampled_edge, negatives.node, strict=True):
        assert set(rel[sampled].tolist()) == {int(group)}
        assert nodes.tolist() == node[sampled].tolist()
    seen = {int(node) for nodes in negatives.node for node in nodes}
    assert seen == set(node.tolist()), "each edge of a relation can be drawn"


def test_a_sampled_node_that_is_the_true_one_is_masked() -> None:
    rel, node = torch.zeros(4, dtype=torch.int64), torch.tensor([5, 6, 5, 7])
    negatives = in_batch_negatives(rel, node, 9, 4, torch.Generator().manual_seed(0))
    expected = [
        slot * 9 + candidate
        for slot in range(4)
        for candidate in range(9)
        if negatives.node[0, candidate] == node[negatives.chunks.edge[0, slot]]
    ]
    assert negatives.masked(node).tolist() == expected


def test_uniform_negatives_cover_their_table_and_no_more() -> None:
    group, sizes = torch.tensor([0, 1, 1, 0]), torch.tensor([3, 7])
    negatives = uniform_negatives(group, sizes, 200, 10, torch.Generator().manual_seed(1))
    for table, nodes in zip(negatives.chunks.group.tolist(), negatives.node, strict=True):
        assert set(nodes.tolist()) == set(range(int(sizes[table])))


def test_draws_are_uniform() -> None:
    drawn = draw(torch.tensor([4]), 40_000, torch.Generator().manual_seed(2))
    counts = drawn.flatten().bincount(minlength=4)
    # The standard deviation of a count is √(40000 · ¼ · ¾) ≈ 87.
    assert (counts - 10_000).abs().max() < 5 * 87


def test_draws_reach_beyond_the_precision_of_float32() -> None:
    drawn = draw(torch.tensor([2**40]), 1000, torch.Generator().manual_seed(3))
    assert (drawn % 2).float().mean() == pytest.approx(0.5, abs=0.1)
