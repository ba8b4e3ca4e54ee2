"""Weights made from a column, compared with NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import SmallConfig
from tests.graph import reading
from twhin_core.config import Config
from twhin_core.config.sources import Source, Weight
from twhin_core.errors import UserError
from twhin_core.stages.prepare import prepare

WEIGHTS: list[dict[str, Any]] = [
    {"transform": "log1p"},
    {"transform": "sqrt"},
    {"clip": 3.0},
    {"normalize": "relation"},
    {"normalize": "relation", "clip": 2.0},
    {"transform": "log1p", "normalize": "relation"},
    {"transform": "sqrt", "normalize": "relation", "clip": 1.5},
    {"transform": "none", "normalize": "none"},
]
BAD = ["", "x", "0", "-1", "nan", "inf", "-inf"]


def config_of(small_config: SmallConfig, path: Path, weight: Any, **options: Any) -> Config:
    source = {"path": str(path), "relation_column": "relation", "weight": weight}
    nothing = {"validation": 0.0, "test": 0.0}
    return small_config(prepare={"sources": [source], "split": nothing, **options})


def drawn(seed: int) -> list[tuple[str, str, str, float]]:
    """Edges of two relations whose weights differ by orders of magnitude."""
    rng = np.random.default_rng(seed)
    names = [("follow", f"u{at % 9}", f"u{at}") for at in range(60)] + [
        ("fav", f"u{at % 9}", f"t{at}") for at in range(90)
    ]
    return [(*name, float(value)) for name, value in zip(names, 10 ** rng.uniform(-12, 6, 150), strict=True)]


def expected(rows: list[tuple[str, str, str, float]], weight: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    change = {"log1p": np.log1p, "sqrt": np.sqrt}.get(weight.get("transform", ""), np.array)
    found = {}
    for relation in ("follow", "fav"):
        of = [row for row in rows if row[0] == relation]
        values = change([row[3] for row in of])
        if weight.get("normalize") == "relation":
            values = values / values.mean()
        values = np.minimum(values, weight.get("clip", np.inf))
        found |= {(lhs, relation, rhs): float(value) for (_, lhs, rhs, _), value in zip(of, values, strict=True)}
    return found


def written(root: Path, manifest: Any) -> dict[tuple[str, str, str], float]:
    weights = [row["weight"] for row in reading.rows(root / "graph/edges/train")]
    return dict(zip(reading.edges(root, manifest, "train"), weights, strict=True))


@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
def test_the_weights_of_a_column(small_config: SmallConfig, tmp_path: Path, weight: dict[str, Any]) -> None:
    rows = drawn(len(str(weight)))
    lines = [f"{lhs},{relation},{rhs},{value!r}" for relation, lhs, rhs, value in rows]
    lines += [f"u0,fav,bad{at},{value}" for at, value in enumerate(BAD)]
    (tmp_path / "plays.csv").write_text("\n".join(["lhs,relation,rhs,plays", *lines]))
    config = config_of(small_config, tmp_path / "plays.csv", {"column": "plays", **weight})
    manifest = prepare(config, str(tmp_path / "run"))
    assert written(tmp_path / "run", manifest) == pytest.approx(expected(rows, weight), rel=1e-6)
    assert manifest.rejected.by_reason == {"invalid_weight": len(BAD)}
    assert manifest.weighted


def test_each_source_has_its_own_weights(small_config: SmallConfig, tmp_path: Path) -> None:
    """Two sources normalize and share a mean, (1 + 3 + 8) / 3 = 4; the third is clipped, the fourth has no weights."""
    for name, lines in {
        "a": ["u1,t1,1", "u1,t2,3"],
        "b": ["u2,t1,8"],
        "c": ["u3,t1,8", "u3,t2,5"],
        "d": ["u4,u1,9"],
    }.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(["lhs,rhs,w", *lines]))
    weights = [{"column": "w", "normalize": "relation"}, {"column": "w", "normalize": "relation", "clip": 1.5}]
    weights.append({"column": "w", "clip": 6.0})
    sources = [
        {"path": str(tmp_path / f"{name}.csv"), "relation": "fav", "weight": weight}
        for name, weight in zip("abc", weights, strict=True)
    ]
    sources.append({"path": str(tmp_path / "d.csv"), "relation": "follow"})
    config = small_config(prepare={"sources": sources, "split": {"validation": 0.0, "test": 0.0}})
    found = written(tmp_path / "run", prepare(config, str(tmp_path / "run")))
    assert {(lhs, rhs): weight for (lhs, _, rhs), weight in found.items()} == {
        ("u1", "t1"): 0.25, ("u1", "t2"): 0.75, ("u2", "t1"): 1.5,
        ("u3", "t1"): 6.0, ("u3", "t2"): 5.0, ("u4", "u1"): 1.0,
    }  # fmt: skip


def test_a_sum_adds_transformed_weights(small_config: SmallConfig, tmp_path: Path) -> None:
    """Roots 2, 3 and 1 of u1's and 6 of u2's have the mean 3."""
    lines = ["u1,fav,t1,4", "u1,fav,t1,9", "u1,fav,t2,1", "u2,fav,t1,36", "u2,follow,u1,4"]
    (tmp_path / "plays.csv").write_text("\n".join(["lhs,relation,rhs,plays", *lines]))
    weight = {"column": "plays", "transform": "sqrt", "normalize": "relation"}
    manifest = prepare(config_of(small_config, tmp_path / "plays.csv", weight, repeats="sum"), str(tmp_path / "run"))
    assert written(tmp_path / "run", manifest) == pytest.approx(
        {("u1", "fav", "t1"): 5 / 3, ("u1", "fav", "t2"): 1 / 3, ("u2", "fav", "t1"): 2.0, ("u2", "follow", "u1"): 1.0}
    )


def test_a_name_is_short_for_a_column() -> None:
    assert Source(path="x", relation="r", weight="plays").weight == Weight(column="plays")


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({"column": "w", "transform": "log"}, "weight.transform"),
        ({"column": "w", "clip": 0.0}, "weight.clip"),
        ({"transform": "sqrt"}, "weight.column"),
        ({"column": "w", "normalise": "relation"}, "weight.normalise"),
        (3, "weight"),
    ],
)
def test_a_mistake_names_the_key(small_config: SmallConfig, tmp_path: Path, weight: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"prepare.sources.0.{message}"):
        config_of(small_config, tmp_path / "x.csv", weight)
