"""Ranks a small graph as the library does, by scores that a test states."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tests.evaluation.brute_force import Triple
from tests.evaluation.graphs import to_edges
from twhin_core.config import Evaluation, Model
from twhin_core.evaluation.candidates import Candidates, CandidateSet, candidate_sets
from twhin_core.evaluation.held_out import HeldOut, held_out
from twhin_core.evaluation.measure import InMemory
from twhin_core.evaluation.metrics import Figures, compute
from twhin_core.evaluation.placing import Outcome, Placer, cut, place
from twhin_core.evaluation.products import Arithmetic, block_shape
from twhin_core.evaluation.queries import Queries, Split, group
from twhin_core.evaluation.ranking import Places, rank
from twhin_core.graph.manifest import Schema
from twhin_core.model.scorer import SIDES, Side
from twhin_core.progress import Progress
from twhin_core.training.ranks import Ranks, alone
from twhin_core.vectors.rows import TensorRows

MEMORY = 64 << 20


class ByMatrix:
    """Scores [given, answer] for each side and relation: a query is a unit vector, a candidate a column."""

    def __init__(self, matrix: Callable[[Side, int], Tensor]) -> None:
        self.matrix = matrix

    def of(self, candidates: CandidateSet, queries: int) -> Callable[[Queries], Places]:
        (rel,) = candidates.relations.tolist()
        matrix, arithmetic = self.matrix(candidates.side, rel), Arithmetic("fp32", torch.device("cpu"))
        table = TensorRows(matrix.T.contiguous())
        shape = block_shape(queries, candidates.size, arithmetic.device)
        kept = Candidates(candidates.rows(table), lambda vectors: vectors, arithmetic, shape, MEMORY)
        units = torch.eye(len(matrix))
        progress = Progress("test", 1, "scores", quiet=True)
        return lambda of: rank(of, units[torch.from_numpy(of.given)], candidates, kept, table, arithmetic, progress)


def apart(schema: Schema, side: Side) -> list[CandidateSet]:
    """The candidates of each relation for itself."""
    tables = [schema.table_of(rel, side) for rel in range(len(schema.relations))]
    return [CandidateSet(side, table, np.array([rel]), schema.tables[table]) for rel, table in enumerate(tables)]


def placed(
    placer: Placer,
    splits: dict[str, list[Triple]],
    evaluated: Split,
    schema: Schema,
    sets: Callable[[Side], list[CandidateSet]] | None = None,
    memory: int = MEMORY,
    ranks: Ranks | None = None,
) -> tuple[dict[Side, HeldOut], dict[Side, Outcome]]:
    """The held-out edges and what became of them, a side."""
    edges = {name: to_edges(triples) for name, triples in splits.items()}
    held = {side: held_out(edges[evaluated], side) for side in SIDES}
    outcomes = {}
    for side in SIDES:
        known, of = InMemory(group(edges, evaluated, side)), sets(side) if sets else apart(schema, side)
        chunks = cut(held[side], known.count(), of, schema, 8, memory, ranks or alone())
        outcomes[side] = place(held[side], known, chunks, {"model": placer}, ranks or alone())
    return held, outcomes


def figures(
    placer: Placer,
    splits: dict[str, list[Triple]],
    evaluation: Evaluation,
    schema: Schema,
    sets: Callable[[Side], list[CandidateSet]] | None = None,
    memory: int = MEMORY,
) -> Figures:
    held, outcomes = placed(placer, splits, evaluation.split, schema, sets, memory)
    names = [relation.name for relation in schema.relations]
    return compute(held, outcomes, {side: outcomes[side].places["model"] for side in SIDES}, names, evaluation)


def sets_of(model: Model, schema: Schema) -> Callable[[Side], list[CandidateSet]]:
    """The candidates as a model's relations share them."""
    return lambda side: candidate_sets(model, schema, side)
