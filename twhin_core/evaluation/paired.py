"""Compares the metrics of two runs that ranked the same held-out edges, with the interval of each difference."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twhin_core.config import Config, Evaluation
from twhin_core.errors import UserError
from twhin_core.evaluation.intervals import Intervals, group_queries, intervals_of_differences, sums_by_group
from twhin_core.evaluation.kept_ranks import KeptRanks, read_ranks
from twhin_core.evaluation.metrics import ALL, EDGES, MRR, Figures, Metrics, of_relations, prefix, sum_up
from twhin_core.evaluation.result import read_metrics
from twhin_core.graph.manifest import read_schema
from twhin_core.output import Cell, Column, Listing, printable
from twhin_core.progress import log
from twhin_core.ranking.queries import Ints, Split
from twhin_core.run import saved_config
from twhin_core.schema import SIDES, Schema
from twhin_core.sizes import count_of
from twhin_core.vectors.names import name_rows, open_ids

RELATIONS_SHOWN = 10


@dataclass(frozen=True)
class _Evaluated:
    """An evaluated run."""

    root: str
    config: Config
    schema: Schema
    metrics: Metrics
    ranks: KeptRanks


@dataclass(frozen=True)
class Comparison:
    """The figures of two runs by relation (or `all`) and name, and the intervals of second - first."""

    roots: tuple[str, str]
    steps: tuple[int, int]
    split: Split
    first: Figures
    second: Figures
    differences: Intervals
    metric: str
    """The name of the MRR: it says if candidates were sampled."""


def compare(first: str, second: str, split: Split = "test") -> Comparison:
    """Compares the results on `split` of the runs at two roots. Nodes are matched by their ids.

    Figures are those of the settings (`hits_at` and so on) that the first run was evaluated with.

    Raises:
        UserError: a run has not been evaluated, they were evaluated on different edges, or one among other candidates.
    """
    one, other = _open(first, split), _open(second, split)
    if one.metrics["candidates"] != other.metrics["candidates"]:
        raise UserError(
            f"{second}: ranks are among {_candidates(other)}, but those of {first} among {_candidates(one)}; evaluate "
            "one of them again"
        )
    ranks = _matched(one, other)
    if (differing := int((ranks.negatives != one.ranks.negatives).sum())) > 0:
        log.warning(
            "compare: %s of %s answers were ranked among more or fewer nodes in %s than in %s: part of the differences "
            "may be due to that", f"{differing:,}", f"{len(ranks):,}", second, first,
        )  # fmt: skip
    evaluation, relations = _settings(one, split), one.ranks.relations
    rankings = one.ranks.ranking(), ranks.ranking()
    groups = group_queries(rankings[0], len(relations), evaluation.seed)
    sums = [sums_by_group(groups, ranking, evaluation) for ranking in rankings]
    figures = [
        of_relations(sum_up(of, evaluation, {side: of.held[side].rel for side in SIDES}), relations, evaluation)
        for of in rankings
    ]
    return Comparison(
        (first, second),
        (one.metrics["checkpoint"], other.metrics["checkpoint"]),
        split, figures[0], figures[1],
        intervals_of_differences(groups, sums[0], sums[1], relations, evaluation),
        prefix(evaluation) + MRR,
    )  # fmt: skip


def list_comparison(of: Comparison) -> list[Listing]:
    """Every metric over all relations, and the MRR of each relation, of both runs."""
    columns = [
        Column("A", ".4f", keys=("a",)), Column("B", ".4f", keys=("b",)),
        Column("B - A", "+.4f", keys=("difference",)), Column("95 %", "+.4f", keys=("low", "high")),
    ]  # fmt: skip
    runs = [f"{root} (step {step:,})" for root, step in zip(of.roots, of.steps, strict=True)]
    edges = int(of.first[ALL][EDGES])
    title = f"A: {runs[0]}\nB: {runs[1]}\n{of.split}, {count_of(edges, 'edge')}"
    rows = [[name, *_row(of, ALL, name)] for name in of.first[ALL] if name != EDGES]
    relations = sorted((name for name in of.first if name != ALL), key=lambda name: -of.first[name][EDGES])
    by_relation: list[list[Cell]] = [
        [name, int(of.first[name][EDGES]), *_row(of, name, of.metric)] for name in relations
    ]
    headings = [Column("relation"), Column(EDGES, ",d"), *columns]
    return [
        Listing("metrics", title, [Column("metric"), *columns], rows),
        Listing("relations", f"{of.metric} by relation", headings, by_relation, RELATIONS_SHOWN),
    ]


def _row(of: Comparison, relation: str, name: str) -> list[Cell]:
    first, second = of.first[relation][name], of.second[relation][name]
    low, high = of.differences[relation][name]
    return [first, second, second - first, (low, high)]


def _open(root: str, split: Split) -> _Evaluated:
    config, metrics = saved_config(root), read_metrics(root, split)
    ranks = None if metrics is None or split not in metrics else read_ranks(root, metrics)
    if metrics is None or ranks is None:
        raise UserError(
            f"{root}: there are no ranks of {split} edges here; run `twhin evaluate --run-root {root} "
            f"--set evaluation.split={split}` first"
        )
    return _Evaluated(root, config, read_schema(config, root), metrics, ranks)


def _settings(of: _Evaluated, split: Split) -> Evaluation:
    """The run's settings; whether candidates were sampled is that of the metrics."""
    candidates = (of.metrics["candidates"] or {}).get("count")
    return of.config.evaluation.model_copy(update={"split": split, "candidates": candidates})


def _candidates(of: _Evaluated) -> str:
    candidates = of.metrics["candidates"]
    if candidates is None:
        return "all nodes"
    return f"{candidates['count']:,} candidates sampled with power {candidates['power']:g}"


def _matched(one: _Evaluated, other: _Evaluated) -> KeptRanks:
    """The other run's ranks, row by row those of the first run's answers. Raises UserError if the edges differ."""
    here, there = one.ranks, other.ranks
    ends = {of.root: {entry.name: (entry.lhs, entry.rhs) for entry in of.schema.relations} for of in (one, other)}
    for name in here.relations + there.relations:
        tables = [ends[of.root].get(name) if name in of.ranks.relations else None for of in (one, other)]
        if tables[0] != tables[1]:
            raise UserError(
                f"{other.root}: its held-out edges are not those of {one.root}: relation {printable(name)} has some "
                "in one of them alone, or joins other tables there"
            )
    number = np.array([here.relations.index(name) for name in there.relations], np.int64)
    there = replace(there, relations=here.relations, rel=number[there.rel])
    names = list(one.schema.tables)
    tables_of = np.array([[names.index(table) for table in ends[one.root][name]] for name in here.relations])
    node, answer = there.node.copy(), there.answer.copy()
    (of_node, of_answer), of_here = _tables(there, tables_of), _tables(here, tables_of)
    for table, name in enumerate(names):
        rows = _rows(there, (of_node, of_answer), table)
        found = _translate(one, other, name, _rows(here, of_here, table), rows)
        for column, mine in ((node, of_node == table), (answer, of_answer == table)):
            column[mine] = found[np.searchsorted(rows, column[mine])]
    there = replace(there, node=node, answer=answer)
    there = there.take(np.lexsort((answer, node, there.rel, there.side)))
    keys = ("side", "rel", "node", "answer", "edges")
    if len(here) == len(there) and all(np.array_equal(getattr(here, key), getattr(there, key)) for key in keys):
        return there
    raise UserError(f"{other.root}: its held-out edges are not those of {one.root}: {_difference(one, there)}")


def _tables(ranks: KeptRanks, tables_of: Ints) -> tuple[Ints, Ints]:
    """[n] the number of the table of each query's node, and of each answer. `tables_of`: [relations, lhs and rhs]."""
    is_rhs = ranks.side.astype(np.int64)
    return tables_of[ranks.rel, 1 - is_rhs], tables_of[ranks.rel, is_rhs]


def _rows(ranks: KeptRanks, tables: tuple[Ints, Ints], table: int) -> Ints:
    """The distinct rows of a table that occur, ascending."""
    columns = zip((ranks.node, ranks.answer), tables, strict=True)
    return np.unique(np.concatenate([column[of == table] for column, of in columns]))


def _translate(one: _Evaluated, other: _Evaluated, table: str, held: Ints, rows: Ints) -> Ints:
    """For each of the other run's rows, which of the first run's rows `held` has the same id; -1 if none has."""
    if not len(held) or not len(rows):
        return np.full(len(rows), -1)
    here, there = (pa.array(_names(*of), pa.string()) for of in ((one, table, held), (other, table, rows)))
    place = pc.index_in(there, value_set=here).fill_null(-1).to_numpy()
    found: Ints = np.where(place < 0, -1, held[place])
    return found


def _names(of: _Evaluated, table: str, rows: Ints) -> list[str]:
    """The ids of rows of a table."""
    return name_rows(open_ids(of.config, of.root, table, of.schema.tables[table]), table, rows)


def _difference(one: _Evaluated, there: KeptRanks) -> str:
    """What the other run lacks, or has besides."""
    here = one.ranks
    edges = [
        set(zip(*(column[ranks.side].tolist() for column in (ranks.rel, ranks.node, ranks.answer)), strict=True))
        for ranks in (here, there)
    ]
    if not (missing := edges[0] - edges[1]):
        return f"it has {len(edges[1] - edges[0]):,} more" if edges[1] - edges[0] else "some occur more often"
    rel, *rows = min(missing)
    relation = next(of for of in one.schema.relations if of.name == here.relations[rel])
    tables = relation.lhs, relation.rhs
    ends = [
        f"{table} {printable(_names(one, table, row)[0])}"
        for table, row in zip(tables, np.array(rows)[:, None], strict=True)
    ]
    return f"it lacks {len(missing):,} of {len(edges[0]):,}, such as ({ends[0]}, {printable(relation.name)}, {ends[1]})"
