"""The DuckDB engine's tables, temporary folder and disk errors."""

from __future__ import annotations

from pathlib import Path

import ibis
import pytest

from tests.command_line import assert_refused, new_twhin
from tests.conftest import SmallConfig, write_raw
from tests.full_disk import small_files
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.graph.connect import connect
from twhin_core.stages.prepare import prepare


def test_a_table_can_be_kept_again_under_its_name(small_config: SmallConfig) -> None:
    settings = small_config().prepare
    assert settings is not None
    with connect(settings) as engine:
        table = engine.keep("numbers", ibis.memtable({"n": [1, 2, 3]}))
        for expected in ([2, 3], [3]):
            table = engine.keep("numbers", table.filter(table.n > table.n.min()))
            assert sorted(table.to_pyarrow()["n"].to_pylist()) == expected


def test_the_temp_directory_is_used_and_left_empty(small_config: SmallConfig, tmp_path: Path) -> None:
    folder = tmp_path / "scratch" / "deep"
    settings = small_config(prepare={"temp_directory": str(folder)}).prepare
    assert settings is not None
    with connect(settings) as engine:
        engine.keep("numbers", ibis.memtable({"n": [1, 2, 3]}))
        assert list(folder.glob("twhin-prepare-*/graph.duckdb"))
    assert not list(folder.iterdir())


def test_an_unusable_temp_directory(small_config: SmallConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for parent in (tmp_path / "file", tmp_path / "file/folder", Path("/proc/here")):
        with pytest.raises(UserError, match=f"^prepare.temp_directory: {parent} cannot be written to: [^\n]+$"):
            prepare(small_config(prepare={"temp_directory": str(parent)}), str(tmp_path / "run"))


def test_a_tmpdir_that_does_not_exist(
    small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (tmp_path / "gone", tmp_path / "raw.parquet"):
        monkeypatch.setenv("TMPDIR", str(place))
        with pytest.raises(UserError, match=f"^TMPDIR: {place} cannot be written to: [^\n]+$"):
            prepare(small_config(), str(tmp_path / "run"))
    prepare(small_config(prepare={"temp_directory": str(tmp_path / "new")}), str(tmp_path / "run"))


@pytest.fixture(scope="module")
def many_edges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "raw.parquet"
    write_raw(path, users=3000, tweets=3000, edges=600_000)
    return path


@pytest.mark.parametrize(
    ("kilobytes", "place"),
    [
        (16, "temp_directory"),
        (16, "TMPDIR"),
        (300, "temp_directory"),
        (1000, "TMPDIR"),
        (2000, "temp_directory"),
        (8000, "TMPDIR"),
    ],
)
def test_a_full_disk(kilobytes: int, place: str, many_edges: Path, small_config: SmallConfig, tmp_path: Path) -> None:
    """Limits files in a child process; the database exceeds that first, in whatever DuckDB is doing then."""
    (tmp_path / "raw.parquet").symlink_to(many_edges)
    (tmp_path / "scratch").mkdir()
    folder = {place: str(tmp_path / "scratch")}
    config = tmp_path / "config.yaml"
    config.write_text(config_file.to_yaml(small_config(prepare=folder if place == "temp_directory" else {})))
    with small_files(kilobytes << 10):
        ran = new_twhin("prepare", config, "--run-root", tmp_path / "run", **(folder if place == "TMPDIR" else {}))
    assert_refused(ran, "prepare.temp_directory", str(tmp_path / "scratch"), "is full")
    assert not (tmp_path / "run/graph/manifest.json").exists()
    assert not list((tmp_path / "scratch").iterdir())
