"""What a checkpoint ranks with: the relations' operators, and the tables' vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from twhin_core.evaluation.candidates import Candidates, CandidateSet
from twhin_core.evaluation.products import Arithmetic, block_shape
from twhin_core.evaluation.queries import Ints, Queries
from twhin_core.evaluation.ranking import Places, rank
from twhin_core.model.scorer import Scorer
from twhin_core.progress import Progress
from twhin_core.schema import Schema, Side
from twhin_core.vectors.rows import Rows

OTHER: dict[Side, Side] = {"lhs": "rhs", "rhs": "lhs"}


def gather_ends(tables: Mapping[str, Rows], schema: Schema, side: Side, rel: Ints, node: Ints) -> Tensor:
    """The vectors of the nodes on one side of edges: of relations [n] and rows [n] → [n, dim]."""
    table_of = np.array([schema.table_of(number, side) for number in range(len(schema.relations))])[rel]
    vectors = torch.empty(len(node), next(iter(tables.values())).dim)
    for table in np.unique(table_of).tolist():
        edges = np.flatnonzero(table_of == table)
        vectors[torch.from_numpy(edges)] = tables[table].gather(node[edges])
    return vectors


class ModelPlacer:
    """Ranks by a model's scores.

    What is compared are inner products of projected vectors. A score is one of these, plus what all candidates of a
    query have in common, in a function that never falls: so these are the ranks of the scores.
    """

    def __init__(
        self,
        scorer: Scorer,
        schema: Schema,
        tables: Mapping[str, Rows],
        arithmetic: Arithmetic,
        memory: int,
        progress: Progress,
    ) -> None:
        """`memory`: bytes for the vectors of candidates."""
        self._scorer, self._schema, self._tables = scorer, schema, tables
        self._arithmetic, self._memory, self._progress = arithmetic, memory, progress

    def of(self, candidates: CandidateSet, queries: int) -> Callable[[Queries], Places]:
        """As `Placer.of`. Raises UserError where scores are not finite."""
        side, rel, table = candidates.side, int(candidates.relations[0]), self._tables[candidates.table]
        kept = Candidates(
            candidates.rows(table),
            lambda vectors: self._project_answers(side, rel, vectors),
            self._arithmetic,
            block_shape(queries, candidates.size, self._arithmetic.device),
            self._memory,
        )

        def ranker(of: Queries) -> Places:
            given = gather_ends(self._tables, self._schema, OTHER[side], of.rel, of.given)
            vectors = self._project_queries(side, of.rel, given)
            return rank(of, vectors, candidates, kept, table, self._arithmetic, self._progress)

        return ranker

    @torch.inference_mode()
    def _project_queries(self, side: Side, rel: Ints, vectors: Tensor) -> Tensor:
        """Known ends [Q, dim] of relations [Q] → [Q, width]."""
        return self._scorer.queries(side, torch.from_numpy(rel)[None], vectors[None])[0]

    @torch.inference_mode()
    def _project_answers(self, side: Side, rel: int, vectors: Tensor) -> Tensor:
        """Nodes [n, dim] → [n, width]."""
        return self._scorer.answers(side, torch.full((1, len(vectors)), rel), vectors[None])[0]
