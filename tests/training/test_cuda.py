"""Code that only GPUs run, tested without one up to the call that needs the device."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torchrec.distributed import DistributedModelParallel, batched_embedding_kernel
from torchrec.distributed.embedding import EmbeddingCollectionSharder

from tests.training.test_sharding import make_config
from tests.training.test_step import Case, make_batches
from tests.training.test_step import make_config as make_step_config
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.errors import UserError
from twhin_core.model import fused_softmax
from twhin_core.model.twhin import Twhin
from twhin_core.schema import Schema
from twhin_core.training import build
from twhin_core.training.local_model import LocalModel
from twhin_core.training.optimizers import fuse
from twhin_core.training.placement import Room
from twhin_core.training.plan import _plan

GIB = 2**30
FOUR_GPUS = Ranks(0, 4, torch.device("cuda", 0))


def make_model(config: Config) -> tuple[Schema, Twhin]:
    sizes = {table.name: table.num_embeddings or 0 for table in config.model.embeddings.tables}
    schema = Schema(sizes, config.model.relations)
    twhin = Twhin(config.model, schema, torch.device("meta"), torch.device("cpu"))
    fuse(config, twhin)
    return schema, twhin


def plan_for(kind: str, optimizer: str, tweets: int, memory: int) -> Any:
    """The plan for four GPUs of `memory` bytes without main memory for tables, or the reason why there is none."""
    config = make_config(kind, optimizer, tweets)
    schema, twhin = make_model(config)
    return _plan(config, schema, twhin, FOUR_GPUS, Room(memory))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad", "rowwise_adagrad"])
def test_a_table_larger_than_a_gpu_is_spread_over_all(optimizer: str) -> None:
    # 36 to 96 bytes per row: 2e9 rows are 67 to 179 GiB, on four GPUs of 80.
    plan = plan_for("auto", optimizer, 2 * 10**9, 80 * GIB).plan["tables"]["tweet"]
    assert plan.sharding_type == "row_wise"
    assert plan.compute_kernel == "fused", "never in the host's memory"
    assert [str(shard.placement) for shard in plan.sharding_spec.shards] == [
        f"rank:{rank}/cuda:{rank}" for rank in range(4)
    ]


def test_the_memory_of_the_gpus_bounds_the_plan() -> None:
    # 36 bytes per row: 67 GiB on one GPU, of which 15 % are kept free.
    assert not isinstance(plan_for("table_wise", "rowwise_adagrad", 2 * 10**9, 80 * GIB), str)
    refused = plan_for("table_wise", "rowwise_adagrad", 2 * 10**9, 70 * GIB)
    assert "tweet, 2,000,000,000 rows with sharding table_wise, needs 67.06 GiB on one rank" in refused
    assert "which has only 59.5 GiB available" in refused


class ReachedError(Exception):
    """Raised where the kernel would be created."""


@pytest.mark.parametrize(
    ("optimizer", "data_type", "kind"),
    [
        ("sgd", "fp32", EmbOptimType.EXACT_SGD),
        ("adam", "fp32", EmbOptimType.ADAM),
        ("adagrad", "fp16", EmbOptimType.EXACT_ADAGRAD),
        ("rowwise_adagrad", "fp32", EmbOptimType.EXACT_ROWWISE_ADAGRAD),
        ("spherical_adagrad", "fp32", EmbOptimType.EXACT_ROWWISE_ADAGRAD),
    ],
)
def test_the_kernel_is_asked_for_with_arguments_that_it_takes(
    optimizer: str, data_type: str, kind: EmbOptimType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def kernel(*arguments: Any, **named: Any) -> None:
        asked.update(inspect.signature(SplitTableBatchedEmbeddingBagsCodegen).bind(*arguments, **named).arguments)
        raise ReachedError

    monkeypatch.setattr(batched_embedding_kernel, "SplitTableBatchedEmbeddingBagsCodegen", kernel)
    tree = make_config("row_wise", optimizer).model_dump()
    for table in tree["model"]["embeddings"]["tables"]:
        table["data_type"] = data_type
        if optimizer == "adam":
            table["optimizer"]["adam"]["betas"] = [0.8, 0.99]
    config = config_file.validate(Config, tree, "test")
    schema, twhin = make_model(config)
    ranks = Ranks(0, 1, torch.device("cuda", 0))
    build._check_kernels(config, ranks)
    plan = _plan(config, schema, twhin, ranks, Room(80 * GIB))
    with process_group(), pytest.raises(ReachedError):
        DistributedModelParallel(twhin, device=ranks.device, plan=plan, sharders=[EmbeddingCollectionSharder()])
    assert asked["optimizer"] == kind
    assert asked["weights_precision"] == (SparseType.FP16 if data_type == "fp16" else SparseType.FP32)
    assert {spec[2] for spec in asked["embedding_specs"]} == {EmbeddingLocation.DEVICE}
    if optimizer == "spherical_adagrad":
        assert asked["max_norm"] == 1
    if optimizer == "adam":
        assert (asked["beta1"], asked["beta2"], asked["eps"]) == (0.8, 0.99, 1e-8)


def test_adam_has_no_kernel_for_fp16_tables() -> None:
    tree = make_config("row_wise", "adam").model_dump()
    tree["model"]["embeddings"]["tables"][0]["data_type"] = "fp16"
    config = config_file.validate(Config, tree, "test")
    with pytest.raises(UserError, match="user has adam with data_type fp16, for which there is no kernel"):
        build._check_kernels(config, Ranks(0, 1, torch.device("cuda", 0)))


@pytest.mark.parametrize(
    ("differs", "world_size", "has_triton", "expected"),
    [
        (False, 1, True, True),
        (False, 2, True, False),
        (False, 1, False, False),
        (True, 1, True, False),
    ],
)
def test_a_single_gpu_holds_tables_of_one_optimizer_itself(
    differs: bool, world_size: int, has_triton: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_softmax, "has_triton", lambda: has_triton)
    tree = make_config("auto").model_dump()
    if differs:
        tree["model"]["embeddings"]["tables"][0]["optimizer"] = {"sgd": {"lr": 0.5}}
    model = config_file.validate(Config, tree, "test").model
    assert LocalModel.can_hold(model, torch.device("cuda", 0), world_size) == expected


def test_each_rank_takes_its_gpu_and_nccl_beside_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    devices: list[torch.device] = []

    def join(backend: str, **named: Any) -> None:
        asked.update(backend=backend, **named)

    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(dist, "init_process_group", join)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    entered: AbstractContextManager[Ranks] = process_group()
    with entered as ranks:
        assert (ranks.rank, ranks.world_size, ranks.local_world_size) == (5, 8, 4)
        assert ranks.device == torch.device("cuda", 1)
    assert devices == [torch.device("cuda", 1)]
    assert (asked["backend"], asked["rank"], asked["world_size"]) == ("cpu:gloo,cuda:nccl", 5, 8)


def test_a_whole_batch_is_pinned_and_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.numel())
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    case = Case("sgd", "row_wise", logq=True)
    batch = make_batches(make_step_config(case), 0)[1][0].to(torch.device("meta"))
    assert pinned
    assert batch.lookups.values().is_meta
    moved = list(tensors_in(batch))
    assert len(moved) > 10
    assert all(tensor.is_meta for tensor in moved)


def tensors_in(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "__dataclass_fields__"):
        value = [getattr(value, field.name) for field in fields(value)]
    return [tensor for entry in value for tensor in tensors_in(entry)] if isinstance(value, list) else []
