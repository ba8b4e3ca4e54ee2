"""Pipelined steps equal steps one by one, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.ranks import run_ranks
from tests.training.test_step import SIZES, STEPS, Case, make_batches, make_config, whole_weights
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.model.batch import Batch
from twhin_core.schema import Schema
from twhin_core.training.build import TrainableModel, build
from twhin_core.training.local_model import LocalModel
from twhin_core.training.pipeline import _Entry

CASES = [
    Case("rowwise_adagrad", "row_wise"),
    Case("sgd", "table_wise"),
    Case("adagrad", "column_wise"),
    Case("adagrad", "data_parallel"),
    Case("rowwise_adagrad", "data_parallel,row_wise"),
]


def made(case: Case, ranks: Ranks) -> tuple[TrainableModel, list[Batch]]:
    config = make_config(case)
    batches = [make_batches(config, step)[1][ranks.rank] for step in range(STEPS)]
    return build(config, Schema(SIZES, config.model.relations), ranks), batches


def both_ways() -> list[dict[str, Any]]:
    """By case: losses and weights of steps one by one and pipelined, and the pipeline's events in order."""
    results = []
    with process_group() as ranks:
        for case in CASES:
            one_by_one, batches = made(case, ranks)
            plain = [float(one_by_one.step(batch)) for batch in batches]
            pipelined, _ = made(case, ranks)
            did = watched(pipelined)
            losses, aside = [], []
            for loss, number in pipelined.steps((batch, number) for number, batch in enumerate(batches)):
                did.append(f"learned {number}")
                losses.append(float(loss))
                with pipelined.without_pipeline(), torch.no_grad():  # as a validation between steps
                    aside.append(float(pipelined.model(batches[0])))
            with torch.no_grad():
                afterwards = float(one_by_one.model(batches[0]))
            results.append(
                {
                    "losses": (plain, losses),
                    "aside": (afterwards, aside[-1]),
                    "weights": (whole_weights(one_by_one), whole_weights(pipelined)),
                    "did": did,
                }
            )
    return results


def watched(model: TrainableModel) -> list[str]:
    """A list that records each sending of ids."""
    did: list[str] = []
    tables = model.model.module.tables
    send = tables.input_dist

    def noted(*arguments: Any, **more: Any) -> Any:
        did.append("sent")
        return send(*arguments, **more)

    tables.input_dist = noted
    return did


@pytest.fixture(scope="module")
def results() -> list[list[dict[str, Any]]]:
    return run_ranks(2, both_ways)


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case.sharding for case in CASES])
def test_a_pipeline_equals_steps_one_by_one(index: int, results: list[list[dict[str, Any]]]) -> None:
    for rank in results:
        plain, pipelined = rank[index]["losses"]
        assert len(plain) == STEPS
        assert pipelined == plain
        expected, found = rank[index]["weights"]
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert rank[index]["aside"][0] == rank[index]["aside"][1]


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case.sharding for case in CASES])
def test_ids_are_on_their_way_before_the_step_ahead_of_them_is_done(
    index: int, results: list[list[dict[str, Any]]]
) -> None:
    # Each step is followed by a batch aside, which sends its ids itself.
    expected = ["sent", "sent", "learned 0", "sent", "sent", "learned 1", "sent", "learned 2", "sent"]
    assert results[0][index]["did"] == expected


def endless(batches: list[Batch]) -> Iterator[tuple[Batch, int]]:
    while True:
        for number, batch in enumerate(batches):
            yield batch, number


def test_two_batches_are_taken_ahead_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalModel, "can_hold", staticmethod(lambda *_: False))  # as among several ranks
    taken = 0

    def counted(batches: list[Batch]) -> Iterator[tuple[Batch, int]]:
        nonlocal taken
        for entry in endless(batches):
            taken += 1
            yield entry

    with process_group() as ranks:
        model, batches = made(CASES[0], ranks)
        steps = model.steps(counted(batches))
        assert [next(steps)[1] for _ in range(3)] == [0, 1, 2]
    assert taken == 5


def test_all_memory_of_a_batch_is_kept_until_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, the stream that reads the batch is not the one that copied it."""
    batch = make_batches(make_config(Case("sgd", "row_wise", logq=True)), 0)[1][0]
    kept: set[int] = set()
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, _: kept.add(tensor.data_ptr()))
    stream: Any = object()  # a real one needs a device where torch is built for one
    _Entry(batch, None).record_stream(stream)
    expected = {
        value.data_ptr() for queries in batch.queries.values() for value in vars(queries).values() if is_tensor(value)
    }
    expected |= {batch.lookups.values().data_ptr(), batch.lookups.lengths().data_ptr()}
    assert len(expected) > 10
    assert expected <= kept


def is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() > 0
