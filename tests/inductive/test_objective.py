"""The objective is the training loss of both sides, and what new nodes add to that of other edges, by plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch

from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.data.edges import Edges
from twhin_core.inductive.edges import Block
from twhin_core.inductive.frozen import Frozen
from twhin_core.inductive.objective import Objective
from twhin_core.model.scorer import Scorer
from twhin_core.schema import OTHER, SIDES, Schema, Side
from twhin_core.vectors.ids import Ids, NumberedIds
from twhin_core.vectors.rows import Ints, Rows, TensorRows

OPERATORS = ["identity", "translation", "diagonal", "complex_diagonal", "linear", "affine"]
COMPARATORS = ["dot", "cos", "l2", "squared_l2"]
LOSSES = ["softmax", "bce", "ranking"]
SIZES = {"user": 7, "tweet": 9}
TABLES = [("user", "user"), ("user", "tweet"), ("tweet", "user")]
WEIGHTS = [1.0, 3.0, 0.5]
DIM = 4
MARGIN, TEMPERATURE = 0.6, 0.7


class Case(NamedTuple):
    operator: str
    comparator: str
    loss: str
    reciprocal: bool = False
    prior: list[str] | None = None
    in_batch: int = 0
    logq: bool = False
    full: bool = False


def made_config(case: Case) -> Config:
    optimizer = {"rowwise_adagrad": {"lr": 0.1}}
    tables = [
        {"name": name, "embedding_dim": DIM, "num_embeddings": size, "optimizer": optimizer}
        for name, size in SIZES.items()
    ]
    relations = [
        {"name": name, "lhs": lhs, "rhs": rhs, "operator": case.operator, "weight": weight}
        for name, (lhs, rhs), weight in zip(("follow", "fav", "by"), TABLES, WEIGHTS, strict=True)
    ]
    model: dict[str, Any] = {
        "embeddings": {"tables": tables}, "relations": relations, "comparator": case.comparator, "loss": case.loss,
        "reciprocal": case.reciprocal, "translation_optimizer": {"adagrad": {"lr": 0.1}},
    }  # fmt: skip
    model |= {"softmax": {"temperature": TEMPERATURE}, "ranking": {"margin": MARGIN}}.get(case.loss, {})
    if case.prior is not None:
        model["prior"] = {"weight": 0.5, "sides": case.prior}
    data = {
        "data_root": "nowhere", "per_replica_batch_size": 8, "global_negatives": 8, "in_batch_negatives": case.in_batch,
        "logq_correction": case.logq, "full_softmax": case.full,
    }  # fmt: skip
    tree = {"model": model, "train_data": data, "training": {"num_train_steps": 1}}
    return config_file.validate(Config, tree, "made")


class Vectors:
    """Random vectors, and random priors of every candidate."""

    def __init__(self, config: Config, sides: list[str]) -> None:
        torch.manual_seed(3)
        self._scorer = Scorer(config.model, config.model.relations)
        for parameter in self._scorer.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        self.of = {name: torch.randn(size, DIM) for name, size in SIZES.items()}
        self.sides = sides
        self.priors = {
            (side, rel): torch.randn(SIZES[TABLES[rel][SIDES.index(side)]]) for side in SIDES for rel in range(3)
        }

    def ids(self, table: str) -> Ids:
        return NumberedIds(SIZES[table])

    def rows(self, table: str) -> Rows:
        return TensorRows(self.of[table])

    def scorer(self) -> Scorer:
        return self._scorer

    def candidates(self, side: Side, rel: int) -> Rows:
        vectors = self.of[TABLES[rel][SIDES.index(side)]]
        return TensorRows(torch.cat([vectors, self.priors[side, rel][:, None]], 1) if side in self.sides else vectors)

    def prior_of_counts(self, side: Side, rel: int, counts: Ints) -> torch.Tensor:
        return torch.tensor([own_prior(side, rel, count) for count in counts.tolist()])


def own_prior(side: Side, rel: int, count: int) -> float:
    return 0.3 * math.log(count + 1) - 0.2 * rel + 0.1 * (side == "rhs")


def drawn_edges(rng: np.random.Generator, count: int) -> Edges:
    rel = rng.integers(3, size=count)
    lhs, rhs = (np.array([rng.integers(SIZES[TABLES[one][end]]) for one in rel]) for end in (0, 1))
    return Edges(lhs, rel, rhs, rng.uniform(0.5, 2, count).astype(np.float32))


def drawn_block(rng: np.random.Generator, ends: int) -> Block:
    """Three new users, each with an edge."""
    rel = rng.integers(3, size=ends)
    asks_rhs = np.where(rel == 0, rng.random(ends) < 0.5, rel == 1)
    other = np.array([rng.integers(SIZES["user" if one == 0 else "tweet"]) for one in rel])
    node = np.sort(np.r_[0:3, rng.integers(3, size=ends - 3)])
    return Block(pa.array(["a", "b", "c"]), node, rel, asks_rhs, other, rng.uniform(0.5, 2, ends).astype(np.float32))


def cases() -> Iterator[Case]:
    for operator, comparator, loss in itertools.product(OPERATORS, COMPARATORS, LOSSES):
        yield Case(operator, comparator, loss)
    for comparator, loss, logq in itertools.product(COMPARATORS, LOSSES, (False, True)):
        if loss != "ranking" or not logq:
            # Without the correction, negatives of the batch would not be all rows.
            yield Case("translation", comparator, loss, reciprocal=True, in_batch=4 * logq, logq=logq)
    for comparator, loss, sides in itertools.product(("dot", "cos"), LOSSES, (["lhs"], ["rhs"], ["lhs", "rhs"])):
        yield Case("affine", comparator, loss, prior=sides)
    yield Case("translation", "cos", "softmax", reciprocal=True, prior=["lhs", "rhs"], in_batch=4, logq=True)
    yield Case("linear", "dot", "softmax", full=True)
    yield Case("translation", "cos", "softmax", reciprocal=True, full=True, prior=["rhs"])


class BruteForce:
    """Losses in which all rows are the candidates, score by score."""

    def __init__(self, case: Case, vectors: Vectors) -> None:
        self.case, self.vectors, self.drawn = case, vectors, 8 + case.in_batch

    def node(self, side: Side, rel: int, row: int) -> torch.Tensor:
        return self.vectors.of[TABLES[rel][SIDES.index(side)]][row]

    def prior(self, side: Side, rel: int, row: int) -> float:
        return float(self.vectors.priors[side, rel][row])

    def score(self, side: Side, rel: int, node: torch.Tensor, answer: torch.Tensor, prior: float) -> float:
        """Of an answer to a query for `side`."""
        lhs, rhs = (answer, node) if side == "lhs" else (node, answer)
        one = self.vectors.scorer().edges(side, torch.tensor([rel]), lhs[None], rhs[None])
        return float(one.detach()) + (prior if side in self.vectors.sides else 0.0)

    def negatives(self, side: Side, rel: int, node: torch.Tensor) -> list[float]:
        rows = range(SIZES[TABLES[rel][SIDES.index(side)]])
        return [self.score(side, rel, node, self.node(side, rel, row), self.prior(side, rel, row)) for row in rows]

    def weight(self, rows: int) -> int:
        return rows if self.case.full else self.case.in_batch + min(8, rows)

    def mass(self, negatives: list[float]) -> float:
        return self.weight(len(negatives)) * float(np.mean([math.exp(one / TEMPERATURE) for one in negatives]))

    def loss(self, side: Side, rel: int, node: torch.Tensor, positive: float) -> float:
        negatives = self.negatives(side, rel, node)
        if self.case.loss == "softmax":
            return math.log1p(self.mass(negatives) / math.exp(positive / TEMPERATURE))
        if self.case.loss == "bce":
            return math.log1p(math.exp(-positive)) + float(np.mean([math.log1p(math.exp(one)) for one in negatives]))
        return float(np.mean([max(0.0, MARGIN - positive + one) for one in negatives]))

    def added(self, side: Side, rel: int, node: torch.Tensor, positive: float, one_more: float) -> float:
        """By a negative that is a certain row in a share 1 / rows of the draws."""
        negatives = self.negatives(side, rel, node)
        rows = len(negatives)
        if self.case.loss == "softmax":
            each = self.weight(rows) / self.drawn * math.exp(one_more / TEMPERATURE)
            before = math.exp(positive / TEMPERATURE) + self.mass(negatives)
            return self.drawn / rows * math.log((before + each) / before)
        if self.case.loss == "bce":
            return math.log1p(math.exp(one_more)) / rows
        return max(0.0, MARGIN - positive + one_more) / rows

    def of_own_edges(self, block: Block, node: int, vector: torch.Tensor) -> float:
        total = 0.0
        for end in np.flatnonzero(block.node == node).tolist():
            rel, other, asks_rhs = int(block.rel[end]), int(block.other[end]), bool(block.asks_rhs[end])
            side, own = SIDES[asks_rhs], SIDES[not asks_rhs]
            its = self.node(side, rel, other)
            asking = self.score(side, rel, vector, its, self.prior(side, rel, other))
            asked = self.score(own, rel, its, vector, own_prior(own, rel, edges_of(block, node, own, rel)))
            loss = self.loss(side, rel, vector, asking) + self.loss(own, rel, its, asked)
            total += float(block.weight[end]) * loss
        return total

    def of_others_edges(self, edges: Edges, block: Block, node: int, vector: torch.Tensor) -> float:
        total = 0.0
        for at, side in itertools.product(range(len(edges)), SIDES):
            rel, rows = int(edges.rel[at]), {"lhs": int(edges.lhs[at]), "rhs": int(edges.rhs[at])}
            if TABLES[rel][SIDES.index(side)] == "user":
                asking, answer = self.node(OTHER[side], rel, rows[OTHER[side]]), rows[side]
                true = self.score(side, rel, asking, self.node(side, rel, answer), self.prior(side, rel, answer))
                prior = own_prior(side, rel, edges_of(block, node, side, rel))
                added = self.added(side, rel, asking, true, self.score(side, rel, asking, vector, prior))
                total += float(edges.weight[at]) * WEIGHTS[rel] * added
        return total


def edges_of(block: Block, node: int, side: Side, rel: int) -> int:
    """How many edges of the relation a new node has on that side."""
    return int(((block.node == node) & (block.rel == rel) & (block.asks_rhs == (side == "lhs"))).sum())


@pytest.mark.parametrize("case", cases(), ids=str)
def test_the_objective_is_the_loss_of_training(case: Case) -> None:
    config = made_config(case)
    schema, vectors = Schema(SIZES, config.model.relations), Vectors(config, case.prior or [])
    rng = np.random.default_rng(4)
    block, edges, count = drawn_block(rng, 12), drawn_edges(rng, 10), 60
    new, plain = torch.randn(3, DIM), BruteForce(case, vectors)
    expected = sum(
        (
            plain.of_own_edges(block, node, new[node])
            + count / len(edges) * plain.of_others_edges(edges, block, node, new[node])
        )
        / float(block.weight[block.node == node].sum())
        for node in range(3)
    )
    frozen = Frozen(config, schema, vectors, "user", edges, count)
    objective, given = Objective(frozen, block), new.clone().requires_grad_()
    found = objective(given)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    parts = [objective.of_nodes(nodes)(new[nodes]) for nodes in (slice(0, 2), slice(2, 4))]
    assert float(sum(parts)) == pytest.approx(expected, rel=1e-4)
    if case.loss != "ranking":  # whose kinks differences would cross
        found.backward()
        assert_gradient(objective, new, given.grad)


def assert_gradient(objective: Objective, at: torch.Tensor, gradient: torch.Tensor | None) -> None:
    """Some of the gradients are written by hand."""
    assert gradient is not None
    direction, step = torch.randn_like(at), 1e-2
    with torch.no_grad():
        there, back = (float(objective(at + sign * step * direction)) for sign in (1, -1))
    slope = float((gradient * direction).sum())
    assert (there - back) / (2 * step) == pytest.approx(slope, rel=2e-2, abs=2e-2)


def test_uncorrected_negatives_are_drawn_as_in_training() -> None:
    """All edges lead to one tweet, and half of the negatives are of the batch."""
    config = made_config(Case("identity", "dot", "softmax", in_batch=8))
    vectors, edges = Vectors(config, []), drawn_edges(np.random.default_rng(0), 30)
    edges.rel[:], edges.lhs[:], edges.rhs[:] = 1, edges.lhs % 7, 5
    frozen = Frozen(config, Schema(SIZES, config.model.relations), vectors, "user", edges, 300)
    answers = frozen.negatives("rhs", 1).answers
    are_it = (answers == vectors.of["tweet"][5]).all(1)
    assert len(answers) == 9
    assert are_it.sum() in (4, 5)  # one of the uniform ones may be it too
    for count in (0, 1, 12):
        chance = float(frozen.chance("lhs", 1, np.array([count]))[0])
        assert chance == pytest.approx(0.5 * count / 300 + 0.5 / 7)
