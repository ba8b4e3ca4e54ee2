"""What the committed configs learn on this device, and in how many seconds: it must equal what a CPU learns.

FB15k-237 and amazon-book where TWHIN_DATA names their folder; the generated network of the quickstart in any case.

    python -m benchmarks.gpu.quality [--device cpu] [--only quickstart]
"""

from __future__ import annotations

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
    config = config_file.load(f"configs/{name}.yaml", overrides)
    seconds = {}
    with tempfile.TemporaryDirectory() as root:
        for stage in (prepare, train, evaluate):
            started = time.perf_counter()
            result = stage(config, root)
            seconds[stage.__name__] = round(time.perf_counter() - started, 1)
        figures = result["test"]["all"]  # type: ignore[index]  # of evaluate
        intervals = result.get("intervals", {})  # type: ignore[union-attr]
    shown = {metric: figures[metric] for metric in (RUNS[name], f"rhs.{RUNS[name]}") if metric in figures}
    report("quality", config=name, seconds=seconds, figures=shown or figures, intervals=str(intervals.get("all"))[:300])


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
