"""Exact neighbors of a node, and ranks of an edge's ends. Streams the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from twhin_core.config.relation import negative_relations
from twhin_core.errors import NotFound, UserError, suggest
from twhin_core.schema import OTHER, Schema, Side
from twhin_core.vectors import top_k
from twhin_core.vectors.ids import find_positions
from twhin_core.vectors.rows import Ints, Rows
from twhin_core.vectors.top_k import Score, answers, similar

if TYPE_CHECKING:
    from torch import Tensor

    from twhin_core.embeddings.result import Result
    from twhin_core.inductive.frozen import ScoredVectors


@dataclass(frozen=True)
class Query:
    """Asks for nodes of the table `candidates`, given a node of `table`."""

    table: str
    candidates: str
    rel: int | None = None
    """The id of the relation; None for neighbors within the table."""
    side: Side = "rhs"
    """The end of the relation that is asked for."""
    prior: float | None = None
    """The weight of the prior in scores; None for the trained one, or if there is no prior."""


def make_query(schema: Schema, table: str, relation: str | None, side: Side | None) -> Query:
    """A query by names. `side` defaults to the rhs.

    Raises:
        UserError: there is no such relation, the table is not at its given end, or `side` is set without a relation.
    """
    if relation is None:
        if side is not None:
            raise UserError(f"side {side} selects an end of a relation; name the relation too")
        return Query(table, table)
    rel = relation_named(schema, relation)
    wanted: Side = side or "rhs"
    given = OTHER[wanted]
    if schema.table_of(rel, given) != table:
        lhs, rhs = schema.table_of(rel, "lhs"), schema.table_of(rel, "rhs")
        verb = "start" if given == "lhs" else "end"
        hint = f"; side {given} asks for its other end" if schema.table_of(rel, wanted) == table else ""
        raise UserError(f"relation {relation} does not {verb} at table {table}: it leads from {lhs} to {rhs}{hint}")
    return Query(table, schema.table_of(rel, wanted), rel, wanted)


def with_prior(result: Result, query: Query, weight: float | None) -> Query:
    """The query with the `weight` of the prior, by default that of the export, if `export.prior` gave it one.

    Raises:
        UserError: a weight is given, and scores have no prior.
    """
    has_prior = query.rel is not None and result.config.model.has_prior(query.side)
    if weight is not None and not has_prior:
        why = f"the model was trained without one for the {query.side} (model.prior)"
        raise UserError(f"prior: {'the cosine has none; name a relation' if query.rel is None else why}")
    exported = result.manifest.prior if result.manifest is not None and has_prior else None
    return replace(query, prior=exported if weight is None else weight)


def with_prior_of_any(result: Result, queries: Sequence[Query], weight: float | None) -> list[Query]:
    """As `with_prior` for those of a relation's queries whose scores have a prior; raises if none of them does."""
    model = result.config.model
    has_any = any(model.has_prior(query.side) for query in queries)
    return [
        with_prior(result, query, weight if model.has_prior(query.side) or not has_any else None) for query in queries
    ]


def has_prior_factor(query: Query, weight: float | None) -> bool:
    """Whether priors with that `weight` of log p can be given the query's; None: it was not recorded."""
    return bool(weight) or query.prior in (None, 0, weight)


def prior_factor(query: Query, weight: float | None) -> float:
    """What a query multiplies the candidates' priors by, which have that `weight` of log p.

    Raises:
        UserError: `has_prior_factor` is false.
    """
    if query.prior is None or query.prior == weight:
        return 1.0
    if not has_prior_factor(query, weight):
        raise UserError(
            f"prior: cannot be {query.prior:g}, because the exported priors "
            f"{'all are 0' if weight == 0 else 'do not tell their weight, as those of earlier releases'}; export again"
        )
    return query.prior / weight if weight else 0.0


def relation_named(schema: Schema, name: str, prefix: str = "", *, is_asked: bool = True) -> int:
    """The id of a relation.

    Args:
        prefix: of the message.
        is_asked: whether it is to have scores.

    Raises:
        NotFound: there is no such relation; with suggestions.
        UserError: it was not trained on, but has explicit negatives alone.
    """
    names = [relation.name for relation in schema.relations]
    if name not in names:
        raise NotFound(f"{prefix}no relation named {name!r}; {suggest(name, names)}")
    if is_asked and name in negative_relations(schema.relations):
        raise UserError(f"{prefix}{name} has explicit negatives alone, which were not trained on as edges")
    return names.index(name)


@dataclass(frozen=True)
class Among:
    """Some candidates of a query."""

    positions: Ints
    """[n], ascending."""
    rows: Rows
    """Their vectors, as those of `candidates_of`."""


def find_nearest(
    vectors: ScoredVectors, query: Query, given: Tensor, nodes: Ints, k: int, among: Among | None = None
) -> list[tuple[list[float], Ints]]:
    """The k best candidates for each of Q nodes, best first, without the node itself.

    Args:
        given: float32 [Q, dim], the vectors of the nodes.
        nodes: [Q] their positions, or -1 for those that are not in the table.
        among: default: all nodes of the table.

    Returns:
        The scores and the positions int64 of each: k, or all candidates if they are fewer.
    """
    import torch

    rows = candidates_of(vectors, query) if among is None else among.rows
    exclude = None
    if query.candidates == query.table:
        places = nodes
        if among is not None:
            places, is_among = find_positions(among.positions, nodes)
            places = np.where(is_among, places, -1)
        exclude = torch.from_numpy(places)
    scores, found = top_k.top_k(_score(vectors, query, given), len(nodes), rows, k, exclude)
    places = found.numpy()
    positions = places if among is None else among.positions[places]
    counts = (scores != -torch.inf).sum(1).tolist()
    return [
        (of_scores[:count], of_positions[:count])
        for of_scores, of_positions, count in zip(scores.tolist(), positions, counts, strict=True)
    ]


def exact_words(result: Result, query: Query) -> str:
    """What `find_nearest` ranks by."""
    return "cosine" if query.rel is None else score_words(result.config.model.comparator, query)


def score_words(comparator: str, query: Query) -> str:
    """The score of a query with a relation, in words."""
    return f"the model's score ({comparator}{'' if query.prior is None else f', prior {query.prior:g}'})"


@dataclass(frozen=True)
class NodeRank:
    """The score and rank of a node as the answer to a query."""

    score: float
    rank: float
    """1 is the best. Equal scores share their mean rank."""
    candidates: int
    """The number of nodes that were ranked."""


def find_rank(vectors: ScoredVectors, query: Query, position: int, answer: int) -> NodeRank:
    """The rank of the node at `answer` among all candidates for the node at `position`, without that node itself."""
    import torch

    rows = candidates_of(vectors, query)
    left_out = position if query.candidates == query.table and position != answer else None
    with torch.no_grad():
        given = vectors.rows(query.table).gather(np.array([position]))
        score, rank = top_k.rank_of(_score(vectors, query, given), rows, answer, left_out)
    return NodeRank(score, rank, rows.size - (left_out is not None))


def candidates_of(vectors: ScoredVectors, query: Query) -> Rows:
    """The vectors of all candidates of a query, by position, as its scores take them."""
    return vectors.rows(query.candidates) if query.rel is None else vectors.candidates(query.side, query.rel)


def _score(vectors: ScoredVectors, query: Query, given: Tensor) -> Score:
    if query.rel is None:
        return similar(given)
    scorer, factor = vectors.scorer(), 1.0
    if query.side in scorer.prior_sides:
        factor = prior_factor(query, vectors.prior_weight(query.side, query.rel))
    return answers(scorer, query.side, query.rel, given, factor)
