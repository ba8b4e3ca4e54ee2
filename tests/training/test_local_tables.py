"""Plain tables and their row-wise updates against torch's own optimizers on dense copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from twhin_core.config import Model
from twhin_core.config import file as config_file
from twhin_core.schema import Schema
from twhin_core.training.local_tables import LocalTables

ROWS, DIM = 5, 4
TORCH: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad}


def make_tables(**optimizer: Any) -> LocalTables:
    tree = {
        "embeddings": {"tables": [{"name": "user", "embedding_dim": DIM, "optimizer": optimizer}]},
        "relations": [{"name": "follow", "lhs": "user", "rhs": "user"}],
        "translation_optimizer": {"sgd": {"lr": 0.1}},
    }
    tables = LocalTables(config_file.validate(Model, tree, "test"), Schema({"user": ROWS}, []))
    weight_of(tables).copy_(torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0)))
    return tables


def weight_of(tables: LocalTables) -> Tensor:
    return tables.state_dict()["embeddings.user.weight"]


def gradients(steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(ROWS, DIM, generator=generator) for _ in range(steps)]


def take_step(tables: LocalTables, rows: list[int], gradient: Tensor, step: int) -> None:
    ids = torch.tensor(rows)
    lookups = KeyedJaggedTensor(["user"], ids, lengths=torch.tensor([len(rows)], dtype=torch.int32), stride=1)
    (tables(lookups)["user"].values() * gradient[ids]).sum().backward()
    tables.finish(step)


@pytest.mark.parametrize("name", TORCH)
def test_steps_on_all_rows_equal_torchs_optimizer(name: str) -> None:
    eps = {} if name == "sgd" else {"eps": 1e-3}
    tables = make_tables(**{name: {"lr": 0.1, **eps}})
    dense = weight_of(tables).clone().requires_grad_()
    optimizer = TORCH[name]([dense], lr=0.1, **eps)
    for step, gradient in enumerate(gradients(4), start=1):
        take_step(tables, [4, 2, 0, 1, 3], gradient, step)
        dense.grad = gradient
        optimizer.step()
    torch.testing.assert_close(weight_of(tables), dense.detach())


def test_rowwise_adagrad_by_hand() -> None:
    tables = make_tables(rowwise_adagrad={"lr": 0.5, "eps": 0.25})
    before = weight_of(tables)[1].clone()
    one, two = torch.tensor([3.0, 1.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, -1.0, 2.0])
    take_step(tables, [1], one.expand(ROWS, DIM), 1)
    take_step(tables, [1], two.expand(ROWS, DIM), 2)
    # Mean squares 12/4 and 6/4: the roots are √3 and √4.5.
    expected = before - 0.5 * one / (3**0.5 + 0.25) - 0.5 * two / (4.5**0.5 + 0.25)
    torch.testing.assert_close(weight_of(tables)[1], expected)
    assert tables.optimizer_state()["optimizer.tables.embeddings.user.weight.user.momentum1"].tolist() == [
        0,
        4.5,
        0,
        0,
        0,
    ]


def test_spherical_adagrad_by_hand() -> None:
    """The first step turns a row by an angle whose tangent is the learning rate, wherever the gradient points."""
    tables = make_tables(spherical_adagrad={"lr": 0.75, "eps": 0.0})
    weight = weight_of(tables)
    weight.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(ROWS, DIM))
    take_step(tables, [1], torch.tensor([5.0, -8.0, 0.0, 0.0]).expand(ROWS, DIM), 1)
    torch.testing.assert_close(weight[1], torch.tensor([0.8, 0.6, 0.0, 0.0]))
    # The next gradient's tangent part is (0, 0, 6, 0): the root of 64 + 36 is 10, so the step is .75 · .6 = .45.
    take_step(tables, [1], torch.tensor([8.0, 6.0, 6.0, 0.0]).expand(ROWS, DIM), 2)
    torch.testing.assert_close(weight[1], torch.tensor([0.8, 0.6, -0.45, 0.0]) / 1.2025**0.5)
    state = tables.optimizer_state()["optimizer.tables.embeddings.user.weight.user.momentum1"]
    assert state.tolist() == pytest.approx([0, 100, 0, 0, 0])


@pytest.mark.parametrize("name", ["sgd", "adam", "adagrad", "rowwise_adagrad", "spherical_adagrad"])
def test_rows_that_are_not_looked_up_do_not_move(name: str) -> None:
    tables = make_tables(**{name: {"lr": 0.1}})
    before = weight_of(tables).clone()
    for step, gradient in enumerate(gradients(3), start=1):
        take_step(tables, [0, 3], gradient, step)
    moved = (weight_of(tables) != before).any(1)
    assert moved.tolist() == [True, False, False, True, False]


def test_a_lookup_without_gradient_changes_nothing() -> None:
    tables = make_tables(sgd={"lr": 0.1})
    before = weight_of(tables).clone()
    lookups = KeyedJaggedTensor(["user"], torch.tensor([1]), lengths=torch.tensor([1], dtype=torch.int32), stride=1)
    with torch.no_grad():
        assert torch.equal(tables(lookups)["user"].values(), before[[1]])
    tables.finish(1)
    assert torch.equal(weight_of(tables), before)
