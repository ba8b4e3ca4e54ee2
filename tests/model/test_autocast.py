"""Distances under autocast: every score of a step is that of the same rounded points, computed with float32 norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.test_scorer import make_scorer
from twhin_core.model import fused_softmax
from twhin_core.model.batch import Queries
from twhin_core.model.scorer import Scorer
from twhin_core.schema import SIDES, Side

UNIT = 2.0**-8  # bf16 has 8 significant bits

numbers = st.integers(0, 2**32)


def drawn(seed: int, far: float, near: float, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes, answers and candidates of 2 chunks of 5: at a distance `far` from the origin, about `near` apart."""
    generator = torch.Generator().manual_seed(seed)
    center = far * torch.nn.functional.normalize(torch.randn(dim, generator=generator), dim=0)
    nodes, answers = (center + near * torch.randn(2, 5, dim, generator=generator) / dim**0.5 for _ in range(2))
    return nodes, answers, answers.clone()


def scorer_of(comparator: str, operator: str, seed: int) -> Scorer:
    relations = [{"name": name, "lhs": "user", "rhs": "user", "operator": operator} for name in ("follow", "fav")]
    tables = [{"name": "user", "embedding_dim": 8, "optimizer": {"sgd": {"lr": 0.1}}}]
    scorer = make_scorer(comparator=comparator, relations=relations, embeddings={"tables": tables})
    generator = torch.Generator().manual_seed(seed)
    for parameter in scorer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return scorer


def scores_of(scorer: Scorer, side: Side, vectors: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    nodes, answers, candidates = vectors
    rel = torch.zeros(nodes.shape[:2], dtype=torch.int64)
    queries, right = scorer.queries(side, rel, nodes), scorer.answers(side, rel, answers)
    wrong = scorer.shared_answers(side, rel, candidates)
    return scorer.one_to_negatives(queries, right, wrong, scorer.offset(side, rel, nodes))


@settings(max_examples=40)
@given(
    seed=numbers,
    far=st.sampled_from([0.0, 0.1, 1.0, 30.0]),
    near=st.sampled_from([0.0, 1e-3, 0.1, 1.0]),
    comparator=st.sampled_from(["l2", "squared_l2"]),
    operator=st.sampled_from(["identity", "translation", "diagonal", "complex_diagonal", "linear", "affine"]),
    side=st.sampled_from(SIDES),
)
def test_a_vector_scores_alike_as_the_answer_and_as_a_negative(
    seed: int, far: float, near: float, comparator: str, operator: str, side: Side
) -> None:
    vectors, scorer = drawn(seed, far, near, 8), scorer_of(comparator, operator, seed)
    with torch.autocast("cpu", torch.bfloat16):
        scores = scores_of(scorer, side, vectors).float()
    as_negative = scores[..., 1:].diagonal(dim1=1, dim2=2)
    # What is left of float32: some units of the last digit of the squared norms, whose root a distance near 0 has.
    left = 1e-5 * (1 + far) ** 2
    left = left if comparator == "squared_l2" else left**0.5
    torch.testing.assert_close(as_negative, scores[..., 0], rtol=2 * UNIT, atol=left)


@settings(max_examples=30)
@given(seed=numbers, far=st.sampled_from([0.0, 1.0, 30.0]), near=st.sampled_from([0.0, 0.01, 1.0]))
def test_scores_are_the_distances_of_the_rounded_points(seed: int, far: float, near: float) -> None:
    nodes, answers, candidates = drawn(seed, far, near, 8)
    with torch.autocast("cpu", torch.bfloat16):
        scores = scores_of(scorer_of("squared_l2", "identity", seed), "rhs", (nodes, answers, candidates)).float()
    points, others = (of.bfloat16().double() for of in (nodes, candidates))
    exact = -(points[:, :, None] - others[:, None]).square().sum(-1)
    torch.testing.assert_close(scores[..., 1:].double(), exact, rtol=UNIT, atol=1e-5 * (1 + far) ** 2)


@pytest.mark.parametrize("comparator", ["l2", "squared_l2"])
@pytest.mark.parametrize("far", [0.1, 1.0, 10.0])
def test_the_gradients_of_near_points_stay_those_of_their_distance(comparator: str, far: float) -> None:
    """Of points that coincide, none; of others, in the direction from one to the other."""
    nodes, answers, _ = drawn(3, far, 0.5, 8)
    scorer = scorer_of(comparator, "identity", 0)
    nodes, answers = nodes.requires_grad_(), answers.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        scores_of(scorer, "rhs", (nodes, answers, nodes.detach()))[..., 0].float().sum().backward()
    away = (nodes - answers).detach()
    expected = -2 * away if comparator == "squared_l2" else -away / away.norm(dim=-1, keepdim=True)
    off = 2 * UNIT * far * (2 if comparator == "squared_l2" else 4)
    torch.testing.assert_close(nodes.grad, expected, rtol=0.02, atol=off)
    torch.testing.assert_close(answers.grad, -expected, rtol=0.02, atol=off)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Triton's interpreter has no products in bf16")
@pytest.mark.parametrize("comparator", ["l2", "squared_l2"])
@pytest.mark.parametrize("far", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("near", [0.0, 0.1, 1.0])
def test_the_fused_loss_of_an_answer_against_itself_is_log_2(comparator: str, far: float, near: float) -> None:
    """One negative with the answer's own vector, for each query in a chunk of its own."""
    nodes, answers, candidates = (of.reshape(10, 1, 8).cuda().requires_grad_() for of in drawn(4, far, near, 8))
    scorer = scorer_of(comparator, "translation", 4).cuda()
    zeros = torch.zeros(10, 1, dtype=torch.int64, device="cuda")
    batch = Queries(node=0, answer=1, candidate=2, rel=zeros, weight=torch.ones(10, 1, device="cuda"), masked=None)
    with torch.autocast("cuda", torch.bfloat16):
        losses = fused_softmax.softmax_losses(
            scorer, comparator, "rhs", batch, (nodes, answers, candidates), (zeros, zeros + 1), None, 1.0
        )
    left = 1e-5 * (1 + far) ** 2
    left = left if comparator == "squared_l2" else left**0.5
    torch.testing.assert_close(losses.detach(), torch.full_like(losses, 2.0).log(), rtol=0, atol=left)


@settings(max_examples=30)
@given(seed=numbers, far=st.sampled_from([0.0, 1e-30, 1.0, 30.0, 1e30]), name=st.sampled_from(["l2", "squared_l2"]))
def test_the_points_of_fused_distances_are_rounded_before_any_of_them(seed: int, far: float, name: str) -> None:
    """The kernels then take exact distances of the same points, whichever dtype they multiply in."""
    nodes, _, _ = drawn(seed, far, far / 10, 8)
    scorer, rel = scorer_of(name, "identity", seed), torch.zeros(2, 5, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        found = [scorer.query_points("rhs", rel, nodes), scorer.answer_points("rhs", rel, nodes)]
    for points in found:
        assert points.dtype == torch.float32
        assert torch.equal(points, nodes.bfloat16().float())
    assert torch.equal(scorer.query_points("rhs", rel, nodes), nodes), "without autocast, nothing is rounded"


def test_mixed_operators_train_under_autocast() -> None:
    """A matrix product returns bf16 there, a translation float32."""
    mixed: list[dict[str, Any]] = [
        {"name": "follow", "lhs": "user", "rhs": "user", "operator": "linear"},
        {"name": "fav", "lhs": "user", "rhs": "user", "operator": "translation"},
    ]
    scorer = make_scorer(relations=mixed, comparator="l2")
    with torch.autocast("cpu", torch.bfloat16):
        moved = scorer.operator(torch.tensor([0, 1]), torch.ones(2, 4))
    assert moved.dtype == torch.float32
    assert moved.tolist() == [[1.0] * 4] * 2  # both start as the identity
