"""What later stages would refuse, found as soon as the data tell it: before training is paid for."""

from __future__ import annotations

from twhin_core.config import Config
from twhin_core.evaluation.gates import check_names
from twhin_core.evaluation.task import check_ranking
from twhin_core.export import fits
from twhin_core.export.earlier import ALIGN, MAP, earlier_root, open_aligned, open_mapped
from twhin_core.schema import Schema
from twhin_core.scratch import scratch


def check_earlier(config: Config) -> list[str]:
    """The run roots of the versions that the export will be aligned with and mapped to.

    Raises:
        UserError: vectors of this model cannot be aligned with what `export.align` names, or mapped to what
            `export.map` does.
    """
    export, tables, roots = config.export, [table.name for table in config.model.embeddings.tables], []
    if export.align is not None:
        roots.append(open_aligned(config, earlier_root(ALIGN, export.align, config), tables).root)
    if export.map is not None:
        roots.append(open_mapped(config, earlier_root(MAP, export.map.to, config), tables).root)
    return roots


def check_initial(config: Config) -> None:
    """Reads the vectors from outside at which tables start. Raises UserError if training would refuse them."""
    tables = config.model.embeddings.tables
    if any(table.initial is not None for table in tables):
        from twhin_core.vectors.outside import outside_vectors  # imports DuckDB and Ibis

        with scratch("prepare") as folder:
            for vectors in outside_vectors(tables).values():
                vectors.check(folder)


def check_relations(config: Config, relations: list[str]) -> None:
    """Checks the names of the graph's relations.

    Raises:
        UserError: one has a reserved name, a gate names no metric, or `export.query_side` names none of them.
    """
    check_names(config, relations)
    fits.check_query_side(config.export, relations)


def check_sizes(config: Config, nodes: Schema, edges: dict[str, int]) -> None:
    """Checks the size of the graph.

    Args:
        nodes: with the number of nodes of each table.
        edges: by split.

    Raises:
        UserError: evaluation cannot rank as configured, or an export format cannot hold a table.
    """
    check_ranking(config, nodes, edges)
    for table in config.export.tables or nodes.tables:
        for name in config.export.formats:
            fits.check(name, config.export, table, nodes.tables[table])
