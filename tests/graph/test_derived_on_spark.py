"""Derived relations on Spark: those of `test_derived`, and the same rows in the same order as on DuckDB."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.graph import reading
from tests.graph.brute_force import SPLITS, Row
from tests.graph.spark_session import SPARK, session
from tests.graph.test_derived import TABLES, Case, check, config_of
from tests.graph.test_properties import write
from twhin_core.stages.prepare import prepare

__all__ = ["session"]  # a fixture
HASH = {"by": "hash", "validation": 0.2, "test": 0.2, "seed": 1}
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "by degree": {
        "near": {"relation": "fav", "side": "rhs", "top": 3, "max_degree": 5},
        "close": {"relation": "follow", "side": "lhs", "normalize": "none"},
    },
    "by number": {
        "near": {"relation": "follow", "side": "rhs", "top": 2, "weight": "one", "normalize": "none"},
        "close": {"relation": "fav", "side": "lhs", "top": 4, "weight": "one", "min_shared": 2, "max_degree": 4},
    },
}
DEFAULTS = {"top": 5, "weight": "log_degree", "normalize": "cosine", "min_shared": 1, "max_degree": 100}


def some_rows(users: int, split: bool) -> list[Row]:
    rng = random.Random(3)
    return [
        Row(
            lhs=f"u{rng.randrange(users)}",
            relation=rng.choice(list(TABLES)),
            rhs=f"u{int(users * rng.random() ** 3)}",
            weight=rng.choice([0.25, 1.0, 2.5]),
            split=None if split else rng.choice(["train", *SPLITS]),
        )
        for _ in range(12 * users)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("derive", "symmetric"), zip(CASES.values(), [set(), {"follow", "near"}], strict=True), ids=CASES
)
def test_spark_derives_the_most_similar_nodes(
    small_config: SmallConfig, derive: dict[str, dict[str, Any]], symmetric: set[str]
) -> None:
    split = None if symmetric else HASH
    full = {name: {**DEFAULTS, **of} for name, of in derive.items()}
    check(small_config, Case(some_rows(25, split is not None), full, symmetric, split), **SPARK)


@pytest.mark.slow
def test_both_engines_derive_the_same(small_config: SmallConfig, tmp_path: Path) -> None:
    """Of many more nodes than `brute_force` could do, whose logarithms an engine might round in its own way."""
    derive = {name: {"relation": "fav", "side": side, "top": 5} for name, side in (("near", "rhs"), ("close", "lhs"))}
    case = Case(some_rows(2000, True), derive, {"close"}, HASH)
    sources = write(case.rows, tmp_path / "raw", "parquet", files=2)
    found = []
    for name, engine in (("duckdb", {}), ("spark", SPARK)):
        manifest = prepare(config_of(small_config, case, sources, **engine), str(tmp_path / name))
        edges = {split: reading.rows(tmp_path / name / "graph/edges" / split) for split in SPLITS}
        found.append((edges, manifest.relations))
    assert found[0] == found[1]
    assert all(entry.edges["train"] > 1000 for entry in manifest.relations)
