"""What a graph that continues another one takes, keeps and refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig, write_raw
from tests.graph import reading
from twhin_core import storage
from twhin_core.config import Config
from twhin_core.embeddings import Embeddings
from twhin_core.errors import GateFailed, UserError
from twhin_core.graph.compared import read_changes, stability_index
from twhin_core.graph.manifest import SPLITS
from twhin_core.run import saved_config
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.stages.verify import verify
from twhin_core.vectors.names import open_ids

SOURCE = {"relation_column": "relation"}


def write(path: Path, *rows: tuple[Any, ...], names: str = "lhs relation rhs") -> None:
    path.parent.mkdir(exist_ok=True)
    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in names.split()]
    pq.write_table(pa.table({name: pa.array(list(of)) for name, of in zip(names.split(), columns, strict=True)}), path)


@pytest.fixture
def first(small_config: SmallConfig, tmp_path: Path) -> Path:
    """A finished run of the tiny graph, whose raw file is raw/day-0.parquet."""
    (tmp_path / "raw").mkdir()
    write_raw(tmp_path / "raw/day-0.parquet")
    prepare(config_of(small_config, tmp_path), str(tmp_path / "first"))
    return tmp_path / "first"


def config_of(small_config: SmallConfig, tmp_path: Path, **sections: Any) -> Config:
    asked = {"sources": [{"path": str(tmp_path / "raw"), **SOURCE}], **sections.pop("prepare", {})}
    return small_config(prepare=asked, **sections)


def continued(small_config: SmallConfig, first: Path, **sections: Any) -> Config:
    sections["prepare"] = {"previous": str(first), **sections.get("prepare", {})}
    return config_of(small_config, first.parent, **sections)


def test_only_new_files_are_read_and_the_others_named(
    small_config: SmallConfig, first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "raw/day-1.parquet", ("u1", "fav", "new"), ("new-user", "follow", "u2"))
    caplog.set_level("INFO")
    manifest = prepare(continued(small_config, first), str(tmp_path / "second"))
    assert "left out 1 file taken before, such as " + str(tmp_path / "raw/day-0.parquet") in caplog.text
    assert [entry.path for entry in manifest.raw_files] == [str(tmp_path / "raw/day-1.parquet")]
    assert sum(entry.edges for entry in manifest.splits.values()) == 602
    assert manifest.previous is not None
    assert manifest.previous.root == str(first)
    write(tmp_path / "raw/day-2.parquet", ("new-user", "fav", "t1"))
    third = prepare(continued(small_config, tmp_path / "second"), str(tmp_path / "third"))
    assert sorted(third.taken) == [str(tmp_path / f"raw/day-{day}.parquet") for day in range(3)]
    assert sum(entry.edges for entry in third.splits.values()) == 603
    assert [next(entry for entry in third.tables if entry.name == name).added for name in ("user", "tweet")] == [
        [40, 1, 0],
        [30, 1, 0],
    ]


def test_files_that_do_not_change_are_links(small_config: SmallConfig, first: Path, tmp_path: Path) -> None:
    write(tmp_path / "raw/day-1.parquet", *((f"v{n}", "fav", f"t{n % 7}") for n in range(40)), ("u1", "fav", "t1"))
    prepare(continued(small_config, first), str(tmp_path / "second"))
    for split in SPLITS:
        old = first / f"graph/edges/{split}/part-00000.parquet"
        assert any(old.samefile(new) for new in (tmp_path / f"second/graph/edges/{split}").iterdir())


def test_ids_are_found_in_every_day_s_part(small_config: SmallConfig, first: Path, tmp_path: Path) -> None:
    before = first
    for day in range(1, 4):
        write(tmp_path / f"raw/day-{day}.parquet", *((f"user-{day}-{n}", "fav", f"t{n % 7}") for n in range(30)))
        config, before = continued(small_config, before), tmp_path / str(day)
        prepare(config, str(before))
    names = reading.ids(before, "user")
    assert len(names) == 40 + 3 * 30
    ids = open_ids(saved_config(str(before)), str(before), "user", len(names))
    assert [ids.find(name) for name in names] == list(range(len(names)))
    assert ids.find("nobody") is None


def test_the_same_day_again(small_config: SmallConfig, first: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^prepare\.sources: no new files: all of .*raw were taken before, by .*first$"
    ):
        prepare(continued(small_config, first), str(tmp_path / "second"))


def test_new_files_without_rows(small_config: SmallConfig, first: Path, tmp_path: Path) -> None:
    table = pa.table({name: pa.array([], pa.string()) for name in ("lhs", "relation", "rhs")})
    pq.write_table(table, tmp_path / "raw/day-1.parquet")
    message = r"^prepare\.sources\.0: the new files of .*raw, such as .*day-1\.parquet, have no rows$"
    with pytest.raises(UserError, match=message):
        prepare(continued(small_config, first), str(tmp_path / "second"))


def test_a_taken_file_that_changed(small_config: SmallConfig, first: Path, tmp_path: Path) -> None:
    write(tmp_path / "raw/day-0.parquet", ("u1", "fav", "t1"))
    write(tmp_path / "raw/day-1.parquet", ("u1", "fav", "new"))
    with pytest.raises(UserError, match=r"day-0\.parquet: changed since .*first or a version before took it"):
        prepare(continued(small_config, first), str(tmp_path / "second"))
    kept = continued(small_config, first, prepare={"changed_files": "keep"})
    assert sum(entry.edges for entry in prepare(kept, str(tmp_path / "second")).splits.values()) == 601


FOLLOW, FAV = {"name": "follow", "lhs": "user", "rhs": "user"}, {"name": "fav", "lhs": "user", "rhs": "tweet"}
OTHER_RULES: list[tuple[dict[str, Any], list[str]]] = [
    ({"prepare": {"repeats": "count"}}, ["prepare.repeats was 'first' and is 'count'"]),
    ({"prepare": {"self_loops": "drop"}}, ["prepare.self_loops was 'keep' and is 'drop'"]),
    ({"prepare": {"sampling": {"fav": 0.5}}}, ["prepare.sampling of fav was 1 and is 0.5"]),
    ({"prepare": {"split": {"test": 0.2}}}, ["prepare.split.test was 0.1 and is 0.2"]),
    ({"prepare": {"split": {"seed": 3}}}, ["prepare.split.seed was 0 and is 3"]),
    ({"prepare": {"split": {"relations": ["fav"]}}}, ["prepare.split.relations: follow was held out"]),
    ({"model": {"relations": [FAV]}}, ["model.relations: follow is missing"]),
    (
        {"model": {"relations": [{**FOLLOW, "symmetric": True}, {**FAV, "rhs": "user"}]}},
        ["symmetric of follow was False and is True", "rhs of fav was 'tweet' and is 'user'"],
    ),
    (
        {"prepare": {"repeats": "last", "split": {"validation": 0.2}, "self_loops": "drop"}},
        ["prepare.repeats was", "prepare.self_loops was", "prepare.split.validation was"],
    ),
]


@pytest.mark.parametrize(("sections", "named"), OTHER_RULES)
def test_another_schema_or_other_rules(
    small_config: SmallConfig, first: Path, tmp_path: Path, sections: dict[str, Any], named: list[str]
) -> None:
    write(tmp_path / "raw/day-1.parquet", ("u1", "fav", "new", 7), names="lhs relation rhs time")
    if "repeats" in sections.get("prepare", {}) and sections["prepare"]["repeats"] == "last":
        sections = {
            "prepare": {**sections["prepare"], "sources": [{"path": str(tmp_path / "raw/day-1.parquet"), **SOURCE}]}
        }
        sections["prepare"]["sources"][0]["timestamp"] = "time"
    with pytest.raises(UserError) as caught:
        prepare(continued(small_config, first, **sections), str(tmp_path / "second"))
    line = str(caught.value)
    assert line.startswith(f"prepare.previous: {first} cannot be continued: ")
    assert "\n" not in line
    for difference in named:
        assert difference in line
    assert not (tmp_path / "second/graph/manifest.json").exists()


def test_ids_that_change_their_type(small_config: SmallConfig, first: Path, tmp_path: Path) -> None:
    write(tmp_path / "raw/day-1.parquet", (1, "fav", "new"), (2, "follow", "u2"))
    with pytest.raises(UserError, match=r"ids of user were strings and are integers$"):
        prepare(continued(small_config, first), str(tmp_path / "second"))


def test_a_new_relation_and_a_new_table(small_config: SmallConfig, first: Path, tmp_path: Path) -> None:
    write(tmp_path / "raw/day-1.parquet", ("u1", "likes", "topic-1"), ("u3", "likes", "topic-2"))
    table = {"embedding_dim": 8, "optimizer": {"rowwise_adagrad": {"lr": 0.1}}}
    tables = [{"name": name, **table} for name in ("topic", "user", "tweet")]
    relations = [{"name": "likes", "lhs": "user", "rhs": "topic"}, FAV, FOLLOW]
    config = continued(small_config, first, model={"embeddings": {"tables": tables}, "relations": relations})
    manifest = prepare(config, str(tmp_path / "second"))
    assert [entry.name for entry in manifest.relations] == ["follow", "fav", "likes"]
    assert {entry.name: entry.num_embeddings for entry in manifest.tables} == {"topic": 2, "user": 40, "tweet": 30}
    found = {edge for split in SPLITS for edge in reading.edges(tmp_path / "second", manifest, split)}
    assert {("u1", "likes", "topic-1"), ("u3", "likes", "topic-2")} < found


def test_no_graph_there(small_config: SmallConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^prepare\.previous: .*nowhere: there is no finished graph here"):
        prepare(small_config(prepare={"previous": str(tmp_path / "nowhere")}), str(tmp_path / "run"))


def test_a_damaged_file_of_the_graph_before(small_config: SmallConfig, first: Path, tmp_path: Path) -> None:
    part = first / "graph/edges/train/part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    write(tmp_path / "raw/day-1.parquet", ("u1", "fav", "new"))
    with pytest.raises(UserError, match=re.escape(f"{part}: does not match its checksum")):
        prepare(continued(small_config, first), str(tmp_path / "second"))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"previous": "r", "min_degree": {"user": 2}}, "min_degree: "),
    ({"previous": "r", "cold_nodes": "drop"}, "cold_nodes: "),
    ({"previous": "r", "split": {"by": "time"}}, "split.by: time would move test edges"),
    ({"previous": "r", "split": {"by": "last", "validation": 1.0, "test": 1.0}}, "split.by: last would move"),
    ({"window": "90d"}, "window: needs repeats: last"),
    ({"edge_decay": {"half_life": "30d"}}, "edge_decay: needs repeats: last or count or sum"),
    ({"window": "90d", "repeats": "last", "sources": [{"path": "x", "relation": "fav"}]}, "needs a timestamp"),
    ({"window": "90 days", "repeats": "last"}, "prepare.window"),
    ({"window": "0d", "repeats": "last"}, "prepare.window"),
    ({"window": 0, "repeats": "last"}, "prepare.window"),
    ({"edge_decay": {"half_life": -1}, "repeats": "last"}, "prepare.edge_decay.half_life"),
    ({"edge_decay": {}, "repeats": "last"}, "prepare.edge_decay.half_life"),
    (
        {
            "previous": "r",
            "sources": [{"path": "x", "relation": "fav", "weight": {"column": "w", "normalize": "relation"}}],
        },
        "sources.0.weight.normalize: ",
    ),
]


@pytest.mark.parametrize(("section", "message"), WRONG)
def test_settings_that_cannot_be_honored(small_config: SmallConfig, section: dict[str, Any], message: str) -> None:
    timed = {"sources": [{"path": "x", "relation": "fav", "timestamp": "time"}]}
    with pytest.raises(UserError, match=re.escape(message)):
        small_config(prepare={**timed, **section})


def test_the_window_counts_from_the_newest_day_even_if_a_day_is_older(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    """Times 100 (day 0), then 40 and 95 on a day that comes late: with a window of 30, 70 is the oldest."""
    names = "lhs relation rhs time"
    asked = {"repeats": "last", "window": 30, "split": {"validation": 0.0, "test": 0.0}}
    asked["sources"] = [{"path": str(tmp_path / "raw"), **SOURCE, "timestamp": "time"}]
    rows = ("a", "follow", "b", 100), ("a", "fav", "t", 75), ("b", "fav", "t", 69)
    write(tmp_path / "raw/0.parquet", *rows, names=names)
    prepare(small_config(prepare=asked), str(tmp_path / "first"))
    write(tmp_path / "raw/1.parquet", ("c", "fav", "t", 40), ("b", "fav", "t", 95), names=names)
    manifest = prepare(small_config(prepare={**asked, "previous": str(tmp_path / "first")}), str(tmp_path / "second"))
    edges = set(reading.edges(tmp_path / "second", manifest, "train"))
    assert edges == {("a", "follow", "b"), ("a", "fav", "t"), ("b", "fav", "t")}
    assert manifest.newest == 100
    write(tmp_path / "raw/2.parquet", ("c", "fav", "s", 120), names=names)
    manifest = prepare(small_config(prepare={**asked, "previous": str(tmp_path / "second")}), str(tmp_path / "third"))
    edges = set(reading.edges(tmp_path / "third", manifest, "train"))
    assert edges == {("a", "follow", "b"), ("b", "fav", "t"), ("c", "fav", "s")}
    assert manifest.rejected.by_reason == {"outside_window": 1}
    assert manifest.rejected.edges_before == 1


def test_weights_halve_with_age(small_config: SmallConfig, tmp_path: Path) -> None:
    day = 86_400
    names = "lhs relation rhs time"
    asked = {"repeats": "sum", "edge_decay": {"half_life": 10 * day}, "split": {"validation": 0.0, "test": 0.0}}
    asked["sources"] = [{"path": str(tmp_path / "raw"), **SOURCE, "timestamp": "time"}]
    write(tmp_path / "raw/0.parquet", ("a", "follow", "b", 20 * day), ("a", "fav", "t", 0), names=names)
    prepare(small_config(prepare=asked), str(tmp_path / "first"))
    write(tmp_path / "raw/1.parquet", ("a", "fav", "t", 20 * day), ("b", "fav", "t", 30 * day), names=names)
    manifest = prepare(small_config(prepare={**asked, "previous": str(tmp_path / "first")}), str(tmp_path / "second"))
    edges = reading.edges(tmp_path / "second", manifest, "train")
    weights = [row["weight"] for row in reading.rows(tmp_path / "second/graph/edges/train")]
    assert dict(zip(edges, weights, strict=True)) == pytest.approx(
        {("a", "follow", "b"): 0.5, ("a", "fav", "t"): 0.5 + 0.125, ("b", "fav", "t"): 1.0}
    )


def test_changes_are_written_and_gated(small_config: SmallConfig, first: Path, tmp_path: Path) -> None:
    write(tmp_path / "raw/day-1.parquet", *((f"v{n}", "fav", "t1") for n in range(300)), ("u1", "poke", "u2"))
    gates = {"data.fav.psi": {"max": 0.1}, "data.edges": {"max_drop": 0.2}, "data.user.new_share": {"max": 0.5}}
    config = continued(small_config, first, evaluation={"gates": gates})
    with pytest.raises(GateFailed) as caught:
        prepare(config, str(tmp_path / "second"))
    assert str(caught.value).startswith("nothing will be trained on this graph: data.fav.psi is ")
    assert "data.user.new_share is 0.882353, above its gate of at most 0.5" in str(caught.value)
    assert "data.edges" not in str(caught.value)
    figures = read_changes(str(tmp_path / "second"))
    assert figures is not None
    assert figures["edges"] == (900, 600)
    assert figures["fav.edges"] == (600, 300)
    assert figures["rejected"] == (1, 0)
    assert figures["user.new"].now == 300
    with pytest.raises(GateFailed):  # and again, although the graph is finished
        prepare(config, str(tmp_path / "second"))
    prepare(continued(small_config, first, evaluation={"gates": {}}), str(tmp_path / "second"))


def test_a_gate_on_a_drop(small_config: SmallConfig, tmp_path: Path) -> None:
    """A window that most edges leave: 3 edges before, 1 after, which is a drop of two thirds."""
    names = "lhs relation rhs time"
    sources = [{"path": str(tmp_path / "raw"), **SOURCE, "timestamp": "time"}]
    asked = {"repeats": "last", "window": 10, "split": {"validation": 0.0, "test": 0.0}, "sources": sources}
    rows = ("a", "follow", "b", 0), ("a", "fav", "t", 0), ("b", "fav", "t", 0)
    write(tmp_path / "raw/0.parquet", *rows, names=names)
    gates = {"gates": {"data.edges": {"max_drop": 0.6}}}
    prepare(small_config(prepare=asked, evaluation=gates), str(tmp_path / "first"))  # nothing to compare with
    write(tmp_path / "raw/1.parquet", ("a", "fav", "t", 100), names=names)
    config = small_config(prepare={**asked, "previous": str(tmp_path / "first")}, evaluation=gates)
    with pytest.raises(GateFailed, match=r"data\.edges is 1, 66\.7% below the previous 3; at most 60\.0% is allowed$"):
        prepare(config, str(tmp_path / "second"))
    figures = read_changes(str(tmp_path / "second"))
    assert figures is not None
    assert (figures["user.lost"].now, figures["user.nodes"].now, figures["tweet.lost"].now) == (1, 2, 0)


@pytest.mark.parametrize(
    "path", ["data.edge", "data.fav.lhs", "data.tweet.psi", "data.nobody.psi", "data.", "data.fav.lhs.p42"]
)
def test_a_gate_on_no_figure_of_the_data(small_config: SmallConfig, tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=rf"^evaluation\.gates: {re.escape(path)} names no metric; near it: data\."):
        prepare(small_config(evaluation={"gates": {path: {"max": 1}}}), str(tmp_path / "run"))


def test_the_stability_index_by_hand() -> None:
    assert stability_index([0.5, 0.5], [0.5, 0.5]) == 0
    assert stability_index([0.5, 0.5], [0.25, 0.75]) == pytest.approx(0.25 * 1.0986122886681098)  # ln 3
    assert stability_index([1.0, 0.0], [0.9, 0.1]) == pytest.approx(
        -0.1 * -0.10536051565782628 + 0.0999 * 6.907755278982137
    )


def test_a_continued_graph_is_trained_exported_and_whole(
    small_config: SmallConfig, first: Path, tmp_path: Path
) -> None:
    rows = [(f"v{n}", "fav", f"t{n % 7}") for n in range(40)]
    write(tmp_path / "raw/day-1.parquet", *rows)
    config, root = continued(small_config, first), str(tmp_path / "second")
    prepare(config, root)
    train(config, root)
    export(config, root)
    storage.remove(f"{root}/checkpoints")  # so that ids and vectors come from the export
    users = Embeddings.load(root)["user"]
    names = reading.ids(Path(root), "user")
    stored = {row["id"]: row["embedding"] for row in reading.rows(Path(root) / "embeddings/user")}
    assert len(stored) == len(names) == 80
    for name in names:
        assert users[name].tolist() == stored[name]
    assert {part.state for part in verify(root)} == {"whole"}
    assert "graph/changes.json" in {part.name for part in verify(root)}
