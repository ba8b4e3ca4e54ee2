"""What the committed configs learn on this device, and in how many seconds: it must equal what a CPU learns.

FB15k-237 and amazon-book where TWHIN_DATA names their folder; the generated network of the quickstart in any case.

    python -m benchmarks.gpu.quality [--device cpu] [--only quickstart]
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time

import torch

from benchmarks.gpu.common import options, report
from twhin_core.config import file as config_file
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

RUNS = {
    "quickstart": "mrr",
    "fb15k_237": "mrr",
    "amazon_book": "recall@20",
}
"""The configs, each with the metric that docs/results.md tells of it."""

REAL = ("fb15k_237", "amazon_book")


def run(name: str, overrides: list[str]) -> None:
    config, metric = config_file.load(f"configs/{name}.yaml", overrides), RUNS[name]
    clock = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as root:
        prepare(config, root)
        clock.append(time.perf_counter())
        train(config, root)
        clock.append(time.perf_counter())
        metrics = evaluate(config, root)
        clock.append(time.perf_counter())
    taken = [round(end - start, 1) for start, end in itertools.pairwise(clock)]
    report(
        "quality", config=name, seconds=dict(zip(("prepare", "train", "evaluate"), taken, strict=True)), metric=metric,
        value=metrics["test"]["all"][metric], interval=metrics.get("intervals", {}).get("all", {}).get(metric),
    )  # fmt: skip


def main() -> None:
    device, _, only = options(__doc__, list(RUNS))
    small = ["training.num_epochs=1", "prepare.generate.users=2000"] if device.type == "cpu" else []
    for name in RUNS:
        if only in (name, "all") and (name not in REAL or "TWHIN_DATA" in os.environ):
            run(name, small if name not in REAL else [])
    if device.type == "cuda":
        report("memory", peak_GiB=round(torch.cuda.max_memory_allocated() / 2**30, 2))


if __name__ == "__main__":
    main()
