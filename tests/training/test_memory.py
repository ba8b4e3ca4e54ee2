"""Tables larger than memory on a CPU, and what a rank is told to need."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from tests.command_line import ROOT
from tests.conftest import SmallConfig
from tests.training.test_placement import GPU
from tests.training.test_placement import make_config as one_table
from tests.training.test_sharding import build_one, make_config
from twhin_core.checkpoints import checkpoint, large
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.data.frequencies import Frequencies
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.errors import StorageRefused, UserError
from twhin_core.model import fused_softmax
from twhin_core.schema import Schema
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training import memory, plan
from twhin_core.training.mapped import mapped_zeros
from twhin_core.training.memory import Part, footprint
from twhin_core.training.placement import Room, stored_tables
from twhin_core.training.plan import TablePlan, TableShard

Usage = namedtuple("Usage", "total used free")


def with_kernel(small_config: SmallConfig, kernel: str, optimizer: str, **training: Any) -> Config:
    tree = small_config(training=training).model_dump(exclude_unset=True)
    for table in tree["model"]["embeddings"]["tables"]:
        table |= {"kernel": kernel, "optimizer": {optimizer: {"lr": 0.1}}}
    return config_file.validate(Config, tree, "test")


def trained_state(root: str) -> dict[str, np.ndarray[Any, Any]]:
    newest = checkpoint.newest(root)
    assert newest is not None
    names = [f"tables.embeddings.{table}.weight" for table in ("user", "tweet")]
    states = [name for name in newest._index if name.startswith("optimizer.tables")]
    return {name: newest.stored(name).read_whole().numpy() for name in [*names, *states]}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rowwise_adagrad", "spherical_adagrad"])
def test_tables_in_files_train_and_resume_as_those_in_memory_do(
    small_config: SmallConfig, tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = {}
    for kernel in ("device", "mapped"):
        root = str(tmp_path / kernel)
        prepare(with_kernel(small_config, kernel, optimizer), root)
        for last in (3, 6):  # the second goes on from the first's checkpoint
            config = with_kernel(small_config, kernel, optimizer, num_train_steps=last)
            (Path(root) / "config.yaml").write_text(config_file.to_yaml(config))
            train(config, root)
            monkeypatch.setattr(large, "LARGE_BYTES", 0 if kernel == "mapped" else 2**30)
        found[kernel] = trained_state(root)
    assert found["device"].keys() == found["mapped"].keys()
    for name, value in found["device"].items():
        np.testing.assert_array_equal(found["mapped"][name], value, err_msg=name)
    assert not list(tmp_path.glob("twhin-table-*")), "files have no names"


def test_the_largest_tables_go_to_files_where_memory_is_too_small() -> None:
    config, total = make_config("auto"), (7 + 131_077) * 64  # 8 columns of 4 bytes, and adagrad's
    with process_group() as ranks:
        for available, files in ((total, []), (total - 1, ["tweet"]), (7 * 64, ["tweet"]), (1, ["user", "tweet"])):
            with patch.object(plan, "_memory_of", return_value=int(available / (1 - plan.RESERVED)) + 1):
                model = build_one(config, ranks)
            assert [table.table for table in model.plan if table.kernel == "mapped"] == files
            assert model.memory.total.files == {0: 0, 1: 131_077 * 64, 2: total}[len(files)]
            assert not files or not model.memory.copies
        small = Usage(0, 0, 131_077 * 64 - 1)
        with (
            patch.object(plan, "_memory_of", return_value=100_000), patch("shutil.disk_usage", return_value=small),
            pytest.raises(UserError) as refused,
        ):  # fmt: skip
            build_one(config, ranks)
    assert str(refused.value) == (
        "model.embeddings.tables: the tables need 8.001 MiB, but this process has only 83.01 KiB available, and "
        f"{tempfile.gettempdir()} 8 MiB for files (TMPDIR names another folder); the largest is tweet: 4 MiB of rows, "
        "4 MiB of optimizer state; train on more machines"
    )


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StorageRefused, match="cannot hold a table of 48 bytes: No space left on device; set TMPDIR"):
        mapped_zeros(3, 4)


def test_a_kernel_for_gpus_is_refused_before_anything_is_read(small_config: SmallConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="user has kernel cached, which keeps rows in main memory beside a GPU, but"):
        train(with_kernel(small_config, "cached", "sgd"), str(tmp_path))


def part(rows: int, dim: int, size: int, rank: int = 0) -> TableShard:
    return TableShard(rank, rows, dim, size)


def foot(config: Config, planned: TablePlan, ranks: Ranks, room: Room, edges: int | None = None, nodes: int = 0) -> Any:
    rows = config.model.embeddings.tables[0].num_embeddings or 0
    stored = stored_tables(config, Schema({"node": rows}, config.model.relations))
    counted = Frequencies(np.zeros(nodes, np.int64), np.zeros(nodes, np.int64), rows) if nodes else None
    return footprint(config, stored, [planned], ranks, room, edges, counted)


# 1,000 edges in one chunk with 4 negatives a side: 2 · 1,004 rows looked up and 2 · 2,004 gathered, each with its
# gradient; 5 scores for each edge and side. Columns: 8.
STEP = 4 * (2 * 8 * (2008 + 4008) + 2 * 1000 * 5)


def test_the_parts_on_a_cpu() -> None:
    config, ranks = one_table(10_000, 8, "rowwise_adagrad"), Ranks(0, 1, torch.device("cpu"))
    local = TablePlan("node", "local", [part(10_000, 8, 360_000)])
    found = foot(config, local, ranks, Room(10**9), edges=500, nodes=30)
    assert found.parts == [
        Part("weights", 320_000),
        Part("optimizer state", 40_000),
        Part("activations and negatives", STEP),
        Part("edges and degrees", 500 * 28 + 30 * 16),
        Part("copy for checkpoints", 360_000),
    ]
    # A full window of 4,194,304 edges is 117 MB: with it, 85 % of 138 MB have no room for the copy.
    assert not foot(config, local, ranks, Room(138_000_000)).copies
    assert foot(config, local, ranks, Room(140_000_000)).copies
    files = foot(config, TablePlan("node", "local", local.parts, "mapped"), ranks, Room(10**9), edges=500)
    assert files.parts[:2] == [Part("weights", files=320_000), Part("optimizer state", files=40_000)]
    assert not files.copies


@pytest.mark.parametrize(
    ("optimizer", "kernel", "cache", "weights", "state", "beside"),
    [
        ("rowwise_adagrad", "device", None, (320_000, 0), (40_000, 0), 0),
        ("rowwise_adagrad", "host", None, (0, 320_000), (40_000, 0), 0),
        # The map, and 1,000 slots of 32 + 16 bytes.
        ("rowwise_adagrad", "cached", 0.1, (0, 320_000), (40_000, 0), 40_000 + 48_000),
        ("sgd", "cached", 0.1, (0, 320_000), (0, 0), 40_000 + 48_000),
        ("adagrad", "host", None, (0, 320_000), (0, 320_000), 0),
        ("adam", "device", None, (320_000, 0), (640_000, 0), 0),
        # The planner counts the state of slots, 64 bytes, too.
        ("adam", "cached", 0.1, (0, 320_000), (0, 640_000), 40_000 + 112_000),
    ],
)
def test_the_parts_on_a_gpu(
    optimizer: str, kernel: Any, cache: float | None, weights: Any, state: Any, beside: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(memory, "reading_threads", lambda: 2)
    monkeypatch.setattr(fused_softmax, "has_triton", lambda: False)
    config = one_table(10_000, 8, optimizer)
    row_bytes = sum(weights) // 10_000 + sum(state) // 10_000
    planned = TablePlan("node", "row_wise", [part(10_000, 8, 10_000 * row_bytes)], kernel, cache)
    found = {of.name: of for of in foot(config, planned, Ranks(0, 1, GPU), Room(10**9, 10**9), edges=500).parts}
    assert found["weights"] == Part("weights", *weights)
    assert found.get("optimizer state", Part("optimizer state")) == Part("optimizer state", *state)
    assert found.get("gradients and caches", Part("gradients and caches")).device == beside
    assert found["activations and negatives"].device == STEP
    assert found["edges and degrees"] == Part("edges and degrees", 2 * 500 * 36, 2 * 500 * 28)
    assert found["copy for checkpoints"] == Part("copy for checkpoints", 0, sum(weights) + sum(state))


def test_the_rank_that_holds_most_counts_and_replicas_have_gradients() -> None:
    config, two = one_table(10_000, 8, "sgd"), Ranks(0, 2, torch.device("cpu"))
    uneven = TablePlan("node", "row_wise", [part(6_000, 8, 192_000), part(4_000, 8, 128_000, rank=1)])
    assert foot(config, uneven, two, Room(10**9)).parts[0] == Part("weights", 192_000)
    replicated = one_table(10_000, 8, "sgd", sharding="data_parallel")
    copies = TablePlan("node", "data_parallel", [part(10_000, 8, 640_000), part(10_000, 8, 640_000, rank=1)])
    assert foot(replicated, copies, two, Room(10**9)).parts[:2] == [
        Part("weights", 320_000),
        Part("gradients and caches", 320_000),
    ]


def test_it_is_told_before_any_table_is_made(
    small_config: SmallConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = small_config(), str(tmp_path)
    prepare(config, root)
    monkeypatch.setattr("twhin_core.training.build.LocalModel", None)  # what would make them
    with caplog.at_level(logging.INFO, logger="twhin"), pytest.raises(TypeError):
        train(config, root)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("memory: ")]
    assert [line.split("  ")[0] for line in said] == [
        f"memory: {name}"
        for name in (
            "weights", "optimizer state", "activations and negatives", "edges and degrees", "copy for checkpoints",
            "in all", "available",
        )
    ]  # fmt: skip
    assert said[0].split() == ["memory:", "weights", "main", "memory", "2.188", "KiB"]  # 70 rows of 32 bytes


@pytest.mark.slow
def test_the_peak_is_about_what_was_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.peak_memory", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    told, grown = json.loads(ran.stdout.splitlines()[-1])
    assert 0.8 * grown < told < 1.3 * grown
