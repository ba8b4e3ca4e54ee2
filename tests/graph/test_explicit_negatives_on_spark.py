"""Explicit negatives on Spark, as in `test_explicit_negatives` and `test_grow_with_negatives`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.graph.brute_force import SPLITS, Row
from tests.graph.spark_session import SPARK, session
from tests.graph.test_explicit_negatives import check, rows_of
from tests.graph.test_grow_with_negatives import DAY, GRAPHS, OPTIONS, Case
from tests.graph.test_grow_with_negatives import check as check_days

__all__ = ["session"]  # a fixture
HASH = {"by": "hash", "validation": 0.3, "test": 0.3, "seed": 1, "relations": None}
CASES: dict[str, dict[str, Any]] = {
    "shared": {"split": HASH, "window": 8},
    "symmetric": {"split": {**HASH, "validation": 0.0}},
    "directed": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True], ids=["by hash", "by sources"])
def test_spark_keeps_the_later_of_contrary_edges(small_config: SmallConfig, tmp_path: Path, split: bool) -> None:
    check(small_config, tmp_path, rows_of(7, split=split), repeats="last", **SPARK)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("graph", CASES)
def test_days_one_by_one_on_spark(small_config: SmallConfig, graph: str) -> None:
    options, rng = OPTIONS | CASES[graph], random.Random(8)

    def row(day: int) -> Row:
        of = rng.choice(GRAPHS[graph])
        return Row(
            lhs=f"u{rng.randrange(4 + day)}",
            relation=of["name"],
            rhs=f"{of['rhs'][0]}{rng.randrange(3 + day)}",
            weight=rng.choice([0.25, 1.0, 2.5]),
            time=rng.randrange(DAY * day, DAY * (day + 1) + 1),
            split=None if options["split"] else rng.choice(["train", *SPLITS]),
        )

    rows = [[row(day) for _ in range(count)] for day, count in enumerate([60, 25, 25])]
    assert check_days(small_config, Case(graph, rows, options, whole=options["split"] is not None), **SPARK) == 3
