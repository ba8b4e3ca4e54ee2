"""What do mixtures find that the single vector does not? Recall, coverage and diversity of both lists.

    python -m benchmarks.bench_mixture [--network generated|amazon-book] [--root RUN_ROOT] [--split validation|test]
        [--users 10000] [--mixture '{clusters: 200}' ...]

`generated` is a network of users with five interests each, held out in time, with 32 numbers in a vector;
`amazon-book` is that of configs/amazon_book.yaml, with a twentieth of its training edges held out for validation
(TWHIN_DATA). It is trained first, unless `--root` has it already. Lists leave out training edges and, on test edges,
validation edges.

Recall is the mean over users; coverage is the share of candidates that are in the 100 of any user; diversity is 1 - the
mean cosine of two different candidates among the first 10. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml

from twhin_core.config import file as config_file
from twhin_core.config.recommend import Recommend
from twhin_core.data.edges import Edges
from twhin_core.data.splits import open_split
from twhin_core.embeddings.result import open_result
from twhin_core.export.vector_set import TrainedRun
from twhin_core.progress import Progress
from twhin_core.ranking.best import NONE
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.queries import REMOVED, Ints
from twhin_core.recommend.finders import make_finder
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

K, LENGTHS, FIRST = 100, (10, 50, 100), 10
RELATION = {"generated": "fav", "amazon-book": "review"}
GENERATED = [
    "prepare.generate={users: 4000, tweets: 6000, communities: 200, interests: 5}",
    "prepare.split={by: time, validation: 0.05, test: 0.1}",
    *(f"model.embeddings.tables.{number}.embedding_dim=32" for number in range(2)),
]


def make_run(network: str, folder: Path) -> str:
    """Trains; returns the run root."""
    if network == "generated":
        config = config_file.load("configs/quickstart.yaml", GENERATED)
    else:
        data = f"{os.environ['TWHIN_DATA']}/amazon-book"
        table = pq.read_table(f"{data}/train.parquet")
        is_held_out = np.random.default_rng(0).random(table.num_rows) < 0.05
        pq.write_table(table.filter(~is_held_out), folder / "train.parquet")
        pq.write_table(table.filter(is_held_out), folder / "validation.parquet")
        source = {"lhs": "user_id", "rhs": "book_id", "relation": "review"}
        paths = {split: f"{folder}/{split}.parquet" for split in ("train", "validation")}
        sources = [source | {"path": path, "split": split} for split, path in paths.items()]
        sources.append(source | {"path": f"{data}/test.parquet", "split": "test"})
        config = config_file.load("configs/amazon_book.yaml", [f"prepare.sources={json.dumps(sources)}"])
    root = str(folder / "run")
    prepare(config, root)
    train(config, root)
    return root


class Task:
    """Users with held-out edges, and what they must not and should get."""

    def __init__(self, run: TrainedRun, relation: str, split: str, most: int) -> None:
        self.run, schema, self._rel = run, run.schema, run.schema.names.index(relation)
        table = schema.table_of(self._rel, "rhs")
        self.of = CandidateSet("rhs", table, np.array([self._rel]), schema.tables[table])
        held = self._edges(split)
        users = np.unique(held.lhs)
        self.users: Ints = np.sort(np.random.default_rng(0).permutation(users)[:most])
        known = [self._cells(self._edges(name)) for name in REMOVED[split]]
        self.known, self.wanted = np.unique(np.concatenate(known)), np.unique(self._cells(held))
        self.wanted = np.setdiff1d(self.wanted, self.known)

    def _edges(self, split: str) -> Edges:
        edges = open_split(self.run.config, self.run.root, self.run.schema, split).all()
        return edges.take(edges.rel == self._rel)

    def _cells(self, edges: Edges) -> Ints:
        """user's number · candidates + candidate, of the edges of the users."""
        number = np.minimum(np.searchsorted(self.users, edges.lhs), len(self.users) - 1)
        of_users = self.users[number] == edges.lhs
        return number[of_users] * self.of.size + edges.rhs[of_users]

    def measure(self, settings: Recommend) -> dict[str, float]:
        started = time.perf_counter()
        finder = make_finder(self.run, settings, self.of, torch.device("cpu"), self.run.prior)
        made = time.perf_counter()
        with Progress("lists", 1, "scores", quiet=True) as progress:
            found = finder.find(self.users, tuple(np.divmod(self.known, self.of.size)), progress)
        taken = time.perf_counter() - made
        cell = np.arange(len(self.users))[:, None] * self.of.size + found.rows
        is_there = found.rows != NONE
        assert is_there.all(), "there are more than K candidates"
        assert not np.isin(cell, self.known).any()
        hit = np.isin(cell, self.wanted)
        count = np.bincount(self.wanted // self.of.size, minlength=len(self.users))
        figures = {f"recall@{n}": float((hit[:, :n].sum(1)[count > 0] / count[count > 0]).mean()) for n in LENGTHS}
        figures["coverage"] = len(np.unique(found.rows)) / self.of.size
        vectors = torch.nn.functional.normalize(self.run.checkpoint.rows(self.of.table).read(0, self.of.size)).numpy()
        sums = np.stack([vectors[rows].sum(0) for rows in found.rows[:, :FIRST]])
        figures["diversity"] = float(1 - (((sums**2).sum(1) - FIRST) / (FIRST * (FIRST - 1))).mean())
        figures["by clusters"] = float((found.source != found.sources.index("vector")).mean())
        return figures | {"prepare_s": made - started, "find_s": taken}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(RELATION), default="generated")
    parser.add_argument("--root")
    parser.add_argument("--split", choices=list(REMOVED), default="test")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--mixture", action="append", default=[])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or make_run(options.network, Path(folder))
        run = open_result(root).scored
        assert isinstance(run, TrainedRun)
        task = Task(run, RELATION[options.network], options.split, options.users)
        rows = {}
        for text in ["null", *(options.mixture or ["{}"])]:
            settings = Recommend.model_validate({"k": K, "mixture": yaml.safe_load(text)})
            rows[text] = {name: round(value, 4) for name, value in task.measure(settings).items()}
            print(f"{text:70}", *(f"{name} {value:.4f}" for name, value in rows[text].items()), flush=True)
    print(json.dumps({"benchmark": "mixture", **vars(options), "counted": len(task.users), "lists": rows}))


if __name__ == "__main__":
    main()
