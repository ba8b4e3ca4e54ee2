"""Content on the second day: what a warm start carries over, anchors, resuming and export, against numpy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.conftest import small_configs, write_raw
from tests.graph.reading import ids, rows
from tests.graph.test_next_day import write
from tests.training.test_content import PARTS, composed, prepare_manifest, write_content
from tests.training.test_warm_start import saved, state
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

Array = npt.NDArray[Any]
CHANGED = ("t0", "t2", "t4")
RARE_BEFORE = "k3"
IDS = "tables.embeddings.tweet.weight"


class Days:
    """Two days of the tiny graph; half of the tweets have content, some of which changes on the second day.

    Vectors of the second day are longer, so that all are scaled by another factor.
    """

    def __init__(self, folder: Path, optimizer: str) -> None:
        self._small_config, self.folder, self.optimizer = small_configs(folder), folder, optimizer
        self.first, self.second = folder / "first", folder / "second"
        for name in ("raw", "content"):
            (folder / name).mkdir()
        write_raw(folder / "raw/day-0.parquet")
        write_content(folder / "content/day-0.parquet", [f"t{at}" for at in range(0, 50, 2)])
        config = self.config()
        prepare(config, str(self.first))
        train(config, str(self.first))
        edges = [(f"u{at}", "fav", f"t{tweet}") for tweet in (60, 61, 62, 44) for at in range(tweet % 7, 40, 3)]
        write(folder / "raw/day-1.parquet", *edges)
        names = [*CHANGED, *(f"t{at}" for at in range(60, 106, 2))]
        write_content(folder / "content/day-1.parquet", names, 8, kinds=4, length=4.0)
        prepare(self.config(previous=True), str(self.second))

    def begin_second(self, root: Path) -> str:
        """A run root with the graph of the second day."""
        return str(shutil.copytree(self.second, root))

    def config(
        self, previous: bool = False, sharding: str = "auto", categories: tuple[str, ...] = ("kind",), **training: Any
    ) -> Config:
        table = {"embedding_dim": 8, "optimizer": {self.optimizer: {"lr": 0.1}}, "sharding": sharding}
        content: dict[str, Any] = {"table": "tweet", "path": str(self.folder / "content"), "column": "x"}
        content |= {"categories": list(categories)}
        return self._small_config(
            prepare={
                "sources": [{"path": str(self.folder / "raw"), "relation_column": "relation"}],
                "features": [content],
                **({"previous": str(self.first)} if previous else {}),
            },
            model={"embeddings": {"tables": [{"name": name, **table} for name in ("user", "tweet")]}},
            training=training,
        )


DaysOf = Callable[[str], Days]


@pytest.fixture(scope="module")
def days_of(tmp_path_factory: pytest.TempPathFactory) -> DaysOf:
    """The days by optimizer. Tests share them and leave them as they are."""
    return cache(lambda optimizer: Days(tmp_path_factory.mktemp("days"), optimizer))


def of_tweets(root: Path) -> tuple[list[str], Array, dict[str, dict[str, Any]]]:
    """The ids, the training degrees and the content of tweets."""
    names = ids(root, "tweet")
    degrees = np.array([row["degree"] for row in rows(root / "graph/vocab/tweet")])
    return names, degrees, {names[row["index"]]: row for row in rows(root / "graph/features/tweet")}


def scale_of(root: Path) -> float:
    return float(prepare_manifest(root).tables[1].content.scale)


def added(found: dict[str, Array], root: Path, row: dict[str, Any] | None) -> Array:
    """What content adds to the row of a tweet."""
    if row is None:
        return np.zeros(8)
    x = np.array(row["vector"]) * scale_of(root)
    total: Array = found["towers.tweet.vector.weight"] @ x + found["towers.tweet.values.weight"][row["code_0"]]
    return total


CASES = [
    ("rowwise_adagrad", "auto", 1),
    ("spherical_adagrad", "auto", 1),
    ("rowwise_adagrad", "row_wise", 2),
    pytest.param("spherical_adagrad", "table_wise", 2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("optimizer", "sharding", "ranks"), CASES)
def test_a_warm_start_carries_what_was_learned(
    days_of: DaysOf, tmp_path: Path, optimizer: str, sharding: str, ranks: int
) -> None:
    days = days_of(optimizer)
    first, second = str(days.first), days.begin_second(tmp_path / "second")
    config = days.config(True, sharding, warm_start={"from": "previous"})
    found = state(config, second, ranks)
    ratio = scale_of(days.first) / scale_of(days.second)
    assert ratio > 1
    values = [[of["value"] for of in rows(Path(root) / "graph/categories/tweet")] for root in (first, second)]
    assert RARE_BEFORE in values[1]
    assert RARE_BEFORE not in values[0]
    for part in PARTS:
        vector, category = f"{part}.vector.weight", f"{part}.values.weight"
        assert np.array_equal(found[vector], saved(first, vector) * ratio)
        state_of = f"optimizer.{vector}.sum"
        assert np.array_equal(found[state_of], saved(first, state_of) / ratio**2)
        for code, value in enumerate(values[1], 1):
            known = 1 + values[0].index(value if value in values[0] else None)
            assert np.array_equal(found[category][code], saved(first, category)[known])
    for name in ("predictors.tweet.log_scale", "predictors.tweet.slope"):
        assert found[name] == saved(first, name) != 0

    before, degrees_before, _ = of_tweets(days.first)
    names, degrees, content = of_tweets(days.second)
    vectors, is_unit = composed(days.first, optimizer == "spherical_adagrad"), optimizer == "spherical_adagrad"
    train_edges = rows(days.second / "graph/edges/train")
    users, relation = found["tables.embeddings.user.weight"], found["scorer.operator.translation"][1]
    kinds = set()
    for index, name in enumerate(names):
        vector = found[IDS][index] + added(found, days.second, content.get(name))
        vector = vector / np.linalg.norm(vector) if is_unit else vector
        was_trained = name in before and degrees_before[before.index(name)] > 0
        if was_trained:
            assert np.array_equal(found[IDS][index], saved(first, IDS)[before.index(name)])
        if (name in before and not degrees[index]) or was_trained:
            if name not in CHANGED:
                np.testing.assert_allclose(vector, vectors[name], rtol=1e-4, atol=1e-5)
            else:
                assert np.abs(vector - vectors[name]).max() > 1e-3
            kinds.add("trained" if was_trained else "cold")
        elif degrees[index]:
            fans = [row["lhs"] for row in train_edges if row["rel"] == 1 and row["rhs"] == index]
            expected = np.mean([users[fan] + relation for fan in fans], 0)
            expected = expected / np.linalg.norm(expected) if is_unit else expected
            assert not is_unit or np.linalg.norm(added(found, days.second, content.get(name))) < 1, (
                "or there may be none"
            )
            np.testing.assert_allclose(vector, expected, rtol=1e-3, atol=1e-4)
            kinds.add("filled, with content" if name in content else "filled")
    assert kinds == {"trained", "cold", "filled, with content", "filled"}


def test_content_of_other_columns_is_learned_anew(days_of: DaysOf, tmp_path: Path) -> None:
    days = days_of("rowwise_adagrad")
    config, root = days.config(True, categories=(), warm_start={"from": "previous"}), tmp_path / "other"
    prepare(config, str(root))
    found = state(config, str(root))
    assert not found["towers.tweet.vector.weight"].any()
    for index, name in enumerate(ids(root, "tweet")):
        if name in (vectors := composed(days.first)) and name != "t44":
            np.testing.assert_allclose(found[IDS][index], vectors[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "spherical_adagrad"])
def test_a_second_day_resumes_and_exports(days_of: DaysOf, tmp_path: Path, optimizer: str) -> None:
    days, found = days_of(optimizer), []
    for number, stops in enumerate(([12], [5, 12])):
        root = tmp_path / f"run{number}"
        days.begin_second(root)
        for steps in stops:
            anchor = {"to": "previous", "weight": 0.1}
            config = days.config(
                True, warm_start={"from": "previous"}, anchor=anchor, num_train_steps=steps, num_epochs=3
            )
            train(config, str(root))
        newest = checkpoint.newest(str(root))
        assert newest is not None
        assert newest.step == 12
        found.append({name: newest.stored(name).read_whole() for name in newest._index})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name
    export(config, str(root))
    expected = composed(root, optimizer == "spherical_adagrad")
    exported = {row["id"]: row["embedding"] for row in rows(root / "embeddings/tweet")}
    assert exported.keys() == expected.keys() > {"t60", "t102", "t104"}
    for name, vector in expected.items():
        np.testing.assert_allclose(exported[name], vector, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "spherical_adagrad"])
def test_a_strong_anchor_holds_whole_vectors(days_of: DaysOf, tmp_path: Path, optimizer: str) -> None:
    days = days_of(optimizer)
    before, degrees, _ = of_tweets(days.first)
    held = [name for name, degree in zip(before, degrees, strict=True) if degree and name not in CHANGED]
    unit, moved = optimizer == "spherical_adagrad", []
    for number, weight in enumerate((1e-9, 30.0)):
        root, anchor = tmp_path / f"run{number}", {"to": "previous", "weight": weight, "by_degree": False}
        training = {"warm_start": {"from": "previous", "optimizer_state": False}, "anchor": anchor, "num_epochs": 8}
        days.begin_second(root)
        train(days.config(True, **training), str(root))
        then, now = composed(days.first, unit), composed(root, unit)
        moved.append(sum(np.linalg.norm(then[name] - now[name]) for name in held))
    assert moved[1] < 0.3 * moved[0]
