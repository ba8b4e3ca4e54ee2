"""Sources of every format on an object store, a tenth of whose requests fail, give the same graph as local files."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig, write_raw
from tests.fault_proxy import FaultProxy
from tests.object_store import STORES, reach, serve_bucket
from twhin_core import storage
from twhin_core.errors import UserError
from twhin_core.graph.manifest import Manifest
from twhin_core.stages.prepare import prepare


@pytest.fixture(scope="module", params=STORES)
def server(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    with serve_bucket(faults=0.1, store=request.param) as proxy:
        yield proxy


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The 600 edges of small_config, a third each in Parquet, CSV and gzipped TSV."""
    folder = tmp_path / "sources"
    folder.mkdir()
    write_raw(tmp_path / "all.parquet")
    table = pq.read_table(tmp_path / "all.parquet")
    pq.write_table(table[:200], folder / "first.parquet")
    rows = [list(row.values()) for row in table.to_pylist()]
    with (folder / "second.csv").open("w", newline="") as text:
        csv.writer(text).writerows([table.column_names, *rows[200:400]])
    with gzip.open(folder / "third.tsv.gz", "wt") as text:
        text.write("".join("\t".join(row) + "\n" for row in [table.column_names, *rows[400:]]))
    return folder


def test_every_format_is_read(
    sources: Path, small_config: SmallConfig, server: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = reach(server, monkeypatch)
    for path in sources.iterdir():
        with storage.open_write(f"{bucket}/sources/{path.name}") as file:
            file.write(path.read_bytes())

    def made(folder: str, root: str) -> Manifest:
        listed = [{"path": f"{folder}/*", "relation_column": "relation"}]
        return without_names(prepare(small_config(prepare={"sources": listed}), root))

    def without_names(manifest: Manifest) -> Manifest:
        return manifest.model_copy(update={"raw_files": []})

    before = server.faults.total()
    remote, local = f"{bucket}/run", str(tmp_path / "run")
    manifest = made(f"{bucket}/sources", remote)
    assert server.faults.total() - before > 3
    assert manifest == made(str(sources), local)
    assert manifest == without_names(prepare(small_config(), str(tmp_path / "one-file")))
    with pytest.raises(UserError, match=rf"{bucket}/other/\*: no file matches"):
        made(f"{bucket}/other", f"{bucket}/another-run")
    with pytest.raises(UserError, match=rf"{server.store}://nowhere/\*: there is no bucket nowhere"):
        made(f"{server.store}://nowhere", f"{bucket}/another-run")


def test_a_graph_on_an_object_store_is_continued(
    sources: Path, small_config: SmallConfig, server: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edges of two of the three files, and then of the third, whose edges are distinct."""
    bucket = reach(server, monkeypatch)
    for days, root in (("second.csv", "day-1"), ("third.tsv.gz", "day-2")):
        for name in ("first.parquet", days):
            with storage.open_write(f"{bucket}/{root}/{name}") as file:
                file.write((sources / name).read_bytes())
    asked = [{"path": f"{bucket}/day-1/*", "relation_column": "relation"}]
    before = prepare(small_config(prepare={"sources": asked}), f"{bucket}/run-1")
    asked.append({"path": f"{bucket}/day-2/third.tsv.gz", "relation_column": "relation"})
    config = small_config(prepare={"sources": asked, "previous": f"{bucket}/run-1"})
    manifest = prepare(config, f"{bucket}/run-2")
    assert sum(split.edges for split in manifest.splits.values()) == 600
    assert [entry.path for entry in manifest.raw_files] == [f"{bucket}/day-2/third.tsv.gz"]
    for name, split in manifest.splits.items():
        assert {entry.sha256 for entry in before.splits[name].files} < {entry.sha256 for entry in split.files}
        for entry in split.files:
            entry.check(f"{bucket}/run-2")
