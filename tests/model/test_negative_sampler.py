"""Negatives follow their distribution and, corrected for it, teach what uniform ones would."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from twhin_core.config import Relation, TrainData
from twhin_core.data.edges import Edges
from twhin_core.data.frequencies import count_ends
from twhin_core.model import negative_sampler
from twhin_core.model.losses import BinaryCrossEntropy, Loss, Softmax
from twhin_core.model.negative_sampler import NegativeSampler
from twhin_core.schema import Schema

RELATIONS = [Relation(name="follow", lhs="user", rhs="user"), Relation(name="fav", lhs="user", rhs="tweet")]
SCHEMA = Schema({"user": 5, "tweet": 4, "ad": 3}, RELATIONS)
# Degrees: users 0, 1, 2, 4 have 5, 3, 1, 1 edges; tweets 0, 2 have 1 and 3; the others and ads have none.
EDGES = Edges(
    lhs=np.array([0, 0, 1, 0, 1, 0, 4]),
    rel=np.array([0, 0, 0, 1, 1, 1, 1]),
    rhs=np.array([1, 2, 0, 2, 2, 2, 0]),
    weight=np.ones(7, np.float32),
)


@pytest.fixture(params=["dense", "sparse"], autouse=True)
def counts_kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all nodes, as here where few have none, or for those that occur."""
    if request.param == "sparse":
        monkeypatch.setattr(negative_sampler, "ENTRIES_PER_KEY", 0)


def make_sampler(**data: Any) -> NegativeSampler:
    settings = TrainData(per_replica_batch_size=7, **data)
    return NegativeSampler(SCHEMA, settings, count_ends([EDGES], SCHEMA) if settings.needs_frequencies else None)


def counts(drawn: Tensor, rows: int) -> np.typing.NDArray[np.int64]:
    return drawn.bincount(minlength=rows).numpy()


@pytest.mark.parametrize("power", [1.0, 0.75])
def test_global_negatives_follow_the_power_of_the_degrees(power: float) -> None:
    sampler = make_sampler(global_negatives=100_000, global_negatives_power=power)
    users, tweets = sampler.draw(torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    for drawn, degrees in ((users, [5, 3, 1, 0, 1]), (tweets, [1, 0, 3, 0])):
        weights = np.array(degrees) ** power
        expected = 100_000 * weights / weights.sum()
        seen = counts(drawn, len(degrees))
        assert (seen[weights == 0] == 0).all(), "nodes without an edge"
        off = ((seen - expected)[weights > 0] ** 2 / expected[weights > 0]).sum()
        assert off < 18.5, "χ² with 3 degrees of freedom exceeds it one time in 3,000"


def test_a_table_without_edges_is_drawn_from_uniformly() -> None:
    sampler = make_sampler(global_negatives=30_000, global_negatives_power=1.0)
    (drawn,) = sampler.draw(torch.tensor([2]), torch.Generator().manual_seed(0))
    assert (np.abs(counts(drawn, 3) - 10_000) < 5 * 82).all(), "a count's standard deviation is 82"


def test_draws_reach_both_ends_of_a_table_and_not_beyond() -> None:
    sampler = make_sampler(global_negatives=2, global_negatives_power=1.0)
    distribution = sampler._degrees
    assert distribution is not None
    shares = torch.tensor([[0.0, np.nextafter(1.0, 0.0)]] * 2, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *_, **__: shares)
        assert distribution.draw(torch.tensor([0, 1]), torch.tensor([5, 4]), 2, torch.Generator()).tolist() == [
            [0, 4],
            [0, 2],
        ]


def correct(sampler: NegativeSampler, side: Any, rel: int, table: int, nodes: list[int]) -> list[float]:
    correction = sampler.correction(side, torch.tensor([rel]), torch.tensor([table]), torch.tensor([nodes]))
    assert correction is not None
    assert correction.dtype == torch.float32
    favoured: list[float] = correction.double().exp()[0].tolist()
    return favoured


def test_corrections_by_hand() -> None:
    # Of 4 fav edges three have tweet 2 and one tweet 0, of 4 rows: q · rows is 3 and 1.
    in_batch = make_sampler(in_batch_negatives=6, logq_correction=True)
    assert correct(in_batch, "rhs", 1, 1, [2, 0]) == pytest.approx([3, 1])
    # Of its lhs two are user 0, of 5 rows.
    assert correct(in_batch, "lhs", 1, 0, [0, 1, 4]) == pytest.approx([5 / 2, 5 / 4, 5 / 4])
    # With half as many uniform ones, for which it would be 1: two thirds of the former, and a third.
    mixed = make_sampler(in_batch_negatives=6, global_negatives=3, logq_correction=True)
    assert correct(mixed, "rhs", 1, 1, [2, 1]) == pytest.approx([2 + 1 / 3, 1 / 3])
    # By degree, user 0 is 5 of 10 ends and user 4 one: in the whole table, whatever the relation.
    by_degree = make_sampler(global_negatives=3, global_negatives_power=1.0, logq_correction=True)
    assert correct(by_degree, "rhs", 0, 0, [0, 4]) == pytest.approx([5 / 2, 1 / 2])


def test_a_node_of_no_training_edge_counts_as_if_it_had_one() -> None:
    in_batch = make_sampler(in_batch_negatives=6, logq_correction=True)
    assert correct(in_batch, "rhs", 1, 1, [1, 0]) == pytest.approx([1, 1])
    by_degree = make_sampler(global_negatives=3, global_negatives_power=0.5, logq_correction=True)
    assert correct(by_degree, "lhs", 1, 0, [3, 4]) == pytest.approx([5 / (5**0.5 + 3**0.5 + 2)] * 2)


def test_uniform_draws_have_no_correction() -> None:
    assert make_sampler(global_negatives=3).correction("lhs", *torch.zeros(2, 1, dtype=torch.int64), EMPTY) is None


EMPTY = torch.zeros(1, 0, dtype=torch.int64)

POPULARITY = torch.tensor([0.6, 0.25, 0.1, 0.05], dtype=torch.float64)
"""Of four tweets; every user favs them with the same probabilities."""


def mean_gradient(loss: Loss, scores: Tensor, proposal: Tensor, corrected: bool) -> Tensor:
    """The gradient of the loss by the tweets' scores, averaged over every possible positive and negative."""
    scores = scores.clone().requires_grad_()
    rows = len(scores)
    positive, negative = torch.arange(rows).repeat_interleave(rows), torch.arange(rows).repeat(rows)
    correction = loss.temperature * (proposal * rows).log() * corrected
    used = scores - correction
    masked = 2 * (positive == negative).nonzero().squeeze(1) + 1
    losses = loss(torch.stack([used[positive], used[negative]], 1)[None] * 1.0, masked)
    (losses[0] * POPULARITY[positive] * proposal[negative]).sum().backward()
    assert scores.grad is not None
    return scores.grad


@pytest.mark.parametrize("uniform_share", [0.0, 0.5])
def test_corrected_softmax_is_minimal_at_the_true_probabilities(uniform_share: float) -> None:
    """On a graph of pure popularity, the expected gradient at score = τ · log probability is zero."""
    loss, proposal = Softmax(0.5), (1 - uniform_share) * POPULARITY + uniform_share / 4
    truth = loss.temperature * POPULARITY.log()
    assert mean_gradient(loss, truth, proposal, corrected=True).abs().max() < 1e-12
    assert mean_gradient(loss, truth, proposal, corrected=False).abs().max() > 0.01
    # Uncorrected in-batch negatives alone make the scores forget popularity.
    if not uniform_share:
        assert mean_gradient(loss, torch.zeros(4, dtype=torch.float64), proposal, corrected=False).abs().max() < 1e-12


def test_corrected_bce_is_minimal_where_uniform_negatives_are() -> None:
    loss, uniform = BinaryCrossEntropy(), torch.full((4,), 0.25, dtype=torch.float64)
    # A negative that is the positive is masked, so v is a negative of 1 - p(v) of the positives.
    truth = (POPULARITY * 4 / (1 - POPULARITY)).log()
    assert mean_gradient(loss, truth, uniform, corrected=False).abs().max() < 1e-12
    assert mean_gradient(loss, truth, POPULARITY, corrected=True).abs().max() < 1e-12
    assert mean_gradient(loss, truth, POPULARITY, corrected=False).abs().max() > 0.01


def test_many_corrected_negatives_weigh_what_all_nodes_weigh() -> None:
    """Σ over the negatives of e^(score - correction), per row of the table, approaches that of the full softmax."""
    rng = np.random.default_rng(0)
    rows, drawn = 50, 200_000
    rhs = np.minimum(rng.zipf(1.5, 3000) - 1, rows - 1)
    edges = Edges(np.zeros(3000, np.int64), np.zeros(3000, np.int64), rhs, np.ones(3000, np.float32))
    schema = Schema({"user": 1, "tweet": rows}, [Relation(name="fav", lhs="user", rhs="tweet")])
    half = drawn // 2
    data = TrainData(per_replica_batch_size=1, in_batch_negatives=half, global_negatives=half, logq_correction=True)
    sampler = NegativeSampler(schema, data, count_ends([edges], schema))
    nodes = torch.from_numpy(np.concatenate([rng.choice(rhs, half), rng.integers(rows, size=half)]))[None]
    correction = sampler.correction("rhs", torch.tensor([0]), torch.tensor([1]), nodes)
    assert correction is not None
    scores = torch.from_numpy(rng.normal(size=rows))
    estimate = (scores[nodes] - correction).logsumexp(1) - math.log(drawn / rows)
    assert estimate.item() == pytest.approx(scores.logsumexp(0).item(), abs=0.01)
