"""The reference's AUC against pairs counted one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.evaluation.graphs import TableCheckpoint, model_config, schema_of
from twhin_core.config import Config
from twhin_core.data.edges import Edges
from twhin_core.evaluation.reference_auc import reference_auc

RELATIONS = [("fav", "user", "tweet"), ("follow", "user", "user")]
SIZES = {"user": 9, "tweet": 12}


def found(config: Config, checkpoint: TableCheckpoint, edges: Edges) -> float:
    schema = schema_of(config)
    scorer = checkpoint.scorer(config.model, schema.relations)
    tables = {name: checkpoint.rows(name) for name in schema.tables}
    return reference_auc(scorer, tables, schema, edges, config)


def sized(config: Config, batch: int, negatives: int, steps: int = 1000) -> Config:
    data = config.train_data.model_copy(update={"per_replica_batch_size": batch, "in_batch_negatives": negatives})
    training = config.training.model_copy(update={"num_eval_steps": steps})
    return config.model_copy(update={"train_data": data, "training": training})


def draw(rows: int) -> Tensor:
    return torch.randint(-2, 3, (rows, 4), generator=torch.Generator().manual_seed(rows)) / 4  # many ties


def test_it_is_the_share_of_pairs_of_a_batch() -> None:
    """With as many negatives as a relation has edges in the batch, a permutation takes each of them once."""
    config = model_config(SIZES, RELATIONS, dim=4)
    tables, translation = {name: draw(rows) for name, rows in SIZES.items()}, draw(2)
    rng = np.random.default_rng(0)
    rel = np.tile([0, 0, 0, 0, 1, 1, 1, 1], 3)  # 4 of each relation in each batch of 8
    rhs = np.where(rel == 0, rng.integers(12, size=24), rng.integers(9, size=24))
    edges = Edges(rng.integers(9, size=24), rel, rhs, np.ones(24, np.float32))

    def score(lhs: int, of: int, rhs: int) -> float:
        tail = tables["tweet" if of == 0 else "user"][rhs].double()
        return float((tables["user"][lhs].double() + translation[of].double()) @ tail)

    shares = []
    for batch in range(3):
        numbers = range(8 * batch, 8 * batch + 8)
        positive = [score(int(edges.lhs[i]), int(rel[i]), int(rhs[i])) for i in numbers]
        negative = []
        for i in numbers:
            for j in numbers:
                if rel[i] == rel[j]:
                    negative.append(score(int(edges.lhs[i]), int(rel[i]), int(rhs[j])))
                    negative.append(score(int(edges.lhs[j]), int(rel[i]), int(rhs[i])))
        pairs = [own > other for own in positive for other in negative]
        shares.append(sum(pairs) / len(pairs))
    checkpoint = TableCheckpoint(tables, translation)
    assert found(sized(config, 8, 4), checkpoint, edges) == pytest.approx(np.mean(shares), abs=1e-12)
    assert found(sized(config, 8, 8), checkpoint, edges) == pytest.approx(np.mean(shares), abs=1e-12), "each twice"
    assert found(sized(config, 8, 4, steps=2), checkpoint, edges) == pytest.approx(np.mean(shares[:2]), abs=1e-12)


def test_ties_are_no_wins_and_chance_is_a_half() -> None:
    config = sized(model_config({"user": 2000, "tweet": 2000}, RELATIONS, dim=4), 500, 50)
    rng = np.random.default_rng(1)
    edges = Edges(
        rng.integers(2000, size=2000),
        rng.integers(2, size=2000),
        rng.integers(2000, size=2000),
        np.ones(2000, np.float32),
    )
    collapsed = TableCheckpoint({name: torch.ones(2000, 4) for name in SIZES}, torch.zeros(2, 4))
    assert found(config, collapsed, edges) == 0
    generator = torch.Generator().manual_seed(0)
    untrained = TableCheckpoint({name: torch.randn(2000, 4, generator=generator) for name in SIZES}, torch.zeros(2, 4))
    assert found(config, untrained, edges) == pytest.approx(0.5, abs=0.02)
