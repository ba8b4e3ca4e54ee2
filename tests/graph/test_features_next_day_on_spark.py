"""As `test_features_next_day`, by Spark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SmallConfig
from tests.graph.spark_session import SPARK, session  # noqa: F401 # a fixture
from tests.graph.test_features_next_day import Days, check_days

pytestmark = pytest.mark.slow


def test_the_last_row_of_a_node_counts(small_config: SmallConfig, tmp_path: Path) -> None:
    check_days(Days(small_config, tmp_path, **SPARK), 0, (60, 40))
