"""Tables that are not in the device's memory: whether they learn the same, and how fast they are.

On a GPU, rows in main memory with a cache on the GPU and without one (`kernel: cached` and `host`), beside rows in the
GPU's memory. On a CPU, rows in files (`kernel: mapped`). First a small table is trained in each way on the same edges,
saved without a copy, loaded block by block and compared; then a large one is timed.

    python -m benchmarks.gpu.larger [--device cpu]
"""

from __future__ import annotations

import itertools
import tempfile
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from benchmarks.gpu.common import SMALL, Sizes, options, peak, report, timed, warm_up
from benchmarks.gpu.step import make_config, make_schema, write_edges
from twhin_core.checkpoints import checkpoint, large
from twhin_core.checkpoints.checkpoint import Position
from twhin_core.checkpoints.description import model_description
from twhin_core.checkpoints.writer import CheckpointWriter
from twhin_core.config import Config
from twhin_core.data.epochs import State
from twhin_core.data.files import EdgeFiles
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.training.batches import Batches
from twhin_core.training.build import TrainableModel, build

KERNELS: dict[str, list[dict[str, Any]]] = {
    "cuda": [
        {"kernel": "device"},
        {"kernel": "cached", "cache_load_factor": 0.05},
        {"kernel": "cached", "cache_load_factor": 0.2},
        {"kernel": "host"},
    ],
    "cpu": [{"kernel": "device"}, {"kernel": "mapped"}],
}
LARGE_ROWS = 50_000_000


def steps_of(model: TrainableModel, config: Config, sizes: Sizes, edges: EdgeFiles, ranks: Ranks) -> Any:
    batches = Batches(config, make_schema(config, sizes), edges, config.train_data, ranks)
    epochs = batches.epochs(State(epoch=0, edges=0), num_epochs=10**6)
    return model.steps((batch, None) for batch, _ in epochs)


def rows_of(model: TrainableModel) -> Tensor:
    """A copy of the table, on the CPU."""
    weight = model.state()["tables.embeddings.node.weight"]
    whole = weight.local_shards()[0].tensor if isinstance(weight, ShardedTensor) else weight
    return whole.detach().cpu().clone()


def check(sizes: Sizes, ranks: Ranks, folder: str) -> None:
    """Reports the largest difference of a trained table from the one on the device, and what loading changes."""
    expected = None
    for settings in KERNELS[ranks.device.type]:
        config = make_config(sizes, sizes.negatives[0], **settings)
        schema, root = make_schema(config, sizes), f"{folder}/{settings['kernel']}"
        model = build(config, schema, ranks)
        edges = EdgeFiles([write_edges(folder, sizes)], schema)
        for _ in itertools.islice(steps_of(model, config, sizes, edges, ranks), 10):
            pass
        trained = rows_of(model)
        with CheckpointWriter(root, model_description(config, schema), 1, ranks, copies=False) as writer:
            writer.save(model.state(), Position(step=10))
        again, found = build(config, schema, ranks), checkpoint.newest(root)
        assert found is not None
        large.LARGE_BYTES = 0
        checkpoint.load(found, again.state())
        expected = trained if expected is None else expected
        report(
            "larger_same", **settings, difference=float((trained - expected).abs().max()),
            of=float(expected.abs().max()), loaded_difference=float((rows_of(again) - trained).abs().max()),
        )  # fmt: skip


def measure(sizes: Sizes, ranks: Ranks, folder: str) -> None:
    for settings in KERNELS[ranks.device.type]:
        config = make_config(sizes, sizes.negatives[0], **settings)
        schema = make_schema(config, sizes)
        edges = EdgeFiles([write_edges(folder, sizes)], schema)
        model = build(config, schema, ranks)
        if ranks.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        steps = steps_of(model, config, sizes, edges, ranks)
        warm_up(steps, sizes.steps)
        per_step = timed(steps, sizes.steps, ranks.device)
        report(
            "larger", **settings, rows=sizes.rows, edges_per_s=round(sizes.batch / per_step),
            ms_per_step=round(per_step * 1e3, 3), peak_GiB=peak(ranks.device),
        )  # fmt: skip
        del model, steps


def main() -> None:
    device, sizes, _ = options(__doc__, [])
    with process_group() as ranks, tempfile.TemporaryDirectory() as folder:
        assert ranks.device.type == device.type
        check(SMALL, ranks, folder)
        measure(Sizes(**{**vars(sizes), "rows": min(sizes.rows, LARGE_ROWS)}), ranks, folder)


if __name__ == "__main__":
    main()
