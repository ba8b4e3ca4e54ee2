"""How fast are exact lists of candidates, beside a bare loop of products and topk, and faiss?

All take the same random vectors and k, one after the other with the same threads; the lists must agree. The bare loop
keeps the best of each block of candidates by `torch.topk`, at the best of three widths of a block. faiss searches a
flat index in batches. Ends in one JSON line, with the hours that a million users and a million items would take.

    python -m benchmarks.bench_recommend [--users 4096] [--items 1000000] [--dim 64] [--k 100] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from twhin_core.progress import Progress
from twhin_core.ranking.best import find_best, list_shape
from twhin_core.ranking.products import Arithmetic, Candidates
from twhin_core.vectors.rows import TensorRows

LINES, WIDTHS = 256, (4096, 32_768, 262_144)
NOTHING = np.empty(0, np.int64)
Search = Callable[[Tensor, Tensor, int], Tensor]
"""Users [Q, dim], items [N, dim], k → the items of each user, best first: int64 [Q, k]."""


def ours(users: Tensor, items: Tensor, k: int) -> Tensor:
    device = torch.device("cpu")
    shape = list_shape(len(users), len(items), device)
    candidates = Candidates(TensorRows(items), None, Arithmetic("fp32", device), shape, 1 << 40)
    return find_best(users, candidates, k, (NOTHING, NOTHING), Progress("bench", 1, "scores", quiet=True))[1]


def bare(width: int) -> Search:
    def search(users: Tensor, items: Tensor, k: int) -> Tensor:
        found = []
        for block in users.split(LINES):
            scores, best = torch.empty(len(block), 0), torch.empty(len(block), 0, dtype=torch.int64)
            for start in range(0, len(items), width):
                of_block, place = (block @ items[start : start + width].T).topk(min(k, len(items) - start), 1)
                scores, best = torch.cat([scores, of_block], 1), torch.cat([best, place + start], 1)
                scores, kept = scores.topk(min(k, scores.shape[1]), 1)
                best = best.gather(1, kept)
            found.append(best)
        return torch.cat(found)

    return search


def products(users: Tensor, items: Tensor, k: int) -> Tensor:  # noqa: ARG001 -- as the others
    """The products alone."""
    for block in users.split(LINES):
        for start in range(0, len(items), WIDTHS[0]):
            block @ items[start : start + WIDTHS[0]].T
    return torch.empty(0, dtype=torch.int64)


def faiss_flat(users: Tensor, items: Tensor, k: int) -> Tensor:
    from twhin_core.export import faiss_library

    faiss = faiss_library.load()
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items.numpy())
    return torch.from_numpy(index.search(users.numpy(), k)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=4096)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    users, items = torch.randn(options.users, options.dim), torch.randn(options.items, options.dim)
    searches: dict[str, Search] = {"ours": ours, "products": products, "faiss": faiss_flat}
    searches |= {f"bare_{width}": bare(width) for width in WIDTHS}
    seconds, expected = {}, ours(users[:LINES], items, options.k)
    for name, search in searches.items():
        started = time.perf_counter()
        found = search(users, items, options.k)
        seconds[name] = round(time.perf_counter() - started, 2)
        same = float((found[:LINES] == expected).float().mean()) if len(found) else None
        print(
            f"{name:12} {seconds[name]:8.2f} s", "" if same is None else f"{same:.2%} of the places agree", flush=True
        )
        assert same is None or same > 0.999
    fastest = min(taken for name, taken in seconds.items() if name.startswith("bare"))
    hours = seconds["ours"] / options.users * 1e6 / options.items * 1e6 / 3600
    result = {"benchmark": "recommend", **vars(options), "seconds": seconds}
    result |= {"of_bare": round(fastest / seconds["ours"], 2), "of_faiss": round(seconds["faiss"] / seconds["ours"], 2)}
    print(json.dumps(result | {"hours_for_a_million_by_a_million": round(hours, 2)}))


if __name__ == "__main__":
    main()
