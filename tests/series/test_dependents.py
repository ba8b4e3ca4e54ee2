"""Versions that other runs need stay: whose graph they share, and what unfinished ones have begun from."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.series.conftest import raw_of
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.dependents import note_use, noted
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.series.publish import publish
from twhin_core.series.retention import keep_newest
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.earlier import ANCHOR, START


@pytest.fixture
def ten(series: str) -> str:
    """Versions 1, 2 and 10, of which 10 is published, so that the others may go."""
    publish(series, "10")
    return series


def sharing(place: str, version: str) -> dict[str, Any]:
    """A section `prepare` that uses the graph at `place`, which is that of `version`."""
    return {"graph": place, "sources": raw_of(version)}


def run_stages(config: Config, root: str) -> None:
    for stage in (prepare, train, evaluate):
        stage(config, root)


def kept(series: str, caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """Removes what may go. Returns why others were kept, by version."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        keep_newest(series, 1)
    said = [message.removeprefix("versions: kept version ") for message in caplog.messages if "kept" in message]
    return dict(message.split(": ", 1) for message in said)


def test_a_graph_that_another_run_uses_stays_until_that_run_is_gone(
    ten: str, small_config: SmallConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = str(tmp_path / "tuned")
    version = f"{ten}/versions/1"
    prepare(small_config(prepare=sharing(version, version)), root)
    second = str(tmp_path / "tuned-too")
    prepare(small_config(prepare=sharing(root, version)), second)  # the graph is that of version 1
    assert kept(ten, caplog)["1"].endswith(" uses its graph")
    assert not Path(ten, "versions/2/graph").exists()
    shutil.rmtree(root)
    assert kept(ten, caplog) == {"1": f"{second} uses its graph"}
    shutil.rmtree(second)
    assert kept(ten, caplog) == {}
    assert storage.exists(f"{ten}/versions/1/removed.json")


def test_a_version_goes_with_the_last_that_used_its_graph(ten: str, small_config: SmallConfig) -> None:
    version = f"{ten}/versions/1"
    prepare(small_config(prepare=sharing(version, version)), f"{ten}/versions/3")
    publish(ten, "2")  # older than 3, which stays as newer ones do
    assert keep_newest(ten, 1) == []
    assert len(Embeddings.load(f"{ten}/versions/1")["user"]) == 40
    publish(ten, "10")
    assert keep_newest(ten, 1) == ["1", "2", "3"]


SECTIONS: dict[str, dict[str, Any]] = {
    START: {"training": {"warm_start": {"from": ""}, "num_epochs": 1}},
    ANCHOR: {"training": {"anchor": {"to": "", "weight": 0.1}, "num_epochs": 1}},
    "evaluation.previous": {"evaluation": {"previous": ""}, "training": {"num_epochs": 1}},
    "export.align": {"export": {"align": ""}, "training": {"num_epochs": 1}},
    "export.map.to": {"export": {"map": {"to": ""}}, "training": {"num_epochs": 1}},
}


def named(value: Any, root: str) -> Any:
    """`value` with the place of the earlier run filled in."""
    if isinstance(value, dict):
        return {key: named(of, root) for key, of in value.items()}
    return root if value == "" else value


@pytest.mark.parametrize(
    ("key", "kills", "use"),
    [
        (START, "before its first checkpoint", "has not finished training with it"),
        (START, "after its first checkpoint", None),
        (START, "after training", None),
        (ANCHOR, "before its first checkpoint", "has not finished training with it"),
        (ANCHOR, "after its first checkpoint", "has not finished training with it"),
        (ANCHOR, "after training", None),
        ("evaluation.previous", "before evaluating", "has not been compared with it"),
        ("evaluation.previous", "after evaluating", None),
        ("export.align", "before exporting after training", "has not been exported with it"),
        ("export.align", "after exporting after training", None),
        ("export.map.to", "before exporting after training", "has not been exported with it"),
        ("export.map.to", "after exporting after training", None),
    ],
)
def test_an_unfinished_run_keeps_what_it_needs_to_go_on(
    key: str, kills: str, use: str | None, ten: str, small_config: SmallConfig, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    config, root = small_config(**named(SECTIONS[key], f"{ten}/versions/1")), str(tmp_path / "own")
    run_stages(config, root)
    if "training" not in kills and "evaluating" not in kills:
        storage.remove(f"{root}/training/finished.json")
    if kills == "before its first checkpoint":
        shutil.rmtree(f"{root}/checkpoints")
    if kills == "before evaluating":
        storage.remove(f"{root}/evaluation/metrics.json")
    if kills.startswith("after exporting"):
        export(config, root)
    stays = {} if use is None else {"1": f"{root} {use}"}
    assert kept(ten, caplog) == stays
    assert storage.exists(f"{ten}/versions/1/removed.json") == (use is None)
    train(config, root)  # goes on, whatever was removed
    evaluate(config, root)
    export(config, root)
    assert kept(ten, caplog) == {}


def test_a_continued_graph_is_whole_without_the_one_before(
    ten: str, small_config: SmallConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = tmp_path / "new.parquet"
    pq.write_table(pa.table({"lhs": ["u1"], "relation": ["fav"], "rhs": ["t99"]}), new)
    sources = [*raw_of(f"{ten}/versions/1"), {"path": str(new), "relation_column": "relation"}]
    config = small_config(
        prepare={"sources": sources, "previous": f"{ten}/versions/1"},
        training={"num_epochs": 1},
    )
    root = str(tmp_path / "next")
    prepare(config, root)
    assert kept(ten, caplog) == {}
    run_stages(config, root)
    assert not [path for path in Path(ten, "versions/1").rglob("*") if path.name != "removed.json" and path.is_file()]


def test_what_a_run_needs_that_cannot_be_read_counts(
    ten: str, small_config: SmallConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, version = tmp_path / "own", f"{ten}/versions/1"
    prepare(small_config(prepare=sharing(version, version)), str(root))
    (root / "config.yaml").write_text("# a\n# crc32c 00000000\n")
    assert f"{root} may need it: {root}/config.yaml: " in kept(ten, caplog)["1"]


STAGES: list[tuple[Callable[..., Any], str]] = [
    (lambda place: {"prepare": {"graph": place}}, "prepare.graph"),
    (lambda place: {"prepare": {"previous": place}}, "prepare.previous"),
    (lambda place: {"training": {"warm_start": {"from": place}}}, START),
    (lambda place: {"training": {"anchor": {"to": place, "weight": 1}}}, ANCHOR),
    (lambda place: {"evaluation": {"previous": place}}, "evaluation.previous"),
]


@pytest.mark.parametrize(("section", "key"), STAGES, ids=[key for _, key in STAGES])
def test_a_removed_version_is_refused_in_one_line(
    section: Callable[[str], dict[str, Any]], key: str, ten: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    keep_newest(ten, 1)
    config = small_config(**section(f"{ten}/versions/1"))
    with pytest.raises(UserError, match=rf"^{key}: .*/versions/1: this version was removed on "):
        run_stages(config, str(tmp_path / "own"))


def test_a_use_that_begins_during_the_removal_is_refused(ten: str) -> None:
    root = f"{ten}/versions/1"
    storage.write_json(f"{root}/removed.json", {"when": "now", "version": {}})  # as of one just beginning
    with pytest.raises(UserError, match="this version was removed"):
        note_use(root, "elsewhere")
    assert noted(root) == []
