"""How fast is ranking, and how much memory does it need?

`speed` ranks the complete test set of FB15k-237, both sides, exact and filtered. The baseline, in the same run, is a
bare loop: blocked matrix products of the same queries and candidates, and one comparison of each held-out answer with
its query's scores, without filtering or ties. The MRR is checked against a count edge by edge over complete tables. The
graph is the real one if TWHIN_DATA is set, otherwise a random one of the same shape. Weights are random, which does not
change the work. With OMP_NUM_THREADS=1, processor time is measured, which other work on the machine hardly affects.

`memory` evaluates a checkpoint of one large table on disk, as `twhin evaluate` does, in its own process: some queries
exactly, from which the time of a million follows, and a million among sampled candidates.

Each ends in one JSON line.

    python -m benchmarks.bench_evaluate speed [--precision bf16] [--repeats 3] [--busy 3]
    python -m benchmarks.bench_evaluate memory [--rows 5000000] [--exact 4000] [--sampled 1000000] [--candidates 10000]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

from twhin_core import __version__, storage
from twhin_core.checkpoints.checkpoint import Checkpoint, Marker, Position
from twhin_core.checkpoints.description import model_description
from twhin_core.config import Config
from twhin_core.data.edges import Edges
from twhin_core.distributed.ranks import alone
from twhin_core.evaluation.known_answers import KnownAnswers, QueryIndex, collect, count
from twhin_core.evaluation.measure import measure
from twhin_core.evaluation.task import cut, rank_all
from twhin_core.graph.manifest import read_schema
from twhin_core.model.scorer import Scorer
from twhin_core.progress import Progress
from twhin_core.ranking.candidates import candidate_sets
from twhin_core.ranking.products import Arithmetic
from twhin_core.ranking.projections import Projections
from twhin_core.ranking.queries import HeldOut, held_out
from twhin_core.ranking.rankers import ModelRanker
from twhin_core.schema import SIDES, Schema, Side
from twhin_core.vectors.rows import TensorRows

DIM = 200
MEMORY = 1 << 30
ENTITIES, RELATIONS = 14_541, 237
SPLITS = {"train": 272_115, "validation": 17_535, "test": 20_466}
FILES = {"train": "train", "validation": "valid", "test": "test"}


class Split:
    """The edges of a split, in memory."""

    def __init__(self, edges: Edges) -> None:
        self.edges = edges

    def chunks(self) -> Iterator[Edges]:
        yield self.edges


def read_graph() -> dict[str, Edges]:
    """FB15k-237, or a random graph of the same shape."""
    if "TWHIN_DATA" not in os.environ:
        rng = np.random.default_rng(0)
        return {
            name: _edges(*((rng.random(size) ** 3 * most).astype(np.int64) for most in (ENTITIES, RELATIONS, ENTITIES)))
            for name, size in SPLITS.items()
        }
    folder = Path(os.environ["TWHIN_DATA"], "fb15k-237")
    columns = {
        name: duckdb.read_parquet(f"{folder / file}.parquet").project("head, relation, tail").fetchnumpy()
        for name, file in FILES.items()
    }
    entities = np.unique(np.concatenate([np.concatenate([of["head"], of["tail"]]) for of in columns.values()]))
    relations = np.unique(np.concatenate([of["relation"] for of in columns.values()]))
    return {
        name: _edges(
            np.searchsorted(entities, of["head"]),
            np.searchsorted(relations, of["relation"]),
            np.searchsorted(entities, of["tail"]),
        )
        for name, of in columns.items()
    }


def _edges(lhs: Any, rel: Any, rhs: Any) -> Edges:
    return Edges(lhs, rel, rhs, np.ones(len(lhs), np.float32))


class Ranking:
    """Ranks the test set of a graph with random vectors."""

    def __init__(self, precision: str) -> None:
        self.splits = read_graph()
        self.config = make_config({"entity": ENTITIES}, [str(rel) for rel in range(RELATIONS)], DIM)
        self.schema = Schema({"entity": ENTITIES}, self.config.model.relations)
        torch.manual_seed(0)
        self.scorer = Scorer(self.config.model, self.schema.relations)
        assert self.scorer.inverse is not None
        for operator in (self.scorer.operator, self.scorer.inverse):
            operator.get_parameter("translation").data.normal_()
        self.table = torch.randn(ENTITIES, DIM)
        self.arithmetic = Arithmetic("bf16" if precision == "bf16" else "fp32", torch.device("cpu"))

    def ours(self) -> tuple[float, float, float]:
        """The seconds to collect known answers, the seconds to rank, and the MRR."""
        started = clock()
        held = {side: held_out(self.splits["test"], side) for side in SIDES}
        indices = {side: QueryIndex(of, ENTITIES) for side, of in held.items()}
        counts = {side: np.zeros(of.queries, np.int64) for side, of in held.items()}
        for edges in self.splits.values():
            count(indices, edges, counts)
        chunks = {}
        for side in SIDES:
            sets = candidate_sets([self.config.model], self.schema, side)
            chunks[side] = cut(held[side], counts[side], sets, self.schema, DIM, MEMORY, alone())
        with tempfile.TemporaryDirectory() as folder:
            known = {
                side: KnownAnswers(Path(folder, side), held[side], [chunk.queries for chunk in chunks[side]])
                for side in SIDES
            }
            splits = {name: Split(of) for name, of in self.splits.items()}
            collect(splits, "test", indices, known)  # type: ignore[arg-type]  # they stand in for files
            collected = clock()
            progress = Progress("ranking", 1, "scores", quiet=True)
            rows = {"entity": TensorRows(self.table)}
            projections = Projections(self.scorer, self.schema, rows, self.arithmetic, MEMORY)
            ranker = ModelRanker(projections, progress)
            results = {
                side: rank_all(held[side], known[side], chunks[side], {"ours": ranker}, alone()) for side in SIDES
            }
        seconds = clock() - collected
        gains = [float((held[side].edges / results[side].ranks["ours"].rank).sum()) for side in SIDES]
        return collected - started, seconds, sum(gains) / (2 * len(self.splits["test"]))

    def bare(self, lines: int, width: int) -> float:
        """The seconds of the bare loop with blocks of `lines` queries and `width` candidates."""
        with self.arithmetic.applied():
            return self._bare(lines, width)

    def _bare(self, lines: int, width: int) -> float:
        factor = self.arithmetic.factor(self.table)
        started = clock()
        for side in SIDES:
            held = held_out(self.splits["test"], side)
            queries = self.arithmetic.factor(self.queries(held))
            own = torch.randn(len(held))
            answers = np.append(held.first, len(held))
            for first in range(0, held.queries, lines):
                last = min(first + lines, held.queries)
                of = slice(int(answers[first]), int(answers[last]))
                row = torch.from_numpy(held.query[of] - first)
                above = torch.zeros(of.stop - of.start, dtype=torch.int64)
                scores, compared = torch.empty(last - first, width), own[of, None]
                for start in range(0, ENTITIES, width):
                    block = factor[start : start + width]
                    out = scores[:, : len(block)] if len(block) == width else torch.empty(last - first, len(block))
                    self.arithmetic.product(queries[first:last], block, out)
                    above += (out[row] > compared).sum(1)
        return clock() - started

    def queries(self, held: HeldOut) -> Tensor:
        rel, given = (torch.from_numpy(of[held.first]) for of in (held.rel, held.node))
        with torch.no_grad():
            return self.scorer.queries(held.side, rel[None], self.table[given][None])[0]

    def brute_force(self) -> float:
        """The MRR, from the scores of all entities for each test edge."""
        known: dict[tuple[Side, int, int], set[int]] = {}
        for edges in self.splits.values():
            for lhs, rel, rhs in zip(edges.lhs.tolist(), edges.rel.tolist(), edges.rhs.tolist(), strict=True):
                known.setdefault(("rhs", rel, lhs), set()).add(rhs)
                known.setdefault(("lhs", rel, rhs), set()).add(lhs)
        factor, total = self.arithmetic.factor(self.table).float(), 0.0
        for side in SIDES:
            held = held_out(self.splits["test"], side)
            queries = self.arithmetic.factor(self.queries(held)).float()
            for number in range(len(held)):
                if number % 500 == 0:
                    first = int(held.query[number])
                    scores = (queries[first : first + 500] @ factor.T).numpy()
                of_query = scores[held.query[number] - first]
                negatives = np.ones(ENTITIES, np.bool_)
                negatives[list(known[side, int(held.rel[number]), int(held.node[number])])] = False
                own, others = of_query[held.answer[number]], of_query[negatives]
                rank = 1 + (others > own).sum() + (others == own).sum() / 2
                total += float(held.edges[number] / rank)
        return total / (2 * len(self.splits["test"]))


def speed(options: argparse.Namespace) -> dict[str, Any]:
    ranking = Ranking(options.precision)
    ours, bare, mrr, collecting = [], [], 0.0, 0.0
    for _ in range(options.repeats):
        collecting, seconds, mrr = ranking.ours()
        ours.append(seconds)
        bare.append(ranking.bare(256, 1024))
    result = {
        "data": "FB15k-237" if "TWHIN_DATA" in os.environ else "generated",
        "precision": options.precision,
        "threads": torch.get_num_threads(),
        "edges": len(ranking.splits["test"]),
        "collect_s": round(collecting, 2),
        "ours_s": round(min(ours), 2),
        "bare_s": round(min(bare), 2),
        "share_of_bare_speed": round(min(bare) / min(ours), 3),
        "mrr": mrr,
    }
    if options.busy:
        with busy(options.busy):
            beside = [ranking.ours()[1] for _ in range(options.repeats)]
        cores = len(os.sched_getaffinity(0))
        result["slowdown_beside_busy"] = round(min(beside) / min(ours), 2)
        result["slowdown_of_cores_lost"] = (cores + options.busy) / cores
    if not options.no_brute_force:
        result["mrr_brute_force"] = ranking.brute_force()
        assert abs(result["mrr_brute_force"] - mrr) < 1e-6, result
    return result


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing but use a core each."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def clock() -> float:
    """Processor time with one thread, which other work on the machine hardly affects; otherwise wall time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def make_config(tables: dict[str, int], relations: list[str], dim: int, **sections: Any) -> Config:
    sgd = {"sgd": {"lr": 0.1}}
    table = next(iter(tables))
    return Config.model_validate(
        {
            "model": {
                "embeddings": {
                    "tables": [
                        {"name": name, "num_embeddings": rows, "embedding_dim": dim, "optimizer": sgd}
                        for name, rows in tables.items()
                    ]
                },
                "relations": [{"name": name, "lhs": table, "rhs": table} for name in relations],
                "translation_optimizer": sgd,
                "reciprocal": True,
            },
            "train_data": {"data_root": "unused", "per_replica_batch_size": 1000, "global_negatives": 1},
            **sections,
        }
    )


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluates a table on disk, each measurement in its own process."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run_child(folder, options, "write", 0, 0)
        exact = run_child(folder, options, "measure", options.exact, 0)
        sampled = run_child(folder, options, "measure", options.sampled, options.candidates)
    return {
        "rows": options.rows,
        "dim": options.dim,
        "memory_limit": options.memory_limit,
        "precision": options.precision,
        "exact": exact | {"hours_for_1e6_queries": round(exact["seconds"] * 1e6 / exact["queries"] / 3600, 2)},
        "sampled": sampled,
    }


def run_child(folder: str, options: argparse.Namespace, what: str, queries: int, candidates: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_evaluate", "child", "--folder", folder, "--what", what]
    command += ["--rows", str(options.rows), "--dim", str(options.dim), "--queries", str(queries)]
    command += ["--candidates", str(candidates), "--memory-limit", options.memory_limit]
    command += ["--precision", options.precision, "--train-edges", str(options.train_edges)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


def child(options: argparse.Namespace) -> dict[str, Any]:
    folder, half = options.folder, options.queries // 2
    evaluation = {"memory_limit": options.memory_limit, "precision": options.precision}
    if options.candidates:
        evaluation["candidates"] = options.candidates
    config = make_config(
        {"node": options.rows},
        ["to"],
        options.dim,
        train_data={"data_root": f"{folder}/train.parquet", "per_replica_batch_size": 1000, "global_negatives": 1},
        test_data={"data_root": f"{folder}/test.parquet", "limit": max(half, 1)},
        evaluation=evaluation,
    )
    schema = read_schema(config, folder)
    if options.what == "write":
        return write(config, schema, options)
    marker = Marker(version=__version__, position=Position(step=1), model=model_description(config, schema))
    started = time.perf_counter()
    metrics, *_ = measure(config, folder, Checkpoint(f"{folder}/checkpoint", marker))
    seconds = time.perf_counter() - started
    name = "sampled_auc" if options.candidates else "auc"
    return {
        "queries": 2 * half,
        "candidates": options.candidates or options.rows,
        "seconds": round(seconds, 1),
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        name: metrics["test"]["all"][name],
    }


def write(config: Config, schema: Schema, options: argparse.Namespace) -> dict[str, Any]:
    """Writes a checkpoint of random vectors, training edges and held-out edges."""
    scorer = Scorer(config.model, schema.relations)
    state = {f"scorer.{name}": parameter.data for name, parameter in scorer.named_parameters()}
    state["tables.embeddings.node.weight"] = torch.randn(options.rows, options.dim)
    dcp.save(state, storage_writer=FsspecWriter(f"{options.folder}/checkpoint"), no_dist=True)
    rng = np.random.default_rng(0)
    for name, size in (("train", options.train_edges), ("test", 500_000)):
        lhs, rhs = (rng.integers(options.rows, size=size) for _ in range(2))
        table = pa.table({"lhs": lhs, "rel": np.zeros(size, np.int64), "rhs": rhs})
        pq.write_table(table, storage.join(options.folder, f"{name}.parquet"), row_group_size=131_072)
    return {}


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    of_speed = commands.add_parser("speed")
    of_speed.add_argument("--repeats", type=int, default=3)
    of_speed.add_argument("--busy", type=int, default=0, help="measure again beside so many processes that are busy")
    of_speed.add_argument("--no-brute-force", action="store_true")
    of_memory, of_child = commands.add_parser("memory"), commands.add_parser("child")
    of_memory.add_argument("--exact", type=int, default=4000, help="queries to rank exactly")
    of_memory.add_argument("--sampled", type=int, default=1_000_000, help="queries to rank among sampled candidates")
    of_memory.add_argument("--candidates", type=int, default=10_000)
    of_child.add_argument("--what")
    of_child.add_argument("--queries", type=int)
    of_child.add_argument("--candidates", type=int)
    for of in (of_memory, of_child):
        of.add_argument("--rows", type=int, default=5_000_000)
        of.add_argument("--dim", type=int, default=64)
        of.add_argument("--train-edges", type=int, default=5_000_000)
        of.add_argument("--memory-limit", default="1GB")
        of.add_argument("--folder", help="where the table is written; default: a temporary folder")
    for of in (of_speed, of_memory, of_child):
        of.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    print(json.dumps({"speed": speed, "memory": memory, "child": child}[options.command](options)))


if __name__ == "__main__":
    main()
