"""As `test_features`, by Spark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SmallConfig
from tests.graph.spark_session import SPARK, session  # noqa: F401 # a fixture
from tests.graph.test_features import check_forgotten_nodes, check_good_rows

pytestmark = pytest.mark.slow


def test_it_is_that_of_the_good_rows(small_config: SmallConfig, tmp_path: Path) -> None:
    check_good_rows(small_config, tmp_path, 0, **SPARK)


def test_forgotten_nodes_leave_no_content(small_config: SmallConfig, tmp_path: Path) -> None:
    check_forgotten_nodes(small_config, tmp_path, **SPARK)
