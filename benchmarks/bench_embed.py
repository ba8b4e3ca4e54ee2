"""Vectors of nodes that were held out of training whole, beside those that training with them gives.

Prepares and trains a config twice: with all nodes of a table, and without a twentieth of them. The nodes left out are
then embedded from their training edges, and their vectors answer their own test edges, as the trained vectors do.
Answers are ranked among all nodes without the known ones. Speed is that of embedding all trained nodes of the table
from their training edges. Ends in one JSON line: recall@20 and MRR of each, and nodes per second.

    python -m benchmarks.bench_embed configs/quickstart.yaml --table user [--set section.key=value]

With --folder, the runs are kept there, and used by the next call with the same config.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.embeddings import Embeddings
from twhin_core.graph.manifest import find_manifest
from twhin_core.inductive.edges import checked
from twhin_core.inductive.embed import Method, embed
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.vectors.top_k import answers

SHARE, K = 0.05, 20
QUERIES_AT_ONCE = 256

Known = dict[tuple[str, str], set[str]]
"""By node and relation, the answers."""


def named_edges(root: str, split: str) -> pa.Table:
    """(lhs, relation, rhs) of a split, by the original ids."""
    manifest = find_manifest(root)
    ids = {
        table.name: pa.concat_tables(pq.read_table(f"{root}/{file.path}") for file in table.files).sort_by("index")[
            "id"
        ]
        for table in manifest.tables
    }
    edges, parts = pq.read_table(f"{root}/graph/edges/{split}"), []
    for number, relation in enumerate(manifest.relations):
        of = edges.filter(pc.equal(edges["rel"], number))
        names = pa.array([relation.name] * len(of), pa.string())
        ends = [ids[table].take(of[side]) for side, table in (("lhs", relation.lhs), ("rhs", relation.rhs))]
        parts.append(pa.table({"lhs": ends[0], "relation": names, "rhs": ends[1]}))
    return pa.concat_tables(parts)


def touching(edges: pa.Table, held: pa.Array, config: Config, table: str) -> pa.Array:
    """Whether an end of each edge is one of the nodes `held` of the table."""
    masks = []
    for side in ("lhs", "rhs"):
        of_table = pa.array([of.name for of in config.model.relations if getattr(of, side) == table], pa.string())
        masks.append(pc.and_(pc.is_in(edges["relation"], of_table), pc.is_in(edges[side], held)))
    return pc.or_(*masks)


def by_query(edges: pa.Table) -> Known:
    known: Known = defaultdict(set)
    for lhs, relation, rhs in zip(*(edges[name].to_pylist() for name in ("lhs", "relation", "rhs")), strict=True):
        known[lhs, relation].add(rhs)
    return known


def measure(
    run: Embeddings, vectors: dict[str, torch.Tensor], table: str, seen: Known, tested: Known
) -> dict[str, float]:
    """Recall@20 over queries and MRR over edges, of the queries whose node has a vector."""
    trained, recalls, reciprocal = run.trained, [], []
    scorer = trained.vectors.scorer()
    for rel, relation in enumerate(trained.schema.relations):
        queries = [node for node, name in tested if name == relation.name and node in vectors]
        if relation.lhs != table or not queries:
            continue
        rows, place = trained.vectors.rows(relation.rhs), {name: at for at, name in enumerate(run[relation.rhs])}
        candidates = rows.read(0, rows.size)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            some = queries[start : start + QUERIES_AT_ONCE]
            with torch.no_grad():
                scores = answers(scorer, "rhs", rel, torch.stack([vectors[node] for node in some]))(candidates)
            for row, node in zip(scores, some, strict=True):
                left_out = seen[node, relation.name] | ({node} if relation.rhs == table else set())
                row[[place[name] for name in left_out if name in place]] = -torch.inf
                right = [place[name] for name in tested[node, relation.name] if name in place]
                top = set(row.topk(K).indices.tolist())
                recalls.append(len(top & set(right)) / len(tested[node, relation.name]))
                reciprocal += [1 / (1 + int((row > row[at]).sum())) for at in right]
    return {f"recall@{K}": round(float(np.mean(recalls)), 4), "mrr": round(float(np.mean(reciprocal)), 4)}


def without(config: Config, path: Path) -> Config:
    """The config of a run on the edges in `path`."""
    tree = config.model_dump()
    tree["prepare"] = {
        "sources": [{"path": str(path), "relation_column": "relation"}],
        "split": {"validation": 0.01, "test": 0.01, "seed": 1},  # another seed than the first split had
    }
    return config_file.validate(Config, tree, "without")


def nodes_per_second(run: Embeddings, table: str, method: Method, edges: pa.Table) -> float:
    """The speed of embedding the trained nodes of `table` from all of `edges`."""
    began = time.perf_counter()
    batches = embed(run.trained, table, checked(edges, "edges"), method, with_known=True)
    return sum(batch.num_rows for batch in batches) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--table", required=True)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--folder")
    options = parser.parse_args()
    config, table = config_file.load(options.config, options.overrides), options.table
    with contextlib.ExitStack() as stack:
        folder = options.folder or stack.enter_context(tempfile.TemporaryDirectory())
        whole, part = f"{folder}/whole", f"{folder}/part"
        prepare(config, whole)
        train(config, whole)
        names = list(Embeddings.load(whole)[table])
        held = pa.array(np.random.default_rng(0).choice(names, int(SHARE * len(names)), replace=False), pa.string())
        known, tested = (named_edges(whole, split) for split in ("train", "test"))
        is_held = touching(known, held, config, table)
        left = Path(folder) / "train.parquet"
        if not left.exists():
            pq.write_table(known.filter(pc.invert(is_held)), left)
        smaller = without(config, left)
        prepare(smaller, part)
        train(smaller, part)
        seen, asked = by_query(known.filter(is_held)), by_query(tested.filter(pc.is_in(tested["lhs"], held)))
        run = Embeddings.load(whole)
        vectors = {name: torch.from_numpy(run[table][name]) for name in held.to_pylist()}
        found: dict[str, Any] = {"trained": measure(run, vectors, table, seen, asked)}
        run = Embeddings.load(part)
        for method in get_args(Method):
            made = pa.Table.from_batches(embed(run.trained, table, checked(known.filter(is_held), "edges"), method))
            rows = torch.from_numpy(np.stack(made["embedding"].to_numpy()))
            vectors = dict(zip(made["id"].to_pylist(), rows, strict=True))
            speed = nodes_per_second(run, table, method, known.filter(pc.invert(is_held)))
            found[method] = measure(run, vectors, table, seen, asked) | {"nodes_per_s": round(speed)}
    print(json.dumps({"benchmark": "embed", "config": options.config, "table": table, "nodes": len(held), **found}))


if __name__ == "__main__":
    main()
