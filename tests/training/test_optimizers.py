"""Each optimizer does what torch.optim does to a dense copy, at the rates of each one's schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training import dense
from tests.training.surgery import merge, plain_queries
from tests.training.test_step import SIZES, Case, make_batches, make_config, whole_weights
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.ranks import process_group
from twhin_core.errors import UserError
from twhin_core.schema import Schema
from twhin_core.training import build as build_module
from twhin_core.training.build import TrainableModel, build
from twhin_core.training.local_model import LocalModel

STEPS = 4
# The same first rate in both tables: they must not share it later on.
SCHEDULES: dict[str, dict[str, Any]] = {
    "user": {"piecewise_constant": {"learning_rate_boundaries": [1, 3], "learning_rate_values": [0.1, 0.4, 0.2]}},
    "tweet": {"piecewise_constant": {"learning_rate_boundaries": [2], "learning_rate_values": [0.1, 0.3]}},
    "relations": {"linear_ramp_to_constant": {"learning_rate": 0.2, "num_ramp_steps": 4}},
}
RATES = {"user": [0.1, 0.4, 0.4, 0.2], "tweet": [0.1, 0.1, 0.3, 0.3], "relations": [0.05, 0.1, 0.15, 0.2]}
TORCH = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}


def scheduled(config: Config, optimizer: str, relations: str) -> Config:
    tree = config.model_dump()
    for table in tree["model"]["embeddings"]["tables"]:
        table["optimizer"] = {optimizer: {"lr": 0.1}, "learning_rate": SCHEDULES[table["name"]]}
    tree["model"]["translation_optimizer"] = {relations: {"lr": 0.2}, "learning_rate": SCHEDULES["relations"]}
    return config_file.validate(Config, tree, "test")


def plain_copy(model: TrainableModel, config: Config) -> dense.PlainModel:
    weights = {name: torch.from_numpy(value.copy()) for name, value in whole_weights(model).items()}
    tables = {name: weights[f"tables.embeddings.{name}.weight"].requires_grad_() for name in SIZES}
    return dense.PlainModel(
        tables=tables,
        relation_tables=[(relation.lhs, relation.rhs) for relation in config.model.relations],
        operate=dense.OPERATORS["translation"],
        relations=weights["scorer.operator.translation"].requires_grad_(),
        inverse=None,
        cosine=False,
        loss=config.model.loss,
        temperature=config.model.temperature,
    )


@pytest.fixture(params=["local", "row_wise", "fused", "data_parallel"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What updates the tables: the code of a process alone, of shards or of copies, or fbgemm's fused kernel.

    Gives the sharding that it takes.
    """
    if request.param != "local":
        monkeypatch.setattr(LocalModel, "can_hold", staticmethod(lambda *_: False))
    if request.param == "fused":
        monkeypatch.setattr(build_module, "use_row_optimizers", lambda *_: [])
    return "data_parallel" if request.param == "data_parallel" else "row_wise"


@pytest.mark.parametrize(("optimizer", "relations"), [("sgd", "sgd"), ("adagrad", "adam"), ("sgd", "adagrad")])
def test_tables_and_relations_move_as_by_torch_at_the_rate_of_each_step(
    optimizer: str, relations: str, kind: str
) -> None:
    config = scheduled(make_config(Case(optimizer, kind)), optimizer, relations)
    with process_group() as ranks:
        model = build(config, Schema(SIZES, config.model.relations), ranks)
        plain = plain_copy(model, config)
        parameters: dict[str, Tensor] = {**plain.tables, "relations": plain.relations}
        settings: dict[str, dict[str, Any]] = {"sgd": {}, "adagrad": {"eps": 1e-8}, "adam": {}}
        optimizers = {
            name: TORCH[kind]([parameters[name]], lr=1.0, **settings[kind])
            for name, kind in [(name, optimizer) for name in SIZES] + [("relations", relations)]
        }
        for step in range(STEPS):
            edges, batches = make_batches(config, step)
            model.step(merge(batches))
            for name, torch_optimizer in optimizers.items():
                torch_optimizer.zero_grad()
                torch_optimizer.param_groups[0]["lr"] = RATES[name][step]
            plain.loss_of(
                [query for rank in range(2) for query in plain_queries(batches[rank], edges[rank])]
            ).backward()
            for torch_optimizer in optimizers.values():
                torch_optimizer.step()
        after = whole_weights(model)
    for name in SIZES:
        expected = plain.tables[name].detach().numpy()
        np.testing.assert_allclose(after[f"tables.embeddings.{name}.weight"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        after["scorer.operator.translation"], plain.relations.detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_rates_go_on_where_the_state_says(kind: str) -> None:
    """A model given another's state takes the same next step, though it never took the first ones."""
    config = scheduled(make_config(Case("adagrad", kind)), "adagrad", "adam")
    batches = [merge(make_batches(config, step)[1]) for step in range(STEPS)]
    with process_group() as ranks:
        schema = Schema(SIZES, config.model.relations)
        one, other = build(config, schema, ranks), build(config, schema, ranks)
        for batch in batches[:-1]:
            one.step(batch)
        mine, theirs = one.state(), other.state()
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            parts = zip(local_tensors(value), local_tensors(mine[name]), strict=True)
            for to, source in parts:
                to.copy_(source)
        for model in (one, other):
            model.step(batches[-1])
        left, right = whole_weights(one), whole_weights(other)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def local_tensors(value: Any) -> list[Tensor]:
    return [shard.tensor for shard in value.local_shards()] if hasattr(value, "local_shards") else [value.detach()]


def test_adam_has_no_kernel_for_shards_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalModel, "can_hold", staticmethod(lambda *_: False))  # as among several ranks
    config = make_config(Case("adam", "row_wise"))
    with (
        process_group() as ranks,
        pytest.raises(UserError, match="user has adam, which on CPUs needs fp32 tables and a single"),
    ):
        build(config, Schema(SIZES, config.model.relations), ranks)
