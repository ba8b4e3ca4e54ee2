"""How fast is the trainer, compared with a plain PyTorch loop that does the same work per edge?

On each side, both score every positive against the same number of in-batch and of uniform negatives, and learn with
Adagrad (ours row-wise). Ours shares negatives among larger chunks. Epochs of the two alternate, each in its own process
because ours changes how its process keeps memory. Ends in one JSON line: edges/s of both, the median ratio, losses, and
for quality the best recall@20 of all epochs on a held-out twentieth of the edges.

    python -m benchmarks.bench_train [--edges FILE.parquet --lhs COLUMN --rhs COLUMN] [--dim 64] [--uniform 50]
        [--batch 10000] [--chunk 1000] [--lr 0.1] [--amp] [--epochs 3]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain_loop import Bipartite, PlainLoop, add_data_options, read_graph
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.data.epochs import State
from twhin_core.data.files import EdgeFiles
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.schema import Schema
from twhin_core.training.batches import Batches
from twhin_core.training.build import build


class Trainer:
    """Our trainer's model and batches, one epoch at a time."""

    def __init__(self, graph: Bipartite, options: argparse.Namespace, ranks: Ranks) -> None:
        config = make_config(options)
        schema = Schema({"user": graph.users, "item": graph.items}, config.model.relations)
        self.folder = tempfile.TemporaryDirectory()
        edges = EdgeFiles([graph.write(self.folder.name)], schema)
        self.batches = Batches(config, schema, edges, config.train_data, ranks)
        self.model = build(config, schema, ranks)
        self.epochs = 0

    def epoch(self) -> tuple[float, float]:
        total, edges, started = torch.zeros(()), 0, time.perf_counter()
        state = State(epoch=self.epochs, edges=0)
        for batch, _ in self.batches.epochs(state, num_epochs=self.epochs + 1):
            total += self.model.step(batch) * batch.step_edges
            edges += batch.step_edges
        self.epochs += 1
        return 2 * float(total) / edges, edges / (time.perf_counter() - started)  # the plain loop sums over the sides

    def vectors(self) -> tuple[Tensor, Tensor]:
        state = self.model.state()
        users, items = (state[f"tables.embeddings.{name}.weight"] for name in ("user", "item"))
        return users + state["scorer.operator.translation"][0].detach(), items


def make_config(options: argparse.Namespace) -> Config:
    table = {"embedding_dim": options.dim, "optimizer": {"rowwise_adagrad": {"lr": options.lr}}}
    tree = {
        "runtime": {"enable_amp": options.amp},
        "model": {
            "embeddings": {"tables": [{"name": name, "num_embeddings": 1, **table} for name in ("user", "item")]},
            "relations": [{"name": "edge", "lhs": "user", "rhs": "item"}],
            "translation_optimizer": {"adagrad": {"lr": options.lr}},
            "loss": "softmax",
            "init_std": 1e-3,
        },
        "train_data": {
            "data_root": "in memory",
            "per_replica_batch_size": options.batch,
            "in_batch_negatives": options.in_batch,
            "global_negatives": options.uniform,
            "chunk_size": options.chunk,
        },
    }
    return config_file.validate(Config, tree, "benchmark")


def hold_out(graph: Bipartite) -> tuple[Bipartite, Bipartite]:
    """A random twentieth of the edges, and the rest to train on."""
    held_out = torch.rand(len(graph.lhs), generator=torch.Generator().manual_seed(0)) < 0.05
    parts = [Bipartite(graph.lhs[rows], graph.rhs[rows], graph.users, graph.items) for rows in (~held_out, held_out)]
    return parts[0], parts[1]


def profile(ours: Trainer) -> str:
    """torch's table of the operations of an epoch by shape, after one warm-up epoch."""
    ours.epoch()
    with torch.profiler.profile(record_shapes=True) as profiler:
        ours.epoch()
    return str(profiler.key_averages(group_by_input_shape=True).table(sort_by="self_cpu_time_total", row_limit=20))


def recall_at_20(vectors: tuple[Tensor, Tensor], train: Bipartite, test: Bipartite, queries: int = 2000) -> float:
    """The mean share of held-out items among the 20 best items that were not trained on, for the first users."""
    users, items = vectors
    asked = test.lhs.unique()[:queries]
    row = torch.full((train.users,), -1).scatter_(0, asked, torch.arange(len(asked)))
    scores = users[asked] @ items.T
    known = row[train.lhs] >= 0
    scores[row[train.lhs][known], train.rhs[known]] = -torch.inf
    best = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.topk(20).indices, value=True)
    mine = row[test.lhs] >= 0
    query, item = row[test.lhs][mine], test.rhs[mine]
    share = best[query, item] / query.bincount()[query]
    return float(share.sum() / len(asked))


def serve_plain_loop(options: argparse.Namespace, calls: Connection) -> None:
    """Runs a plain loop in this process. Receives names of its methods and sends their results, until a None."""
    torch.set_num_threads(options.threads)
    train, _ = hold_out(read_graph(options))
    loop = PlainLoop(train, options.dim, options.in_batch, options.uniform)
    while method := calls.recv():
        calls.send(getattr(loop, method)())


def compare(ours: Trainer, plain: Connection, epochs: int, train: Bipartite, test: Bipartite) -> dict[str, float]:
    """Alternates epochs of the two."""
    speeds, recalls = [], []
    for number in range(epochs):
        our_loss, our_speed = ours.epoch()
        plain_loss, plain_speed = call(plain, "epoch")
        recall = recall_at_20(ours.vectors(), train, test), recall_at_20(call(plain, "vectors"), train, test)
        speeds.append((our_speed, plain_speed))
        recalls.append(recall)
        print(f"epoch {number}: ours {our_speed:,.0f} edges/s, loss {our_loss:.3f}, recall {recall[0]:.4f}; ", end="")
        print(f"plain {plain_speed:,.0f} edges/s, loss {plain_loss:.3f}, recall {recall[1]:.4f}", flush=True)
    return {
        "ours_edges_per_s": round(statistics.median(our for our, _ in speeds)),
        "plain_edges_per_s": round(statistics.median(plain for _, plain in speeds)),
        "ratio": round(statistics.median(our / plain for our, plain in speeds), 2),
        "ours_loss": round(our_loss, 4),
        "plain_loss": round(plain_loss, 4),
        "ours_best_recall@20": round(max(our for our, _ in recalls), 4),
        "plain_best_recall@20": round(max(plain for _, plain in recalls), 4),
    }


def call(plain: Connection, method: str) -> Any:
    plain.send(method)
    return plain.recv()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--batch", type=int, default=20_000, help="only ours; the plain loop uses 1,000")
    parser.add_argument("--chunk", type=int, default=1000, help="only ours; the plain loop uses --in-batch")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--amp", action="store_true", help="only ours: score products in bf16")
    parser.add_argument("--profile", action="store_true", help="only profile our trainer, and print the result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train, test = hold_out(read_graph(options))
    with process_group() as ranks:
        ours = Trainer(train, options, ranks)
        if options.profile:
            print(profile(ours))
            return
        spawn = multiprocessing.get_context("spawn")
        plain, served = spawn.Pipe()
        process = spawn.Process(target=serve_plain_loop, args=(options, served), daemon=True)
        process.start()
        figures = compare(ours, plain, options.epochs, train, test)
        plain.send(None)
        process.join()
    settings = {"dim": options.dim, "negatives_per_side": options.in_batch + options.uniform, "amp": options.amp}
    print(json.dumps({"benchmark": "train", **settings, **figures}))


if __name__ == "__main__":
    main()
