"""A Spark session that the tests of a file share: import `SPARK`, and `session`, which each test then uses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from twhin_core.config.prepare import Prepare
from twhin_core.config.sources import Source
from twhin_core.graph.connect import connect
from twhin_core.graph.spark_engine import SparkEngine

SPARK = {"engine": "spark", "spark_master": "local[2]"}


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One Spark session for all tests in a file."""
    settings = Prepare(sources=[Source(path="none", relation="none")], **SPARK, memory_limit="1GB")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")  # nothing runs long enough to be compiled well
        with connect(settings) as engine:
            assert isinstance(engine, SparkEngine)
            engine.session.conf.set("spark.sql.shuffle.partitions", 2)  # of few rows
            engine.session.conf.set("spark.sql.adaptive.enabled", False)
            yield
