"""Answers to requests, from the version that is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
import torch

from twhin_core.embeddings.rule import Scored
from twhin_core.embeddings.search import Query, relation_named
from twhin_core.errors import NotFound, UserError
from twhin_core.inductive.embed import Method
from twhin_core.schema import OTHER, Schema, Side
from twhin_core.serving import models
from twhin_core.serving.chosen import Chosen
from twhin_core.serving.fold_in import Folded, GivenEdge
from twhin_core.serving.limits import MOST_EDGES, Limits
from twhin_core.serving.service import Running, Service
from twhin_core.serving.version import NEW, Node, Question, Version
from twhin_core.vectors.ids import Ids, Ints, unknown_id

P = ParamSpec("P")
T = TypeVar("T")

IDS_COMPARED = 100_000
"""Ids among which an unknown one's neighbors are looked for: some milliseconds of a core."""
FEWEST = 16
"""Searches find a power of two candidates, and at least these, so that most requests can share one."""


class TooMuch(UserError):
    """A request is beyond what this server allows."""


class Answers:
    def __init__(self, service: Service, limits: Limits) -> None:
        self._service, self._limits = service, limits
        self._suggests = False

    async def neighbors(self, asked: models.NeighborsRequest) -> models.FoundAnswer:
        with self._service.running() as running:
            query = running.version.query(asked.table, asked.relation, asked.side, asked.prior)
            return await self._find(running, query, asked, asked.exclude)

    async def recommend(self, asked: models.RecommendRequest) -> models.FoundAnswer:
        with self._service.running() as running:
            version = running.version
            rel = relation_named(version.schema, asked.relation)
            excluded = asked.exclude
            if excluded is None:
                settings = version.result.config.recommend.get(asked.relation)
                excluded = [asked.relation] if settings is None or settings.exclude is None else settings.exclude
            prior = version.result.config.prior_of_lists(asked.relation) if asked.prior is None else asked.prior
            query = version.query(version.schema.table_of(rel, "lhs"), asked.relation, "rhs", prior)
            new = await self._embed(version, query.table, asked.edges, "fit") if asked.edges else ([], [])
            return await self._find(running, query, asked, excluded, version.chosen.get(rel), *new)

    async def score(self, asked: models.ScoreRequest) -> models.ScoreAnswer:
        self._check_count("pairs", len(asked.pairs))
        with self._service.running() as running:
            version = running.version
            rel = relation_named(version.schema, asked.relation)
            sides: tuple[Side, Side] = ("lhs", "rhs")
            tables = [version.schema.table_of(rel, side) for side in sides]
            lhs, rhs = (
                [version.vectors.ids(table).find(getattr(pair, side)) for pair in asked.pairs]
                for table, side in zip(tables, sides, strict=True)
            )
            is_known = np.array([None not in ends for ends in zip(lhs, rhs, strict=True)])
            if not is_known.any():
                side = 0 if lhs[0] is None else 1
                name = asked.pairs[0].rhs if side else asked.pairs[0].lhs
                raise await self._unknown(version.vectors.ids(tables[side]), tables[side], name)
            ends = [np.array([end for end, known in zip(of, is_known, strict=True) if known]) for of in (lhs, rhs)]
            query = version.query(tables[asked.side == "lhs"], asked.relation, asked.side, asked.prior)
            scores = iter(version.vectors.scores(query, *ends))
            return models.ScoreAnswer(
                version=version.name,
                step=version.step,
                by=version.words(query, by_index=False),
                scores=[
                    models.ScoredPair(lhs=pair.lhs, rhs=pair.rhs, score=next(scores) if known else None)
                    for pair, known in zip(asked.pairs, is_known, strict=True)
                ],
            )

    async def embed(self, asked: models.EmbedRequest) -> models.EmbedAnswer:
        with self._service.running() as running:
            version = running.version
            vectors, unknown = await self._embed(version, asked.table, asked.edges, asked.method, asked.with_known)
            return models.EmbedAnswer(
                version=version.name,
                step=version.step,
                vectors=[models.Embedded(id=of.id, edges=of.edges, embedding=of.embedding) for of in vectors],
                unknown=unknown,
            )

    async def _embed(
        self, version: Version, table: str, edges: Sequence[models.Edge], method: Method, with_known: bool = False
    ) -> tuple[list[Folded], list[str]]:
        """As `FoldIn.embed`."""
        if len(edges) > MOST_EDGES:
            raise TooMuch(f"edges: {len(edges):,} are more than the {MOST_EDGES:,} that a request may have")
        given = [GivenEdge(of.lhs, of.relation, of.rhs, of.weight) for of in edges]
        return await self._work(version.fold_in.embed, table, given, method, with_known)

    def health(self) -> models.Health:
        with self._service.running() as running:
            return models.Health(version=running.version.name, step=running.version.step)

    async def _find(
        self,
        running: Running,
        query: Query,
        asked: models.NeighborsRequest | models.RecommendRequest,
        exclude: Sequence[str],
        chosen: Chosen | None = None,
        new: Sequence[Folded] = (),
        unknown: Sequence[str] = (),
    ) -> models.FoundAnswer:
        """The best candidates of the nodes that are asked for, and of `new` ones.

        Args:
            chosen: which nodes are candidates.
            unknown: ids that led to no vector.
        """
        vectors = {of.id: torch.tensor(of.embedding) for of in new}
        names = [*asked.ids, *(name for name in vectors if name not in asked.ids)]
        self._check_count("ids", len(names))
        if not names:
            raise NotFound("edges: none leads from a new user to a trained node; name trained users in ids")
        if asked.k > self._limits.k:
            raise UserError(f"k: {asked.k:,} is more than {self._limits.k:,}, the most that this server gives")
        version = running.version
        by_index, ends = _uses_index(version, query, asked.index, chosen), version.known_ends(query, exclude)
        if not version.knows(ends):
            await self._work(version.read_known, ends)
        ids, candidates = version.vectors.ids(query.table), version.vectors.ids(query.candidates)
        places = {name: ids.find(name) for name in names if name not in vectors}
        known = {name: place for name, place in places.items() if place is not None}
        if not known and not vectors:
            raise await self._unknown(ids, query.table, names[0])
        nodes = dict(zip(known, version.nodes(query.table, np.array([*known.values()], np.int64)), strict=True))
        nodes |= {name: Node(vector, NEW) for name, vector in vectors.items()}
        left_out = {name: version.known(query, node.position, ends, chosen) for name, node in nodes.items()}
        if isinstance(asked, models.RecommendRequest) and asked.edges:
            seen = _led_to(asked.edges, version.schema, dict(ends), candidates)
            left_out = {name: np.concatenate([of, seen.get(name, of[:0])]) for name, of in left_out.items()}
        found = await self._search(running, query, nodes, left_out, asked.k, by_index, chosen)
        return models.FoundAnswer(
            version=version.name,
            step=version.step,
            by=version.words(query, by_index),
            answers=[
                models.Listed(id=name, found=[models.Scored(id=of, score=score) for of, score in found[name]])
                for name in names
                if name in found
            ],
            unknown=list(dict.fromkeys([*(name for name in names if name not in found), *unknown])),
        )

    async def _search(
        self,
        running: Running,
        query: Query,
        nodes: Mapping[str, Node],
        left_out: Mapping[str, Ints],
        k: int,
        by_index: bool,
        chosen: Chosen | None,
    ) -> dict[str, list[Scored]]:
        """The k best candidates of each node by its id, without the positions that are left out."""
        version, is_chosen = running.version, chosen is not None
        candidates, most = version.vectors.ids(query.candidates), version.candidates(query, is_chosen)
        wanted = k if chosen is None else max(k, chosen.fetch)
        counts = [min(_rounded(wanted + len(left_out[name])), most) for name in nodes]
        answers = await asyncio.gather(
            *(
                running.batcher.ask(Question(query, count, by_index, is_chosen), node)
                for count, node in zip(counts, nodes.values(), strict=True)
            )
        )
        lists = [_without(candidates, *of, left_out[name], wanted) for name, of in zip(nodes, answers, strict=True)]
        if chosen is not None and chosen.rule is not None:
            loop, source = asyncio.get_running_loop(), "index" if by_index else "vector"
            lists = await loop.run_in_executor(self._service.rules, chosen.filter, list(nodes), lists, source, k)
        return dict(zip(nodes, lists, strict=True))

    async def _work(self, function: Callable[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        """Calls what takes long, while other requests are answered."""
        return await asyncio.get_running_loop().run_in_executor(self._service.work, function, *arguments)

    def _check_count(self, what: str, count: int) -> None:
        if count > self._limits.ids:
            raise TooMuch(f"{what}: {count:,} are more than the {self._limits.ids:,} that a request may have")

    async def _unknown(self, ids: Ids, table: str, name: str) -> UserError:
        """The error that there is no such id, with similar ones unless others are being looked for."""
        if self._suggests:
            return unknown_id(ids, table, name, 0)
        self._suggests = True
        try:
            return await self._work(unknown_id, ids, table, name, IDS_COMPARED)
        finally:
            self._suggests = False


def _rounded(count: int) -> int:
    return max(FEWEST, 1 << (count - 1).bit_length())


def _led_to(
    edges: Sequence[models.Edge], schema: Schema, sides: Mapping[int, Side], candidates: Ids
) -> dict[str, Ints]:
    """Positions of the candidates that edges of some relations lead to, by the node at the given side of each."""
    found: dict[str, list[int]] = {}
    for edge in edges:
        side = sides.get(relation_named(schema, edge.relation, is_asked=False))
        if side is not None:
            position = candidates.find(getattr(edge, OTHER[side]))
            if position is not None:
                found.setdefault(getattr(edge, side), []).append(position)
    return {name: np.array(positions) for name, positions in found.items()}


def _uses_index(version: Version, query: Query, wanted: bool | None, chosen: Chosen | None) -> bool:
    """As `Version.uses_index`; raises UserError also if the index is wanted, which searches all nodes, among some."""
    if chosen is None or chosen.among is None:
        return version.uses_index(query, wanted)
    if wanted:
        raise UserError("index: searches all nodes, but the run's section `recommend` chooses some; leave it out")
    return False


def _without(ids: Ids, scores: Sequence[float], positions: Ints, left_out: Ints, k: int) -> list[Scored]:
    """The first k candidates that are not left out."""
    known = set(left_out.tolist())
    kept = [place for place, position in enumerate(positions.tolist()) if position not in known][:k]
    names = ids.at(positions[kept])
    return [(name, scores[place]) for name, place in zip(names, kept, strict=True)]
