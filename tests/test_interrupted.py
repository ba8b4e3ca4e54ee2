"""Prepare and export, killed at random moments or on a full disk: partial output never counts as complete."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from tests.export.exporting import changed
from tests.fault_proxy import FaultProxy
from tests.full_disk import small_files
from tests.object_store import STORES, reach, serve_bucket, settings
from tests.preloaded import CONTEXT
from tests.training.same_result import assert_same_result
from twhin_core import lease, storage
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.errors import StorageRefused, UserError
from twhin_core.export import manifest as export_manifest
from twhin_core.graph import build
from twhin_core.graph import manifest as graph_manifest
from twhin_core.graph.write import write_graph
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

STAGES: dict[str, tuple[Callable[[Config, str], object], str, str]] = {
    "train": (train, checkpoint.FOLDER, checkpoint.FINISHED),
    "prepare": (prepare, "graph", graph_manifest.MANIFEST),
    "export": (export, "embeddings", export_manifest.MANIFEST),
}

EVERY = ["parquet", "npy", "faiss", "pq", "vertex-vector-search", "tensorboard-projector"]
FORMATS = {"local": EVERY, **dict.fromkeys(STORES, EVERY[:4])}
EVERY_FORMAT: dict[str, Any] = {
    "faiss": {"kind": "flat", "tables": {"user": "hnsw"}},
    "pq": {"subspaces": 2, "bits": 4},
    "query_side": "fav",
    "rows_per_file": 20,
}


@pytest.fixture
def server(place: str) -> Iterator[FaultProxy]:
    with serve_bucket(store=place) as proxy:
        yield proxy


def work(stage: str, config: Config, root: str, where: dict[str, str]) -> None:
    os.environ.update(where)
    lease.EXPIRY = 10_000  # the killed process ran on this machine, so it is known to be dead
    STAGES[stage][0](config, root)


def start(stage: str, config: Config, root: str) -> multiprocessing.context.ForkServerProcess:
    """A process that runs the stage, once it holds the lease."""
    process = CONTEXT.Process(target=work, args=(stage, config, root, settings()), daemon=True)
    process.start()
    deadline = time.monotonic() + 60
    url = storage.join(root, lease.FOLDER, stage)
    while f'"pid": "{process.pid}"' not in storage.read_generation(url)[0] and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


def files_under(url: str) -> dict[str, str]:
    """The checksum of every file below `url`, including hidden ones."""
    fs, path = storage.filesystem(url)
    if not storage.exists(url):
        return {}
    return {name.removeprefix(path): hashlib.sha256(fs.cat_file(name)).hexdigest() for name in fs.find(path)}


def finish(stage: str, config: Config, root: str) -> float:
    """Seconds that the stage takes once it holds the lease."""
    process = start(stage, config, root)
    started = time.monotonic()
    process.join(120)
    assert process.exitcode == 0
    return time.monotonic() - started


@pytest.mark.parametrize("stage", ["prepare", "export"])
@pytest.mark.parametrize(
    ("place", "kills"),
    [
        ("local", 2), ("gs", 2),
        *(pytest.param(*of, marks=pytest.mark.slow) for of in (("s3", 2), ("abfs", 2), ("local", 6), ("gs", 6))),
    ],
)  # fmt: skip
def test_the_result_is_the_same_after_repeated_kills(
    kills: int,
    place: str,
    stage: str,
    trained: tuple[Config, str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    config, made = trained
    if stage == "export":
        config = changed(config, "export", **EVERY_FORMAT, formats=FORMATS[place])
    _, folder, manifest = STAGES[stage]
    if stage == "prepare":
        storage.remove(made)
    roots = [f"{tmp_path}/disturbed", f"{tmp_path}/undisturbed"]
    if place != "local":
        bucket = reach(request.getfixturevalue("server"), monkeypatch)
        roots = [f"{bucket}/{tmp_path.name}/{name}" for name in ("disturbed", "undisturbed")]
    for root in roots:
        copy(made, root)
    disturbed, undisturbed = roots
    seconds = finish(stage, config, undisturbed)
    expected = files_under(storage.join(undisturbed, folder))
    assert expected
    rng, cut_off, is_first = random.Random(kills), 0, True
    while cut_off < kills:
        process = start(stage, config, disturbed)
        time.sleep(rng.uniform(0, 0.9) * seconds)
        process.kill()
        process.join()
        if process.exitcode == 0 or storage.exists(storage.join(disturbed, manifest)):
            # It was faster than before, or had little left to do: what it says is whole is whole.
            assert files_under(storage.join(disturbed, folder)) == expected
            storage.remove(storage.join(disturbed, manifest))
            storage.remove(storage.join(disturbed, export_manifest.FINISHED))
            seconds /= 2 if is_first else 1
            is_first = True
        else:
            cut_off, is_first = cut_off + 1, False
    finish(stage, config, disturbed)
    assert files_under(storage.join(disturbed, folder)) == expected, "nothing is left over, lost or changed"


def copy(made: str, root: str) -> None:
    for file in Path(made).rglob("*"):
        if file.is_file():
            with storage.open_write(f"{root}/{file.relative_to(made)}") as there:
                there.write(file.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("place", STORES)
def test_training_killed_on_an_object_store_resumes_to_the_same_weights(
    small_config: SmallConfig, server: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = reach(server, monkeypatch)
    config = small_config(training={"num_epochs": 12, "checkpoint_every_n": 7, "checkpoint_max_to_keep": 2})
    disturbed, undisturbed = f"{bucket}/{tmp_path.name}/run", str(tmp_path / "run")
    for root in (disturbed, undisturbed):
        prepare(config, root)
    rng = random.Random(0)
    for step in (7, 21, 42):
        process = start("train", config, disturbed)
        while (newest := checkpoint.newest(disturbed)) is None or newest.step < step:
            assert process.is_alive(), "training ended before it could be killed"
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -9
    finish("train", config, disturbed)
    train(config, undisturbed)
    assert_same_result(disturbed, undisturbed)
    folder = storage.join(disturbed, checkpoint.FOLDER)
    whole = [str(entry.step) for entry in checkpoint.complete(disturbed)]
    assert storage.list_folders(folder) == sorted(whole), "nothing is left of what was half written"


def test_a_full_disk_leaves_no_graph(
    small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = small_config(), str(tmp_path / "run")

    def write_on_a_full_disk(*arguments: Any) -> Any:
        with small_files(1000):  # the engine's own files have room
            return write_graph(*arguments)

    with monkeypatch.context() as full:
        full.setattr(build, "write_graph", write_on_a_full_disk)
        with pytest.raises(StorageRefused, match=r"graph/.*part-00000.parquet: cannot be written: File too large"):
            prepare(config, root)
    assert not storage.exists(storage.join(root, graph_manifest.MANIFEST))
    assert [path.name for path in Path(root, "graph").rglob("*") if path.is_file()] == []
    with pytest.raises(UserError, match="there is no finished graph here"):
        graph_manifest.read_schema(config, root)
    assert prepare(config, root) == prepare(config, str(tmp_path / "other"))


def test_a_full_disk_leaves_no_embeddings(trained: tuple[Config, str]) -> None:
    config, root = trained
    whole = export(config, root)
    storage.remove(storage.join(root, export_manifest.FOLDER))
    with (
        small_files(1000),
        pytest.raises(StorageRefused, match=r"embeddings/user/part-00000.parquet: cannot be written"),
    ):
        export(config, root)
    assert export_manifest.read_export_manifest(root) is None
    assert [path.name for path in Path(root, "embeddings").rglob("*") if path.is_file()] == []
    assert export(config, root) == whole
