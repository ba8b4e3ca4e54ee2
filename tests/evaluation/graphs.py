"""Small graphs with every awkward feature, and a checkpoint made by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tests.evaluation.brute_force import Triple
from twhin_core.config import Config, Model, Relation
from twhin_core.data.edges import Edges
from twhin_core.model.scorer import Scorer
from twhin_core.schema import Schema
from twhin_core.vectors.rows import TensorRows


@dataclass
class TableCheckpoint:
    """What evaluation needs of a checkpoint, from tensors."""

    tables: dict[str, Tensor]
    translation: Tensor
    inverse: Tensor | None = None
    step: int = 7
    url: str = "checkpoints/7"

    def rows(self, table: str) -> TensorRows:
        return TensorRows(self.tables[table])

    def scorer(self, model: Model, relations: list[Relation]) -> Scorer:
        scorer = Scorer(model, relations)
        with torch.no_grad():
            scorer.operator.translation.copy_(self.translation)
            if scorer.inverse is not None:
                scorer.inverse.translation.copy_(self.inverse)
        return scorer


def to_edges(triples: list[Triple]) -> Edges:
    columns = np.array(triples, np.int64).reshape(-1, 3)
    return Edges(columns[:, 0], columns[:, 1], columns[:, 2], np.ones(len(columns), np.float32))


def random_graph(schema: Schema, seed: int) -> dict[str, list[Triple]]:
    """Splits with repeated edges, edges in several splits and a relation without held-out edges."""
    rng = np.random.default_rng(seed)

    def draw(count: int, relations: int) -> list[Triple]:
        triples = []
        for _ in range(count):
            rel = int(rng.integers(relations))
            sizes = [schema.tables[schema.table_of(rel, side)] for side in ("lhs", "rhs")]
            triples.append((int(rng.integers(sizes[0])), rel, int(rng.integers(sizes[1]))))
        return triples

    last = len(schema.relations)
    train = draw(60, last)
    validation = draw(15, last - 1) + train[:2]
    test = draw(30, last - 1)
    test += test[:3] + train[2:5] + validation[:2]
    test = [edge for edge in test if edge[1] < last - 1]
    return {"train": train, "validation": [edge for edge in validation if edge[1] < last - 1], "test": test}


def model_config(tables: dict[str, int], relations: list[tuple[str, str, str]], dim: int, **model: object) -> Config:
    sgd = {"sgd": {"lr": 0.1}}
    return Config.model_validate(
        {
            "model": {
                "embeddings": {
                    "tables": [
                        {"name": name, "num_embeddings": rows, "embedding_dim": dim, "optimizer": sgd}
                        for name, rows in tables.items()
                    ]
                },
                "relations": [{"name": name, "lhs": lhs, "rhs": rhs} for name, lhs, rhs in relations],
                "translation_optimizer": sgd,
                **model,
            },
            "train_data": {"data_root": "unused", "per_replica_batch_size": 1, "global_negatives": 1},
        }
    )


def schema_of(config: Config) -> Schema:
    sizes = {table.name: table.num_embeddings or 0 for table in config.model.embeddings.tables}
    return Schema(sizes, config.model.relations)
