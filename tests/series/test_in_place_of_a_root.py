"""A series stands for its published version wherever a run root is read, and for no run root where one is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig
from tests.series.conftest import raw_of
from tests.series.test_dependents import run_stages
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.graph.manifest import find_manifest
from twhin_core.series.publish import publish
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.earlier import ANCHOR, EARLIER, START


def earlier(root: str) -> dict[str, Any]:
    found: dict[str, Any] = storage.read_json(storage.join(root, EARLIER))
    return found


def test_training_takes_the_published_version_and_keeps_to_it(
    series: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    publish(series, "2")
    root = str(tmp_path / "own")
    training = {"warm_start": {"from": series}, "anchor": {"to": series, "weight": 0.1}, "num_epochs": 1}
    config = small_config(training=training, prepare={"graph": series, "sources": raw_of(f"{series}/versions/2")})
    prepare(config, root)
    assert find_manifest(root).shared_by == f"{series}/versions/2"
    train(config, root)
    first = earlier(root)
    for key in (START, ANCHOR):
        assert (first[key]["root"], first[key]["series"]) == (f"{series}/versions/2", series)
    publish(series, "10")
    for left in ("checkpoints", "training/finished.json"):  # as if it had been killed before its first checkpoint
        storage.remove_all_but(f"{root}/{left}", []) if left == "checkpoints" else storage.remove(f"{root}/{left}")
    train(config, root)
    assert earlier(root) == first
    other = str(tmp_path / "other")
    prepare(config, other)
    train(config, other)
    assert earlier(other)[START]["root"] == f"{series}/versions/10"


def test_previous_is_the_version_that_prepare_has_continued(
    series: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    publish(series, "2")
    new = tmp_path / "new.parquet"
    rows = {"lhs": ["u1", "u2"], "relation": ["fav"] * 2, "rhs": ["t1", "t99"]}
    pq.write_table(pa.table(rows), new)
    sources = [*raw_of(f"{series}/versions/2"), {"path": str(new), "relation_column": "relation"}]
    config = small_config(
        prepare={"sources": sources, "previous": series},
        training={"warm_start": {"from": "previous"}, "num_epochs": 1},
        evaluation={"previous": series},
    )
    root = str(tmp_path / "next")
    manifest = prepare(config, root)
    assert manifest.previous is not None
    assert manifest.previous.root == f"{series}/versions/2"
    publish(series, "10")
    train(config, root)
    assert earlier(root)[START]["root"] == f"{series}/versions/2"
    metrics = evaluate(config, root)
    shutil.rmtree(f"{root}/evaluation")
    by_root = config.evaluation.model_copy(update={"previous": f"{series}/versions/10"})
    again = evaluate(config.model_copy(update={"evaluation": by_root}), root)
    assert metrics["baselines"]["previous"] == again["baselines"]["previous"]
    assert metrics["drift"] == again["drift"] != {}


KEYS: list[tuple[str, Callable[[str], dict[str, Any]]]] = [
    ("prepare.graph", lambda place: {"prepare": {"graph": place}}),
    ("prepare.previous", lambda place: {"prepare": {"previous": place}}),
    ("training.warm_start.from", lambda place: {"training": {"warm_start": {"from": place}}}),
    ("training.anchor.to", lambda place: {"training": {"anchor": {"to": place, "weight": 1}}}),
    ("evaluation.previous", lambda place: {"evaluation": {"previous": place}}),
]


@pytest.mark.parametrize(("key", "section"), KEYS, ids=[key for key, _ in KEYS])
def test_a_series_of_which_nothing_is_published_is_one_line(
    key: str, section: Callable[[str], dict[str, Any]], series: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    config, root = small_config(**section(series)), str(tmp_path / "own")
    with pytest.raises(UserError) as caught:
        run_stages(config, root)
    message = f"{key}: {series}: no version of this series is published; `twhin versions` says why"
    assert str(caught.value) == message


@pytest.mark.parametrize("stage", [prepare, train, evaluate, export])
@pytest.mark.parametrize("published", [True, False])
def test_nothing_works_in_a_series_itself(
    stage: Callable[[Config, str], object], published: bool, series: str, small_config: SmallConfig
) -> None:
    if published:
        publish(series, "1")
    before = sorted(Path(series).rglob("*"))
    with pytest.raises(UserError, match=r": is a series, not a run root; name a version, such as .*/versions/1$"):
        stage(small_config(), series)
    assert sorted(Path(series).rglob("*")) == before


def test_commands_with_a_saved_config_take_the_published_version(series: str) -> None:
    assert_refused(twhin("evaluate", "--run-root", series), "no version of this series is published")
    publish(series, "2")
    before = {path: path.read_bytes() for path in Path(series).rglob("*.json")}
    for command in ("evaluate", "export"):
        shown = [
            json.loads(twhin(command, "--run-root", root, "--json").stdout) for root in (series, f"{series}/versions/2")
        ]
        assert shown[0] == shown[1]
    assert {path: path.read_bytes() for path in Path(series).rglob("*.json")} == before
    changed = twhin("evaluate", "--run-root", series, "--set", "evaluation.hits_at=[5]")
    assert_refused(changed, f"is a series, whose published version stays as it is; to change it, name {series}")
