"""Scores of a run with `model.prior`, from degrees counted in plain loops."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from tests.evaluation.brute_force import Triple
from tests.stages.test_evaluate import TABLES
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config

ROWS = {"user": 40, "tweet": 30}
SIDES = ("lhs", "rhs")
REL = {"follow": 0, "fav": 1}


class Run:
    def __init__(self, config: Config, root: str) -> None:
        self.config, self.root = config, root
        self.checkpoint = newest(root)
        assert self.checkpoint is not None
        self.splits = {
            split: [
                (row["lhs"], row["rel"], row["rhs"])
                for path in sorted(Path(root, "graph/edges", split).glob("*.parquet"))
                for row in pq.read_table(path).to_pylist()
            ]
            for split in ("train", "validation", "test")
        }
        self.edges = Counter(rel for _, rel, _ in self.splits["train"])
        ends = [(rel, "lhs", lhs) for lhs, rel, _ in self.splits["train"]]
        self.degrees = Counter(ends + [(rel, "rhs", rhs) for _, rel, rhs in self.splits["train"]])
        self.vectors = {name: self.checkpoint.rows(name).read(0, rows).double() for name, rows in ROWS.items()}
        self.scorer = self.checkpoint.scorer(config.model, config.model.relations).double().requires_grad_(False)

    def prior(self, side: str, rel: int, node: int, weight: float | None = None) -> float:
        """weight · temperature · log(p · rows); every node has one edge more than it has."""
        settings = self.config.model.prior
        if settings is None or side not in settings.sides:
            return 0.0
        rows = ROWS[TABLES[rel][SIDES.index(side)]]
        share = (self.degrees[rel, side, node] + 1) / (self.edges[rel] + rows)
        trained: float = self.scorer.prior[rel, SIDES.index(side)].item()
        if settings.weight != "learned":
            assert trained == settings.weight
        return (trained if weight is None else weight) * self.config.model.temperature * math.log(share * rows)

    def similarity(self, side: str, edge: Triple) -> float:
        lhs, rel, rhs = edge
        head, tail = self.vectors[TABLES[rel][0]][lhs], self.vectors[TABLES[rel][1]][rhs]
        if side == "lhs" and self.scorer.inverse is not None:
            one, other = tail + self.scorer.inverse.of(rel), head
        else:
            one, other = head + self.scorer.operator.of(rel), tail
        product = float((one * other).sum())
        return product / float(one.norm() * other.norm()) if self.config.model.comparator == "cos" else product

    def score(self, side: str, edge: Triple, weight: float | None = None) -> float:
        return self.similarity(side, edge) + self.prior(side, edge[1], edge[0 if side == "lhs" else 2], weight)

    def ids(self, table: str) -> list[str]:
        return pq.read_table(Path(self.root, "graph/vocab", table)).sort_by("index")["id"].to_pylist()

    def answers(self, side: str, rel: int, node: int, weight: float | None = None) -> list[tuple[float, int]]:
        """(score, candidate) of all but the node itself, best first."""
        same = TABLES[rel][0] == TABLES[rel][1]
        nodes = [other for other in range(ROWS[TABLES[rel][SIDES.index(side)]]) if not (same and other == node)]
        edges = [(node, rel, other) if side == "rhs" else (other, rel, node) for other in nodes]
        return sorted(
            ((self.score(side, edge, weight), other) for edge, other in zip(edges, nodes, strict=True)), reverse=True
        )
