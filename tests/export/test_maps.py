"""`export.map`: matrices that lead to the space of an earlier version's export, and on to those of older ones."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.evaluation.test_previous import smaller
from tests.export.exporting import ROWS, changed, check_refused
from tests.export.test_alignment import (
    before,
    not_exported,
    only_npy,
    other_dim,
    other_ids,
    other_tables,
    planted,
    polar,
)  # fmt: skip
from tests.vectors.test_linear_map import with_ridge
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.embeddings import Embeddings
from twhin_core.errors import Damaged, UserError
from twhin_core.export import shared_nodes
from twhin_core.export.manifest import MANIFEST, TableMap, VersionMap, read_export_manifest
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.stages.verify import verify

__all__ = ["before", "planted", "smaller"]  # fixtures

Floats = npt.NDArray[np.float64]
Trained = tuple[Config, str]


def exported(root: str, table: str) -> tuple[list[str], Floats]:
    """Ids and vectors in the order of the files."""
    rows = pq.read_table(Path(root, "embeddings", table))
    return rows["id"].to_pylist(), np.array(rows["embedding"].to_pylist())


def mapped(config: Config, to: str, kind: str = "linear", **values: object) -> Config:
    return changed(config, "export", map={"to": to, "kind": kind}, **values)


def map_of(root: str) -> VersionMap:
    manifest = read_export_manifest(root)
    assert manifest is not None
    assert manifest.map is not None
    return manifest.map


def matrix(root: str, table: str) -> Floats:
    """As anybody may read it."""
    path = json.loads(Path(root, MANIFEST).read_text())["map"]["tables"][table]["matrix"]["path"]
    found = np.load(Path(root, path))
    assert found.dtype == np.float32
    return found.astype(np.float64)


def nearest(vectors: Floats, of: Floats, own: int, k: int = 10) -> set[int]:
    """The rows of the `vectors` with the largest cosines, without one's own."""
    cosines = vectors @ of / np.linalg.norm(vectors, axis=1) / np.linalg.norm(of)
    return set([row for row in np.argsort(-cosines) if row != own][:k])


def check_by_brute_force(found: TableMap, matrix: Floats, kind: str, now: str, earlier: str, table: str) -> None:
    """Everything that a manifest says of a table, from the files of both exports."""
    here, there = (dict(zip(*exported(root, table), strict=True)) for root in (now, earlier))
    names, candidates = exported(earlier, table)
    shared = [name for name in names if name in here]
    x, y = np.stack([here[name] for name in shared]), np.stack([there[name] for name in shared])
    held = np.zeros(len(shared), bool)
    held[np.random.default_rng(0).choice(len(shared), len(shared) // 10, replace=False)] = True  # the documented tenth
    assert (found.nodes, found.held_out) == ((~held).sum(), held.sum())
    expected = with_ridge(x[~held], y[~held]) if kind == "linear" else polar(x[~held].T @ y[~held])
    assert matrix == pytest.approx(expected, abs=1e-5)
    image, y = x[held] @ matrix, y[held]
    assert found.relative_error == pytest.approx(np.sqrt(((image - y) ** 2).sum() / (y**2).sum()), abs=1e-5)
    cosines = (image * y).sum(1) / np.linalg.norm(image, axis=1) / np.linalg.norm(y, axis=1)
    assert found.cosine == pytest.approx(cosines.mean(), abs=1e-5)
    at = [names.index(name) for name, is_held in zip(shared, held, strict=True) if is_held]
    kept = [
        len(nearest(candidates, image[row], own) & nearest(candidates, y[row], own)) / 10 for row, own in enumerate(at)
    ]
    assert found.neighbors_kept == pytest.approx(np.mean(kept))


@pytest.mark.parametrize(("kind", "normalize"), [("linear", False), ("linear", True), ("orthogonal", False)])
def test_matrices_and_figures_are_those_of_shared_nodes_whatever_their_rows(
    kind: str, normalize: bool, trained: Trained, smaller: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    config, root = trained
    export(changed(smaller[0], "export", rows_per_file=7, normalize=normalize), smaller[1])
    with caplog.at_level(logging.INFO, "twhin"):
        export(mapped(config, smaller[1], kind, normalize=normalize), root)
    found = map_of(root)
    assert (found.root, found.kind, set(found.tables)) == (smaller[1], kind, set(ROWS))
    for table, of in found.tables.items():
        check_by_brute_force(of, matrix(root, table), kind, root, smaller[1], table)
        assert f"table {table}: mapped to {smaller[1]}: relative error {of.relative_error:.4f}" in caplog.text
        names, vectors = exported(root, table)
        table_there = Embeddings.load(root)[table].in_space_of(smaller[1])
        assert list(table_there) == names
        assert np.stack(table_there.to_pandas()["embedding"]) == pytest.approx(vectors @ matrix(root, table), abs=1e-5)


def test_a_planted_rotation_is_undone(trained: Trained, before: str, planted: Floats) -> None:
    config, root = trained
    export(mapped(config, before, "orthogonal"), root)
    for table, of in map_of(root).tables.items():
        assert matrix(root, table) == pytest.approx(planted, abs=0.05)
        assert of.relative_error < 0.1
        assert of.cosine > 0.99
        assert of.neighbors_kept > 0.7
    users, old = Embeddings.load(root)["user"].in_space_of(before), Embeddings.load(before)["user"]
    assert users["u3"] == pytest.approx(old["u3"], abs=0.2 * float(np.linalg.norm(old["u3"])))


def test_what_is_rotated_is_mapped_as_it_is_exported(trained: Trained, before: str, planted: Floats) -> None:
    config, root = trained
    export(mapped(config, before, "orthogonal", align=before), root)
    for table, of in map_of(root).tables.items():
        assert matrix(root, table) == pytest.approx(np.eye(8), abs=0.1)
        check_by_brute_force(of, matrix(root, table), "orthogonal", root, before, table)


def test_vectors_are_read_block_by_block(
    trained: Trained, before: str, planted: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = trained
    monkeypatch.setattr(shared_nodes, "VECTOR_BYTES_PER_GROUP", 7 * 4 * 8)
    export(mapped(config, before), root)
    for table, of in map_of(root).tables.items():
        check_by_brute_force(of, matrix(root, table), "linear", root, before, table)


@pytest.fixture(scope="module")
def series_once() -> list[str]:
    """What `series` copies from."""
    return []


@pytest.fixture
def series(series_once: list[str], trained: Trained, small_config: SmallConfig, tmp_path: Path) -> str:
    """Versions 1 to 3, each mapped to the one before. The second has four dimensions instead of eight."""
    if not series_once:
        config, root = trained
        optimizer = {"rowwise_adagrad": {"lr": 0.1}}
        tables = [{"name": table, "embedding_dim": 4, "optimizer": optimizer} for table in ROWS]
        narrow = small_config(model={"embeddings": {"tables": tables}}, training={"num_epochs": 1})
        configs = {"1": config, "2": narrow, "3": changed(config, "training", seed=5, num_epochs=1)}
        series_once.append(str(tmp_path / "series-once"))
        for version, of in configs.items():
            at, earlier = (f"{series_once[0]}/versions/{number}" for number in (version, int(version) - 1))
            shutil.copytree(root, at, ignore=shutil.ignore_patterns("checkpoints", "training", "config.yaml"))
            train(of, at)
            export(of if version == "1" else mapped(of, earlier), at)
    return str(shutil.copytree(series_once[0], tmp_path / "series"))


def test_maps_of_several_versions_are_multiplied(series: str, tmp_path: Path) -> None:
    one, two, three = (f"{series}/versions/{version}" for version in "123")
    moved = str(shutil.copytree(series, tmp_path / "moved"))
    embeddings = Embeddings.load(three)
    for table in ROWS:
        to_two, to_one = matrix(three, table), matrix(two, table)
        assert (to_two.shape, to_one.shape) == ((8, 4), (4, 8))
        names, vectors = exported(three, table)
        for place, expected in (
            (three, vectors), ("3", vectors), (two, vectors @ to_two), ("2", vectors @ to_two),
            (one, vectors @ to_two @ to_one), ("1", vectors @ to_two @ to_one),
        ):  # fmt: skip
            there = embeddings[table].in_space_of(place)
            assert (there.dim, len(there)) == (expected.shape[1], ROWS[table])
            assert np.stack(there.to_pandas()["embedding"]) == pytest.approx(expected, abs=1e-5)
            assert there[names[4]] == pytest.approx(expected[4], abs=1e-5)
    expected = embeddings["user"].in_space_of(one)["u3"]
    shutil.rmtree(one)  # its space stays known
    assert embeddings["user"].in_space_of(one)["u3"].tobytes() == expected.tobytes()
    shutil.rmtree(two)
    with pytest.raises(UserError, match=rf"no maps lead to the vectors of {one}, only to those of {two}$"):
        embeddings["user"].in_space_of(one)
    elsewhere = Embeddings.load(f"{moved}/versions/3")["user"]
    assert elsewhere.in_space_of("1")["u3"].tobytes() == expected.tobytes()
    assert elsewhere.in_space_of(f"{moved}/versions/1")["u3"].tobytes() == expected.tobytes()


def again(config: Config, root: str, **values: object) -> None:
    export(changed(config, "export", **values), root)


def without_tweets(config: Config, series: str) -> None:
    url = f"{series}/versions/3/{MANIFEST}"
    manifest = storage.read_json(url)
    del manifest["map"]["tables"]["tweet"]
    storage.write_json(url, manifest)


READING: dict[str, tuple[Callable[[Config, str], None], str, str]] = {
    "a version that is not there": (lambda *_: None, "9", r"no maps lead to .*/9, only to those of .*/2, .*/1$"),
    "a later version": (lambda *_: None, "4", r"no maps lead to the vectors of .*versions/4"),
    "a version without maps": (
        lambda config, series: again(config, f"{series}/versions/3"), "2", r"no maps lead to .*/2; export it with",
    ),
    "one on the way without": (
        lambda _, series: shutil.rmtree(f"{series}/versions/2/embeddings"), "1", r"only to those of .*versions/2$",
    ),
    "a table without": (without_tweets, "2", r"versions/3: has no map of table tweet, which shares too few nodes"),
    "one that was exported anew": (
        lambda config, series: again(config, f"{series}/versions/1", normalize=True), "1",
        r"versions/1: was exported anew after others were mapped to its vectors; export those again too",
    ),
    "not exported": (
        lambda _, series: shutil.rmtree(f"{series}/versions/3/embeddings"), "2", r"has no embeddings to map",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READING)
def test_where_no_maps_lead_is_said_in_one_line(name: str, series: str, trained: Trained) -> None:
    spoil, version, message = READING[name]
    root = f"{series}/versions/3"
    config = changed(trained[0], "training", seed=5, num_epochs=1)
    spoil(trained[0] if "anew" in name else config, series)
    embeddings = Embeddings.load(root)
    with pytest.raises(UserError, match=message) as error:
        _ = embeddings["tweet" if "tweet" in embeddings else "user"].in_space_of(version)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_maps_in_a_circle_end(trained: Trained, before: str) -> None:
    config, root = trained
    export(mapped(config, before), root)
    export(mapped(config, root), before)
    with pytest.raises(UserError, match="no maps lead to the vectors of nowhere, only to those of"):
        Embeddings.load(root)["user"].in_space_of("nowhere")


def test_a_damaged_matrix_is_found(trained: Trained, before: str) -> None:
    config, root = trained
    export(mapped(config, before), root)
    path = map_of(root).tables["user"].matrix.path
    content = bytearray(Path(root, path).read_bytes())
    content[-1] ^= 1
    Path(root, path).write_bytes(content)
    with pytest.raises(Damaged, match="does not match its checksum"):
        Embeddings.load(root)["user"].in_space_of(before)
    assert {part.name for part in verify(root) if part.faults} == {path}


def test_once_fitted_they_need_the_earlier_version_no_more(trained: Trained, before: str) -> None:
    config, root = trained
    export(mapped(config, before), root)
    first = map_of(root)
    files = [Path(root, of.matrix.path) for of in first.tables.values()]
    times = [file.stat().st_mtime_ns for file in files]
    shutil.rmtree(before)
    export(mapped(config, before, formats=["parquet", "npy"]), root)
    assert map_of(root) == first
    assert [file.stat().st_mtime_ns for file in files] == times
    for other in ({"kind": "orthogonal"}, {"normalize": True}):
        with pytest.raises(UserError, match=r"export\.map\.to: .*before has no embeddings"):
            export(mapped(config, before, **other), root)  # type: ignore[arg-type]
    export(config, root)
    assert not list(Path(root, "embeddings").glob("map-*"))


def test_nodes_of_one_table_alone_are_enough(trained: Trained, before: str) -> None:
    config, root = trained
    export(changed(config, "export", tables=["tweet"]), before)
    export(mapped(config, before), root)
    assert set(map_of(root).tables) == {"tweet"}


def other_comparator(config: Config, root: str, folder: Path) -> None:
    url = storage.join(root, MANIFEST)
    storage.write_json(url, storage.read_json(url) | {"comparator": "cos"})


def normalized(config: Config, root: str, folder: Path) -> None:
    export(changed(config, "export", normalize=True), root)


MISTAKES: dict[str, tuple[Callable[[Config, str, Path], None], str]] = {
    "not exported": (not_exported, r"export\.map\.to: .*before has no embeddings; run `twhin export` there first"),
    "not as parquet": (only_npy, r"export\.map\.to: .*before was exported as npy; add parquet"),
    "another dim": (
        other_dim,
        r"export\.map\.to: the vectors of .* have 16 dimensions, those of this run 8; set export\.map\.kind: linear",
    ),
    "another comparator": (
        other_comparator, r"export\.map\.to: the vectors of .*before are compared by cos, those of this run by dot",
    ),
    "normalized": (
        normalized,
        r"export\.map\.to: the vectors of .*before are normalized \(export\.normalize\), and those of this run are not",
    ),
    "no table": (other_tables, r"export\.map\.to: .*before has exported none of this run's tables \(user, tweet\)"),
    "no node": (other_ids, r"export\.map\.to: .*before has exported fewer than two of this run's nodes of each table"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_mapped_is_refused_and_the_export_stays(
    name: str, trained: Trained, before: str, tmp_path: Path
) -> None:
    config, root = trained
    export(config, root)
    spoil, message = MISTAKES[name]
    spoil(config, before, tmp_path)
    check_refused(mapped(config, before, "orthogonal"), root, message)
    if name != "no node":
        with pytest.raises(UserError, match=message):
            prepare(mapped(config, before, "orthogonal"), str(tmp_path / "fresh"))
        assert not Path(tmp_path, "fresh/graph/manifest.json").exists()


def test_a_run_is_not_mapped_to_itself(trained: Trained) -> None:
    config, root = trained
    export(config, root)
    with pytest.raises(UserError, match=r"export\.map\.to: .*run is this run; name an earlier version"):
        export(mapped(config, root), root)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"map": {"to": "previous"}}, r"export\.map\.to: previous needs prepare\.previous"),
        ({"map": {"to": "x"}, "formats": ["npy"]}, "map: maps vectors as Parquet files have them; add parquet"),
        ({"map": {"to": "x", "kind": "affine"}}, r"export\.map\.kind"),
        ({"map": {"kind": "linear"}}, r"export\.map\.to"),
        ({"map": "x"}, r"export\.map"),
    ],
)
def test_what_no_run_can_do_is_refused_by_the_config(
    section: dict[str, Any], message: str, small_config: SmallConfig
) -> None:
    with pytest.raises(UserError, match=message):
        small_config(export=section)


def test_the_report_shows_the_figures(trained: Trained, before: str) -> None:
    config, root = trained
    config = mapped(config, before)
    evaluate(config, root)
    export(config, root)
    page = Path(root, "evaluation/report.html").read_text()
    assert "A matrix for each table maps these vectors to the space of those that" in page
    assert f"{map_of(root).tables['user'].relative_error:.4f}" in page
