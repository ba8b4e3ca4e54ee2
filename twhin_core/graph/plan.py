"""The plan of prepare: all steps from the source rows to the tables of the graph, in order.

Each `keep` evaluates the expressions before it. The rows stay in the engine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import ibis.expr.types as ir

from twhin_core.config import Config, Relation
from twhin_core.config.derive import Derive
from twhin_core.config.prepare import Split
from twhin_core.errors import UserError
from twhin_core.graph.afresh import Made, make
from twhin_core.graph.ages import ages_of, newest_time
from twhin_core.graph.blocked import without_names, without_nodes
from twhin_core.graph.content import Content, nodes_of, plan_content
from twhin_core.graph.content_before import content_before
from twhin_core.graph.derived import check_rows, with_derived
from twhin_core.graph.earlier import Earlier
from twhin_core.graph.edge_weights import normalized
from twhin_core.graph.edges import decoded
from twhin_core.graph.engine import Engine
from twhin_core.graph.forgotten import Blocked
from twhin_core.graph.grow import earlier_labels, grow, read_before
from twhin_core.graph.raw_files import RawSource
from twhin_core.graph.rows import find_relations, with_reasons
from twhin_core.graph.vocabulary import find_labels
from twhin_core.progress import log
from twhin_core.sizes import count_of

DROPPED = ("lhs_table", "lhs", "rel", "rhs_table", "rhs", "file", "reason")


@dataclass(frozen=True)
class Graph:
    """The graph as tables of the engine.

    `vocabulary`, `edges`, `new`, `cold`, `lost` and `keeps_files`: as in `afresh.Made`; `rejected`: as
    `edges.decoded` returns it; `labels`: index, id, label of the nodes with one, by table; `content`: by table;
    `tables` in the order of the config, `relations` in the order of their ids; `newest`: the newest time of a row that
    became an edge, if any; `derive`: by name, how the derived relations were made.
    """

    tables: list[str]
    relations: list[Relation]
    weighted: bool
    timed: bool
    newest: int | None
    raw_rows: int
    made: Made
    rejected: ir.Table
    labels: dict[str, ir.Table]
    derive: Mapping[str, Derive]
    content: dict[str, Content] = field(default_factory=dict)


def plan(
    engine: Engine,
    config: Config,
    sources: list[RawSource],
    labels: list[RawSource],
    features: list[RawSource],
    split: Split | None,
    earlier: Earlier | None,
    check_relations: Callable[[list[str]], None],
    blocked: Blocked | None = None,
) -> Graph:
    """Builds the graph from the sources.

    Args:
        split: how to hold out edges; None if the sources specify their splits.
        earlier: the graph that the rows of the sources are added to.
        check_relations: called with the names of the relations as soon as they are known; may raise.
        blocked: nodes to leave out.
    """
    settings = config.prepare
    assert settings is not None
    raw = engine.read(sources)
    relations = find_relations(raw, config.model.relations, earlier.relations if earlier else [])
    check_relations([relation.name for relation in relations])
    _check_names("prepare.sampling", settings.sampling, relations)
    _check_names("prepare.split.relations", (split and split.relations) or [], relations)
    for name, derive in settings.derive.items():
        _check_names(f"prepare.derive.{name}.relation", [derive.relation], relations)
    rows = engine.keep("rows", with_reasons(raw, relations, settings, split))
    raw_rows = _check_rows(rows, sources)
    if settings.derive:
        check_rows(rows, settings.derive)
    if blocked is not None:
        rows = engine.keep("allowed", without_names(engine, rows, blocked))
    times = [newest_time(rows), earlier.manifest.newest if earlier else None]
    newest = max((time for time in times if time is not None), default=None)
    ages = ages_of(settings, newest)
    rows = ages.with_reasons(rows)

    valid = rows.filter(rows.reason.isnull())
    weights = {position: raw.source.weight for position, raw in enumerate(sources) if raw.source.weight}
    valid = ages.decayed(normalized(valid, weights))
    # A derived relation has no rows, so that it does not make the order of edges that of a graph with reverses.
    of_rows = [of.model_copy(update={"symmetric": of.symmetric and of.name not in settings.derive}) for of in relations]
    gone: list[ir.Table] = []
    if earlier is None:
        content = plan_content(engine, features, blocked, {})
        made = make(engine, valid, of_rows, settings, split, ages.half_life is not None, nodes_of(content))
    else:
        before = read_before(engine, earlier, relations)
        if blocked is not None and not blocked.is_within(earlier.manifest.forgotten):
            before = without_nodes(engine, before, blocked, relations, earlier.root)
            gone = [] if before.rejected is None else [before.rejected]
        content = plan_content(engine, features, blocked, content_before(engine, earlier, before.vocabulary, features))
        made = grow(engine, valid, earlier, before, of_rows, settings, split, ages, nodes_of(content))
    if settings.derive:
        made = with_derived(engine, made, relations, settings.derive, seed=0 if split is None else split.seed)
    weighted = settings.repeats in ("count", "sum") or any(raw.source.weight is not None for raw in sources)
    invalid = rows.filter(rows.reason.notnull()).select("lhs", "relation", "rhs", "reason", source="file")
    dropped = [decoded(table.select(*DROPPED), nodes, relations) for table, nodes in made.dropped]
    return Graph(
        tables=[table.name for table in config.model.embeddings.tables],
        relations=relations,
        weighted=weighted or settings.edge_decay is not None or (earlier is not None and earlier.manifest.weighted),
        timed=settings.repeats in ("first", "last") and any(raw.source.timestamp is not None for raw in sources),
        newest=newest,
        raw_rows=raw_rows,
        made=made,
        rejected=functools.reduce(lambda one, other: one.union(other), [invalid, *dropped, *gone]),
        labels=find_all_labels(engine, labels, made.vocabulary, earlier),
        derive=settings.derive,
        content=content,
    )


def find_all_labels(
    engine: Engine, sources: list[RawSource], vocabulary: ir.Table, earlier: Earlier | None
) -> dict[str, ir.Table]:
    """By table, the labels (index, id, label) that the earlier graph and the `sources` have for the vocabulary."""
    given = [] if earlier is None else earlier_labels(engine, earlier)
    tables = {entry.name for entry in earlier.manifest.tables if entry.labels} if earlier else set()
    if sources:
        given.append(engine.read(sources).select("relation", "lhs", "rhs"))
        tables |= {raw.source.relation for raw in sources if raw.source.relation is not None}
    if not given:
        return {}
    rows = functools.reduce(lambda one, other: one.union(other), given)
    found = engine.keep("labels", find_labels(vocabulary, rows))
    return {table: found.filter(found.table == table) for table in tables}


def _check_names(key: str, given: Iterable[str], relations: list[Relation]) -> None:
    names = {relation.name for relation in relations}
    for name in given:
        if name not in names:
            raise UserError(f"{key}: no row has the relation {name!r}")


def _check_rows(rows: ir.Table, sources: list[RawSource]) -> int:
    """Counts the rows. Raises UserError if a source has none."""
    by_source = rows.group_by("source").agg(count=rows.count()).to_pyarrow()
    counts = dict(zip(by_source["source"].to_pylist(), by_source["count"].to_pylist(), strict=True))
    for position, raw in enumerate(sources):
        if raw.files and not counts.get(position):
            which = (
                raw.source.path if raw.is_whole else f"the new files of {raw.source.path}, such as {raw.files[0].url},"
            )
            raise UserError(f"prepare.sources.{position}: {which} {'has' if raw.is_whole else 'have'} no rows")
    files = sum(len(raw.files) for raw in sources)
    total = sum(counts.values())
    log.info("prepare: read %s from %s", count_of(total, "row"), count_of(files, "file"))
    return total
