"""Vectors from outside that training could not use are refused in one line, before any work is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

FLOATS = pa.list_(pa.float64())
GOOD = [[1.0, 2.0]] * 3


def write(path: Path, vectors: Any, kind: pa.DataType | None = FLOATS, ids: Any = ("t1", "t2", "t3")) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": pa.array(ids), "v": pa.array(vectors, kind)}), path)


def one(*vectors: Any, kind: pa.DataType | None = FLOATS) -> Callable[[Path], object]:
    """Writes one file."""
    return lambda at: write(at / "v/1.parquet", vectors, kind)


def good(*ids: Any) -> Callable[[Path], object]:
    return lambda at: write(at / "v/1.parquet", GOOD[: len(ids)], ids=pa.array(ids))


def renamed(place: str, *names: str) -> Callable[[Path], object]:
    """A file whose columns have other names."""

    def do(at: Path) -> None:
        write(at / place, GOOD)
        pq.write_table(pq.read_table(at / place, partitioning=None).rename_columns(names), at / place)

    return do


def broken(at: Path) -> None:
    (at / "v").mkdir()
    (at / "v/1.parquet").write_text("id,v")


def in_two(folder: Path, **second: Any) -> None:
    write(folder / "v/1.parquet", GOOD)
    write(folder / "v/2.parquet", **{"vectors": GOOD, "ids": ["t4", "t5", "t6"], **second})


NAN, INF = float("nan"), float("inf")
AB = [1.0, 2.0]
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (Path.exists, r"v: no file matches"),
    "no rows": (lambda at: write(at / "v/1.parquet", [], ids=pa.array([], pa.string())), r"initial\.path: .* no rows"),
    "no Parquet": (broken, r"1\.parquet: not a complete Parquet file"),
    "no column of vectors": (
        renamed("v/1.parquet", "id", "w"),
        r"1\.parquet: has no column 'v' \(model\.embeddings\.tables\.1\.initial\.column\); its columns are id, w",
    ),
    "no column of ids": (
        renamed("v/1.parquet", "key", "v"), r"has no column 'id' \(model\.embeddings\.tables\.1\.initial\.id\)",
    ),
    "ids in the path": (
        renamed("v/id=t1/1.parquet", "key", "v"), r"column 'id' \(.*\.id\) is in its path, not in the file",
    ),
    "texts": (one("a", "b", "c", kind=None), r"'v' .* is string, not a list of floats"),
    "numbers": (one(1.0, 2.0, 3.0, kind=None), r"is double, not a list of floats"),
    "integers": (one([1], [2], [3], kind=None), r"is list<.*int64>, not a list of floats"),
    "ids of floats": (good(1.0, 2.0, 3.0), r"'id' .* is double, not a string"),
    "several widths": (one(AB, AB, [1.0]), r"1\.parquet: row 2: 'v' \(.*\) has a vector of 1 numbers, others of 2"),
    "several widths in two files": (
        lambda at: in_two(at, vectors=[[1.0, 2.0, 3.0]] * 3, kind=pa.list_(pa.float32(), 3)),
        r"2\.parquet: row 0: 'v' .* has a vector of 3 numbers, others of 2",
    ),
    "no vector": (one(AB, None, AB), r"row 1: .* 0 numbers, others of 2"),
    "no fixed vector": (one(AB, None, AB, kind=pa.list_(pa.float32(), 2)), r"row 1: .* 0 numbers, others of 2"),
    "no first vector": (one([], AB, AB), r"row 0 has no vector in 'v'"),
    "NaN": (one(AB, [1.0, NAN], AB), r"row 1: .* not finite in fp32"),
    "infinity": (lambda at: in_two(at, vectors=[AB, AB, [-INF, 0.0]]), r"2\.parquet: row 2: .* not finite"),
    "no number": (one([1.0, None], AB, AB), r"row 0: .* not finite"),
    "beyond fp32": (one([1.0, 1e39], AB, AB), r"row 0: .* not finite"),
    "zeros": (one(AB, [0.0, -0.0], AB), r"row 1: .* has only zeros"),
    "zeros in fp32": (one([1e-50, -1e-60], AB, AB), r"row 0: .* has only zeros"),
    "no id": (good("t1", None, "t3"), r"row 1 has no id in 'id'"),
    "an id twice": (good("t1", "t2", "t1"), r"initial\.path: .*v has 2 vectors of the id 't1'; keep one"),
    "an id in two files": (lambda at: in_two(at, ids=["t4", "t2", "x"]), r"2 vectors of the id 't2'"),
}  # fmt: skip


def with_vectors(small_config: SmallConfig, folder: Path, **sections: Any) -> Config:
    """`tweet`, the second table, starts at the vectors in a folder."""
    optimizer = {"spherical_adagrad": {"lr": 0.1}}
    tables: list[dict[str, Any]] = [
        {"name": name, "embedding_dim": 8, "optimizer": optimizer} for name in ("user", "tweet")
    ]
    tables[1]["initial"] = {"path": str(folder / "v"), "column": "v", **sections.pop("initial", {})}
    return small_config(model={"embeddings": {"tables": tables}}, **sections)


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_used_is_refused_before_any_work(what: str, small_config: SmallConfig, tmp_path: Path) -> None:
    write_bad, message = BAD[what]
    write_bad(tmp_path)
    config, root = with_vectors(small_config, tmp_path), tmp_path / "run"
    with pytest.raises(UserError, match=message) as error:
        prepare(config, str(root))
    assert "\n" not in str(error.value)
    assert not (root / "graph").exists()


def test_files_are_checked_by_training_too(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = with_vectors(small_config, tmp_path), tmp_path / "run"
    write(tmp_path / "v/1.parquet", GOOD)
    prepare(config, str(root))
    for name in ("an id twice", "NaN", "several widths", "texts"):
        write_bad, message = BAD[name]
        write_bad(tmp_path)
        with pytest.raises(UserError, match=message):
            train(config, str(root))
    write(tmp_path / "v/1.parquet", GOOD, ids=["T1", "T2", "T3"])
    message = r"tables\.1\.initial\.id: none of the 3 ids in 'id' of .* is one of the 30 nodes of tweet$"
    with pytest.raises(UserError, match=message):
        train(config, str(root))
    assert not (root / "checkpoints").exists()


def test_the_command_says_it_in_one_line(small_config: SmallConfig, tmp_path: Path) -> None:
    config, path = with_vectors(small_config, tmp_path), tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(exclude_none=True)))
    write(tmp_path / "v/1.parquet", [[1.0, NAN]] * 3)
    ran = twhin("run", path, "--run-root", tmp_path / "run")
    assert_refused(ran, "1.parquet: row 0: 'v' (model.embeddings.tables.1.initial.column)")


def test_a_table_with_content_is_refused(small_config: SmallConfig, tmp_path: Path) -> None:
    features = [{"table": "tweet", "path": "x.parquet", "categories": ["kind"]}]
    with pytest.raises(UserError, match=r"tables\.1\.initial: tweet has prepare\.features, which adds to its rows"):
        with_vectors(small_config, tmp_path, prepare={"features": features})


@pytest.mark.parametrize("keep", ["refuse", "keep"])
def test_changed_files_are_refused_as_those_of_prepare_are(
    keep: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    root, prepared = str(tmp_path / "run"), {"prepare": {"changed_files": keep}}
    write(tmp_path / "v/1.parquet", GOOD)
    config = with_vectors(small_config, tmp_path, initial={"frozen": True}, **prepared)
    prepare(config, root)
    train(config.model_copy(update={"training": config.training.model_copy(update={"num_epochs": 1})}), root)
    write(tmp_path / "v/1.parquet", [[2.0, 2.0]] * 3)
    if keep == "keep":
        train(config, root)
        return
    with pytest.raises(UserError, match=r"1\.parquet: changed since training read it: .* --set prepare\.changed_files"):
        train(config, root)
