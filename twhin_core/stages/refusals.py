"""What later stages would refuse, found as soon as the data tell it: before training is paid for."""

from __future__ import annotations

from twhin_core.config import Config
from twhin_core.evaluation.gates import check_names
from twhin_core.evaluation.task import check_ranking
from twhin_core.export import fits
from twhin_core.export.earlier import EarlierExport, earlier_root
from twhin_core.schema import Schema


def check_align(config: Config) -> None:
    """Raises UserError if vectors of this model cannot be aligned with what `export.align` names, if it does."""
    if config.export.align is not None:
        EarlierExport(earlier_root(config), config.model.dim, [table.name for table in config.model.embeddings.tables])


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
