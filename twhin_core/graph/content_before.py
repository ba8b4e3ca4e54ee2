"""The content that an earlier graph has, for the graph that continues it and for the one without some nodes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from twhin_core.config.sources import ContentSource
from twhin_core.graph.content import CATEGORIES_SCHEMA, Before, Content, stored_fields
from twhin_core.graph.content_entry import ContentEntry
from twhin_core.graph.earlier import Earlier
from twhin_core.graph.engine import Engine
from twhin_core.graph.raw_files import RawSource, check_sources
from twhin_core.paths import FoundFile
from twhin_core.progress import log
from twhin_core.sizes import count_of


def find_content(sources: list[ContentSource], earlier: Earlier | None) -> list[RawSource]:
    """As `check_sources`, without the files that the earlier graph has the content of, unless they changed since."""
    found = []
    for source in sources:
        entry = None if earlier is None else _continued(source, earlier)
        found += check_sources([source], choose=None if entry is None else partial(_without_known, entry=entry))
    return found


def content_before(
    engine: Engine, earlier: Earlier, vocabulary: ir.Table, sources: list[RawSource]
) -> dict[str, Before]:
    """By table, the content that the `sources` add to, of the nodes of `vocabulary`."""
    wanted, found = set(), dict[str, Before]()
    for raw in sources:
        assert isinstance(raw.source, ContentSource)
        if _continued(raw.source, earlier) is not None:
            wanted.add(raw.source.relation)
    for table, of in _stored(engine, earlier, vocabulary):
        if table not in wanted:
            continue
        rows = of.rows
        for at, name in enumerate(of.entry.categories):
            assert of.values is not None
            own = of.values.filter((of.values.name == name) & of.values.value.notnull())
            own = own.select(**{f"code_{at}": "code", f"own_{at}": "value"})
            rows = rows.left_join(own, f"code_{at}").select(*rows.columns, f"own_{at}")
        values = [rows[f"own_{at}"].fill_null(rows[f"rare_{at}"]) for at in range(len(of.entry.categories))]
        rows = rows.select(
            id=rows.id,
            vector=rows.vector.cast("array<float64>") if of.entry.dim else ibis.null("array<float64>"),
            categories=ibis.array(values) if values else ibis.null("array<string>"),
        )
        found[table] = Before(engine.keep(f"content_before_{len(found)}", rows), of.entry, earlier.root)
    return found


def earlier_content(engine: Engine, earlier: Earlier, vocabulary: ir.Table) -> dict[str, Content]:
    """By table, what the earlier graph has of the nodes of `vocabulary`."""
    return dict(_stored(engine, earlier, vocabulary))


def _stored(engine: Engine, earlier: Earlier, vocabulary: ir.Table) -> Iterator[tuple[str, Content]]:
    for number, of in enumerate(earlier.manifest.tables):
        if (entry := of.content) is None:
            continue
        fields = stored_fields(entry, pa.list_(pa.float32()))
        schema = pa.schema([("index", pa.int64()), *fields])
        rows = engine.read_files(f"earlier_content_{number}", earlier.stored(entry.files), schema)
        nodes = vocabulary.filter(vocabulary.table == of.name).select("index", "id")
        values = None
        if entry.names:
            values = engine.read_files(f"earlier_values_{number}", earlier.stored(entry.names), CATEGORIES_SCHEMA)
            values = values.rename(name="category")
        rows = rows.inner_join(nodes, "index").select("id", *(field.name for field in fields))
        yield of.name, Content(rows, values, entry)


def _continued(source: ContentSource, earlier: Earlier) -> ContentEntry | None:
    """What the earlier graph has of the source's table, unless it is from other columns."""
    assert source.relation is not None
    table = earlier.table(source.relation)
    if table is None or (entry := table.content) is None:
        return None
    return entry if (entry.column, entry.categories) == (source.vector, source.categories) else None


def _without_known(found: list[FoundFile], entry: ContentEntry) -> list[FoundFile]:
    known = {(file.path, file.size, file.version) for file in entry.raw_files}
    left = [file for file in found if (file.url, file.size, file.version) not in known]
    if len(left) < len(found):
        log.info("prepare: left out %s whose content is known", count_of(len(found) - len(left), "file"))
    return left
