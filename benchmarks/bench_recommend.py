"""How fast are exact lists of candidates, beside a bare loop of products and topk, and faiss?

All take the same random vectors and k, one after the other with the same threads; the lists must agree. The bare loop
keeps the best of each block of candidates by `torch.topk`, at the best of three widths of a block. faiss searches a
flat index in batches. `bf16` is the first pass of lists that would be found by products in bf16 and then scored again:
it finds 2 k candidates, and says for which share of the users that is provably enough. Ends in one JSON line, with the
hours that a million users and a million items would take, and the seconds of processor time, which can be compared even
where other processes are busy.

    python -m benchmarks.bench_recommend [--users 4096] [--items 1000000] [--dim 64] [--k 100] [--threads 2]
        [--index FOLDER]

With --index FOLDER, times lists with `index: true` beside exact ones instead: of a run with users who fav items of
communities, which is made in the folder and kept for the next time, through each kind of exported index. Says which
share of the exact lists is found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.serve_run import ITEMS_PER_USER, make_run
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config.recommend import Recommend
from twhin_core.export.vector_set import TrainedRun
from twhin_core.graph.manifest import read_schema
from twhin_core.progress import Progress
from twhin_core.ranking.best import find_best, list_shape
from twhin_core.ranking.products import Arithmetic, Candidates, Precision
from twhin_core.recommend.candidates import candidates_of
from twhin_core.recommend.finders import make_finder
from twhin_core.run import saved_config
from twhin_core.vectors.rows import TensorRows

LINES, WIDTHS = 256, (4096, 32_768, 262_144)
NOTHING = np.empty(0, np.int64)
Search = Callable[[Tensor, Tensor, int], Tensor]
"""Users [Q, dim], items [N, dim], k → the items of each user, best first: int64 [Q, k]."""


def best(users: Tensor, items: Tensor, k: int, precision: Precision) -> tuple[Tensor, Tensor]:
    """As `find_best`."""
    device = torch.device("cpu")
    shape = list_shape(len(users), len(items), device)
    candidates = Candidates(TensorRows(items), None, Arithmetic(precision, device), shape, 1 << 40)
    return find_best(users, candidates, k, (NOTHING, NOTHING), Progress("bench", 1, "scores", quiet=True))


def ours(users: Tensor, items: Tensor, k: int) -> Tensor:
    return best(users, items, k, "fp32")[1]


def bf16(users: Tensor, items: Tensor, k: int) -> Tensor:
    """2 k candidates by products in bf16, of which the k best are provably among them for the share that is printed.

    Rounding to bf16 changes a number by at most the share u = 2^-8, so that a product of rounded vectors is off by at
    most (2u + u^2) |q| |c|, and summing d terms in fp32, in any order, by about another d 2^-24 |q| |c|. With e the sum
    for the longest candidate, the k best in bf16 have products above b_k - e, and what was not found has one below
    b_2k + e: where 2 e < b_k - b_2k, nothing that was not found is one of the k best.
    """
    products, columns = best(users, items, 2 * k, "bf16")
    share = 2 * 2**-8 + 2**-16 + items.shape[1] * 2**-23
    error = share * users.norm(dim=1) * items.norm(dim=1).max()
    proven = 2 * error < products[:, k - 1] - products[:, -1]
    print(f"bf16: 2 k are provably enough for {float(proven.float().mean()):.1%} of the users")
    return columns[:, :k]


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


class Clock:
    """The seconds since it was made, and those of processor time."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        wall, processor = self._started
        return round(time.perf_counter() - wall, 2), round(time.process_time() - processor, 2)


def find(root: str, users: int, k: int, index: bool) -> tuple[tuple[float, float], float | None]:
    """What lists of random users take, as `Clock.read`, and the share of exact lists in them if they are not exact."""
    config = saved_config(root)
    checkpoint = newest(root)
    assert checkpoint is not None
    run = TrainedRun(config, root, checkpoint, read_schema(config, root))
    settings = Recommend(k=k, index=index)
    with tempfile.TemporaryDirectory() as folder:
        of, _ = candidates_of(run, 0, settings, Path(folder))
    finder = make_finder(run, settings, of, torch.device("cpu"), run.prior)
    rows = np.random.default_rng(0).choice(run.schema.tables["user"], users, replace=False)
    with Progress("bench", 1, "scores", quiet=True) as progress:
        finder.find(rows[:LINES], (NOTHING, NOTHING), progress)  # reads vectors and the index
        clock = Clock()
        found, wanted = finder.find(rows, (NOTHING, NOTHING), progress).compared
        return clock.read(), round(found / wanted, 4) if wanted else None


def through_indices(options: argparse.Namespace) -> dict[str, Any]:
    """Exact lists, then those through each kind of index, of the same run."""
    options.index.mkdir(exist_ok=True)
    users, seconds, shares = min(options.users, options.items // ITEMS_PER_USER), dict[str, tuple[float, float]](), {}
    for kind in ("hnsw", "ivf_pq"):
        root = make_run(options.index, options.items, options.dim, kind)
        if not seconds:
            seconds["exact"], _ = find(root, users, options.k, index=False)
        seconds[kind], shares[kind] = find(root, users, options.k, index=True)
    return {**by_clock(seconds), "share_of_exact": shares}


def by_clock(seconds: dict[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {of: both[place] for of, both in seconds.items()}
        for place, name in enumerate(("seconds", "processor_seconds"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=4096)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--index", type=Path, metavar="FOLDER", help="time lists through exported indices of a run there"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.index is not None:
        print(json.dumps({"benchmark": "recommend", **vars(options), **through_indices(options)}, default=str))
        return
    torch.manual_seed(0)
    users, items = torch.randn(options.users, options.dim), torch.randn(options.items, options.dim)
    searches: dict[str, Search] = {"ours": ours, "bf16": bf16, "products": products, "faiss": faiss_flat}
    searches |= {f"bare_{width}": bare(width) for width in WIDTHS}
    both, expected = {}, ours(users[:LINES], items, options.k)
    for name, search in searches.items():
        clock = Clock()
        found = search(users, items, options.k)
        both[name] = clock.read()
        same = float((found[:LINES] == expected).float().mean()) if len(found) else None
        print(
            f"{name:12} {both[name][0]:8.2f} s", "" if same is None else f"{same:.2%} of the places agree", flush=True
        )
        assert same is None or same > 0.999 or name == "bf16"  # those are not scored again
    seconds = by_clock(both)["seconds"]
    fastest = min(taken for name, taken in seconds.items() if name.startswith("bare"))
    hours = seconds["ours"] / options.users * 1e6 / options.items * 1e6 / 3600
    result = {"benchmark": "recommend", **vars(options), **by_clock(both)}
    result |= {"of_bf16": round(both["bf16"][1] / both["ours"][1], 2)}
    result |= {"of_bare": round(fastest / seconds["ours"], 2), "of_faiss": round(seconds["faiss"] / seconds["ours"], 2)}
    print(json.dumps(result | {"hours_for_a_million_by_a_million": round(hours, 2)}))


if __name__ == "__main__":
    main()
