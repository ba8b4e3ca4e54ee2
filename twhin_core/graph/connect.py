"""Connects to the engine that the config selects."""

from __future__ import annotations

from contextlib import AbstractContextManager

from twhin_core.config.prepare import Prepare
from twhin_core.graph.engine import Engine


def connect(settings: Prepare) -> AbstractContextManager[Engine]:
    """The engine, with the memory limit and temporary directory from the config.

    Raises:
        UserError: from the block, if the memory or the disk does not suffice.
    """
    if settings.engine == "spark":
        from twhin_core.graph import spark_engine  # PySpark is an optional dependency

        return spark_engine.connect(settings)
    from twhin_core.graph import duckdb_engine

    return duckdb_engine.connect(settings)
