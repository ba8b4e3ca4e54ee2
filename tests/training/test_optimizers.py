"""Each optimizer does what torch.optim does to a dense copy, at the rates of each one's schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.training import dense
from tests.training.surgery import merge, plain_queries
from tests.training.test_step import SIZES, Case, make_batches, make_config, whole_weights
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.config.optimizer import Optimizer
from twhin_core.distributed.ranks import process_group
from twhin_core.errors import UserError
from twhin_core.schema import Schema
from twhin_core.training import build as build_module
from twhin_core.training.build import TrainableModel, build
from twhin_core.training.local_model import LocalModel
from twhin_core.training.row_optimizer import RowOptimizer

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


@pytest.mark.parametrize("eps", [0.0, 1e-60])
@pytest.mark.parametrize("optimizer", ["adagrad", "rowwise_adagrad"])
def test_without_eps_a_gradient_of_0_changes_nothing(optimizer: str, eps: float, kind: str) -> None:
    """With every vector 0, so is every gradient of a dot product, of tables and relations; 1e-60 is 0 in float32."""
    tree = make_config(Case("adagrad", kind)).model_dump()
    for table in tree["model"]["embeddings"]["tables"]:
        table["optimizer"] = {optimizer: {"lr": 0.1, "eps": eps}}
    tree["model"]["translation_optimizer"] = {"adagrad": {"lr": 0.2, "eps": eps}}
    config = config_file.validate(Config, tree, "test")
    with process_group() as ranks:
        model = build(config, Schema(SIZES, config.model.relations), ranks)
        for name, value in model.state().items():
            if name.startswith("tables."):
                for part in local_tensors(value):
                    part.zero_()
        for step in range(2):
            model.step(merge(make_batches(config, step)[1]))
        after = whole_weights(model)
    for name, value in after.items():
        assert not np.any(value), name  # NaN counts as any


@settings(max_examples=40)
@given(
    name=st.sampled_from(["adagrad", "rowwise_adagrad", "spherical_adagrad", "adam"]),
    exponents=st.lists(st.integers(-30, 6), min_size=1, max_size=8),
    seed=st.integers(0, 1000),
)
def test_without_eps_the_first_step_is_the_rate_whatever_the_gradient(
    name: str, exponents: list[int], seed: int
) -> None:
    """A law of all these optimizers: only the direction of a first gradient counts; a gradient of 0 has none.

    A gradient whose square is 0 in float32 may count as 0, but no step is longer than the rate.
    """
    rate, dim, generator = 0.25, 4, torch.Generator().manual_seed(seed)
    settings_of = {"lr": rate, "eps": 1e-60 if name == "adam" else 0.0}
    optimizer = config_file.validate(Optimizer, {name: settings_of}, "test")
    weight = torch.nn.functional.normalize(torch.randn(len(exponents) + 1, dim, generator=generator))
    before, rows = weight.clone(), torch.arange(len(weight))
    direction = torch.randn(weight.shape, generator=generator)
    if name == "spherical_adagrad":
        direction -= (direction * weight).sum(1, keepdim=True) * weight
    direction = torch.nn.functional.normalize(direction)
    scale = torch.tensor([10.0**exponent for exponent in exponents] + [0.0])[:, None]
    RowOptimizer("table", optimizer, weight, None).update(rows, weight[rows], scale * direction, step=1)
    assert torch.equal(weight[-1], before[-1]) or name == "spherical_adagrad"
    torch.testing.assert_close(weight[-1], before[-1], rtol=0, atol=1e-6)
    if name == "rowwise_adagrad":
        expected = before - rate * dim**0.5 * direction
    elif name == "spherical_adagrad":
        expected = torch.nn.functional.normalize(before - rate * direction)
    else:
        expected = before - rate * direction.sign()
    large = scale.squeeze(1) >= 1e-15
    torch.testing.assert_close(weight[large], expected[large], rtol=1e-3, atol=1e-4)
    assert ((weight - before).norm(dim=1) <= 1.01 * rate * dim**0.5).all()
