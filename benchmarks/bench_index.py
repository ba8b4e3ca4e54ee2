"""How many of the best ten do compressed faiss indices find among a generated million, and how fast?

The vectors have length 1 and look like trained ones: clusters whose sizes follow a power law, and around their centers
directions that matter unequally: coordinates or, with --even, a rotation of them, so that all coordinates vary alike.
Queries are drawn alike. Indices are made and trained as `twhin export` does. Ends in
one JSON line: for each kind its factory string, recall@10 and the share of the ten best among the first 100, both at
several numbers of lists read, milliseconds per query on one thread, seconds to build, and bytes per vector.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_index [--rows 1000000] [--dim 64] [--even]
        [--kinds opq_ivf_pq ivf_pq]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from twhin_core.config.export import Export
from twhin_core.export import faiss_index
from twhin_core.export.fits import index_lists

Floats = npt.NDArray[np.float32]

CLUSTERS, SPREAD, DECAY = 2_000, 0.7, 0.5
"""Clusters; the length of a vector's distance from its center beside the center's; direction i matters as i^-DECAY."""
BLOCK = 100_000


class Vectors:
    """Draws vectors of length 1."""

    def __init__(self, dim: int, is_even: bool) -> None:
        rng = np.random.default_rng(0)
        self._scale = np.arange(1, dim + 1, dtype=np.float32) ** -DECAY
        self._scale /= np.linalg.norm(self._scale)
        rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0] if is_even else np.eye(dim)
        self._rotation = rotation.astype(np.float32)
        self._centers = rng.standard_normal((CLUSTERS, dim), np.float32) * self._scale
        shares = np.arange(1, CLUSTERS + 1) ** -0.7
        self._shares = shares / shares.sum()
        self._rng = rng

    def draw(self, count: int) -> Floats:
        cluster = self._rng.choice(CLUSTERS, count, p=self._shares)
        noise = self._rng.standard_normal((count, len(self._scale)), np.float32) * self._scale
        found = (self._centers[cluster] + SPREAD * noise) @ self._rotation
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return np.ascontiguousarray(found, np.float32)


def make(kind: str, dim: int, lists: int, metric: int) -> tuple[Any, str]:
    subspaces = math.ceil(dim / 4)
    if kind == "opq_ivf_pq":
        string = faiss_index.factory(dim, lists, subspaces)
        return faiss.index_factory(dim, string, metric), string
    return faiss_index.ivf_pq(faiss, dim, lists, subspaces, metric), f"IVF{lists},PQ{subspaces}"


def share(best: npt.NDArray[np.int64], found: npt.NDArray[np.int64]) -> float:
    """The share of the best that were found."""
    return float((best[:, :, None] == found[:, None, :]).any(2).mean())


def measure(kind: str, vectors: Floats, queries: Floats, best: npt.NDArray[np.int64]) -> dict[str, Any]:
    rows, dim = vectors.shape
    started = time.perf_counter()
    index, string = make(kind, dim, index_lists(Export(), rows), faiss.METRIC_INNER_PRODUCT)
    lists = faiss.extract_index_ivf(index)
    sample = np.random.default_rng(0).permutation(rows)[: faiss_index.sample_size(lists.nlist)]
    faiss_index.train(faiss, index, vectors[np.sort(sample)])
    trained = time.perf_counter()
    for start in range(0, rows, BLOCK):
        index.add(vectors[start : start + BLOCK])
    built = time.perf_counter()
    at = {}
    for probes in (8, 32, 128):
        lists.nprobe = probes
        asked = time.perf_counter()
        found = index.search(queries, 100)[1]
        ms = 1000 * (time.perf_counter() - asked) / len(queries)
        in_ten, in_hundred = (
            np.mean(
                [len(set(one) & set(other)) for one, other in zip(best.tolist(), found[:, :k].tolist(), strict=True)]
            )
            for k in (10, 100)
        )
        at[probes] = {
            "recall@10": round(in_ten / 10, 3),
            "best_10_in_100": round(in_hundred / 10, 3),
            "ms": round(ms, 2),
        }
    return {
        "factory": string,
        "probes": at,
        "train_s": round(trained - started, 1),
        "add_s": round(built - trained, 1),
        "bytes_per_vector": lists.code_size + 8,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--even", action="store_true")
    parser.add_argument("--kinds", nargs="+", choices=["opq_ivf_pq", "ivf_pq"], default=["opq_ivf_pq", "ivf_pq"])
    options = parser.parse_args()
    made = Vectors(options.dim, options.even)
    vectors = np.concatenate([made.draw(min(BLOCK, options.rows - at)) for at in range(0, options.rows, BLOCK)])
    queries = made.draw(options.queries)
    exact = faiss.IndexFlatIP(options.dim)
    exact.add(vectors)
    best = exact.search(queries, 10)[1]
    del exact
    found = {kind: measure(kind, vectors, queries, best) for kind in options.kinds}
    given = {"rows": options.rows, "dim": options.dim, "queries": options.queries, "even": options.even}
    print(json.dumps({**given, **found}))


if __name__ == "__main__":
    main()
