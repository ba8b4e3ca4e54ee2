"""Labels of nodes: what prepare writes, and who shows them."""

from __future__ import annotations

import hashlib
import json
import random
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.command_line import twhin
from tests.conftest import SmallConfig
from tests.graph.reading import ids, rows
from twhin_core import parquet
from twhin_core.config import Config
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.export import projector
from twhin_core.graph.manifest import Manifest, TableEntry, read_schema
from twhin_core.graph.statistics import summarize
from twhin_core.report.neighbors import Node
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.vectors.labels import read_labels


def titles() -> dict[str, str]:
    """Of most tweets, t0 to t29, and of others that are in no edge."""
    return {f"t{at}": f"Title, {at} é" for at in range(45) if at % 4}


def labeled(small_config: SmallConfig, folder: Path, **sections: object) -> Config:
    given = [*titles().items(), ("t1", "Title, 0"), ("t2", ""), ("t0", "")]  # the lesser of two; a missing one
    random.Random(2).shuffle(given)
    (folder / "titles.csv").write_text("\n".join(["key,title", *(f'{key},"{title}"' for key, title in given)]))
    labels = {"table": "tweet", "path": str(folder / "titles.csv"), "id": "key", "label": "title"}
    return small_config(prepare={"labels": [labels]}, **sections)


def expected(root: Path) -> dict[str, str]:
    known = set(ids(root, "tweet"))
    return {key: title for key, title in {**titles(), "t1": "Title, 0"}.items() if key in known}


def test_they_are_written_in_the_order_of_the_vocabulary(small_config: SmallConfig, tmp_path: Path) -> None:
    root = tmp_path / "run"
    manifest = prepare(labeled(small_config, tmp_path), str(root))
    found = rows(root / "graph/labels/tweet")
    assert {row["id"]: row["label"] for row in found} == expected(root)
    names = ids(root, "tweet")
    assert [names[row["index"]] for row in found] == [row["id"] for row in found]
    assert [row["index"] for row in found] == sorted(row["index"] for row in found)
    assert read_labels(manifest, str(root), "tweet", names) == expected(root)
    assert read_labels(manifest, str(root), "tweet", ["t0", "t3", "nobody", "t3"]) == {"t3": "Title, 3 é"}
    assert read_labels(manifest, str(root), "user", ["u1"]) == {}
    assert str(tmp_path / "titles.csv") in {entry.path for entry in manifest.raw_files}


@pytest.mark.parametrize("runs", [[3000], [2500, 400], [100, 3000], [1500, 1, 700], [900] * 3, [1] * 5 + [2000]])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_each_is_found_among_those_of_days_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[int], share: float
) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 20)
    of_runs = [[f"day {day}, {number}" for number in range(size)] for day, size in enumerate(runs)]
    names = [name for of in of_runs for name in sorted(of, key=lambda name: hashlib.md5(name.encode()).digest())]
    index = [at for at in range(len(names)) if random.Random(at).random() < share]
    labels = pa.table({"index": index, "id": [names[at] for at in index], "label": [f"label of {at}" for at in index]})
    files = parquet.write_parts(labels.to_batches(), labels.schema, str(tmp_path), "graph/labels/user", 1000)
    degrees = summarize({})
    entry = TableEntry(name="user", num_embeddings=len(names), degrees=degrees, files=[], labels=files, added=runs)
    manifest = Manifest.model_construct(tables=[entry], previous=None)
    labeled = set(index)
    for at in random.Random(1).sample(range(len(names)), 100):
        expected = {names[at]: f"label of {at}"} if at in labeled else {}
        assert read_labels(manifest, str(tmp_path), "user", [names[at]]) == expected


def test_neighbors_and_the_report_show_them(small_config: SmallConfig, tmp_path: Path) -> None:
    from twhin_core.checkpoints.checkpoint import newest
    from twhin_core.report import neighbors
    from twhin_core.vectors.rows import SelectedRows

    config, root = labeled(small_config, tmp_path, training={"num_epochs": 1}), tmp_path / "run"
    prepare(config, str(root))
    train(config, str(root))
    answer = json.loads(twhin("neighbors", str(root), "user", "u3", "--relation", "fav", "--json").stdout)
    titled = expected(root)
    assert len(answer["neighbors"]) == 10
    assert all(row["label"] == titled.get(row["id"]) for row in answer["neighbors"])
    users = json.loads(twhin("neighbors", str(root), "user", "u3", "--json").stdout)
    assert all(set(row) == {"id", "score"} for row in users["neighbors"])
    assert Embeddings.load(root).labels("user", ["u1"]) is None

    schema, checkpoint = read_schema(config, str(root)), newest(str(root))
    assert checkpoint is not None
    tables = {name: SelectedRows(checkpoint.rows(name), size) for name, size in schema.tables.items()}
    near = neighbors.collect(config, str(root), schema, tables, checkpoint.scorer(config.model, schema.relations))
    shown = {name for table, nodes in near.tables for node in nodes for name in _names(table, node)}
    assert near.labels["tweet"] == {name: titled[name] for table, name in shown if table == "tweet" and name in titled}


def test_the_projector_has_them_beside_the_ids(small_config: SmallConfig, tmp_path: Path) -> None:
    formats = {"export": {"formats": ["tensorboard-projector"]}, "training": {"num_epochs": 1}}
    config, root = labeled(small_config, tmp_path, **formats), tmp_path / "run"
    for stage in (prepare, train, export):
        stage(config, str(root))
    folder = root / "embeddings/projector"
    titled = expected(root)
    lines = [f"{name}\t{titled.get(name, name)}" for name in ids(root, "tweet")]
    assert (folder / "tweet/metadata.tsv").read_text().splitlines() == ["id\tlabel", *lines]
    assert (folder / "user/metadata.tsv").read_text().splitlines() == ids(root, "user"), "one column has no header"
    assert len((folder / "tweet/vectors.tsv").read_text().splitlines()) == len(lines)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("plain", "plain"), ("a\tb", "a b"), ("a\nb", "a b"), ("a\r\nb", "a b"), ("  a  b ", "a b"), ("", "''"),
        ("\t", "'\\t'"), ("é 👩\u200d👧", "é 👩\u200d👧"), ("a\x0bb", "a b"), ("a\u2028b", "a b"),
    ],
)  # fmt: skip
def test_no_field_of_the_projector_breaks_a_line(text: str, field: str) -> None:
    assert projector._field(text) == field


def _names(table: str, node: Node) -> list[tuple[str, str]]:
    return [(table, node.name), *((near.table, name) for near in node.lists for name, _ in near.nodes)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": "tweets"}, "prepare.labels: no table named 'tweets'"),
        ({"path": "nothing.csv"}, "nothing.csv"),
    ],
)
def test_a_mistake_is_found_before_work(
    small_config: SmallConfig, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    (tmp_path / "titles.csv").write_text("id,title\nt1,x\n")
    given = {"table": "tweet", "path": str(tmp_path / "titles.csv"), "label": "title", **change}
    with pytest.raises(UserError) as found:
        prepare(small_config(prepare={"labels": [given]}), str(tmp_path / "run"))
    assert message in str(found.value)
    assert not (tmp_path / "run/graph").exists()


COLUMNS: dict[str, tuple[dict[str, list[Any]], dict[str, str], str]] = {
    # The columns of a file, the entry's own keys, and what is said after the name of the file.
    "no such label": ({"id": ["t1"], "title": ["x"]}, {"label": "name"}, "has no column 'name' (K.label); its columns"),
    "no such id": ({"id": ["t1"], "title": ["x"]}, {"label": "title", "id": "key"}, "has no column 'key' (K.id); its "),
    "the default label": ({"id": ["t1"], "title": ["x"]}, {}, "has no column 'label' (K.label); its columns are id, "),
    "the default id": ({"key": ["t1"], "label": ["x"]}, {}, "has no column 'id' (K.id); its columns are key, label"),
    "neither": ({"a": ["t1"], "b": ["x"]}, {}, "has no column 'id' (K.id); its columns are a, b"),
    "an id of numbers": (
        {"id": [1.5], "label": ["x"]},
        {},
        "column 'id' (K.id) is double, not a string, an integer",
    ),
    "an id of dates": ({"id": [date(2024, 1, 2)], "label": ["x"]}, {}, "column 'id' (K.id) is date32[day], not a "),
    "a label of numbers": ({"id": ["t1"], "label": [1.5]}, {}, "column 'label' (K.label) is double, not a string, an "),
    "a label of truth": ({"id": ["t1"], "label": [True]}, {}, "column 'label' (K.label) is bool, not a string, an int"),
    "labels of numbers": ({"id": ["t1"], "label": [[1.5]]}, {}, "column 'label' (K.label) is double, not a list of "),
}


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(("columns", "keys", "message"), COLUMNS.values(), ids=COLUMNS)
def test_a_wrong_column_is_named_by_its_key(
    small_config: SmallConfig, tmp_path: Path, columns: dict[str, list[Any]], keys: dict[str, str], message: str,
    position: int,
) -> None:  # fmt: skip
    path, good = str(tmp_path / "titles.parquet"), str(tmp_path / "good.csv")
    pq.write_table(pa.table(columns), path)
    Path(good).write_text("id,label\nu1,x\n")
    labels = [{"table": "user", "path": good}, {"table": "tweet", "path": path, **keys}][1 - position :]
    with pytest.raises(UserError) as found:
        prepare(small_config(prepare={"labels": labels}), str(tmp_path / "run"))
    assert str(found.value).startswith(f"{path}: {message.replace('K', f'prepare.labels.{position}')}")


@pytest.mark.parametrize(("header", "named"), [("key,label", "id"), ("id,title", "label"), ("", "id")])
def test_a_wrong_column_of_a_csv_is_named_by_its_key(
    small_config: SmallConfig, tmp_path: Path, header: str, named: str
) -> None:
    (tmp_path / "titles.csv").write_text(f"{header or 'a,b'}\nt1,x\n")
    labels = [{"table": "tweet", "path": str(tmp_path / "titles.csv")}]
    with pytest.raises(UserError, match=rf"titles\.csv: has no column '{named}' \(prepare\.labels\.0\.{named}\)"):
        prepare(small_config(prepare={"labels": labels}), str(tmp_path / "run"))
