"""The objective is the training loss of both sides, however it is computed there."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch

from twhin_core.config import Model, Relation
from twhin_core.config import file as config_file
from twhin_core.inductive import objective
from twhin_core.inductive.edges import Block
from twhin_core.inductive.objective import Frozen, Objective
from twhin_core.model.losses import make_loss
from twhin_core.model.scorer import Scorer
from twhin_core.schema import Schema, Side
from twhin_core.vectors.rows import TensorRows

OPERATORS = ["identity", "translation", "diagonal", "complex_diagonal", "linear", "affine"]
COMPARATORS = ["dot", "cos", "l2", "squared_l2"]
LOSSES = ["softmax", "bce", "ranking"]
SIZES = {"user": 7, "tweet": 9}
DIM = 4


def made_model(operator: str, comparator: str, loss: str, reciprocal: bool) -> Model:
    tables = [{"name": name, "embedding_dim": DIM, "optimizer": {"rowwise_adagrad": {"lr": 0.1}}} for name in SIZES]
    relations = [
        {"name": "follow", "lhs": "user", "rhs": "user", "operator": operator},
        {"name": "fav", "lhs": "user", "rhs": "tweet", "operator": operator},
        {"name": "by", "lhs": "tweet", "rhs": "user", "operator": operator},
    ]
    tree = {
        "embeddings": {"tables": tables}, "relations": relations, "comparator": comparator, "loss": loss,
        "reciprocal": reciprocal, "translation_optimizer": {"adagrad": {"lr": 0.1}},
    }  # fmt: skip
    if loss == "softmax":
        tree["temperature"] = 0.7
    return config_file.validate(Model, tree, "made")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("comparator", COMPARATORS)
@pytest.mark.parametrize(("operator", "reciprocal"), [*itertools.product(OPERATORS, [False]), ("translation", True)])
def test_the_objective_is_the_loss_of_training(operator: str, comparator: str, loss: str, reciprocal: bool) -> None:
    model = made_model(operator, comparator, loss, reciprocal)
    relations: list[Relation] = model.relations
    schema = Schema(SIZES, relations)
    torch.manual_seed(3)
    scorer = Scorer(model, relations)
    for parameter in scorer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    rows = {name: torch.randn(size, DIM) for name, size in SIZES.items()}
    candidates = {name: of[torch.randperm(len(of))[:5]] for name, of in rows.items()}
    log_weight = {"user": 0.3, "tweet": -0.2}
    losses = {name: objective.make_loss(model, weight) for name, weight in log_weight.items()}
    frozen = Frozen(scorer, schema, {name: TensorRows(of) for name, of in rows.items()}, candidates, losses)

    rng = np.random.default_rng(4)
    ends = 12
    rel = rng.integers(3, size=ends)
    asks_rhs = np.where(rel == 0, rng.random(ends) < 0.5, rel == 1)
    other = np.array([rng.integers(SIZES["tweet" if one else "user"]) for one in rel])
    block = Block(
        pa.array(["a", "b", "c"]), np.sort(np.r_[0:3, rng.integers(3, size=ends - 3)]), rel, asks_rhs, other,
        rng.uniform(0.5, 2, ends).astype(np.float32),
    )  # fmt: skip
    vectors = torch.randn(3, DIM)
    of_model = make_loss(model)

    def loss_of(side: Side, number: int, lhs: torch.Tensor, rhs: torch.Tensor) -> torch.Tensor:
        node, answer = (lhs, rhs) if side == "rhs" else (rhs, lhs)
        table = schema.table_of(number, side)
        all_answers = torch.cat([answer[None], candidates[table]])
        scores = scorer.candidates(side, torch.tensor([[number]]), node[None, None], all_answers[None])
        weight = torch.tensor([log_weight[table]]) if loss == "softmax" else None
        return of_model(scores.clone(), torch.empty(0, dtype=torch.int64), weight).squeeze()

    expected = torch.zeros(())
    total = np.bincount(block.node, block.weight)
    for end in range(ends):
        node, number = block.node[end], int(rel[end])
        mine, its = vectors[node], rows["tweet" if rel[end] else "user"][other[end]]
        lhs, rhs = (mine, its) if asks_rhs[end] else (its, mine)
        share = float(block.weight[end] / total[node])
        expected += share * sum(loss_of(side, number, lhs, rhs) for side in ("lhs", "rhs"))
    with torch.no_grad():
        assert Objective(frozen, block)(vectors).item() == pytest.approx(expected.item(), rel=1e-4)
