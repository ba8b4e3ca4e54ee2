"""Every epoch is a permutation of the edges, whatever the number of ranks, and can be entered anywhere."""

from __future__ import annotations

import numpy as np
import pytest

from twhin_core.data.edges import Edges
from twhin_core.data.epochs import EpochReader


def numbered(count: int) -> Edges:
    """Edges that are told apart by their lhs."""
    number = np.arange(count)
    return Edges(number, number % 3, number * 7, np.ones(count, np.float32))


def lhs_of(edges: list[Edges]) -> list[int]:
    return [int(lhs) for part in edges for lhs in part.lhs[part.weight > 0]]


@pytest.mark.parametrize(("count", "batch", "world"), [(100, 8, 1), (100, 8, 3), (17, 8, 2), (17, 4, 4), (3, 2, 5)])
def test_each_edge_reaches_one_rank_once_and_all_ranks_see_as_many_steps(count: int, batch: int, world: int) -> None:
    readers = [EpochReader(numbered(count), batch, rank, world, seed=1) for rank in range(world)]
    ranks = [list(reader.steps(epoch=2)) for reader in readers]
    assert {len(steps) for steps in ranks} == {-(-count // (batch * world))}
    assert sorted(lhs_of([step.edges for steps in ranks for step in steps])) == list(range(count))
    for steps in zip(*ranks, strict=True):
        assert sum(len(lhs_of([step.edges])) for step in steps) == steps[0].step_edges
        assert all(len(step.edges) for step in steps), "no rank may be left without a batch"


def test_two_ranks_see_in_each_step_what_one_rank_of_twice_the_batch_sees() -> None:
    one = [step.edges for step in EpochReader(numbered(50), 10, 0, 1, seed=0).steps(0)]
    two = [EpochReader(numbered(50), 5, rank, 2, seed=0).steps(0) for rank in range(2)]
    for whole, *halves in zip(one, *two, strict=True):
        assert lhs_of([whole]) == lhs_of([half.edges for half in halves])


def test_an_epoch_entered_in_its_middle_goes_on_as_if_undisturbed_even_with_other_ranks() -> None:
    edges = numbered(60)
    before = lhs_of([step.edges for step in list(EpochReader(edges, 10, 0, 1, seed=4).steps(1))[:2]])
    rest = [step.edges for rank in range(3) for step in EpochReader(edges, 5, rank, 3, seed=4).steps(1, first=20)]
    assert sorted(before + lhs_of(rest)) == list(range(60))


def test_epochs_differ_and_the_seed_decides() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return lhs_of([step.edges for step in EpochReader(numbered(40), 10, 0, 1, seed).steps(epoch)])

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_in_order_is_data_set_order() -> None:
    steps = EpochReader(numbered(7), 3, 0, 1, seed=0).steps_in_order()
    assert [list(step.edges.lhs) for step in steps] == [[0, 1, 2], [3, 4, 5], [6]]
