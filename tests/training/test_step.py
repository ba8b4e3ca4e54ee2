"""Training steps: 2 ranks = 1 rank = a dense autograd implementation, however the tables are sharded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from tests.ranks import run_ranks
from tests.training import dense
from tests.training.surgery import merge, plain_queries
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.config.relation import ExplicitNegatives
from twhin_core.data import negative_lists
from twhin_core.data.edges import Edges
from twhin_core.data.frequencies import count_ends
from twhin_core.data.negative_lists import NegativeLists, pairs_of
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.model.batch import Batch
from twhin_core.model.batch_maker import BatchMaker
from twhin_core.schema import Schema
from twhin_core.training.build import TrainableModel, build

Array = npt.NDArray[np.float32]

# Small enough for rows to recur in later steps, odd so that ranks hold different numbers of them.
SIZES = {"user": 13, "tweet": 201}
STEPS = 3
DIM = 8
EDGES_PER_RANK = 20
UNIFORM = 4


@dataclass(frozen=True)
class Case:
    optimizer: str
    sharding: str
    """Of both tables, or of user and tweet, separated by a comma."""
    loss: str = "softmax"
    comparator: str = "dot"
    reciprocal: bool = False
    operator: str = "translation"
    in_batch: int = 3
    uniform: int = UNIFORM
    logq: bool = False
    power: float = 0.0
    has_self: bool = False
    full: bool = False
    penalty: tuple[float, float, int] = (0.0, 0.0, 3)
    prior: str | float | None = None
    prior_sides: tuple[str, ...] = ("rhs", "lhs")
    explicit: tuple[float, int] | None = None
    """The share and the most per positive of explicit negatives, for the relations follow and fav."""


SHARDINGS = ("data_parallel", "table_wise", "row_wise", "column_wise")

OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad")

COMBINED = [
    Case(OPTIMIZERS[(first + second) % (2 if sharding == "column_wise" else 3)], sharding, operator=operator)
    for first, operator in enumerate(dense.OPERATORS)
    for second, sharding in enumerate(SHARDINGS)
]
"""Every operator with every optimizer and sharding, and every optimizer with every sharding that it has."""

CASES = [
    *COMBINED,
    Case("rowwise_adagrad", "row_wise", "bce", operator="diagonal"),
    Case("adagrad", "column_wise", "softmax", "cos", operator="complex_diagonal"),
    Case("rowwise_adagrad", "data_parallel", "bce", operator="linear", reciprocal=True),
    Case("sgd", "table_wise", "bce", operator="affine"),
    Case("adagrad", "row_wise", "softmax", "cos", operator="affine", uniform=0),
    Case("adagrad", "data_parallel,row_wise"),
    Case("adagrad", "column_wise,table_wise"),
    Case("rowwise_adagrad", "table_wise,data_parallel"),
    Case("sgd", "row_wise", "bce"),
    Case("adagrad", "table_wise", "softmax", "cos"),
    Case("rowwise_adagrad", "row_wise", "softmax", "cos", reciprocal=True),
    Case("rowwise_adagrad", "table_wise", "bce", "dot", reciprocal=True, in_batch=0),
    Case("sgd", "row_wise", "bce", "cos", uniform=0),
    Case("rowwise_adagrad", "row_wise", logq=True),
    Case("rowwise_adagrad", "table_wise", "softmax", "cos", logq=True, uniform=0),
    Case("adagrad", "row_wise", "bce", logq=True, power=0.75),
    Case("sgd", "table_wise", power=1.0, in_batch=0, logq=True, reciprocal=True),
    Case("adagrad", "row_wise", power=1.0, in_batch=0),
    Case("rowwise_adagrad", "row_wise", penalty=(0.03, 0.05, 3)),
    Case("adagrad", "table_wise", operator="complex_diagonal", reciprocal=True, penalty=(0.03, 0.05, 3), in_batch=0),
    Case("sgd", "data_parallel", operator="affine", reciprocal=True, penalty=(0.0, 0.05, 2)),
    Case("rowwise_adagrad", "row_wise", "bce", "cos", operator="complex_diagonal", penalty=(0.03, 0.0, 2)),
    Case("rowwise_adagrad", "row_wise", has_self=True, logq=True),
    Case("adagrad", "table_wise", "softmax", "cos", has_self=True, in_batch=0),
    Case("sgd", "row_wise", "bce", reciprocal=True, has_self=True, in_batch=0),
    Case("sgd", "row_wise", full=True, in_batch=0),
    Case("rowwise_adagrad", "row_wise", uniform=30),
    Case("adagrad", "table_wise", "softmax", "cos", uniform=30, in_batch=0, logq=True, power=0.75, reciprocal=True),
    Case("sgd", "row_wise", "bce", uniform=30, logq=True, has_self=True),
    Case("sgd", "row_wise", uniform=210, full=True),
    Case("rowwise_adagrad", "table_wise", "softmax", "cos", full=True, has_self=True, logq=True, reciprocal=True),
    Case("spherical_adagrad", "row_wise", operator="translation", comparator="cos", logq=True, reciprocal=True),
    Case("spherical_adagrad", "table_wise", operator="diagonal"),
    Case("spherical_adagrad", "data_parallel,row_wise", "bce"),
    Case("rowwise_adagrad", "row_wise", "softmax", "cos", prior="learned"),
    Case("spherical_adagrad", "table_wise", comparator="cos", logq=True, prior="learned", prior_sides=("rhs",)),
    Case("adagrad", "row_wise", "bce", logq=True, power=0.75, has_self=True, prior="learned"),
    Case("sgd", "row_wise", reciprocal=True, has_self=True, in_batch=0, prior="learned"),
    Case("sgd", "data_parallel", "softmax", "cos", operator="linear", full=True, prior=0.5, prior_sides=("lhs",)),
    Case("rowwise_adagrad", "table_wise", "bce", uniform=0, prior=2),
    Case("rowwise_adagrad", "row_wise", explicit=(0.3, 3)),
    Case("adagrad", "table_wise", "softmax", "cos", explicit=(0.5, 5), logq=True, has_self=True, prior="learned"),
    Case("sgd", "row_wise", "bce", "cos", explicit=(0.25, 2), reciprocal=True, logq=True, prior=0.5),
    Case("sgd", "row_wise", explicit=(0.4, 4), in_batch=0, full=True),
]


def make_config(case: Case) -> Config:
    kinds = case.sharding.split(",") * (1 if "," in case.sharding else 2)
    tables = [
        {
            "name": name,
            "num_embeddings": size,
            "embedding_dim": DIM,
            "sharding": kind,
            "optimizer": {case.optimizer: {"lr": 0.1}},
        }
        for (name, size), kind in zip(SIZES.items(), kinds, strict=True)
    ]
    tree: dict[str, Any] = {
        "model": {
            "embeddings": {"tables": tables},
            "relations": [
                {"name": name, "lhs": lhs, "rhs": rhs, "operator": case.operator}
                for name, lhs, rhs in (("follow", "user", "user"), ("fav", "user", "tweet"), ("by", "tweet", "user"))
            ],
            "translation_optimizer": {"sgd": {"lr": 0.2}},
            "loss": case.loss,
            "comparator": case.comparator,
            "reciprocal": case.reciprocal,
            "init_std": 0.01 if case.optimizer == "spherical_adagrad" else 0.5,
            "regularization": make_penalty(case),
            "prior": None if case.prior is None else {"weight": case.prior, "sides": list(case.prior_sides)},
        },
        "train_data": {
            "data_root": "unused",
            "per_replica_batch_size": EDGES_PER_RANK,
            "in_batch_negatives": case.in_batch,
            "global_negatives": case.uniform,
            "global_negatives_power": case.power,
            "logq_correction": case.logq,
            "self_negatives": case.has_self,
            "full_softmax": case.full,
            "chunk_size": 6,
        },
    }
    if case.loss == "softmax":
        tree["model"]["temperature"] = 0.7
    return config_file.validate(Config, tree, "test")


def make_penalty(case: Case) -> dict[str, Any] | None:
    tables, relations, power = case.penalty
    return {"tables": tables, "relations": relations, "power": power} if tables or relations else None


def make_schema(config: Config, case: Case | None) -> Schema:
    """With `block` and `dislike`, relations of explicit negatives, of which there are never other edges."""
    if case is None or case.explicit is None:
        return Schema(SIZES, config.model.relations)
    share, most = case.explicit
    follow, fav, by = config.model.relations
    block, dislike = (of.model_copy(update={"name": name}) for of, name in ((follow, "block"), (fav, "dislike")))
    follow, fav = (
        of.model_copy(update={"negatives": ExplicitNegatives(relation=name, share=share, per_positive=most)})
        for of, name in ((follow, "block"), (fav, "dislike"))
    )
    return Schema(SIZES, [follow, fav, by, block, dislike])


EXPLICIT = {
    rel: {lhs: [(7 * lhs + 3 * place + rel) % rows for place in range(lhs % 5)] for lhs in range(SIZES["user"])}
    for rel, rows in ((0, SIZES["user"]), (1, SIZES["tweet"]))
}
"""By relation and lhs, 0 to 4 explicit negatives, which some positives are too."""


def make_lists(case: Case | None, schema: Schema) -> NegativeLists | None:
    if case is None or case.explicit is None:
        return None
    pairs = [(rel + 3, lhs, rhs) for rel, of in EXPLICIT.items() for lhs, listed in of.items() for rhs in listed]
    rel, lhs, rhs = np.array(pairs[::-1]).T
    edges = Edges(lhs, rel, rhs, np.ones(len(pairs), np.float32))
    return negative_lists.make_lists([pairs_of([edges], schema)], schema)


def make_batches(config: Config, step: int, case: Case | None = None) -> tuple[list[Edges], list[Batch]]:
    """A step's edges and batches of rank 0 and of rank 1."""
    schema = make_schema(config, case)
    frequencies = count_ends(chain.from_iterable(map(make_edges, range(STEPS))), schema)
    maker = BatchMaker(schema, config.model, config.train_data, frequencies, make_lists(case, schema))
    edges = make_edges(step)
    return edges, [
        maker.make(edges[rank], 2 * EDGES_PER_RANK, torch.Generator().manual_seed(2 * step + rank)) for rank in range(2)
    ]


def make_edges(step: int) -> list[Edges]:
    """A step's edges of rank 0 and of rank 1."""
    rng = np.random.default_rng([3, step])
    edges = []
    for _ in range(2):
        rel = np.sort(rng.integers(3, size=EDGES_PER_RANK))
        lhs = rng.integers(np.where(rel == 2, SIZES["tweet"], SIZES["user"]))
        rhs = rng.integers(np.where(rel == 1, SIZES["tweet"], SIZES["user"]))
        rhs[:1] = lhs[:1]  # an edge from a node to itself
        weight = rng.uniform(0.5, 2.0, EDGES_PER_RANK).astype(np.float32)
        edges.append(Edges(lhs, rel, rhs, weight))
    return edges


def favour(case: Case) -> Callable[[str, int, int], float]:
    """How much likelier than uniformly a node is drawn, by direct counting."""
    if not case.logq:
        return lambda *_: 1.0
    edges = [
        (rel, {"lhs": (lhs_table, lhs), "rhs": (rhs_table, rhs)})
        for part in chain.from_iterable(map(make_edges, range(STEPS)))
        for lhs, rel, rhs in zip(part.lhs.tolist(), part.rel.tolist(), part.rhs.tolist(), strict=True)
        for lhs_table, rhs_table in [(("user", "user"), ("user", "tweet"), ("tweet", "user"))[rel]]
    ]
    degrees = Counter(end for _, ends in edges for end in ends.values())

    def likelier(side: str, rel: int, node: int) -> float:
        table = next(ends[side][0] for other, ends in edges if other == rel)
        nodes = [ends[side][1] for other, ends in edges if other == rel]
        in_batch = nodes.count(node) / len(nodes)
        everywhere = sum(degrees[table, other] ** case.power for other in range(SIZES[table]) if degrees[table, other])
        drawn = degrees[table, node] ** case.power / everywhere if case.power else 1 / SIZES[table]
        mixed = (case.in_batch * in_batch + case.uniform * drawn) / (case.in_batch + case.uniform)
        return SIZES[table] * mixed

    return cache(likelier)


def log_share(side: str, rel: int, node: int) -> float:
    """log p of a node relative to a uniform draw, by direct counting; every node has one edge more than it has."""
    edges = [edge for part in chain.from_iterable(map(make_edges, range(STEPS))) for edge in _listed(part)]
    nodes = [edge[side] for edge in edges if edge["rel"] == rel]
    rows = SIZES[(("user", "user"), ("user", "tweet"), ("tweet", "user"))[rel][side == "rhs"]]
    return math.log((nodes.count(node) + 1) / (len(nodes) + rows) * rows)


def _listed(edges: Edges) -> list[dict[str, int]]:
    columns = zip(edges.lhs.tolist(), edges.rel.tolist(), edges.rhs.tolist(), strict=True)
    return [{"lhs": lhs, "rel": rel, "rhs": rhs} for lhs, rel, rhs in columns]


def prior_weights(case: Case, before: dict[str, Tensor]) -> Tensor | None:
    if case.prior == "learned":
        return before["scorer.prior"].clone()
    return None if case.prior is None else torch.full((3 if case.explicit is None else 5, 2), float(case.prior))


def some_steps(case: Case, whole: bool, ranks: Ranks) -> dict[str, Any]:
    """The losses, and the full weights before and after. `whole`: one rank takes both ranks' batches."""
    config = make_config(case)
    model = build(config, make_schema(config, case), ranks)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.model.module.scorer.parameters():
        parameter.data.normal_(0.0, 0.5, generator=generator)
    before, losses = whole_weights(model), []
    for step in range(STEPS):
        _, batches = make_batches(config, step, case)
        losses.append(ranks.sum(model.step(merge(batches) if whole else batches[ranks.rank])))
    kinds = [table.sharding for table in model.plan]
    return {"losses": losses, "before": before, "after": whole_weights(model), "kinds": kinds}


def all_cases(whole: bool) -> list[dict[str, Any]]:
    with process_group() as ranks:
        return [some_steps(case, whole, ranks) for case in CASES]


def whole_weights(model: TrainableModel) -> dict[str, Array]:
    """Every table and relation parameter as one dense tensor, on every rank."""
    weights = {}
    for name, value in sorted(model.model.state_dict().items()):  # in one order on all ranks
        if not isinstance(value, ShardedTensor):
            weights[name] = value.cpu().numpy().copy()
            continue
        whole = torch.zeros(value.size(), device=model.model.device)
        for shard in value.local_shards():
            (row, column), (rows, columns) = shard.metadata.shard_offsets, shard.metadata.shard_sizes
            whole[row : row + rows, column : column + columns] = shard.tensor
        torch.distributed.all_reduce(whole)
        weights[name] = whole.cpu().numpy()
    return weights


def plain_model(case: Case, before: dict[str, Tensor]) -> dense.PlainModel:
    """The dense model with the weights `before`."""
    config = make_config(case)
    return dense.PlainModel(
        tables={name: before[f"tables.embeddings.{name}.weight"].clone() for name in SIZES},
        relation_tables=[(relation.lhs, relation.rhs) for relation in make_schema(config, case).relations],
        operate=dense.OPERATORS[case.operator],
        relations=before[f"scorer.operator.{case.operator}"].clone(),
        inverse=before[f"scorer.inverse.{case.operator}"].clone() if case.reciprocal else None,
        cosine=case.comparator == "cos",
        loss=case.loss,
        temperature=config.model.temperature,
        favour=favour(case),
        penalty=case.penalty,
        full=case.full,
        at_most=(case.in_batch, case.uniform),
        explicit_share=0.0 if case.explicit is None else case.explicit[0],
        prior=prior_weights(case, before),
        log_share=cache(lambda side, *of: log_share(side, *of) if side in case.prior_sides else 0.0),
        learns_prior=case.prior == "learned",
        is_complex=case.operator == "complex_diagonal",
    )


@pytest.fixture(scope="module")
def results() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The results of two ranks and of one for each case."""
    first, second = run_ranks(2, all_cases, False, seconds=200)
    for one, other in zip(first, second, strict=True):
        for name in one["after"]:
            np.testing.assert_array_equal(one["after"][name], other["after"][name])
    return list(zip(first, run_ranks(1, all_cases, True, seconds=200)[0], strict=True))


@pytest.mark.parametrize("index", range(len(CASES)), ids=[str(case) for case in CASES])
def test_two_ranks_equal_one_and_dense_steps(index: int, results: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    case, (two, one) = CASES[index], results[index]
    config = make_config(case)
    assert two["kinds"] == [table.sharding for table in config.model.embeddings.tables]
    before = {name: torch.from_numpy(value) for name, value in two["before"].items()}
    plain = plain_model(case, before)
    losses, update = [], dense.UPDATES[case.optimizer]()
    for step in range(STEPS):
        edges, batches = make_batches(config, step, case)
        both = [query for rank in range(2) for query in plain_queries(batches[rank], edges[rank])]
        losses.append(plain.step(both, update, lr_relations=0.2))

    expected = {f"tables.embeddings.{name}.weight": table for name, table in plain.tables.items()}
    expected[f"scorer.operator.{case.operator}"] = plain.relations
    if plain.inverse is not None:
        expected[f"scorer.inverse.{case.operator}"] = plain.inverse
    if case.prior == "learned":
        assert plain.prior is not None
        expected["scorer.prior"] = plain.prior
    assert set(two["after"]) == set(expected)
    assert two["losses"] == pytest.approx(losses, rel=1e-4)
    assert one["losses"] == pytest.approx(losses, rel=1e-4)
    for name, value in expected.items():
        np.testing.assert_array_equal(one["before"][name], two["before"][name])
        for ranks, result in (("2 ranks", two), ("1 rank", one)):
            np.testing.assert_allclose(
                result["after"][name], value.detach().numpy(), rtol=1e-4, atol=1e-5, err_msg=f"{ranks}: {name}"
            )
