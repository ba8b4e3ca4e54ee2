"""Seconds of training until a stated quality on held-out edges: ours beside the plain loop and PyTorch-BigGraph.

Each trains the same prepared graph with settings of its own, in a process of its own, one after the other. Measuring
quality is not part of the time. PyTorch-BigGraph takes part if it is installed (docs/performance.md says how).

    python -m benchmarks.bench_quality configs/amazon_book.yaml --metric recall@20 --target 0.1162
        [--set section.key=value ...] [--every 0.25] [--others plain pbg] [--other-epochs 5] [--pbg-negatives 50 50]
        [--processor-seconds] [--out curves.json] [--plot curves.svg]
    python -m benchmarks.bench_quality configs/fb15k_237.yaml --metric mrr --target 0.263 --every 1

Ends in one JSON line: for each, the seconds to the target and the best quality.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.graph import Graph, measure
from benchmarks.quality.plot import draw
from twhin_core.config import file as config_file
from twhin_core.stages.prepare import prepare

Curve = list[tuple[float, float, float]]
"""Seconds of training, epochs and quality."""

OTHERS = ("plain", "pbg")


def curve(name: str, options: argparse.Namespace, root: str, curves: dict[str, Curve]) -> None:
    """Trains one system, printing each point as it is measured; in a process of its own."""
    torch.set_num_threads(options.threads)
    config = config_file.load(options.config, options.set)
    graph = Graph.read(config, root)
    quality, found = measure(graph, options.metric), list[tuple[float, float, float]]()
    for seconds, epochs, scores in points(name, options, config, root, graph):
        found.append((round(seconds, 2), round(epochs, 2), round(quality(scores), 4)))
        print(f"{name:<6}{epochs:6.2f} epochs {seconds:8.1f} s  {options.metric} {found[-1][2]:.4f}", flush=True)
        curves[name] = found


def points(name: str, options: argparse.Namespace, config: Any, root: str, graph: Graph) -> Iterator[Any]:
    from benchmarks.quality import ours, pbg, plain

    if name == "twhin":
        clock = time.process_time if options.processor_seconds else time.perf_counter
        return ours.train(config, root, graph, options.every, clock)
    if name == "plain":
        return plain.train(graph, config.model.dim, options.other_epochs, options.every)
    return pbg.train(graph, config.model.dim, options.other_epochs, tuple(options.pbg_negatives))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--metric", default="recall@20", help="recall@K or mrr")
    parser.add_argument("--target", type=float, required=True)
    parser.add_argument("--set", action="append", default=[], help="section.key=value, changes the config")
    parser.add_argument("--every", type=float, default=0.25, help="epochs between measurements")
    parser.add_argument("--others", nargs="*", choices=OTHERS, default=["plain"])
    parser.add_argument("--other-epochs", type=int, default=5)
    parser.add_argument("--pbg-negatives", type=int, nargs=2, default=[50, 50], metavar=("IN_BATCH", "UNIFORM"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--processor-seconds", action="store_true", help="of all threads, which other programs change little; ours only"
    )
    parser.add_argument("--out", type=Path, help="JSON: a list of (seconds, epochs, quality) for each")
    parser.add_argument("--plot", type=Path, help="SVG")
    options = parser.parse_args()
    if options.processor_seconds and options.others:
        parser.error("--processor-seconds: needs --others without names")
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as root, spawn.Manager() as manager:
        prepare(config_file.load(options.config, options.set), root)
        shared = manager.dict()
        for name in ("twhin", *options.others):
            process = spawn.Process(target=curve, args=(name, options, root, shared))
            process.start()
            process.join()
        curves: dict[str, Curve] = dict(shared)
    if options.out is not None:
        options.out.write_text(json.dumps(curves))
    if options.plot is not None:
        options.plot.write_text(draw(curves, options.metric, options.target))
    print(json.dumps({"benchmark": "quality", "metric": options.metric, "target": options.target, **{
        name: {
            "seconds_to_target": next((seconds for seconds, _, found in of if found >= options.target), None),
            "best": max(found for *_, found in of),
        }
        for name, of in curves.items()
    }}))  # fmt: skip


if __name__ == "__main__":
    main()
