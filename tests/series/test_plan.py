"""Which version a refresh works on, and with which config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import SmallConfig
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.graph.manifest import find_manifest
from twhin_core.series.continued import check_text, with_previous
from twhin_core.series.plan import Planned, plan
from twhin_core.series.publish import publish, rollback
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train


class Days:
    """A folder that gets a raw file a day, the config that reads it, and the series."""

    def __init__(self, folder: Path, config: Config) -> None:
        self._folder, self.series = folder, str(folder / "series")
        (folder / "raw").mkdir()
        tree = config.model_dump(mode="json", exclude_unset=True)
        tree["prepare"]["sources"][0]["path"] = str(folder / "raw" / "*.parquet")
        tree["training"]["warm_start"] = {"from": "previous"}
        self.text = yaml.safe_dump(tree)

    def arrive(self, day: int, rows: int = 300) -> None:
        rng = np.random.default_rng(day)
        drawn = np.unique(rng.integers([0, 0], [40 + day, 30 + day], (rows, 2)), axis=0)
        edges = {
            "lhs": [f"u{user}" for user, _ in drawn], "relation": ["fav"] * len(drawn),
            "rhs": [f"t{tweet}" for _, tweet in drawn],
        }  # fmt: skip
        pq.write_table(pa.table(edges), self._folder / "raw" / f"day-{day}.parquet")

    def plan(self, *overrides: str) -> Planned:
        return plan(self.text, self.series, overrides)

    def work(self, planned: Planned, *stages: Any) -> None:
        config = config_file.load(planned.config)
        for stage in stages:
            stage(config, planned.root)


@pytest.fixture
def days(tmp_path: Path, small_config: SmallConfig) -> Days:
    relations = [{"name": "fav", "lhs": "user", "rhs": "tweet"}]
    return Days(tmp_path, small_config(model={"relations": relations}, training={"num_epochs": 1}))


WHOLE = (prepare, train, evaluate, export)


def test_the_same_files_are_one_version_and_new_ones_the_next(days: Days) -> None:
    days.arrive(1)
    first = days.plan()
    assert (first.version, first.after) == ("1", "")
    assert days.plan() == first, "it was begun"
    days.work(first, prepare)
    assert days.plan() == first, "it was prepared"
    days.work(first, train, evaluate, export)
    assert days.plan() == first, "it was not published"
    publish(days.series, "1", first.after)
    again = days.plan()
    assert (again.version, again.root, again.after) == ("1", first.root, "1")
    days.arrive(2)
    second = days.plan()
    assert (second.version, second.after) == ("2", "1")
    config = config_file.load(second.config)
    assert config.prepare is not None
    assert config.prepare.previous == config.evaluation.previous == first.root
    assert config.training.warm_start is not None


def test_files_of_a_day_that_failed_belong_to_the_next_version_too(days: Days) -> None:
    days.arrive(1)
    first = days.plan()
    days.work(first, *WHOLE)
    publish(days.series, "1")
    days.arrive(2)
    second = days.plan()
    days.work(second, prepare)
    taken = {Path(path).name for path in find_manifest(second.root).taken}
    assert taken == {"day-1.parquet", "day-2.parquet"}
    days.arrive(3)
    third = days.plan()
    assert (third.version, third.after) == ("3", "1")
    days.work(third, prepare)
    manifest = find_manifest(third.root)
    assert {Path(entry.path).name for entry in manifest.raw_files} == {"day-2.parquet", "day-3.parquet"}
    assert manifest.previous is not None
    assert manifest.previous.root == first.root


def test_content_that_is_new_or_was_written_again_makes_a_version(tmp_path: Path, small_config: SmallConfig) -> None:
    features = [{"table": "tweet", "path": str(tmp_path / "content.parquet"), "column": "vector"}]
    relations = [{"name": "fav", "lhs": "user", "rhs": "tweet"}]
    config = small_config(model={"relations": relations}, training={"num_epochs": 1}, prepare={"features": features})
    days = Days(tmp_path, config)
    days.arrive(1)
    for version, tweets in (("1", range(0, 40, 3)), ("2", range(30, 50, 2))):
        vectors = {"id": [f"t{at}" for at in tweets], "vector": [[float(at), 1.0] for at in tweets]}
        pq.write_table(pa.table(vectors), tmp_path / "content.parquet")
        planned = days.plan()
        assert planned.version == version
        days.work(planned, *WHOLE)
        publish(days.series, version, planned.after)
        assert days.plan().version == version, "nothing is new"
    manifest = find_manifest(planned.root)
    assert [Path(entry.path).name for entry in manifest.raw_files] == ["content.parquet"]
    content = manifest.tables[1].content
    assert content is not None
    assert content.nodes == len({*range(0, 40, 3), *range(30, 50, 2)})


def test_a_version_does_not_go_on_with_other_vectors_than_it_began_with(
    tmp_path: Path, small_config: SmallConfig
) -> None:
    relations = [{"name": "fav", "lhs": "user", "rhs": "tweet"}]
    tree = small_config(model={"relations": relations}, training={"num_epochs": 1}).model_dump(exclude_unset=True)
    tree["model"]["embeddings"]["tables"][1]["initial"] = {"path": str(tmp_path / "v.parquet"), "column": "v"}
    days = Days(tmp_path, config_file.validate(Config, tree, "test"))
    days.arrive(1)

    def write(tweets: range) -> None:
        vectors = {"id": [f"t{at}" for at in tweets], "v": [[float(at), 1.0] for at in tweets]}
        pq.write_table(pa.table(vectors), tmp_path / "v.parquet")

    write(range(0, 40, 3))
    first = days.plan()
    days.work(first, prepare)
    write(range(0, 40, 2))
    assert days.plan() == first, "training will read the vectors of now"
    days.work(first, train)
    assert days.plan() == first
    write(range(30, 50, 2))
    assert days.plan().version == "2", "training would refuse to go on with others"


def test_what_was_rolled_back_does_not_come_back(days: Days) -> None:
    for day in (1, 2):
        days.arrive(day)
        planned = days.plan()
        days.work(planned, *WHOLE)
        publish(days.series, planned.version, planned.after)
    rollback(days.series)
    planned = days.plan()
    assert (planned.version, planned.after) == ("3", "1")


def test_another_config_begins_another_version_where_it_must(days: Days) -> None:
    days.arrive(1)
    first = days.plan()
    days.work(first, prepare)
    assert days.plan("training.seed=5").version == "1", "it is not trained yet"
    assert days.plan("prepare.split.test=0.2").version == "2"


def test_the_first_version_needs_no_earlier_one(days: Days) -> None:
    tree = yaml.safe_load(days.text)
    tree["training"]["anchor"] = {"to": "previous", "weight": 1.0}
    tree["export"] = {"align": "previous", "map": {"to": "previous"}}
    tree["evaluation"] = {
        "previous": "previous",
        "gates": {
            "test.all.mrr": {"min": 0.01, "max_drop": 0.1},
            "test.fav.mrr": {"max_drop": 0.1},
            "drift.user.neighbors@10": {"min": 0.5},
        },
    }
    first, later = with_previous(tree, None), with_previous(tree, "before")
    assert (first.training.warm_start, first.training.anchor, first.evaluation.previous) == (None, None, None)
    assert first.export.align is None
    assert first.export.map is None
    assert {path: gate.model_dump(exclude_none=True) for path, gate in first.evaluation.gates.items()} == {
        "test.all.mrr": {"min": 0.01}
    }
    assert later.training.anchor is not None
    assert later.evaluation.previous == "before"
    assert later.earlier_place(later.export.align) == "before"
    assert later.export.map is not None
    assert later.earlier_place(later.export.map.to) == "before"
    assert set(later.evaluation.gates) == set(tree["evaluation"]["gates"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prepare.previous=other", "prepare.previous: is set by the refresh"),
        ("prepare.sources=[]", "prepare.sources: a refresh needs raw files"),
        ("prepare={generate: {}}", "prepare.sources: a refresh needs raw files"),
        ("prepare.min_degree={user: 2}", "min_degree: edges that it dropped may be needed another day"),
        ("training.num_epochs=none", "training.num_epochs"),
        ("training=1", "training"),
    ],
)
def test_a_config_that_cannot_make_a_series_is_refused_before_any_work(days: Days, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_text(days.text, [override])
    days.arrive(1)
    assert not Path(days.series).exists()


def test_no_file_yet_is_named(days: Days) -> None:
    with pytest.raises(UserError, match=r"\*\.parquet: no file matches"):
        days.plan()
