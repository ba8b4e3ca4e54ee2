"""Ranks a small graph as the library does, by scores that a test states."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.evaluation.brute_force import Triple
from tests.evaluation.graphs import TableCheckpoint, model_config, schema_of, to_edges
from twhin_core.config import Config, Evaluation, Model
from twhin_core.data.edges import Edges
from twhin_core.data.frequencies import Counter, StoredFrequencies
from twhin_core.distributed.ranks import alone
from twhin_core.evaluation.known_answers import KnownAnswers, QueryIndex, collect, count
from twhin_core.evaluation.metrics import Figures, Ranking, of_relations, sum_up
from twhin_core.evaluation.task import RankingResult, cut, rank_all
from twhin_core.progress import Progress
from twhin_core.ranking.candidates import CandidateSet, candidate_sets
from twhin_core.ranking.compare import rank
from twhin_core.ranking.products import Arithmetic, Candidates, Precision, block_shape
from twhin_core.ranking.projections import Projections
from twhin_core.ranking.queries import HeldOut, Split, held_out
from twhin_core.ranking.rankers import ModelRanker
from twhin_core.ranking.ranks import Ranker, RankQueries
from twhin_core.schema import SIDES, Schema, Side
from twhin_core.vectors.rows import SelectedRows, TensorRows

MEMORY = 64 << 20


class ByMatrix:
    """Scores [given, answer] for each side and relation: a query is a unit vector, a candidate a column."""

    def __init__(self, matrix: Callable[[Side, int], Tensor]) -> None:
        self.matrix = matrix

    def among(self, candidates: CandidateSet, queries: int) -> RankQueries:
        (rel,) = candidates.relations.tolist()
        matrix, arithmetic = self.matrix(candidates.side, rel), Arithmetic("fp32", torch.device("cpu"))
        table = TensorRows(matrix.T.contiguous())
        shape = block_shape(queries, candidates.size, arithmetic.device)
        kept = Candidates(
            SelectedRows(table, candidates.size, candidates.drawn), lambda vectors: vectors, arithmetic, shape, MEMORY
        )
        units = torch.eye(len(matrix))
        progress = Progress("test", 1, "scores", quiet=True)
        return lambda of: rank(of, units[torch.from_numpy(of.node)], candidates, kept, table, progress)


def apart(schema: Schema, side: Side) -> list[CandidateSet]:
    """The candidates of each relation for itself."""
    tables = [schema.table_of(rel, side) for rel in range(len(schema.relations))]
    return [CandidateSet(side, table, np.array([rel]), schema.tables[table]) for rel, table in enumerate(tables)]


def rank_graph(
    ranker: Ranker,
    splits: dict[str, list[Triple]],
    evaluated: Split,
    schema: Schema,
    sets: Callable[[Side], list[CandidateSet]] | None = None,
    memory: int = MEMORY,
) -> tuple[dict[Side, HeldOut], dict[Side, RankingResult]]:
    """The held-out edges and what became of them, a side."""
    edges = {name: to_edges(triples) for name, triples in splits.items()}
    held = {side: held_out(edges[evaluated], side) for side in SIDES}
    indices = {side: QueryIndex(of, max(schema.tables.values())) for side, of in held.items()}
    counts = {side: np.zeros(of.queries, np.int64) for side, of in held.items()}
    for of in edges.values():
        count(indices, of, counts)
    with tempfile.TemporaryDirectory() as folder:
        chunks = {
            side: cut(held[side], counts[side], sets(side) if sets else apart(schema, side), schema, 8, memory, alone())
            for side in SIDES
        }
        known = {
            side: KnownAnswers(Path(folder, side), held[side], [chunk.queries for chunk in chunks[side]])
            for side in SIDES
        }
        collect({name: InMemory(of) for name, of in edges.items()}, evaluated, indices, known)
        results = {side: rank_all(held[side], known[side], chunks[side], {"model": ranker}, alone()) for side in SIDES}
    return held, results


class InMemory:
    """A split's edges, three at a time."""

    def __init__(self, edges: Edges) -> None:
        self.edges = edges

    def chunks(self) -> Iterator[Edges]:
        for start in range(0, len(self.edges), 3):
            yield self.edges.take(slice(start, start + 3))


def ends_of(train: list[Triple], schema: Schema, folder: Path) -> StoredFrequencies:
    """How often each node is at each side of each relation."""
    rows = max(schema.tables.values())
    counter = Counter(rows, folder / "ends", 1)
    counter.add_ends(to_edges(train))
    return counter.stored()


def figures(
    ranker: Ranker,
    splits: dict[str, list[Triple]],
    evaluation: Evaluation,
    schema: Schema,
    sets: Callable[[Side], list[CandidateSet]] | None = None,
    memory: int = MEMORY,
) -> Figures:
    held, results = rank_graph(ranker, splits, evaluation.split, schema, sets, memory)
    ranking = Ranking(held, results, {side: results[side].ranks["model"] for side in SIDES})
    sums = sum_up(ranking, evaluation, {side: held[side].rel for side in SIDES})
    return of_relations(sums, [relation.name for relation in schema.relations], evaluation)


def sets_of(model: Model, schema: Schema) -> Callable[[Side], list[CandidateSet]]:
    """The candidates as a model's relations share them."""
    return lambda side: candidate_sets([model], schema, side)


def model_ranker(
    config: Config, checkpoint: TableCheckpoint, memory: int = MEMORY, precision: Precision = "fp32"
) -> ModelRanker:
    schema = schema_of(config)
    scorer = checkpoint.scorer(config.model, schema.relations)
    tables = {name: checkpoint.rows(name) for name in schema.tables}
    arithmetic = Arithmetic(precision, torch.device("cpu"))
    projections = Projections(scorer, schema, tables, arithmetic, memory)
    return ModelRanker(projections, Progress("test", 1, "scores", quiet=True))


LARGE = {"user": 3000, "tweet": 2000}


def large_model(**model: object) -> tuple[Config, TableCheckpoint, dict[str, list[Triple]]]:
    """Tables of several blocks, and more queries than the lines of a product."""
    relations = [("fav", "user", "tweet"), ("follow", "user", "user"), ("of", "tweet", "user"), ("no", "user", "tweet")]
    config = model_config(LARGE, relations, dim=8, **model)
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    tables = {name: torch.randn(rows, 8, generator=generator) for name, rows in LARGE.items()}
    checkpoint = TableCheckpoint(tables, torch.randn(4, 8, generator=generator))
    splits = {
        name: [(int(rng.integers(300)), rel, int(rng.integers(300))) for rel in rng.integers(3, size=count).tolist()]
        for name, count in (("train", 2000), ("validation", 300), ("test", 900))
    }
    return config, checkpoint, splits
