"""Where tables are that GPUs cannot hold: the arithmetic by hand and by fbgemm, torchrec's plans, and refusals."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import ComputeDevice, EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
    construct_split_state,
)
from hypothesis import given
from hypothesis import strategies as st
from torchrec.distributed import DistributedModelParallel, batched_embedding_kernel
from torchrec.distributed.embedding import EmbeddingCollectionSharder

from tests.training.test_cuda import ReachedError, make_model
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.errors import UserError
from twhin_core.model import fused_softmax
from twhin_core.schema import Schema
from twhin_core.training import plan
from twhin_core.training.placement import Placement, Room, StoredTable, check_devices, place, stored_tables

GPU = torch.device("cuda", 0)
OPTIMIZERS = ("sgd", "adam", "adagrad", "rowwise_adagrad", "spherical_adagrad")


def make_config(rows: int, dim: int, optimizer: str, **table: Any) -> Config:
    given = {"num_embeddings": rows, "embedding_dim": dim, "optimizer": {optimizer: {"lr": 0.1}}, **table}
    tree = {
        "model": {
            "embeddings": {"tables": [{"name": "node", **given}]},
            "relations": [{"name": "to", "lhs": "node", "rhs": "node"}],
            "translation_optimizer": {"sgd": {"lr": 0.1}},
        },
        "train_data": {"data_root": "unused", "per_replica_batch_size": 1000, "global_negatives": 4},
    }
    return config_file.validate(Config, tree, "test")


def table(name: str = "t", **given: Any) -> StoredTable:
    """1,000 rows of 16 bytes with 4 bytes of optimizer state each: 20,000 bytes."""
    return StoredTable(**{"name": name, "rows": 1000, "weights": 16, "row_state": 4, **given})


LEAST = Placement("cached", 0.001)


@pytest.mark.parametrize(
    ("tables", "room", "ranks", "step", "expected"),
    [
        ([table()], Room(20_000, 0), 1, 0, {"t": Placement("device")}),
        # State and map take 8,000; a slot is 16 + 16 bytes, so 4,000 bytes hold 125 rows.
        ([table()], Room(12_000, 32_000), 1, 0, {"t": Placement("cached", 0.125)}),
        ([table()], Room(12_000, 32_000), 1, 2_400, {"t": Placement("cached", 0.05)}),
        # Two GPUs share it: 10,000 bytes on each hold all of it; 6,000 leave 4,000 for slots in all.
        ([table()], Room(10_000, 0), 2, 0, {"t": Placement("device")}),
        ([table()], Room(6_000, 16_000), 2, 0, {"t": Placement("cached", 0.125)}),
        # State as wide as the rows goes with them: the map takes 4,000, a slot 16 + 16 + 16.
        (
            [table(row_state=0, wide_state=16)], Room(16_000, 48_000), 1, 0, {"t": Placement("cached", 0.25)},
        ),
        ([table(row_state=0, wide_state=16)], Room(32_000, 0), 1, 0, {"t": Placement("device")}),
        # The largest leaves first, and the other one stays.
        (
            [table("small", rows=100), table()], Room(12_000, 32_000), 1, 0,
            {"small": Placement("device"), "t": Placement("cached", 0.0625)},
        ),
        # Both leave, with the same share: 2,200 rows need 17,600 for state and map; 7,040 bytes are 220 slots.
        (
            [table("a", rows=1200), table("b")], Room(24_640, 70_400), 1, 0,
            {"a": Placement("cached", 0.1), "b": Placement("cached", 0.1)},
        ),
        # A table on one rank that is too large for it leaves before a larger one that two ranks can share.
        (
            [table("whole", sharding="table_wise"), table("shared", rows=1100)], Room(19_000, 16_000), 2, 0,
            {"whole": Placement("cached", 0.25), "shared": Placement("device")},
        ),
        # A table with frozen rows cannot have a cache, so a smaller one leaves in its place.
        (
            [table("kept", rows=1100, is_frozen=True), table()], Room(34_000, 32_000), 1, 0,
            {"kept": Placement("device"), "t": Placement("cached", 0.125)},
        ),
        # As configured.
        ([table(kernel="host")], Room(4_000, 16_000), 1, 0, {"t": Placement("host")}),
        ([table(kernel="cached", cache=0.5)], Room(24_000, 32_000), 1, 0, {"t": Placement("cached", 0.5)}),
        ([table(kernel="cached")], Room(10**6, 32_000), 1, 0, {"t": Placement("cached", 0.99)}),
        # Room for state and map and nothing else leaves the least cache.
        ([table()], Room(8_032, 32_000), 1, 0, {"t": LEAST}),
        ([table()], Room(8_100, 32_000), 1, 500, {"t": LEAST}),
    ],
)  # fmt: skip
def test_where_tables_are(
    tables: list[StoredTable], room: Room, ranks: int, step: int, expected: dict[str, Placement]
) -> None:
    found = place(tables, room, ranks, step)
    assert isinstance(found, dict), found
    assert {name: of.kernel for name, of in found.items()} == {name: of.kernel for name, of in expected.items()}
    for name, of in expected.items():
        assert (found[name].cache or 0) == pytest.approx(of.cache or 0, rel=1e-4)


@pytest.mark.parametrize(
    ("tables", "room", "ranks", "said"),
    [
        # 16,000 of rows, and as much again to build the cache's map.
        ([table()], Room(12_000, 31_999), 1, "t, 1,000 rows with sharding auto, needs 19.53 KiB on one rank"),
        ([table()], Room(8_031, 10**9), 1, "a rank needs 7.844 KiB of GPU memory and 31.25 KiB of main memory"),
        ([table(kernel="device")], Room(19_999, 10**9), 1, "needs 19.53 KiB on one rank, which has only 19.53 KiB"),
        ([table(sharding="data_parallel")], Room(35_999, 10**9), 4, "needs 35.16 KiB on one rank"),
        ([table(is_frozen=True)], Room(19_999, 10**9), 1, "needs 19.53 KiB on one rank, which has only 19.53 KiB"),
        ([table(kernel="host")], Room(3_999, 10**9), 1, "15.62 KiB of rows, 3.906 KiB of optimizer state"),
        ([table(kernel="cached", cache=0.5)], Room(23_999, 10**9), 1, "a rank needs 23.44 KiB of GPU memory"),
        (
            [table("a"), table("b", kernel="device"), table("c", kernel="device")], Room(40_000, 0), 1,
            "no plan fits all tables into 39.06 KiB per rank; they need at least 58.59 KiB, the largest is a",
        ),
    ],
)  # fmt: skip
def test_what_has_no_place_is_refused_with_the_arithmetic(
    tables: list[StoredTable], room: Room, ranks: int, said: str
) -> None:
    refused = place(tables, room, ranks, 0)
    assert isinstance(refused, str)
    assert said in refused
    assert refused.startswith("model.embeddings.tables: ")
    assert "\n" not in refused


@given(
    st.lists(
        st.builds(
            StoredTable,
            name=st.uuids().map(str),
            rows=st.integers(1, 10**10),
            weights=st.integers(1, 256).map(lambda n: 16 * n),
            row_state=st.sampled_from([0, 4]),
            wide_state=st.integers(0, 4).map(lambda n: 64 * n),
            sharding=st.sampled_from(["auto", "row_wise", "data_parallel"]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 10**13),
    st.integers(0, 10**13),
    st.integers(1, 64),
)
def test_no_placement_exceeds_the_room_and_none_is_refused_that_is_not_needed(
    tables: list[StoredTable], device: int, host: int, ranks: int
) -> None:
    found = place(tables, Room(device, host), ranks, 0)
    copies = {of.name: ranks if of.sharding == "data_parallel" else 1 for of in tables}
    fit = sum(copies[of.name] * of.total for of in tables) <= device * ranks
    fit &= all(of.least(ranks) <= device for of in tables)
    if isinstance(found, str):
        assert not fit
        return
    assert fit == all(of.kernel == "device" for of in found.values())
    used = sum(copies[of.name] * of.on_device(found[of.name]) for of in tables)
    assert used <= device * ranks + len(tables)  # rounded up
    assert sum(of.on_host(found[of.name]) for of in tables) <= host * ranks
    assert all(of.kernel == "device" for name, of in found.items() if copies[name] > 1)


LOCATIONS = {
    "device": EmbeddingLocation.DEVICE,
    "host": EmbeddingLocation.MANAGED,
    "cached": EmbeddingLocation.MANAGED_CACHING,
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kernel", LOCATIONS)
def test_the_bytes_are_those_that_fbgemm_allocates(optimizer: str, kernel: str) -> None:
    rows, dim = 1234, 8
    config = make_config(rows, dim, optimizer)
    (stored,) = stored_tables(config, Schema({"node": rows}, config.model.relations))
    spec = [(rows, dim, LOCATIONS[kernel], ComputeDevice.CUDA)]
    parts = [construct_split_state(spec, rowwise=False, cacheable=True)]
    moments = {"sgd": 0, "adam": 2}.get(optimizer, 1)
    parts += moments * [construct_split_state(spec, rowwise="_" in optimizer, cacheable=False)]
    # The kernel's buffers of a cache: the map is int32, the tags and times of its slots are int64.
    slots, cache = 32, 32 / rows
    of_cache = 4 * rows + slots * (4 * dim + 8 + 8) if kernel == "cached" else 0
    placement = Placement(kernel, cache if kernel == "cached" else None)  # type: ignore[arg-type]
    allocated = 4 * sum(part.dev_size for part in parts) + of_cache
    # The planner counts slots' wide state, too.
    surplus = slots * stored.wide_state if kernel == "cached" else 0
    assert stored.on_device(placement) == pytest.approx(allocated + surplus, abs=1)
    assert stored.on_host(placement) == 4 * sum(part.uvm_size for part in parts)


def planned(config: Config, room: Room, world_size: int = 1) -> Any:
    schema, twhin = make_model(config)
    return plan._plan(config, schema, twhin, Ranks(0, world_size, GPU), room)


def test_a_billion_rows_on_one_gpu_are_cached() -> None:
    found = planned(make_config(10**9, 128, "rowwise_adagrad"), Room(80 * 10**9, 10**12)).plan["tables"]["node"]
    assert found.compute_kernel == "fused_uvm_caching"
    # .85 · 80 GB, less 4 GB each for state and map, and the lookups of 1,000 edges; slots of 528 bytes.
    share = (68e9 - 8e9 - 1000 * 520) / 528e9
    assert found.cache_params.load_factor == pytest.approx(share)
    refused = planned(make_config(10**9, 128, "rowwise_adagrad"), Room(80 * 10**9, 6 * 10**11))
    assert refused == (
        "model.embeddings.tables: node, 1,000,000,000 rows with sharding auto, needs 480.6 GiB on one rank, which has "
        "only 63.33 GiB available: 476.8 GiB of rows, 3.725 GiB of optimizer state. With rows in main memory, a rank "
        "needs 7.942 GiB of GPU memory and 491.7 GiB of main memory, and has 63.33 GiB and 475 GiB available"
    )


@pytest.mark.parametrize("data_type", ["fp32", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("sharding", "world_size"), [("auto", 1), ("row_wise", 4), ("table_wise", 1)])
def test_torchrec_plans_what_is_chosen(optimizer: str, data_type: str, sharding: str, world_size: int) -> None:
    if data_type == "fp16" and optimizer == "spherical_adagrad":
        return  # refused by the config
    config = make_config(10**8, 64, optimizer, data_type=data_type, sharding=sharding)
    found = planned(config, Room(8 * 10**9 // world_size, 10**12), world_size)
    assert not isinstance(found, str), found
    entry = found.plan["tables"]["node"]
    assert entry.compute_kernel == "fused_uvm_caching"
    assert 0 < entry.cache_params.load_factor < 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kernel", ["cached", "host"])
def test_the_kernel_is_asked_for_with_its_place_and_cache(
    optimizer: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def reach(*arguments: Any, **named: Any) -> None:
        asked.update(inspect.signature(SplitTableBatchedEmbeddingBagsCodegen).bind(*arguments, **named).arguments)
        raise ReachedError

    monkeypatch.setattr(batched_embedding_kernel, "SplitTableBatchedEmbeddingBagsCodegen", reach)
    settings = {"cache_load_factor": 0.25} if kernel == "cached" else {}
    config = make_config(1000, 8, optimizer, kernel=kernel, **settings)
    schema, twhin = make_model(config)
    ranks = Ranks(0, 1, GPU)
    found = plan._plan(config, schema, twhin, ranks, Room(10**9, 10**9))
    with process_group(), pytest.raises(ReachedError):
        DistributedModelParallel(twhin, device=GPU, plan=found, sharders=[EmbeddingCollectionSharder()])
    assert asked["embedding_specs"] == [(1000, 8, LOCATIONS[kernel], ComputeDevice.CUDA)]
    assert asked.get("cache_load_factor") == (0.25 if kernel == "cached" else None)
    (summary,) = plan.summarize(config, schema, found, 1)
    assert (summary.kernel, summary.cache) == (kernel, settings.get("cache_load_factor"))


@pytest.mark.parametrize(
    ("kernel", "memory", "expected"),
    [
        ("auto", 40_000_000, True),
        ("device", 40_000_000, True),
        # 36 bytes a row; 15 % are kept free.
        ("auto", math.ceil(36_000_000 / 0.85) - 1, False),
        ("cached", 10**12, False),
        ("host", 10**12, False),
    ],
)
def test_one_tensor_holds_all_tables_of_a_gpu_only_if_it_has_room_for_them(
    kernel: str, memory: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_softmax, "has_triton", lambda: True)
    monkeypatch.setattr(plan, "_memory_of", lambda _: memory if memory != 40_000_000 else 43 * 10**6)
    config = make_config(10**6, 8, "rowwise_adagrad", kernel=kernel)
    assert plan.is_local(config, Schema({"node": 10**6}, config.model.relations), Ranks(0, 1, GPU)) == expected


@pytest.mark.parametrize(
    ("kernel", "is_cuda", "ranks", "said"),
    [
        ("cached", False, 1, "node has kernel cached, which keeps rows in main memory beside a GPU, but there is no"),
        ("host", False, 4, "node has kernel host, which keeps rows in main memory beside a GPU, but there is no GPU"),
        ("mapped", True, 1, "for a process that trains alone on a CPU, not for GPUs; use cached"),
        ("mapped", False, 2, "for a process that trains alone on a CPU, not for several ranks; remove it"),
    ],
)
def test_a_kernel_for_other_devices_is_refused(kernel: str, is_cuda: bool, ranks: int, said: str) -> None:
    tables = make_config(10, 4, "sgd", kernel=kernel).model.embeddings.tables
    with pytest.raises(UserError, match=said):
        check_devices(tables, is_cuda, ranks)
    for good in [("auto", "device"), ("auto", "device", "mapped")][not is_cuda and ranks == 1]:
        check_devices(make_config(10, 4, "sgd", kernel=good).model.embeddings.tables, is_cuda, ranks)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kernel": "cached", "sharding": "data_parallel"}, "kernel: cached is for rows that one rank holds"),
        ({"kernel": "host", "sharding": "data_parallel"}, "kernel: host is for rows that one rank holds"),
        ({"kernel": "mapped", "sharding": "data_parallel"}, "kernel: mapped is for rows that one rank holds"),
        ({"kernel": "mapped", "data_type": "fp16"}, "kernel: mapped is for a process that trains alone on a CPU"),
        (
            {"kernel": "cached", "initial": {"path": "text.parquet", "column": "vector", "frozen": True}},
            "kernel: cached writes rows back late, and initial.frozen keeps them",
        ),
        ({"cache_load_factor": 0.1}, "cache_load_factor: has no effect with kernel auto; set kernel: cached"),
        ({"cache_load_factor": 0.1, "kernel": "host"}, "cache_load_factor: has no effect with kernel host"),
        ({"cache_load_factor": 1, "kernel": "cached"}, "cache_load_factor: "),
        ({"cache_load_factor": 0, "kernel": "cached"}, "cache_load_factor: "),
        ({"kernel": "uvm"}, "kernel: "),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_config(10, 4, "sgd", **settings)
