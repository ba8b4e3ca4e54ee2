"""`twhin clean` and the retention of checkpoints: what goes was of no use, so everything works as before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.command_line import ROOT, assert_refused, twhin
from tests.conftest import SmallConfig
from tests.export.exporting import changed
from tests.graph import test_features as features
from tests.object_store import reach, serve_bucket
from tests.stages.test_status import copied, everything
from tests.test_lease import start_holder
from twhin_core import lease, storage
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.export.manifest import read_export_manifest
from twhin_core.run import open_run
from twhin_core.series.reading import Reading
from twhin_core.stages.clean import Leftover, clean
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.follow import follow
from twhin_core.stages.prepare import prepare
from twhin_core.stages.recommend import recommend
from twhin_core.stages.train import train
from twhin_core.stages.verify import verify

Trained = tuple[Config, str]
LONG_AGO = time.time() - lease.EXPIRY - 60


def steps(root: str) -> list[int]:
    return [entry.step for entry in checkpoint.complete(root)]


def going(place: str) -> list[str]:
    """The paths that may go."""
    return sorted(of.path for of in clean(place, removes=False) if of.kept is None)


def kept(place: str) -> dict[str, str]:
    """What keeps the paths that stay, but for the newest checkpoint."""
    found = {of.path: of.kept for of in clean(place, removes=False) if of.kept is not None}
    return {path: use for path, use in found.items() if use != "it is the newest"}


def write_aside(root: str, path: str, when: float = LONG_AGO) -> str:
    """A file as a killed process leaves it."""
    folder, _, name = path.rpartition("/")
    name = f"{folder}/.{name}.0123abcd.tmp".lstrip("/")
    Path(root, name).parent.mkdir(parents=True, exist_ok=True)
    Path(root, name).write_bytes(b"half")
    os.utime(Path(root, name), (when, when))
    return name


class World:
    """A run that has trained to step 10, then to step 16, and what other calls and other runs have made of it.

    Which of them there are is drawn. `root` is the run to clean.
    """

    CHOICES = ("exported at 10", "anchored at 10", "starts from 10", "initial from 5", "followed until 10", "cut off")

    def __init__(self, small_config: SmallConfig, folder: Path, has: set[str]) -> None:
        self.folder, self.root, self.has = folder, str(folder / "run"), has
        self.config, self.others = small_config(), dict[str, Config]()
        halfway = changed(self.config, "training", num_train_steps=10)
        prepare(self.config, self.root)
        train(halfway, self.root)
        if "exported at 10" in has:
            export(halfway, self.root)
        if "anchored at 10" in has:
            self._add("anchored", small_config(training={"anchor": {"to": self.root, "weight": 0.1}}), begun=True)
        if "starts from 10" in has:
            self._add("started", small_config(training={"warm_start": {"from": self.root}}), begun=False)
        if "initial from 5" in has:
            self._add("initial", small_config(training={"initial_checkpoint_dir": self.root + "/checkpoints/5"}), False)
        if "followed until 10" in has:
            follow(halfway, self.root)
        train(self.config, self.root)
        if "cut off" in has:
            shutil.copytree(f"{self.root}/checkpoints/5", f"{self.root}/checkpoints/7")
            storage.remove(f"{self.root}/checkpoints/7/complete.json")
            write_aside(self.root, "evaluation/metrics.json")

    def _add(self, name: str, config: Config, begun: bool) -> None:
        root = str(self.folder / name)
        prepare(config, root)
        train(changed(config, "training", num_train_steps=6), root)
        storage.remove(f"{root}/training/finished.json")
        if not begun:
            shutil.rmtree(f"{root}/checkpoints")
        self.others[root] = config

    def results(self) -> dict[str, Any]:
        """What every command comes to, one after another."""
        found: dict[str, Any] = {"verify": [part.faults for part in verify(self.root) if part.faults]}
        lists = changed(self.config, "recommend", fav={"k": 3})
        embeddings = Embeddings.load(self.root)
        found["embeddings"] = [embeddings[table][name].tobytes() for table, name in (("user", "u1"), ("tweet", "t1"))]
        found["score"] = embeddings.score("fav", "u1", "t1")
        found["recommend"] = {name: of.made_from for name, of in recommend(lists, self.root).items()}
        found["evaluate"] = evaluate(self.config, self.root)["test"]
        follow(self.config, self.root)
        measured = sorted(int(path.parent.name) for path in Path(self.root).glob("evaluation/*/metrics.json"))
        found["follow"] = measured if "followed until 10" in self.has else measured[-1]
        exported = export(self.config, self.root)
        found["export"] = exported.checkpoint, [of.model_dump() for of in exported.files]
        for root, config in {**self.others, self.root: self.config}.items():
            train(changed(config, "training", num_epochs=3), root)
            newest = checkpoint.newest(root)
            assert newest is not None
            found[f"train {root}"] = newest.digest
        return found


# Every one alone, all at once, none, and some drawn.
SETS: list[set[str]] = [{choice} for choice in World.CHOICES] + [set(World.CHOICES), set()]
DRAWN = [{choice for choice in World.CHOICES if Random(f"{seed} {choice}").random() < 0.5} for seed in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("has", SETS + DRAWN, ids=lambda has: ", ".join(sorted(has)) or "nothing")
def test_after_clean_every_command_works_as_before(has: set[str], small_config: SmallConfig, tmp_path: Path) -> None:
    world = World(small_config, tmp_path / "world", has)
    shutil.copytree(world.folder, tmp_path / "copy", copy_function=shutil.copy2)
    before = world.results()
    shutil.rmtree(world.folder)
    shutil.copytree(tmp_path / "copy", world.folder, copy_function=shutil.copy2)
    announced = going(world.root)
    gone = clean(world.root, removes=True)
    assert sorted(of.path for of in gone if of.is_removed) == announced
    assert going(world.root) == []
    assert "checkpoints/15" in announced or "followed until 10" in has
    assert world.results() == before


def test_what_keeps_a_checkpoint_is_said(small_config: SmallConfig, tmp_path: Path) -> None:
    world = World(small_config, tmp_path, set(World.CHOICES) - {"followed until 10"})
    exported_and_pinned = kept(world.root)
    assert exported_and_pinned.keys() == {"checkpoints/5", "checkpoints/10"}
    assert exported_and_pinned["checkpoints/5"] == f"{tmp_path}/initial starts from it"
    assert exported_and_pinned["checkpoints/10"] == "it was exported"
    storage.remove(f"{world.root}/embeddings/manifest.json")
    assert kept(world.root)["checkpoints/10"].endswith(("started starts from it", "anchored is anchored to it"))
    shutil.rmtree(tmp_path / "anchored")
    assert kept(world.root)["checkpoints/10"] == f"{tmp_path}/started starts from it"
    for root, config in world.others.items():
        if Path(root).exists():
            train(config, root)  # has a checkpoint of its own now
    assert kept(world.root) == {}
    assert going(world.root) == [
        *("checkpoints/10", "checkpoints/15", "checkpoints/5", "checkpoints/7"),
        "evaluation/.metrics.json.0123abcd.tmp",
    ]


def write(path: str) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text("{")


def noted_by_a_damaged_run(root: str) -> None:
    by = f"{root}-by"
    write(f"{by}/config.yaml")
    storage.write_json(f"{root}/.dependents/x", {"root": by})


KEPT: dict[str, tuple[Callable[[str], object], str]] = {
    "unfinished": (lambda root: storage.remove(f"{root}/training/finished.json"), "training has not finished"),
    "read": (lambda root: storage.write_json(f"{root}/.readers/x", {"until": time.time() + 60}), "is being read"),
    "partly followed": (
        lambda root: storage.write_json(f"{root}/evaluation/16/metrics.json", {}),
        "evaluate --follow has not measured it",
    ),
    "damaged": (lambda root: write(f"{root}/embeddings/manifest.json"), "it may be needed"),
    "a note of a damaged run": (noted_by_a_damaged_run, "may need it"),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_old_checkpoints_stay_while_something_may_need_them(case: str, trained: Trained) -> None:
    _, root = trained
    assert going(root) == ["checkpoints/10", "checkpoints/15", "checkpoints/5"]
    make, use = KEPT[case]
    make(root)
    assert going(root) == []
    assert all(use in of for of in kept(root).values())
    clean(root, removes=True)
    assert steps(root) == [5, 10, 15, 16]


def test_the_last_checkpoint_is_not_taken_for_one_that_was_never_complete(trained: Trained) -> None:
    """Its marker was lost: commands say so, and must go on to say so."""
    _, root = trained
    storage.remove(f"{root}/checkpoints/16/complete.json")
    with pytest.raises(UserError, match="is missing, although"):
        checkpoint.last(root)
    clean(root, removes=True)
    with pytest.raises(UserError, match="is missing, although"):
        checkpoint.last(root)


def test_a_file_that_a_killed_process_was_writing_goes_once_it_is_old(trained: Trained) -> None:
    _, root = trained
    code = (
        "import os, signal, sys\nfrom twhin_core import storage\n"
        "with storage.open_write(sys.argv[1]) as file:\n"
        "    file.write(b'x' * 5000)\n    file.flush()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, f"{root}/embeddings/user/part-00000.parquet"], cwd=ROOT)
    assert ran.returncode == -signal.SIGKILL
    (left,) = Path(root, "embeddings/user").iterdir()
    name = str(left.relative_to(root))
    assert name not in going(root), "it may be being written now"
    os.utime(left, (LONG_AGO, LONG_AGO))
    assert name in going(root)
    assert next(of for of in clean(root, removes=True) if of.path == name) == Leftover(
        root, name, 1, 5000, "a process was killed while it wrote it", None, is_removed=True
    )
    assert not left.exists()


@pytest.mark.parametrize(
    "name",
    [
        "notes.tmp",
        ".notes.tmp",
        "a.0123abcd.tmp",
        ".a.0123abc.tmp",
        ".a.0123ABCD.tmp",
        ".a.0123abcd.tmp.txt",
        ".0123abcd",
    ],
)
def test_a_file_of_another_name_is_not_ours(name: str, trained: Trained) -> None:
    _, root = trained
    path = Path(root, name)
    path.write_bytes(b"mine")
    os.utime(path, (LONG_AGO, LONG_AGO))
    clean(root, removes=True)
    assert path.read_bytes() == b"mine"


def test_while_a_stage_is_at_work_nothing_goes(trained: Trained) -> None:
    _, root = trained
    aside = write_aside(root, "graph/manifest.json")
    process = start_holder(root)
    try:
        assert going(root) == []
        clean(root, removes=True)
        assert kept(root)[aside].startswith("train is at work: process")
        assert Path(root, aside).exists()
        assert steps(root) == [5, 10, 15, 16]
    finally:
        process.kill()
        process.join()
    clean(root, removes=True)
    assert not Path(root, aside).exists()
    assert steps(root) == [16]


def test_a_graph_that_was_not_finished_goes_and_one_that_was_stays(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = small_config(), str(tmp_path / "run")
    prepare(config, root)
    assert clean(root, removes=False) == []
    storage.remove(f"{root}/graph/manifest.json")
    files = [path for path in Path(root, "graph").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    (found,) = clean(root, removes=True)
    assert (found.path, found.files, found.bytes) == ("graph", len(files), size)
    assert not Path(root, "graph").exists()
    assert prepare(config, root) is not None
    train(config, root)
    storage.remove(f"{root}/graph/manifest.json")  # lost, not unfinished
    assert "graph/manifest.json may have been lost" in kept(root)["graph"]


def test_a_run_that_shares_a_graph_needs_none_of_its_own(small_config: SmallConfig, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    prepare(small_config(), first)
    prepare(small_config(), second)
    storage.remove(f"{second}/graph/manifest.json")  # as if it had been cut off
    sources = small_config().model_dump(mode="json", exclude_unset=True)["prepare"]["sources"]
    config = small_config(prepare={"graph": first, "sources": sources})
    shared = prepare(config, second)
    (found,) = clean(second, removes=True)
    assert (found.path, found.why) == ("graph", "the run uses another's graph")
    assert prepare(config, second) == shared
    assert clean(first, removes=True) == []
    train(config, second)


def test_the_content_of_a_graph_stays_with_it(small_config: SmallConfig, tmp_path: Path) -> None:
    """Of a run of its own, of one that shares its graph, and of the next day's, which adds to it."""
    content = [features.settings(tmp_path / "content-*.parquet")]
    sources = small_config().model_dump(mode="json", exclude_unset=True)["prepare"]["sources"]
    roots = [str(tmp_path / name) for name in ("first", "shares", "next")]
    for day, (root, of) in enumerate(zip(roots, ({}, {"graph": roots[0]}, {"previous": roots[0]}), strict=True)):
        if day != 1:  # the second run takes no files
            features.write(tmp_path / f"content-{day}.parquet", features.draw(day))
        prepare(small_config(prepare={"sources": sources, "features": content, **of}), root)
    before = {path for path in tmp_path.rglob("*.parquet") if "features" in path.parts}
    assert {path.relative_to(tmp_path).parts[0] for path in before} == {"first", "next"}
    for root in roots:
        assert clean(root, removes=True) == []
        assert [part.faults for part in verify(root) if part.faults] == []
    assert {path for path in tmp_path.rglob("*.parquet") if "features" in path.parts} == before


def test_a_finished_graph_keeps_what_else_is_there(trained: Trained) -> None:
    _, root = trained
    Path(root, "graph/own").mkdir()
    Path(root, "graph/own/edges.parquet").write_bytes(b"mine")
    clean(root, removes=True)
    assert Path(root, "graph/own/edges.parquet").exists()


def test_a_series_is_cleaned_version_by_version_and_keeps_whole_ones(trained: Trained, tmp_path: Path) -> None:
    _, root = trained
    series = tmp_path / "series"
    for version in ("1", "2", "3"):
        shutil.copytree(root, series / "versions" / version)
    storage.write_json(
        str(series / "versions/1/removed.json"), {"when": "then", "version": {"id": "1", "state": "removed"}}
    )
    reading = Reading(str(series / "versions/3"))
    found = clean(str(series), removes=False)
    assert {(of.root[len(str(series)) + 1 :], of.path) for of in found if of.kept is None} == {
        ("versions/1", ""), *(("versions/2", f"checkpoints/{step}") for step in (5, 10, 15)),
    }  # fmt: skip
    clean(str(series), removes=True)
    left = [path.name for path in (series / "versions/1").rglob("*") if path.is_file()]
    assert left == ["removed.json"]
    assert steps(str(series / "versions/2")) == [16]
    assert steps(str(series / "versions/3")) == [5, 10, 15, 16]
    reading.close()


def test_a_run_on_an_object_store_is_cleaned_too(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_bucket() as server:
        place = f"{reach(server, monkeypatch)}/run"
        copied(trained[1], place)
        before = everything(place)
        announced = clean(place, removes=False)
        assert everything(place) == before
        assert sorted(of.path for of in announced if of.kept is None) == [f"checkpoints/{step}" for step in (10, 15, 5)]
        sizes = {
            of.path: sum(len(content) for name, content in before.items() if f"/{of.path}/" in name) for of in announced
        }
        assert {of.path: of.bytes for of in announced} == sizes
        clean(place, removes=True)
        gone = before.keys() - everything(place).keys()
        assert {name.split("/")[3] for name in gone} == {"5", "10", "15"}
        assert steps(place) == [16]


def test_the_command_removes_with_yes_alone(trained: Trained, tmp_path: Path) -> None:
    _, root = trained
    for options, state in (((), "may go"), (("--yes",), "removed")):
        found = json.loads(twhin("clean", root, *options, "--json").stdout)["leftovers"]
        assert [of["state"] for of in found] == [state, state, state, "kept"]
        assert all(of["bytes"] > 0 for of in found)
    assert steps(root) == [16]
    assert_refused(twhin("clean", tmp_path / "nothing"), "nothing: there is no run here (config.yaml)")


@pytest.mark.parametrize(("count", "left"), [(None, [5, 10, 15, 16]), (1, [16]), (2, [15, 16]), (9, [5, 10, 15, 16])])
def test_training_keeps_as_many_checkpoints_as_the_config_says_once_it_has_succeeded(
    count: int | None, left: list[int], small_config: SmallConfig, tmp_path: Path
) -> None:
    config, root = small_config(training={"keep_checkpoints_after_success": count}), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    assert steps(root) == left


def test_retention_keeps_what_is_exported_until_the_next_export(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = small_config(training={"keep_checkpoints_after_success": 1}), str(tmp_path / "run")
    prepare(config, root)
    train(changed(config, "training", num_train_steps=10), root)
    export(config, root)
    train(config, root)
    assert steps(root) == [10, 16]
    manifest = read_export_manifest(root)
    assert manifest is not None
    assert manifest.checkpoint == 10
    export(config, root)
    assert steps(root) == [16]


def test_retention_waits_for_an_evaluation_that_follows(trained: Trained) -> None:
    config, root = trained
    config = changed(config, "training", keep_checkpoints_after_success=1, num_epochs=3)
    open_run(config, root)
    with lease.hold(root, "follow", grace=0):
        train(config, root)
    assert steps(root) == [5, 10, 15, 16, 20, 24]
    follow(config, root)
    assert sorted(int(path.parent.name) for path in Path(root).glob("evaluation/*/metrics.json")) == [
        5,
        10,
        15,
        16,
        20,
        24,
    ]
    assert steps(root) == [24]
