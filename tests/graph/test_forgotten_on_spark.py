"""Nodes are forgotten on Spark too, compared with `brute_force`."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.graph.brute_force import Row
from tests.graph.spark_session import SPARK, session
from tests.graph.test_forgotten import check
from tests.graph.test_grow import DAY, IDS
from tests.graph.test_options_on_spark import NONE

__all__ = ["session"]  # a fixture
HASH = {"by": "hash", "validation": 0.3, "test": 0.3, "seed": 1, "relations": None}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rolled_back", [False, True])
def test_on_spark(small_config: SmallConfig, rolled_back: bool) -> None:
    rng = random.Random(3)

    def row(day: int) -> Row:
        relation = rng.choice([*["follow", "fav"] * 6, "poke"])
        return Row(rng.choice(IDS[: 6 + day]), relation, rng.choice(IDS[: 6 + day]), 1.0, DAY * day, None)

    rows = [[row(day) for _ in range(60)] for day in range(2)]
    options: dict[str, Any] = {**NONE, "window": None, "edge_decay": None, "split": HASH}
    check(small_config, rows, options, {("user", "a"), ("tweet", "b")}, True, rolled_back, **SPARK)
