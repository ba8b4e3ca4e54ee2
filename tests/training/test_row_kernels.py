"""The kernel that updates rows equals the optimizer of a CPU's rows, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import DEVICE
from twhin_core.config import file as config_file
from twhin_core.config.optimizer import Optimizer
from twhin_core.training.row_kernels import GRADIENTS_AT_ONCE, KINDS, MOST_PIECES, MOST_SHARED, update_rows
from twhin_core.training.row_optimizer import RowOptimizer, state_shapes

ROWS = 12
SETTINGS = {
    "sgd": {"lr": 0.3},
    "adagrad": {"lr": 0.3, "eps": 0.01},
    "rowwise_adagrad": {"lr": 0.3, "eps": 0.01},
    "spherical_adagrad": {"lr": 0.3, "eps": 0.01},
    "adam": {"lr": 0.3, "betas": [0.8, 0.9], "eps": 0.01},
}


@settings(max_examples=30)
@given(
    kind=st.sampled_from(KINDS),
    lengths=st.lists(st.integers(1, 3 * GRADIENTS_AT_ONCE), min_size=1, max_size=MOST_PIECES),
    dim=st.sampled_from([4, 5, 32]),
    hot=st.booleans(),
    is_shared=st.booleans(),
)
def test_rows_are_updated_as_on_a_cpu(kind: str, lengths: list[int], dim: int, hot: bool, is_shared: bool) -> None:
    """`hot`: half of the gradients are of one row; `is_shared`: some rows have two gradients each."""
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = torch.randint(ROWS, (sum(lengths),), generator=generator)
    if hot:
        rows[::2] = 7
    shared = min(len(lengths), MOST_SHARED) if is_shared else 0
    gradients = [
        (of, [torch.randn(len(of), dim, generator=generator) for _ in range(1 + (number >= len(lengths) - shared))])
        for number, of in enumerate(rows.split(lengths))
    ]
    optimizer = config_file.validate(Optimizer, {kind: SETTINGS[kind]}, "test")
    weight = torch.randn(ROWS, dim, generator=generator)
    if kind == "spherical_adagrad":
        weight = torch.nn.functional.normalize(weight)
    state = [torch.rand(shape, generator=generator) for shape in state_shapes(optimizer, ROWS, dim)]
    found, found_state = weight.to(DEVICE, copy=True), [of.to(DEVICE, copy=True) for of in state]

    distinct, index = rows.unique(return_inverse=True)
    summed = torch.zeros(len(distinct), dim).index_add_(0, index, torch.cat([sum(of) for _, of in gradients]))
    RowOptimizer("table", optimizer, weight, state).update(distinct, weight[distinct], summed, step=3)

    betas = (0.8, 0.9) if kind == "adam" else (0.0, 0.0)
    rates = torch.tensor([0.3, *(1 - beta**3 for beta in betas)], device=DEVICE)
    eps = 0.0 if kind == "sgd" else 0.01
    moved = [(of.to(DEVICE), [piece.to(DEVICE) for piece in pieces]) for of, pieces in gradients]
    update_rows(kind, moved, found, found_state, rates, eps, betas)
    torch.testing.assert_close(found.cpu(), weight, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(found_state, state, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_without_eps_a_gradient_of_0_changes_nothing(kind: str) -> None:
    weight = torch.nn.functional.normalize(torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1)))
    optimizer = config_file.validate(Optimizer, {kind: {"lr": 0.3}}, "test")
    state = [torch.zeros(shape, device=DEVICE) for shape in state_shapes(optimizer, ROWS, 4)]
    found = weight.to(DEVICE, copy=True)
    rows = torch.tensor([0, 3, 3, 5], device=DEVICE)
    gradients = [(rows, [torch.zeros(4, 4, device=DEVICE)])]
    rates = torch.tensor([0.3, 0.2, 0.1], device=DEVICE)
    update_rows(kind, gradients, found, state, rates, 0.0, (0.8, 0.9))
    torch.testing.assert_close(found.cpu(), weight, rtol=1e-6, atol=0)
    assert not any(of.any() for of in state)
