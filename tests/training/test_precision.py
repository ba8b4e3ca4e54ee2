"""bf16 products, TF32 and fp16 tables: what they change and what they leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import SmallConfig
from tests.data.reading import write_edges
from tests.training.surgery import merge
from tests.training.test_step import SIZES, Case, make_batches, make_config, make_edges, whole_weights
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.ranks import alone, process_group
from twhin_core.model import both_sides
from twhin_core.progress import log
from twhin_core.schema import Schema
from twhin_core.training.batches import Batches
from twhin_core.training.build import build, warn_of_slow_products
from twhin_core.training.validation import validation_loss

STEPS = 4


class Products(TorchDispatchMode):
    """Records the dtypes of the factors of every batched matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.name() in ("aten::bmm", "aten::mm", "aten::baddbmm", "aten::addmm"):
            self.types += [value.dtype for value in args if isinstance(value, torch.Tensor)]
        return function(*args, **(kwargs or {}))


def changed(config: Config, **values: Any) -> Config:
    """`config` with the values given as `section__key`, and `table__key` of every table."""
    tree = config.model_dump()
    for name, value in values.items():
        section, key = name.split("__")
        for place in tree["model"]["embeddings"]["tables"] if section == "table" else [tree[section]]:
            place[key] = value
    return config_file.validate(Config, tree, "test")


def steps(config: Config) -> dict[str, Any]:
    """Losses, weights before and after, and the dtypes of the products."""
    with process_group() as ranks:
        model = build(config, Schema(SIZES, config.model.relations), ranks)
        before, losses, products = whole_weights(model), list[float](), Products()
        with products:
            losses += [float(model.step(merge(make_batches(config, step)[1]))) for step in range(STEPS)]
        weights = [value for name, value in model.state().items() if name.endswith(".weight")]
        local = [value.local_shards()[0].tensor if isinstance(value, ShardedTensor) else value for value in weights]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in local}
        return {
            "losses": losses,
            "before": before,
            "after": whole_weights(model),
            "products": products.types,
            "types": {tensor.dtype for tensor in local},
            "bytes": sum(storage.nbytes() for storage in storages.values()),
        }


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_amp_computes_the_products_in_bf16_and_leaves_the_weights_in_fp32(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(both_sides, "are_worthwhile", lambda _: False)  # `Products` sees this thread only
    config = make_config(Case("rowwise_adagrad", "row_wise", loss))
    full, half = steps(config), steps(changed(config, runtime__enable_amp=True))
    assert set(full["products"]) == {torch.float32}
    assert set(half["products"]) == {torch.bfloat16}
    assert len(half["products"]) == len(full["products"]) > 0
    assert half["types"] == {torch.float32}
    assert half["losses"] != full["losses"]
    assert half["losses"] == pytest.approx(full["losses"], rel=0.01)
    for name, value in full["after"].items():
        np.testing.assert_allclose(half["after"][name], value, atol=0.05)


def test_validation_is_computed_in_fp32_whatever_training_is(tmp_path: Path) -> None:
    """Which makes its loss, and early stopping, comparable between runs."""
    config = changed(make_config(Case("rowwise_adagrad", "row_wise")), runtime__enable_amp=True)
    schema = Schema(SIZES, config.model.relations)
    edges = write_edges(make_edges(0)[0], schema, tmp_path)
    with process_group() as ranks, Products() as products:
        held_out = Batches(config, schema, edges, config.train_data, ranks)
        half = validation_loss(build(config, schema, ranks), held_out, 2, ranks)
        full = validation_loss(build(changed(config, runtime__enable_amp=False), schema, ranks), held_out, 2, ranks)
    assert products.types
    assert set(products.types) == {torch.float32}
    assert half == full


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad"])
def test_fp16_tables_take_half_the_memory_and_learn_the_same(optimizer: str) -> None:
    config = make_config(Case(optimizer, "row_wise"))
    full, half = steps(config), steps(changed(config, table__data_type="fp16"))
    assert (full["types"], half["types"]) == ({torch.float32}, {torch.float16})
    assert half["bytes"] == full["bytes"] / 2
    assert half["losses"] == pytest.approx(full["losses"], rel=0.01)
    for name in full["after"]:
        moved, off = (np.abs(full["after"][name] - other) for other in (full["before"][name], half["after"][name]))
        assert moved.max() > 0.01
        # Neighbors in fp16 are 0.001 apart from 1 to 2. Adagrad's first step turns where a gradient is almost 0.
        assert np.quantile(off, 0.99) < 0.001, name


def test_fp16_tables_are_read_from_a_checkpoint_as_fp32(small_config: SmallConfig, tmp_path: Path) -> None:
    from twhin_core.stages.prepare import prepare
    from twhin_core.stages.train import train

    config, root = changed(small_config(), table__data_type="fp16"), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    newest = checkpoint.newest(root)
    assert newest is not None
    rows = newest.rows("user").read(0, 40)
    assert rows.dtype == torch.float32
    assert rows.abs().max() > 0.05
    assert torch.equal(rows, rows.half().float()), "they were fp16"


@pytest.mark.parametrize(("enabled", "precision"), [(True, "high"), (False, "highest")])
def test_tensorfloat32_sets_the_precision_of_products(enabled: bool, precision: str) -> None:
    config = changed(make_config(Case("sgd", "row_wise")), runtime__enable_tensorfloat32=enabled)
    torch.set_float32_matmul_precision("medium")
    try:
        with process_group() as ranks:
            build(config, Schema(SIZES, config.model.relations), ranks)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("amp", "capabilities", "warns"),
    [
        (True, {"architecture": "x86_64", "amx_bf16": False}, True),
        (True, {"architecture": "x86_64", "amx_bf16": True}, False),
        (True, {"architecture": "aarch64"}, False),
        (False, {"architecture": "x86_64", "amx_bf16": False}, False),
    ],
)
def test_bf16_products_that_are_slower_are_pointed_out(
    amp: bool,
    capabilities: dict[str, Any],
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(log, "propagate", True)
    warn_of_slow_products(changed(make_config(Case("sgd", "row_wise")), runtime__enable_amp=amp), alone())
    assert ("runtime.enable_amp: this CPU has no AMX" in caplog.text) == warns
