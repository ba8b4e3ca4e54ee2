"""Batches made on the device that learns: a step equals the dense one, with the fused loss where there is a GPU.

Without a GPU they are made on the CPU, by the same code, and go through the tables that several ranks have.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.training import dense
from tests.training.surgery import plain_queries, rows_of
from tests.training.test_step import (
    CASES,
    COMBINED,
    EDGES_PER_RANK,
    EXPLICIT,
    SIZES,
    STEPS,
    Case,
    make_config,
    make_edges,
    make_lists,
    make_schema,
    plain_model,
    whole_weights,
)
from twhin_core.data.edges import Edges
from twhin_core.data.frequencies import count_ends
from twhin_core.data.negative_lists import make_lists as make_negative_lists
from twhin_core.data.negative_lists import pairs_of
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.model import device_batch, fused_softmax
from twhin_core.model.batch import Batch
from twhin_core.model.device_batch import DeviceBatchMaker
from twhin_core.schema import Schema
from twhin_core.training import local_model
from twhin_core.training.build import build
from twhin_core.training.joined_tables import JoinedTables
from twhin_core.training.local_model import LocalModel


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with process_group() as group:
        yield group


def step_edges(step: int) -> Edges:
    return Edges.joined(make_edges(step))


def make_maker(case: Case, device: torch.device, are_joined: bool = False) -> DeviceBatchMaker:
    config = make_config(case)
    schema = make_schema(config, case)
    frequencies = count_ends(map(step_edges, range(STEPS)), schema)
    lists = make_lists(case, schema)
    return DeviceBatchMaker(schema, config.model, config.train_data, frequencies, device, are_joined, lists)


ONE_RANK = [case for case in CASES if case not in COMBINED or case.sharding == "row_wise"]
"""On one rank each sharding takes the same batches; test_step has them all."""


def ways(case: Case) -> list[str]:
    """How scores are computed and rows looked up: as on several GPUs without Triton and with it, or on a single GPU."""
    fused = case.loss == "softmax" and (case.operator == "translation" or case.comparator == "cos")
    # Joined tables are slow in Triton's interpreter. What they do depends neither on how their rows are scored nor on
    # many negatives.
    are_scores_plain = case.operator == "translation" and case.loss == "softmax" and case.comparator == "dot"
    joined = case.sharding == "row_wise" and are_scores_plain and case.uniform < 100
    return ["in memory", *["fused"] * fused, *["joined"] * joined]


@pytest.mark.parametrize(("case", "way"), [(case, way) for case in ONE_RANK for way in ways(case)], ids=str)
def test_a_step_equals_the_dense_one(case: Case, way: str, ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "in memory":
        pytest.importorskip("tests.kernels")
    monkeypatch.setattr(fused_softmax, "is_available", lambda *_: way == "fused")
    monkeypatch.setattr(LocalModel, "can_hold", staticmethod(lambda *_: way == "joined"))
    monkeypatch.setattr(local_model, "LocalTables", lambda *of: JoinedTables(*of[:2], ranks.device))  # on a CPU too
    config = make_config(case)
    model = build(config, make_schema(config, case), ranks)
    maker = make_maker(case, ranks.device, way == "joined")
    generator = torch.Generator().manual_seed(5)
    for parameter in model.model.module.scorer.parameters():
        parameter.data.copy_(torch.empty(parameter.shape).normal_(0.0, 0.5, generator=generator))
    before = {name: torch.from_numpy(value) for name, value in whole_weights(model).items()}
    plain = plain_model(case, before)
    update = dense.UPDATES[case.optimizer]()
    # In Triton's interpreter a step is slow; the second meets the state that the first left.
    for step in range(STEPS if way == "in memory" else 2):
        edges = step_edges(step)
        batch = maker.lay_out(edges, len(edges), seed=step).to(ranks.device)
        expected = plain.step(plain_queries(batch, edges, list(SIZES.values())), update, lr_relations=0.2)
        assert float(model.step(batch)) == pytest.approx(expected, rel=1e-4)
    after = whole_weights(model)
    for name, table in plain.tables.items():
        found = after[f"tables.embeddings.{name}.weight"]
        np.testing.assert_allclose(found, table.detach().numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
    found = after[f"scorer.operator.{case.operator}"]
    np.testing.assert_allclose(found, plain.relations.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [Case("sgd", "row_wise", logq=True, power=0.75), Case("sgd", "row_wise", in_batch=0)])
def test_the_seed_alone_decides_on_the_negatives(case: Case, ranks: Ranks) -> None:
    maker = make_maker(case, ranks.device)
    one, same, other = (maker.lay_out(step_edges(0), 2 * EDGES_PER_RANK, seed).to(ranks.device) for seed in (1, 1, 2))
    assert rows_of(one) == rows_of(same)
    assert rows_of(one) != rows_of(other)


def test_one_relation_beside_its_explicit_negatives_is_uniform(ranks: Ranks) -> None:
    """Every edge has the same layout, and its query's own explicit negatives."""
    case = Case("sgd", "row_wise", explicit=(0.3, 4))
    config, whole = make_config(case), make_schema(make_config(case), case)
    fav, dislike = whole.relations[1], whole.relations[4]
    schema = Schema(SIZES, [dislike, fav])
    pairs = [(0, lhs, rhs) for lhs, listed in EXPLICIT[1].items() for rhs in listed]
    rel, lhs, rhs = np.array(pairs).T
    known = Edges(lhs, rel, rhs, np.ones(len(pairs), np.float32))
    lists = make_negative_lists([pairs_of([known], schema)], schema)
    maker = DeviceBatchMaker(schema, config.model, config.train_data, None, ranks.device, explicit=lists)
    assert maker.is_uniform
    edges = Edges(np.arange(13), np.ones(13, np.int64), np.arange(13) * 3, np.ones(13, np.float32))
    batch = maker.lay_out(edges, 13, seed=1).to(ranks.device)
    found = {query.lhs: query for query in plain_queries(batch, edges, list(SIZES.values())) if query.side == "rhs"}
    assert set(found) == set(range(13))
    for user, query in found.items():
        assert sorted(query.explicit) == sorted(set(EXPLICIT[1][user]) - {query.rhs})
        assert set(query.negatives[: case.in_batch]) <= {3 * other for other in range(13)}


def test_the_ids_of_a_table_are_spread_over_many_warps(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lookup kernel has one warp for each entry of a table's ids."""
    case = Case("sgd", "row_wise")
    whole = make_maker(case, ranks.device).lay_out(step_edges(0), 40, 0).to(ranks.device)
    monkeypatch.setattr(device_batch, "LARGEST_STRIDE", 7)
    cut = make_maker(case, ranks.device).lay_out(step_edges(0), 40, 0).to(ranks.device)
    assert max(whole.lookups.lengths().tolist()) == 1
    assert cut.lookups.stride() == 7
    lengths = cut.lookups.lengths().view(2, 7).tolist()
    assert [sum(of_table) for of_table in lengths] == cut.lookups.length_per_key() == whole.lookups.length_per_key()
    assert all(max(of_table) - min(of_table) <= 1 for of_table in lengths)
    assert rows_of(cut) == rows_of(whole)


def gradient_positions(batch: Batch) -> list[list[int]]:
    bounds = batch.start.tolist()
    return [sorted(batch.order.tolist()[a:b]) for a, b in itertools.pairwise(bounds)]


def test_each_row_finds_its_gradients_in_all_gathers(ranks: Ranks) -> None:
    batch = make_maker(Case("sgd", "row_wise"), ranks.device).lay_out(step_edges(0), 40, 0).to(ranks.device)
    expected: list[list[int]] = [[] for _ in rows_of(batch)]
    for position, index in enumerate(torch.cat(batch.gathers).tolist()):
        expected[index].append(position)
    assert gradient_positions(batch) == expected
