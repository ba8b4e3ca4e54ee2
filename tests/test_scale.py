"""The arithmetic of docs/scale.md, compared with values computed by hand."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from docs import generate_scale
from docs.generate_scale import Setting

# Small enough to follow: 1,000 nodes, 4 dimensions, 4 GPUs on 2 machines.
SMALL = Setting(
    nodes=1_000, edges=1_000_000, dim=4, gpus=4, gpus_per_machine=2, gpu_memory=10_000, batch=100, chunk=30,
    negatives=5, network=1_000, cores_per_executor=2, executors=(5,), single_gpu_memory=20_000, host_memory=50_000,
    bus=2_000,
)  # fmt: skip

MEASURED = {
    "train_cpu": {"command": "t", "machine": "m", "result": {"edges_per_s": 100, "dim": 4}},
    "checkpoint": {
        "command": "c", "machine": "m",
        "result": {"checkpoint_mib": 1, "write_ms": 1048.576, "copy_ms": 524.288},
    },
    "export": {"command": "e", "machine": "m", "result": {"rows_per_s": 8, "dim": 2}},
    "prepare_duckdb": {"command": "p", "machine": "m", "result": {"edges_per_s": 100, "cores": 4}},
    "prepare_spark": {"command": "s", "machine": "m", "result": {"edges_per_s": 200, "cores": 4}},
    "reader": {"command": "r", "machine": "m", "result": {"edges_per_s": 500}},
    "reader_flight": {"command": "f", "machine": "m", "result": {"edges_per_s": 250}},
    "train_gpu": {"command": "g", "machine": "m", "result": {"edges_per_s": 1000}},
}  # fmt: skip


def test_the_formulas() -> None:
    assert generate_scale.table_bytes(nodes=1_000, dim=4, bytes_per_value=4) == 1_000 * 20
    assert generate_scale.table_bytes(nodes=1_000, dim=4, bytes_per_value=2) == 1_000 * 12
    # Two ends of 100 edges, and 4 chunks (30, 30, 30, 10) of 5 negatives on 2 sides.
    assert generate_scale.rows_per_step(batch=100, chunk=30, negatives=5) == 240
    # 8 bytes of id, 16 of vector, 16 of gradient; 3 of 4 rows are another rank's, 2 of 4 another machine's.
    assert generate_scale.all_to_all_bytes(rows=240, dim=4, ranks=4) == 240 * 40 * 3 / 4
    assert generate_scale.between_machines(rows=240, dim=4, ranks=4, ranks_per_machine=2) == 4_800
    assert generate_scale.seconds_for(amount=100, rate=5, workers=4) == 5
    assert generate_scale.readers_per_gpu(consumed=12e6, served=5e6) == pytest.approx(2.4)


@pytest.mark.parametrize(
    "row",
    [
        "| weights and optimizer state | 20 kB |",
        "| per GPU | 5 kB, 50 % of 10 kB |",
        "| the same with fp16 weights | 3 kB |",
        "| with Adam instead (8 bytes per value) | 12 kB |",
        "| main memory per machine for the copy that a checkpoint is written from | 10 kB |",
        # 16 and 8 bytes a row; state, and the map, 4 each. 42,500 bytes hold weights and a copy.
        "| main memory: weights | 16 kB | 8 kB |",
        "| main memory: while the cache's map is built, beside | 16 kB | 16 kB |",
        "| main memory: room for the copy of a checkpoint | yes | yes |",
        "| GPU: optimizer state | 4 kB | 4 kB |",
        "| GPU: the cache's map of the table | 4 kB | 4 kB |",
        # 17,000 less 8,000 and the lookups of 108 edges, 24 bytes each, leave 6,408: slots of 32 or 24 bytes.
        "| GPU: cache | 6.41 kB | 6.41 kB |",
        "| rows in the cache | 200, 20 % | 267, 27 % |",
        "| rows over the bus per step, if the cache has none of 240 | 1920.0 ms | 960.0 ms |",
        "| resulting bound | 52 edges/s | 104 edges/s |",
        "| rows looked up | 240 |",
        "| all-to-all: ids out, vectors back, gradients out | 7.2 kB |",
        "| of that, between machines of 2 GPUs | 4.8 kB |",
        "| time for that at 1 kB/s per GPU | 4800.0 ms |",
        "| resulting bound, all GPUs | 83 edges/s |",  # 400 edges in 4.8 s
        "| an epoch on 4 GPUs | 4.17 minutes |",  # 1,000,000 / 4,000 s
        # 100 edges a GPU in 4.8 s.
        "| an epoch on 4 GPUs, at the network's bound | 3.33 hours |",
        "| readers per GPU, in process | 2.00; at the network's bound 0.04 |",
        "| readers per GPU, over Flight | 4.00; at the network's bound 0.08 |",
        "| for comparison, an epoch on 2 CPU cores with d=4 | 2.78 hours |",  # 1,000,000 / 100 s
        "| a checkpoint, from start to marker, 1 MB/s per rank | 0.005 s |",  # 20 kB by 4 ranks
        "| of that, the copy that training waits for, 2 MB/s per rank | 0.0025 s |",
        # 4,000 values at 16 a second.
        "| export, one process | 4.17 minutes, at the same values/s as 8 rows/s of d=2 |",
        # 50 edges/s a core, 10 cores.
        "- prepare_spark: 200 edges/s on 4 cores; 33.3 minutes on 5 executors.",
        # 25 edges/s a core, 2 cores.
        "- prepare_duckdb: 100 edges/s on 4 cores; 5.56 hours on 1 machine.",
        "The edges take at most 20 bytes each on disk (int64, int32, int64): 20 MB.",
    ],
)
def test_the_page_of_a_small_setting(row: str) -> None:
    assert row in generate_scale._page(SMALL, MEASURED).splitlines()


def test_training_waits_for_checkpoints_where_memory_has_no_room_for_a_copy() -> None:
    page = generate_scale._page(replace(SMALL, host_memory=40_000), MEASURED)  # 34,000, for 16,000 and 20,000
    row = "| main memory: room for the copy of a checkpoint | no: training waits 0.02 s for each checkpoint | yes |"
    assert row in page.splitlines()


def test_missing_measurements_are_marked() -> None:
    measured = copy.deepcopy(MEASURED) | {"export": None, "train_gpu": None, "prepare_spark": None}
    page = generate_scale._page(SMALL, measured)
    for line in (
        "| an epoch on 4 GPUs | not measured |",
        "| export, one process | not measured |",
        "- prepare_spark: not measured.",
        "| readers per GPU, in process | not measured; at the network's bound 0.04 |",
    ):
        assert line in page.splitlines()


def test_the_page_is_current() -> None:
    assert generate_scale.PAGE.read_text() == generate_scale.page(), "run `make docs`"


def test_every_measurement_names_its_command_and_machine() -> None:
    for entry in json.loads(generate_scale.MEASUREMENTS.read_text()).values():
        assert entry is None or set(entry) == {"command", "machine", "result"}
