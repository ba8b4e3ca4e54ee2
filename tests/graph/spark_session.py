"""A Spark session that all tests of a process share: import `SPARK`, and `session`, which each test then uses."""

from __future__ import annotations

import contextlib
import functools

import pytest

from twhin_core.config.prepare import Prepare
from twhin_core.config.sources import Source
from twhin_core.graph.connect import connect
from twhin_core.graph.spark_engine import SparkEngine

SPARK = {"engine": "spark", "spark_master": "local[2]"}
# Nothing runs long enough to be compiled well, on few cores; and the default cache of code is too small for all plans.
JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=256m"


@pytest.fixture(scope="module", autouse=True)
def session(request: pytest.FixtureRequest) -> None:
    """The session, which starts with the first test that uses it."""
    start(request.config)


@functools.cache
def start(config: pytest.Config) -> None:
    """Starts a session that lasts as long as pytest: in one that has warmed up, tests take half of the time."""
    settings = Prepare(sources=[Source(path="none", relation="none")], **SPARK, memory_limit="1GB")
    until_the_end = contextlib.ExitStack()
    config.add_cleanup(until_the_end.close)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JDK_JAVA_OPTIONS", JAVA)
        engine = until_the_end.enter_context(connect(settings))
    assert isinstance(engine, SparkEngine)
    engine.session.conf.set("spark.sql.shuffle.partitions", 2)  # of few rows
    engine.session.conf.set("spark.sql.adaptive.enabled", False)
