"""Explicit negatives on Spark, as in `test_explicit_negatives`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SmallConfig
from tests.graph.spark_session import SPARK, session
from tests.graph.test_explicit_negatives import check, rows_of

__all__ = ["session"]  # a fixture


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True], ids=["by hash", "by sources"])
def test_spark_keeps_the_later_of_contrary_edges(small_config: SmallConfig, tmp_path: Path, split: bool) -> None:
    check(small_config, tmp_path, rows_of(7, split=split), repeats="last", **SPARK)
