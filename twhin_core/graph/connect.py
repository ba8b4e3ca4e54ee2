"""The engine that the config asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from twhin_core.config.prepare import Prepare
from twhin_core.graph.engine import Engine


@contextlib.contextmanager
def connect(settings: Prepare) -> Iterator[Engine]:
    """The engine, with the memory and the disk of the config.

    Raises:
        UserError: in the block, where memory or the disk under `prepare.temp_directory` does not do.
    """
    if settings.engine == "spark":
        from twhin_core.graph import spark_engine  # PySpark is an extra

        with spark_engine.connect(settings) as engine:
            yield engine
    else:
        from twhin_core.graph import duckdb_engine

        with duckdb_engine.connect(settings) as engine:
            yield engine
