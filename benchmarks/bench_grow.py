"""How long does `prepare` take for a day's files on top of a graph, compared with all files at once?

Generates the raw files of `bench_prepare` and those of one more day, with `--share` as many edges, of which a hundredth
are of new users or tweets. Prepares the first files, then the day's with `prepare.previous`, and all at once, each in a
process of its own. With `--repeats count`, every day changes weights, so that all files are written anew. Ends in one
JSON line: seconds, their ratio, and whether the numbers of nodes and edges and the degrees are equal.

    python -m benchmarks.bench_grow [--edges 20000000] [--share 0.05] [--repeats first] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.bench_prepare import RELATIONS, SPLITS, in_child, make_raw

NEW = 1.02
"""Where the numbers of the day's nodes end, as a multiple of those before."""


def make_day(path: Path, edges: int, count: int) -> None:
    """Writes `count` edges in the manner of `make_raw` for `edges`."""
    rng = np.random.default_rng(1)
    sizes = {"user": NEW * max(1, edges // 20), "tweet": NEW * max(1, edges // 10)}
    rel = rng.integers(len(RELATIONS), size=count)
    of = np.array([sizes[table] for table in RELATIONS.values()])[rel]
    tables = {"lhs": pa.scalar("user"), "rhs": pa.array(list(RELATIONS.values())).take(pa.array(rel))}
    numbers = {"lhs": sizes["user"] * rng.random(count) ** 2, "rhs": of * rng.random(count) ** 2}
    ids = {
        side: pc.binary_join_element_wise(tables[side], pc.cast(pa.array(numbers[side].astype(int)), "string"), ":")
        for side in ("lhs", "rhs")
    }
    table = pa.table({"lhs": ids["lhs"], "relation": pa.array(RELATIONS).take(pa.array(rel)), "rhs": ids["rhs"]})
    pq.write_table(table, path, compression="zstd")


def counts(root: Path) -> dict[str, Any]:
    manifest = json.loads((root / "graph/manifest.json").read_text())
    return {
        "splits": {name: manifest["splits"][name]["edges"] for name in SPLITS},
        "nodes": {entry["name"]: entry["num_embeddings"] for entry in manifest["tables"]},
        "degrees": [(entry["edges"], entry["degrees"]) for entry in manifest["relations"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--edges", type=int, default=20_000_000)
    parser.add_argument("--share", type=float, default=0.05, help="the day's edges, as a share of those before")
    parser.add_argument("--repeats", default="first", choices=["first", "count"])
    parser.add_argument("--folder", help="where all files are written; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made)
        raw = folder / "raw"
        raw.mkdir()
        make_raw(raw, options.edges)
        settings = {"memory_limit": "4GB", "repeats": options.repeats}
        first = in_child("prepare", raw, folder / "first", **settings)
        make_day(raw / "the-day.parquet", options.edges, round(options.share * options.edges))
        grown = in_child("prepare", raw, folder / "grown", previous=str(folder / "first"), **settings)
        whole = in_child("prepare", raw, folder / "whole", **settings)
        result = {
            "edges": options.edges,
            "share": options.share,
            "repeats": options.repeats,
            "first_s": round(first["seconds"], 1),
            "grown_s": round(grown["seconds"], 1),
            "whole_s": round(whole["seconds"], 1),
            "ratio": round(grown["seconds"] / whole["seconds"], 3),
            "grown_peak_mib": round(grown["peak_mib"]),
            "counts_equal": counts(folder / "grown") == counts(folder / "whole"),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
