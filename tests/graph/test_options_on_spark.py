"""Every option of prepare on Spark, compared with `brute_force`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.graph.brute_force import SPLITS, Row, expect
from tests.graph.spark_session import SPARK, session
from tests.graph.test_properties import assert_graph, assert_reversed, config_of, write
from twhin_core.stages.prepare import prepare

__all__ = ["session"]  # a fixture
NONE: dict[str, Any] = {
    "time_window": None,
    "self_loops": "keep",
    "sampling": {},
    "repeats": "first",
    "min_degree": {},
    "min_degree_rounds": None,
    "split": None,
    "cold_nodes": "keep",
}
CASES: dict[str, dict[str, Any]] = {
    "given": {"repeats": "count", "self_loops": "drop", "cold_nodes": "drop"},
    "last": {
        "repeats": "sum",
        "time_window": {"start": 0, "end": 40},
        "min_degree": {"user": 4, "tweet": 3},
        "split": {"by": "last", "validation": 1.0, "test": 1.0, "seed": 2},
    },
    "last of some": {
        "split": {"by": "last", "validation": 1.0, "test": 1.0, "seed": 2, "relations": ["fav"]},
    },
    "time": {
        "repeats": "last",
        "sampling": {"fav": 0.8},
        "min_degree": {"tweet": 3},
        "min_degree_rounds": 1,
        "split": {"by": "time", "validation": 0.2, "test": 0.3, "seed": 0, "relations": ["follow"]},
        "cold_nodes": "drop",
    },
}


def some_rows(options: dict[str, Any]) -> list[Row]:
    rng = random.Random(4)
    users = [*(f"u{i}" for i in range(12)), "é", "日本", "", None]
    given = [None] if options["split"] is not None else ["train", *SPLITS]
    return [
        Row(
            lhs=rng.choice(users),
            relation=rng.choice(["follow", "fav", "fav", "fav", "poke", None]),
            rhs=rng.choice(users),
            weight=1.0 if options["repeats"] == "count" else rng.choice([0.25, 2.5, 1e-30, 0.0, float("nan"), None]),
            time=rng.choice([*range(-5, 50), None]),
            split=rng.choice(given),
        )
        for _ in range(400)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("options", [{**NONE, **case} for case in CASES.values()], ids=CASES)
def test_spark_follows_the_rules(
    small_config: SmallConfig, tmp_path: Path, options: dict[str, Any], symmetric: bool
) -> None:
    rows = some_rows(options)
    sources = write(rows, tmp_path / "raw", "parquet", files=2)
    config = config_of(small_config, sources, {**options, **SPARK}, symmetric)
    manifest = prepare(config, str(tmp_path / "run"))
    assert set(manifest.rejected.by_reason) >= {"null_id", "unknown_relation"}
    expected = expect(rows, options, ["follow"] if symmetric else [])
    assert_graph(tmp_path / "run", manifest, expected)
    assert_reversed(manifest, expected, symmetric)
