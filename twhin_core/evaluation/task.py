"""The ranking task of a run: its held-out edges as queries for both sides, ranked in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from twhin_core import sizes
from twhin_core.config import Config, EdgeData, Model
from twhin_core.data.edges import Edges
from twhin_core.data.frequencies import Counter, StoredFrequencies
from twhin_core.data.negative_lists import NegativeLists, make_lists, pairs_of
from twhin_core.data.splits import open_negatives, open_split, open_splits
from twhin_core.errors import UserError
from twhin_core.evaluation import known_answers
from twhin_core.evaluation.known_answers import KnownAnswers, QueryIndex
from twhin_core.evaluation.labels import read_labels
from twhin_core.graph.manifest import read_manifest, read_schema
from twhin_core.ranking.candidates import CandidateSet, Sampler, candidate_sets, check_candidates
from twhin_core.ranking.queries import Floats, HeldOut, Ints, held_out, split_by
from twhin_core.ranking.ranks import AnswerRanks, Ranker, RankQueries
from twhin_core.schema import OTHER, SIDES, Schema, Side

if TYPE_CHECKING:
    from twhin_core.distributed.ranks import Ranks

BYTES_PER_HELD_EDGE = 300
"""For both sides, with everything computed from it."""
BYTES_PER_KNOWN = 64
"""While the query of a known answer is ranked."""


@dataclass(frozen=True)
class RankingResult:
    """The ranks of the H held-out edges of a side, in the order of `HeldOut`."""

    negatives: Ints
    """[H] number of negatives of the query."""
    others: Ints
    """[H] number of known answers of the query that are neither held out nor removed."""
    removed: npt.NDArray[np.bool_]
    """[H] whether the answer is removed (see `REMOVED`)."""
    ranks: dict[str, AnswerRanks]
    """By name of the ranker."""

    def take(self, answers: Ints) -> RankingResult:
        ranks = {name: of.take(answers) for name, of in self.ranks.items()}
        return RankingResult(self.negatives[answers], self.others[answers], self.removed[answers], ranks)


@dataclass(frozen=True)
class Chunk:
    """Queries that are ranked at once."""

    candidates: CandidateSet
    queries: Ints
    """Their numbers, ascending."""
    total: int
    """How many queries have these candidates, in all chunks of all ranks."""


class RankingTask:
    """The held-out edges as queries, with their candidates and known answers: what every model and baseline ranks.

    Reads the edges of all splits twice. Degrees of nodes and known answers of queries go to files, so that memory grows
    with the held-out edges only.
    """

    def __init__(
        self, config: Config, root: str, schema: Schema, models: list[Model], ranks: Ranks, folder: Path
    ) -> None:
        """`folder`: for files; must be empty.

        Raises:
            UserError: the split has no edges or more than fit into memory, or more candidates are to be drawn than a
                table has rows.
        """
        evaluation = config.evaluation
        check_candidates(evaluation, schema)
        self.config, self.root, self.schema, self.ranks, self.folder = config, root, schema, ranks, folder
        self.memory = sizes.in_bytes(evaluation.memory_limit)
        self._splits = open_splits(config, root, schema, ("train", evaluation.split))
        self.relations = [relation.name for relation in schema.relations]
        self.edges = {name: len(files) for name, files in self._splits.items()}
        _check_memory(config, self.edges[evaluation.split])
        edges = self.held_out_edges()
        self.held = {side: held_out(edges, side) for side in SIDES}
        del edges
        rows = max(schema.tables.values())
        indices = {side: QueryIndex(of, rows) for side, of in self.held.items()}
        counts = {side: np.zeros(of.queries, np.int64) for side, of in self.held.items()}
        self.ends = self._count(indices, counts, Counter(rows, folder / "ends", self.memory // 4))
        self.degrees = self.ends.regrouped(schema.ends, folder / "degrees", self.memory // 4)
        sampler = Sampler(evaluation, schema, self.degrees)
        dim = max(model.dim for model in models) + 3  # what a comparator or an earlier version adds
        self.chunks: dict[Side, list[Chunk]] = {}
        for side in SIDES:
            sets = [sampler.sample(of) for of in candidate_sets(models, schema, side)]
            self.chunks[side] = cut(self.held[side], counts[side], sets, schema, dim, self.memory // 4, ranks)
        self._known = {
            side: KnownAnswers(folder / side, self.held[side], [chunk.queries for chunk in chunks])
            for side, chunks in self.chunks.items()
        }
        known_answers.collect(self._splits, evaluation.split, indices, self._known)

    def _count(
        self, indices: Mapping[Side, QueryIndex], counts: Mapping[Side, Ints], ends: Counter
    ) -> StoredFrequencies:
        """Counts how often a node is an end of an observed training edge; adds each query's answers to `counts`."""
        for name, files in self._splits.items():
            for edges in files.chunks():
                known_answers.count(indices, edges, counts)
                if name == "train":
                    ends.add_ends(self._observed(edges))
        return ends.stored()

    def _observed(self, edges: Edges) -> Edges:
        """The edges without those that prepare derived from them."""
        derive = {} if self.config.prepare is None else self.config.prepare.derive
        if not derive:
            return edges
        return edges.take(np.array([name not in derive for name in self.relations])[edges.rel])

    def scores(self) -> int:
        """How many scores a model computes on this rank."""
        return sum(len(chunk.queries) * chunk.candidates.size for side in SIDES for chunk in self.chunks[side])

    def held_out_edges(self) -> Edges:
        """The held-out edges in data set order."""
        return self._splits[self.config.evaluation.split].all()

    def explicit_negatives(self) -> NegativeLists | None:
        """Those of the held-out edges' queries, of the same split; None if it has none."""
        files = open_negatives(self.config, self.root, self.schema, self.config.evaluation.split)
        return None if files is None else make_lists([pairs_of(files.chunks(), self.schema)], self.schema)

    def rank(self, rankers: Mapping[str, Ranker]) -> dict[Side, RankingResult]:
        """Ranks all held-out edges. A collective."""
        return {
            side: rank_all(self.held[side], self._known[side], self.chunks[side], rankers, self.ranks) for side in SIDES
        }

    def degree(self, side: Side, end: Side) -> Ints:
        """[H] observed training edges of the node at one end of each held-out edge, in the order of `held[side]`."""
        held = self.held[side]
        node = held.answer if end == side else held.node
        return self.degrees.of(self.schema.table_numbers[end][held.rel], node)


def cut(
    held: HeldOut, known: Ints, sets: Sequence[CandidateSet], schema: Schema, dim: int, memory: int, ranks: Ranks
) -> list[Chunk]:
    """This rank's share of the queries of a side, in chunks of at most about `memory` bytes.

    Args:
        known: [Q] number of edges of each query in all splits, an upper bound of its known answers.

    Raises:
        UserError: a single query needs more.
    """
    cost = 16 * dim + BYTES_PER_KNOWN * (known + np.diff(held.first, append=len(held)))
    largest = int(cost.argmax())
    if cost[largest] > memory // 2:
        at = held.first[largest]
        relation = schema.relations[held.rel[at]].name
        raise UserError(
            f"evaluation.memory_limit: too small for the {known[largest]:,} edges of relation {relation} at node "
            f"{held.node[at]} of its {OTHER[held.side]}, which are one query; raise it"
        )
    set_of = np.empty(len(schema.relations), np.int64)
    for number, of in enumerate(sets):
        set_of[of.relations] = number
    found = []
    for number, queries in split_by(set_of[held.rel[held.first]]):
        mine = queries[ranks.rank :: ranks.world_size]
        parts = split_by(np.cumsum(cost[mine]) // (memory // 2))
        found += [Chunk(sets[number], mine[part], len(queries)) for _, part in parts]
    return found


def rank_all(
    held: HeldOut, known: KnownAnswers, chunks: Sequence[Chunk], rankers: Mapping[str, Ranker], ranks: Ranks
) -> RankingResult:
    """Ranks all held-out edges of a side. A collective: each rank passes its own chunks and gets the complete result.

    Args:
        known: of these chunks.
    """
    columns = {name: np.zeros(len(held), np.int64) for name in ("negatives", "others", "removed")}
    found = {name: AnswerRanks(np.zeros(len(held)), np.zeros(len(held))) for name in rankers}
    of_set: CandidateSet | None = None
    of_rankers: dict[str, RankQueries] = {}
    for number, chunk in enumerate(chunks):
        if chunk.candidates is not of_set:
            of_set = chunk.candidates
            of_rankers = {}  # first, to free their memory
            of_rankers = {name: ranker.among(of_set, chunk.total) for name, ranker in rankers.items()}
        queries = known.take(number)
        mine = held.answers_of(chunk.queries)
        answers = np.flatnonzero(queries.edges)
        query = queries.query[answers]
        neither = (queries.edges == 0) & ~queries.removed
        columns["others"][mine] = np.bincount(queries.query[neither], minlength=len(queries))[query]
        columns["negatives"][mine] = of_set.negatives(queries)[query]
        columns["removed"][mine] = queries.removed[answers]
        for name, rank_queries in of_rankers.items():
            ranked = rank_queries(queries)
            found[name].rank[mine], found[name].list_rank[mine] = ranked.rank, ranked.list_rank
    if ranks.world_size > 1:
        _add_up([*columns.values(), *(of for each in found.values() for of in (each.rank, each.list_rank))])
    return RankingResult(columns["negatives"], columns["others"], columns["removed"] > 0, found)


def _add_up(columns: list[Ints | Floats]) -> None:
    """Sums each column over all ranks, in place. Each rank has zeros outside its own share."""
    import torch
    import torch.distributed as dist

    for column in columns:
        dist.all_reduce(torch.from_numpy(column))


def check_graph(config: Config, root: str) -> None:
    """Checks before training that the graph at `root` can be evaluated as configured.

    Raises:
        UserError: as `RankingTask`; or as `read_labels`, with `evaluation.probe`.
    """
    schema = nodes_only(read_schema(config, root), root)
    check_candidates(config.evaluation, schema)
    _check_memory(config, len(open_split(config, root, schema, config.evaluation.split)))
    if config.evaluation.probe is not None:
        read_labels(config, root, schema, config.model.dim)


def check_ranking(config: Config, nodes: Schema, edges: Mapping[str, int]) -> None:
    """Checks before a graph is written, by its `nodes` and its `edges` per split, that it can be ranked as configured.

    Raises:
        UserError: more candidates are to be drawn than a table has rows, or the held-out edges exceed the memory.
    """
    check_candidates(config.evaluation, nodes)
    split = config.evaluation.split
    data: EdgeData | None = getattr(config, f"{split}_data")
    if data is None:
        _check_memory(config, edges[split])
    elif data.data_root is None:
        left = max(0, edges[split] - data.offset)
        _check_memory(config, left if data.limit is None else min(left, data.limit))


def _check_memory(config: Config, held_out_edges: int) -> None:
    limit = config.evaluation.memory_limit
    if held_out_edges * BYTES_PER_HELD_EDGE > sizes.in_bytes(limit) // 2:
        raise UserError(
            f"evaluation.memory_limit: {limit} is too small for {held_out_edges:,} held-out edges; raise it, or set "
            "test_data.limit"
        )


def nodes_only(schema: Schema, root: str) -> Schema:
    """The schema with as many rows per table as there are nodes: a config may set more."""
    manifest = read_manifest(root)
    nodes = {entry.name: entry.num_embeddings for entry in manifest.tables} if manifest is not None else {}
    return Schema(schema.tables | nodes, schema.relations)
