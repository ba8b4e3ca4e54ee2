"""Days one by one are all days at once on Spark too, compared with `brute_force`."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.graph.brute_force import SPLITS, Row
from tests.graph.spark_session import SPARK, session
from tests.graph.test_grow import DAY, IDS, check
from tests.graph.test_options_on_spark import NONE

__all__ = ["session"]  # a fixture
HASH = {"by": "hash", "validation": 0.3, "test": 0.3, "seed": 1, "relations": None}
CASES: dict[str, dict[str, Any]] = {
    "first": {"repeats": "first", "split": {**HASH, "relations": ["fav"]}, "sampling": {"fav": 0.8}},
    "window and decay": {"repeats": "last", "window": 30, "edge_decay": {"half_life": 9}, "split": HASH},
    "count": {"repeats": "count", "edge_decay": {"half_life": 9}, "self_loops": "drop", "split": HASH},
    "sum of given splits": {"repeats": "sum"},
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "symmetric"), zip(CASES, itertools.cycle([False, True]), strict=False))
def test_days_one_by_one_on_spark(small_config: SmallConfig, name: str, symmetric: bool) -> None:
    options = {**NONE, **CASES[name]}
    rng = random.Random(5)

    def row(day: int) -> Row:
        return Row(
            lhs=rng.choice([*IDS[: 6 + day] * 4, "", None]),
            relation=rng.choice([*["follow", "fav"] * 6, "poke", None]),
            rhs=rng.choice(IDS[: 6 + day]),
            weight=1.0 if options["repeats"] == "count" else rng.choice([0.25, 1.0, 2.5, 0.0]),
            time=rng.choice([*(DAY * day + hour for hour in range(DAY)), None]),
            split=rng.choice([None] if options["split"] else ["train", *SPLITS]),
        )

    rows = [[row(day) for _ in range(count)] for day, count in enumerate([60, 25, 25])]
    assert check(small_config, rows, options, symmetric, **SPARK) == 3
