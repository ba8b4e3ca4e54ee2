"""How fast is `prepare`, and how much memory does it need, compared with pandas?

Generates Parquet files of edges with string ids and three relations. `prepare`, a straightforward pandas program, and
`prepare` with a quarter of pandas's peak as its memory limit then build a vocabulary and splits, each in its own
process. With a Spark master, `prepare` also runs there. Ends in one JSON line: seconds, their ratio, the peak memory of
each process, and whether the counts and checksums of all outputs are equal.

    python -m benchmarks.bench_prepare [--edges 20000000] [--memory-limit 4GB] [--spark-master local[2]] [--folder DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

RELATIONS = {"follow": "user", "fav": "tweet", "reply": "tweet"}  # all from users
SPLITS = {"test": 0.05, "validation": 0.05, "train": 0.9}
EDGES_PER_FILE = 2_500_000
REPEATED = 50  # every 50th row is written twice


def make_raw(folder: Path, edges: int) -> None:
    """Writes edges: one user per 20 edges, some with thousands of edges, and one tweet per 10 edges."""
    rng = np.random.default_rng(0)
    sizes = {"user": max(1, edges // 20), "tweet": max(1, edges // 10)}
    names = pa.array(RELATIONS)
    for part, start in enumerate(range(0, edges, EDGES_PER_FILE)):
        count = min(EDGES_PER_FILE, edges - start)
        rel = rng.integers(len(RELATIONS), size=count)
        of = np.array([sizes[table] for table in RELATIONS.values()])[rel]
        numbers = {"lhs": sizes["user"] * rng.random(count) ** 2, "rhs": of * rng.random(count) ** 2}
        tables = {"lhs": pa.scalar("user"), "rhs": pa.array(list(RELATIONS.values())).take(pa.array(rel))}
        ids = {
            side: pc.binary_join_element_wise(tables[side], pc.cast(pa.array(numbers[side].astype(int)), "string"), ":")
            for side in ("lhs", "rhs")
        }
        table = pa.table({"lhs": ids["lhs"], "relation": names.take(pa.array(rel)), "rhs": ids["rhs"]})
        table = pa.concat_tables([table, table.take(np.arange(0, count, REPEATED))])
        pq.write_table(table, folder / f"raw-{part:03d}.parquet", compression="zstd")


def run_pandas(raw: Path, root: Path) -> None:
    """A straightforward program that keeps everything in memory. Writes the files of prepare, one per folder."""
    import pandas as pd

    edges = pd.read_parquet(raw)
    repeated = edges.duplicated(["lhs", "relation", "rhs"])
    rejected = edges[repeated]
    edges = edges[~repeated].reset_index(drop=True)
    text = "0\t" + edges.lhs + "\t" + edges.relation + "\t" + edges.rhs
    edges["hash"] = [hashlib.md5(edge.encode()).hexdigest()[:12] for edge in text]  # noqa: S324 # names, not secrets
    bounds = [f"{round(share * 16**12):012x}" for share in (SPLITS["test"], SPLITS["test"] + SPLITS["validation"])]
    edges["split"] = np.select([edges.hash < bounds[0], edges.hash < bounds[1]], ["test", "validation"], "train")
    rhs_table = edges.relation.map(RELATIONS)
    edges["rel"] = edges.relation.map({name: rel for rel, name in enumerate(RELATIONS)}).astype("int32")
    in_train = edges.split == "train"
    for table in ("user", "tweet"):
        at_rhs = rhs_table == table
        ends = [edges.rhs[at_rhs]] + ([edges.lhs] if table == "user" else [])
        nodes = pd.DataFrame({"id": pd.concat(ends).unique()})
        nodes["hash"] = [hashlib.md5(node.encode()).hexdigest() for node in nodes.id]  # noqa: S324 # as above
        nodes = nodes.sort_values(["hash", "id"]).reset_index(drop=True)
        index = pd.Series(nodes.index, index=nodes.id)
        edges.loc[at_rhs, "rhs_index"] = edges.rhs[at_rhs].map(index)
        if table == "user":
            edges["lhs_index"] = edges.lhs.map(index)
        of_train = pd.concat([end[in_train.loc[end.index]] for end in ends])
        degree = nodes.id.map(of_train.value_counts()).fillna(0).astype("int64")
        (root / f"vocab/{table}").mkdir(parents=True)
        written = pd.DataFrame({"index": nodes.index, "id": nodes.id, "degree": degree})
        written.to_parquet(root / f"vocab/{table}/part.parquet", compression="zstd", index=False)
    edges = edges.sort_values("hash")
    for split in SPLITS:
        part = edges[edges.split == split]
        written = pd.DataFrame(
            {"lhs": part.lhs_index.astype("int64"), "rel": part.rel, "rhs": part.rhs_index.astype("int64")}
        )
        (root / f"edges/{split}").mkdir(parents=True)
        written.to_parquet(root / f"edges/{split}/part.parquet", compression="zstd", index=False)
    (root / "rejected").mkdir()
    rejected.to_parquet(root / "rejected/part.parquet", compression="zstd", index=False)


def run_prepare(raw: Path, root: Path, **settings: str) -> None:
    from twhin_core.config import Config
    from twhin_core.config import file as config_file
    from twhin_core.stages.prepare import prepare

    table = {"embedding_dim": 4, "optimizer": {"sgd": {"lr": 0.1}}}
    tree = {
        "prepare": {
            "sources": [{"path": str(raw), "relation_column": "relation"}],
            "split": {name: share for name, share in SPLITS.items() if name != "train"},
            "temp_directory": str(root.parent / "temp"),
            **settings,
        },
        "model": {
            "embeddings": {"tables": [{"name": name, **table} for name in ("user", "tweet")]},
            "relations": [{"name": name, "lhs": "user", "rhs": rhs} for name, rhs in RELATIONS.items()],
            "translation_optimizer": {"sgd": {"lr": 0.1}},
            "loss": "softmax",
        },
        "train_data": {"per_replica_batch_size": 64, "global_negatives": 8, "chunk_size": 32},
    }
    prepare(config_file.validate(Config, tree, "bench_prepare"), str(root))


def in_child(what: str, raw: Path, root: Path, **settings: str) -> dict[str, float]:
    """The seconds and the peak memory in MiB of the work in its own process."""
    arguments = [sys.executable, "-m", "benchmarks.bench_prepare", "--child", what, str(raw), str(root)]
    ran = subprocess.run([*arguments, json.dumps(settings)], stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    print(f"{what} {settings}: {measured['seconds']:.1f} s, peak {measured['peak_mib']:,.0f} MiB", flush=True)
    return measured


def child(what: str, raw: str, root: str, settings: str) -> None:
    started = time.perf_counter()
    if what == "pandas":
        run_pandas(Path(raw), Path(root))
    else:
        run_prepare(Path(raw), Path(root), **json.loads(settings))
    seconds = time.perf_counter() - started
    # Of this process only: Spark's Java process and Python workers are children.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))


def contents(graph: Path) -> dict[str, Any]:
    """The rows of each folder, and a checksum of each column of vocabulary and edges."""
    found: dict[str, Any] = {"checksums": {}}
    for folder in ("vocab/user", "vocab/tweet", *(f"edges/{split}" for split in SPLITS)):
        found[folder] = 0
        for path in sorted((graph / folder).glob("*.parquet")):
            for batch in pq.ParquetFile(path).iter_batches():
                found[folder] += batch.num_rows
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    checksum = found["checksums"].setdefault(f"{folder} {name}", hashlib.sha256())
                    number = pa.types.is_integer(column.type)
                    checksum.update(column.to_numpy() if number else "\n".join([*column.to_pylist(), ""]).encode())
    found["rejected"] = sum(pq.read_metadata(path).num_rows for path in (graph / "rejected").glob("*.parquet"))
    found["checksums"] = {name: checksum.hexdigest() for name, checksum in found["checksums"].items()}
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--edges", type=int, default=20_000_000)
    parser.add_argument("--memory-limit", default="4GB", help="memory limit of the first run of prepare")
    parser.add_argument("--spark-master", help="also run prepare on this Spark master")
    parser.add_argument("--folder", help="where all files are written; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made)
        raw = folder / "raw"
        raw.mkdir()
        make_raw(raw, options.edges)
        ours = in_child("prepare", raw, folder / "ours", memory_limit=options.memory_limit)
        plain = in_child("pandas", raw, folder / "pandas")
        quarter = f"{plain['peak_mib'] / 4:.0f}MiB"
        limited = in_child("prepare", raw, folder / "limited", memory_limit=quarter)
        graphs = [folder / "pandas", folder / "ours/graph", folder / "limited/graph"]
        spark: dict[str, float] = {}
        if options.spark_master is not None:
            settings = {"engine": "spark", "spark_master": options.spark_master, "memory_limit": options.memory_limit}
            spark["spark_s"] = round(in_child("prepare", raw, folder / "spark", **settings)["seconds"], 1)
            graphs.append(folder / "spark/graph")
        outputs = [contents(graph) for graph in graphs]
    result = {
        "edges": options.edges,
        "pandas_s": round(plain["seconds"], 1),
        "prepare_s": round(ours["seconds"], 1),
        "ratio": round(plain["seconds"] / ours["seconds"], 2),
        "limited_s": round(limited["seconds"], 1),
        "pandas_peak_mib": round(plain["peak_mib"]),
        "prepare_limit": options.memory_limit,
        "prepare_peak_mib": round(ours["peak_mib"]),
        "limited_limit": quarter,
        "limited_peak_mib": round(limited["peak_mib"]),
        **spark,
        "counts_equal": all({**output, "checksums": 0} == {**outputs[0], "checksums": 0} for output in outputs),
        "checksums_equal": all(output["checksums"] == outputs[0]["checksums"] for output in outputs),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
