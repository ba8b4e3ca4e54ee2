"""The baseline: a straightforward training loop in plain PyTorch, without torchrec.

One translation relation, user → item. On each side, every positive is scored against the other positives of its chunk
and against uniformly drawn nodes, with a softmax loss and Adagrad. That is the work per edge of PyTorch-BigGraph with
its default settings.

    python -m benchmarks.plain_loop [--edges FILE.parquet --lhs COLUMN --rhs COLUMN] [--dim 64] [--epochs 3]

Without a file, trains on a generated graph. Prints one JSON line per epoch.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from twhin_core.parquet import ROWS_PER_GROUP


@dataclass(frozen=True)
class Bipartite:
    """Edges of one relation: lhs and rhs int64 [E], and the number of nodes on each side."""

    lhs: Tensor
    rhs: Tensor
    users: int
    items: int

    def write(self, folder: str) -> str:
        """Writes the edges to a file that training reads, and returns its path."""
        columns = {"lhs": self.lhs.numpy(), "rel": np.zeros(len(self.lhs), np.int32), "rhs": self.rhs.numpy()}
        path = f"{folder}/edges.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=ROWS_PER_GROUP)
        return path


def add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--edges", help="Parquet file of edges; default: a generated graph")
    parser.add_argument("--lhs", default="lhs", help="its column of users")
    parser.add_argument("--rhs", default="rhs", help="its column of items")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--uniform", type=int, default=50, help="uniform negatives per positive and side")
    parser.add_argument("--in-batch", type=int, default=50, help="in-batch negatives per positive and side")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)


def read_graph(options: argparse.Namespace) -> Bipartite:
    if options.edges is None:
        return generate()
    table = pq.read_table(options.edges, columns=[options.lhs, options.rhs])
    sides = []
    for column in (options.lhs, options.rhs):
        codes = table[column].combine_chunks().dictionary_encode()
        sides.append((torch.from_numpy(codes.indices.to_numpy().astype(np.int64)), len(codes.dictionary)))
    (lhs, users), (rhs, items) = sides
    return Bipartite(lhs, rhs, users, items)


def generate(users: int = 70_000, items: int = 25_000, edges: int = 650_000, groups: int = 200) -> Bipartite:
    """Groups of users and items with power-law popularity. Three of four edges stay within a group."""
    rng = np.random.default_rng(0)
    lhs = (users * rng.random(edges) ** 2).astype(np.int64)
    popular = (items // groups * rng.random(edges) ** 2).astype(np.int64)
    group = np.where(rng.random(edges) < 0.75, lhs % groups, rng.integers(groups, size=edges))
    rhs = popular * groups + group
    return Bipartite(torch.from_numpy(lhs), torch.from_numpy(rhs), users, items)


class PlainLoop:
    """A hand-written loop over two tables that are sparse torch.nn.Embedding."""

    def __init__(
        self, graph: Bipartite, dim: int, chunk: int, uniform: int, batch: int = 1000, lr: float = 0.1
    ) -> None:
        torch.manual_seed(0)
        self.graph, self.chunk, self.uniform, self.batch = graph, chunk, uniform, batch
        self.users = torch.nn.Embedding(graph.users, dim, sparse=True)
        self.items = torch.nn.Embedding(graph.items, dim, sparse=True)
        torch.nn.init.normal_(self.users.weight, std=1e-3)
        torch.nn.init.normal_(self.items.weight, std=1e-3)
        self.translation = torch.nn.Parameter(torch.zeros(dim))
        self.optimizer = torch.optim.Adagrad([self.users.weight, self.items.weight, self.translation], lr=lr)

    def epoch(self) -> tuple[float, float]:
        """Trains for an epoch. Returns the mean loss, summed over both sides, and edges/s."""
        order = torch.randperm(len(self.graph.lhs))
        total, steps, started = 0.0, 0, time.perf_counter()
        for start in range(0, len(order) - self.batch + 1, self.batch):
            total, steps = total + self.step(order[start : start + self.batch]), steps + 1
        return total / steps, steps * self.batch / (time.perf_counter() - started)

    def step(self, rows: Tensor) -> float:
        chunks = self.batch // self.chunk
        drawn = chunks * self.uniform
        users = self.users(torch.cat([self.graph.lhs[rows], torch.randint(self.graph.users, (drawn,))]))
        items = self.items(torch.cat([self.graph.rhs[rows], torch.randint(self.graph.items, (drawn,))]))
        users = users + self.translation
        positive_users, other_users = (
            part.view(chunks, -1, users.shape[1]) for part in users.split([self.batch, drawn])
        )
        positive_items, other_items = (
            part.view(chunks, -1, items.shape[1]) for part in items.split([self.batch, drawn])
        )
        tails = torch.bmm(positive_users, torch.cat([positive_items, other_items], 1).transpose(1, 2))
        heads = torch.bmm(positive_items, torch.cat([positive_users, other_users], 1).transpose(1, 2))
        target = torch.arange(self.chunk).repeat(chunks)
        loss = F.cross_entropy(tails.flatten(0, 1), target) + F.cross_entropy(heads.flatten(0, 1), target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Translated users and items, whose inner products are the scores."""
        return self.users.weight.detach() + self.translation.detach(), self.items.weight.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loop = PlainLoop(read_graph(options), options.dim, options.in_batch, options.uniform)
    for epoch in range(options.epochs):
        loss, speed = loop.epoch()
        print(json.dumps({"epoch": epoch, "loss": round(loss, 4), "edges_per_s": round(speed)}))


if __name__ == "__main__":
    main()
