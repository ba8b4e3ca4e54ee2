"""How near its bare products exact ranking is, on a table too large for the processor's caches.

python -m benchmarks.gpu.ranking [--device cpu]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.bench_evaluate import Split, make_config
from benchmarks.gpu.common import Sizes, options, report, synchronize
from twhin_core.data.edges import Edges
from twhin_core.distributed.ranks import alone
from twhin_core.evaluation.known_answers import KnownAnswers, QueryIndex, collect, count
from twhin_core.evaluation.task import cut, rank_all
from twhin_core.model.scorer import Scorer
from twhin_core.progress import Progress
from twhin_core.ranking.candidates import candidate_sets
from twhin_core.ranking.products import LARGEST, Arithmetic, Precision
from twhin_core.ranking.projections import Projections
from twhin_core.ranking.queries import held_out
from twhin_core.ranking.rankers import ModelRanker
from twhin_core.schema import SIDES, Schema
from twhin_core.vectors.rows import TensorRows

DIM = 128
MEMORY = 8 << 30


def random_edges(rows: int, count: int, seed: int) -> Edges:
    rng = np.random.default_rng(seed)
    lhs, rhs = (rng.integers(rows, size=count) for _ in range(2))
    return Edges(lhs, np.zeros(count, np.int64), rhs, np.ones(count, np.float32))


def ours(sizes: Sizes, table: torch.Tensor, precision: Precision, device: torch.device) -> tuple[float, float]:
    """Seconds of ranking, and the mean reciprocal rank."""
    config = make_config({"node": len(table)}, ["to"], DIM)
    schema = Schema({"node": len(table)}, config.model.relations)
    splits = {"train": random_edges(len(table), len(table), 0), "test": random_edges(len(table), queries(sizes), 1)}
    held = {side: held_out(splits["test"], side) for side in SIDES}
    indices = {side: QueryIndex(of, len(table)) for side, of in held.items()}
    counts = {side: np.zeros(of.queries, np.int64) for side, of in held.items()}
    for edges in splits.values():
        count(indices, edges, counts)
    chunks = {
        side: cut(held[side], counts[side], candidate_sets([config.model], schema, side), schema, DIM, MEMORY, alone())
        for side in SIDES
    }
    with tempfile.TemporaryDirectory() as folder:
        known = {
            side: KnownAnswers(Path(folder, side), held[side], [of.queries for of in chunks[side]]) for side in SIDES
        }
        collect({name: Split(of) for name, of in splits.items()}, "test", indices, known)  # type: ignore[arg-type]  # they stand in for files
        scorer = Scorer(config.model, schema.relations)
        rows, arithmetic = {"node": TensorRows(table)}, Arithmetic(precision, device)
        projections = Projections(scorer, schema, rows, arithmetic, MEMORY)
        ranker = ModelRanker(projections, Progress("ranking", 1, "scores", quiet=True))
        synchronize(device)
        started = time.perf_counter()
        results = {side: rank_all(held[side], known[side], chunks[side], {"ours": ranker}, alone()) for side in SIDES}
        synchronize(device)
        seconds = time.perf_counter() - started
    gains = [float((1 / results[side].ranks["ours"].rank).mean()) for side in SIDES]
    return seconds, sum(gains) / len(gains)


def queries(sizes: Sizes) -> int:
    """Held-out edges: each is a query of either side."""
    return sizes.ranked_queries // 2


def bare(sizes: Sizes, table: torch.Tensor, precision: Precision, device: torch.device) -> float:
    """Seconds of the same products alone, the table copied to the device as it goes."""
    arithmetic, shape = Arithmetic(precision, device), LARGEST[device.type]

    def blocks() -> Iterator[torch.Tensor]:
        for start in range(0, len(table), shape.candidates):
            yield arithmetic.factor(table[start : start + shape.candidates])

    factors = arithmetic.factor(torch.randn(sizes.ranked_queries, DIM))
    out = torch.empty(shape.queries, shape.candidates, device=device)
    synchronize(device)
    started = time.perf_counter()
    for block in blocks():
        for part in factors.split(shape.queries):
            arithmetic.product(
                part,
                block,
                out[: len(part), : len(block)].view(len(part), len(block))
                if len(block) == shape.candidates
                else torch.empty(len(part), len(block), device=device),
            )
    synchronize(device)
    return time.perf_counter() - started


def main() -> None:
    device, sizes, _ = options(__doc__, [])
    table = torch.randn(sizes.ranked_rows, DIM, device=device).cpu()
    precisions: tuple[Precision, Precision] = ("bf16", "fp32")
    for precision in precisions:
        bare(sizes, table[: len(table) // 50], precision, device)  # the first calls load libraries
        alone_s = bare(sizes, table, precision, device)
        taken, mrr = ours(sizes, table, precision, device)
        report(
            "ranking", precision=precision, queries=sizes.ranked_queries, rows=sizes.ranked_rows,
            seconds=round(taken, 2), scores_per_s=round(sizes.ranked_queries * sizes.ranked_rows / taken),
            bare_s=round(alone_s, 2), share_of_bare_speed=round(alone_s / taken, 3), mrr=mrr,
        )  # fmt: skip


if __name__ == "__main__":
    main()
