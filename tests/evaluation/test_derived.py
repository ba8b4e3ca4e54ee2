"""A derived relation is trained on, and otherwise leaves evaluation as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SmallConfig
from twhin_core.errors import UserError
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

RELATIONS = [
    {"name": "near", "lhs": "user", "rhs": "user"},
    {"name": "follow", "lhs": "user", "rhs": "user"},
    {"name": "fav", "lhs": "user", "rhs": "tweet"},
]
NEAR = {"near": {"relation": "fav", "side": "lhs", "top": 3}}


def test_derived_edges_are_neither_asked_nor_counted(small_config: SmallConfig, tmp_path: Path) -> None:
    """Popularity and its figures by degree count observed edges, so that they are those of a graph without `derive`."""
    asked = {"split": "test", "degree_buckets": [1, 8, 12, 16, 20]}
    found = {}
    for name, derive in (("plain", {}), ("derived", NEAR)):
        config = small_config(prepare={"derive": derive}, model={"relations": RELATIONS}, evaluation=asked)
        root = str(tmp_path / name)
        assert prepare(config, root).relations[0].edges == {"train": 120 * bool(derive), "validation": 0, "test": 0}
        train(config, root)
        found[name] = evaluate(config, root)
    plain, derived = found["plain"], found["derived"]
    assert set(derived["test"]) == {"all", "follow", "fav"}
    assert derived["test"] != plain["test"]
    for name in ("popularity", "random"):
        assert derived["baselines"][name] == plain["baselines"][name]
    assert derived["degrees"]["popularity"] == plain["degrees"]["popularity"]
    assert len(derived["degrees"]["popularity"]["query"]) > 2
    page = (tmp_path / "derived/evaluation/report.html").read_text()
    assert "near" in page


def test_a_gate_on_it_is_refused_before_any_work(small_config: SmallConfig, tmp_path: Path) -> None:
    gates = {"test.near.mrr": {"min": 0.1}}
    config = small_config(prepare={"derive": NEAR}, model={"relations": RELATIONS}, evaluation={"gates": gates})
    with pytest.raises(UserError, match=r"evaluation\.gates: test\.near\.mrr: near is derived \(prepare\.derive\)"):
        prepare(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
