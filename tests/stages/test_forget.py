"""Forgotten nodes are in no byte of what a series publishes, now and later, and nothing else changes."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig
from tests.object_store import STORES, serve_bucket
from tests.preloaded import CONTEXT
from tests.series.test_publish import upload
from twhin_core import lease, storage
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.embeddings import Embeddings
from twhin_core.errors import NotFound, UserError
from twhin_core.export.manifest import read_export_manifest
from twhin_core.graph.forgotten import hashed
from twhin_core.graph.manifest import find_manifest, share
from twhin_core.published import find_root, read_current, root_of
from twhin_core.run import saved_config
from twhin_core.series.plan import plan
from twhin_core.series.publish import publish, rollback
from twhin_core.series.reading import Reading
from twhin_core.stages import forget as forgetting
from twhin_core.stages import rewrite as rewriting
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.forget import forget
from twhin_core.stages.prepare import prepare
from twhin_core.stages.recommend import recommend
from twhin_core.stages.train import train
from twhin_core.stages.verify import verify

FORMATS = ["parquet", "npy", "faiss", "pq", "vertex-vector-search", "tensorboard-projector"]
EXPORT = {
    "formats": FORMATS, "pq": {"bits": 4, "subspaces": 2}, "faiss": {"tables": {"user": "hnsw"}}, "query_side": "fav",
}  # fmt: skip


class Series:
    """A series over days, with ids that occur nowhere by chance."""

    def __init__(self, config: Config, raw: Path, root: str) -> None:
        self.root, self.raw = root, raw
        tree = config.model_dump(mode="json", exclude_unset=True)
        tree["prepare"]["sources"][0]["path"] = str(raw / "*.parquet")
        tree["prepare"]["labels"] = [{"table": "user", "path": str(raw.parent / "labels.parquet")}]
        tree["training"]["warm_start"] = {"from": "previous"}
        self.text = yaml.safe_dump(tree)

    def arrive(self, day: int) -> None:
        """Each user and each tweet has an edge. Some rows are repeated, and some are broken."""
        rng = np.random.default_rng(day)
        drawn = np.concatenate([np.stack([np.arange(40), np.arange(40) % 30], 1), rng.integers(0, [40, 30], (150, 2))])
        edges = [(user(lhs), "fav", tweet(rhs)) for lhs, rhs in drawn]
        edges += [(user(lhs), "follow", user(rhs)) for lhs, rhs in rng.integers(0, 40, (150, 2))]
        edges += [(user(GONE), "unheard-of", tweet(3)), (user(GONE), "fav", None)]
        columns = zip(("lhs", "relation", "rhs"), zip(*edges, strict=True), strict=True)
        pq.write_table(pa.table({name: list(of) for name, of in columns}), self.raw / f"day-{day}.parquet")

    def refresh(self, day: int) -> str:
        """The run root of the version that is published then."""
        self.arrive(day)
        planned = plan(self.text, self.root)
        config = config_file.load(planned.config)
        for stage in (prepare, train, evaluate, export, recommend):
            stage(config, planned.root)
        publish(self.root, planned.version, planned.after)
        return planned.root

    @property
    def version(self) -> str:
        """The published one, whose manifests are whole."""
        current = read_current(self.root)
        assert current is not None
        assert find_root(self.root) == root_of(self.root, current.version)
        return current.version

    @property
    def published(self) -> str:
        return root_of(self.root, self.version)


GONE = 5


def user(number: int) -> str:
    return f"person-{number * 7919:07d}-q"


def label(name: str) -> str:
    return name[::-1]


def tweet(number: int) -> str:
    return f"status-{number * 104_729:07d}-z"


@pytest.fixture(scope="session")
def made_once() -> list[Series]:
    """What `series` copies from."""
    return []


@pytest.fixture
def series(
    small_config: SmallConfig, made_once: list[Series], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Series:
    """One version, published; each test has a copy of its own."""
    config = small_config(training={"num_epochs": 1}, export=EXPORT, recommend={"follow": {"k": 5}})
    if not made_once:
        folder = tmp_path_factory.mktemp("made")
        (folder / "raw").mkdir()
        names = [user(number) for number in range(40)]
        pq.write_table(pa.table({"id": names, "label": [label(name) for name in names]}), folder / "labels.parquet")
        made_once.append(Series(config, folder / "raw", str(folder / "series")))
        made = made_once[0].refresh(1)
        on_validation = config.evaluation.model_copy(update={"split": "validation"})
        evaluate(saved_config(made).model_copy(update={"evaluation": on_validation}), made)
    shutil.copytree(made_once[0].root, tmp_path / "series")
    for path in made_once[0].raw.iterdir():
        if path.name != "day-1.parquet":
            path.unlink()
    return Series(config, made_once[0].raw, str(tmp_path / "series"))


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below a folder as it is, and unpacked: of Parquet, all values of all columns."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        raw = path.read_bytes()
        yield path, raw
        if path.suffix == ".parquet":
            for column in pq.read_table(path).combine_chunks().columns:
                yield path, "\n".join(map(str, column.to_pylist())).encode()
                for chunk in column.chunks:
                    buffers = [buffer for of in flattened(chunk) for buffer in of.buffers() if buffer is not None]
                    yield path, b"".join(map(bytes, buffers))


def flattened(column: pa.Array) -> list[pa.Array]:
    """The plain columns that a nested one is made of."""
    if not pa.types.is_nested(column.type):
        return [column]
    parts = column.flatten() if pa.types.is_struct(column.type) else [column.flatten()]
    return [of for part in parts for of in flattened(part)]


def vector(root: str, name: str, table: str = "user") -> np.ndarray:
    ids = pq.read_table(f"{root}/graph/vocab/{table}")
    row = ids["index"].to_pylist()[ids["id"].to_pylist().index(name)]
    checkpoint = newest(root)
    assert checkpoint is not None
    return checkpoint.rows(table).gather(np.array([row]))[0].numpy()


def vectors(root: str, table: str) -> dict[str, bytes]:
    rows = pq.read_table(f"{root}/embeddings/{table}")
    named = zip(rows["id"].to_pylist(), rows["embedding"].to_pylist(), strict=True)
    return {name: np.float32(of).tobytes() for name, of in named}


def edges(root: str) -> Counter[tuple[str, str, str, str]]:
    """(split, lhs, relation, rhs) of all edges, by id."""
    manifest = json.loads(Path(root, "graph/manifest.json").read_text())
    relations = [(of["name"], of["lhs"], of["rhs"]) for of in manifest["relations"]]
    names = {}
    for table in ("user", "tweet"):
        rows = pq.read_table(f"{root}/graph/vocab/{table}")
        names[table] = dict(zip(rows["index"].to_pylist(), rows["id"].to_pylist(), strict=True))
    found: Counter[tuple[str, str, str, str]] = Counter()
    for split in ("train", "validation", "test"):
        rows = pq.read_table(f"{root}/graph/edges/{split}")
        for lhs, rel, rhs in zip(*(rows[name].to_pylist() for name in ("lhs", "rel", "rhs")), strict=True):
            name, of_lhs, of_rhs = relations[rel]
            found[split, names[of_lhs][lhs], name, names[of_rhs][rhs]] += 1
    return found


def holders(series: Series, *traces: bytes) -> set[str]:
    """The files of the series that hold one of the traces."""
    found = contents(Path(series.root))
    return {str(path.relative_to(series.root)) for path, content in found if any(of in content for of in traces)}


def traces(root: str, name: str) -> list[bytes]:
    """A user's id and label, and the vector in binary and as the first number is written in text."""
    own = vector(root, name)
    return [name.encode(), label(name).encode(), own.tobytes(), own[:4].tobytes(), str(own[0]).encode()]


def test_a_node_is_in_no_byte_of_the_series(series: Series) -> None:
    before, gone = series.published, user(GONE)
    sought, others, tweets = traces(before, gone), vectors(before, "user"), vectors(before, "tweet")
    counted, rejected = edges(before), len(pq.read_table(f"{before}/graph/rejected"))
    held = {path.split("/", 2)[2] for path in holders(series, *sought)}
    folders = {"graph", "checkpoints", "embeddings", "evaluation", "recommendations"}
    assert {path.split("/")[0] for path in held} == folders
    assert {path.split("/")[1] for path in held if path.startswith("embeddings")} >= {
        "user", "user.fav", "npy", "faiss", "pq", "vertex", "projector",
    }  # fmt: skip
    assert {"evaluation/report.html", "evaluation/validation/report.html"} <= held
    storage.write_text(f"{series.root}/kfp/refresh/report.html", gone)  # as a local refresh leaves one
    record = forget(series.root, "user", [gone, "person-unheard-of"], "ada")
    assert series.version == "2"
    after = series.published
    assert not holders(series, *sought)
    assert {name: of for name, of in others.items() if name != gone} == vectors(after, "user")
    assert vectors(after, "tweet") == tweets
    assert {edge: count for edge, count in counted.items() if gone not in edge} == edges(after)
    assert (record.ids, record.unknown, record.nodes, record.held) == (2, 1, 1, {})
    assert record.edges == sum(count for edge, count in counted.items() if gone in edge) > 0
    assert len(pq.read_table(f"{after}/graph/rejected")) == rejected + record.edges
    parts = {part.name: part for part in verify(after)}
    assert not [fault for part in parts.values() for fault in part.faults]
    assert parts["recommendations/follow"].files == 1
    for split in ("", "validation/"):
        assert Path(after, f"evaluation/{split}report.html").exists()
        old, new = (pq.read_table(f"{root}/evaluation/{split}ranks.parquet") for root in (copy_of(series), after))
        assert 0 < len(new) < len(old)
        assert set(map(str, new.to_pylist())) < set(map(str, old.to_pylist()))


def copy_of(series: Series) -> str:
    return str(series.raw.parent / "series/versions/1")


def test_queries_go_on_without_the_node(series: Series) -> None:
    forget(series.root, "user", [user(GONE)], "ada")
    embeddings = Embeddings.load(series.root)
    users = embeddings["user"]
    assert len(users) == 39
    assert user(GONE) not in users
    with pytest.raises(NotFound, match="no node has the id"):
        users.neighbors(user(GONE))
    exported = vectors(series.published, "user")
    assert {name: users[name].tobytes() for name in users} == exported
    table = np.stack([np.frombuffer(of, np.float32) for of in exported.values()])
    units = table / np.linalg.norm(table, axis=1, keepdims=True)
    for at, name in enumerate(exported):
        order = [other for other in np.argsort(-(units @ units[at]), kind="stable") if other != at]
        assert users.neighbors(name, k=1)[0].id == list(exported)[order[0]]
    assert {near.id for near in users.neighbors(user(1), k=100)} == set(exported) - {user(1)}
    found = users.neighbors(user(1), relation="follow", k=100, index=True)
    assert user(GONE) not in {near.id for near in found}
    assert len(found) > 20
    shutil.rmtree(f"{series.published}/checkpoints")  # now from the exported files
    assert Embeddings.load(series.root)["user"][user(7)].tobytes() == exported[user(7)]
    assert {near.id for near in Embeddings.load(series.root)["user"].neighbors(user(1), k=100)} == set(exported) - {
        user(1)
    }


def test_vectors_that_were_aligned_with_and_mapped_to_a_version_that_is_gone_stay(series: Series) -> None:
    tree = yaml.safe_load(series.text)
    earlier = {"align": "previous", "map": {"to": "previous"}}
    series.text = yaml.safe_dump(tree | {"export": {"formats": ["parquet"], **earlier}})
    first = series.published
    before = series.refresh(2)
    aligned, others = read_export_manifest(before), vectors(before, "user")
    assert aligned is not None
    mapped = Embeddings.load(before)["user"].in_space_of(first)[user(7)]
    shutil.rmtree(first)
    forget(series.root, "user", [user(GONE)], "ada")
    after = read_export_manifest(series.published)
    assert after is not None
    assert after.aligned == aligned.aligned is not None
    assert after.map == aligned.map is not None
    assert Embeddings.load(series.root)["user"].in_space_of(first)[user(7)].tobytes() == mapped.tobytes()
    assert vectors(series.published, "user") == {name: of for name, of in others.items() if name != user(GONE)}


def test_the_next_refresh_does_not_bring_it_back(series: Series) -> None:
    gone = user(GONE)
    forget(series.root, "user", [gone], "ada")
    kept = vectors(series.published, "user")
    root = series.refresh(2)
    assert series.version == "3"
    raw = pq.read_table(series.raw / "day-2.parquet").to_pylist()
    named = sum(gone in row.values() for row in raw)
    assert named > 2
    manifest = find_manifest(root)
    assert manifest.rejected.by_reason["forgotten"] == named
    assert not holders(series, gone.encode(), label(gone).encode())
    assert not [edge for edge in edges(root) if gone in edge]
    assert set(vectors(root, "user")) == set(kept)
    matched = storage.read_json(f"{root}/training/earlier.json")["training.warm_start.from"]["tables"]["user"]
    assert (matched["matched"], matched["new"], matched["gone"]) == (39, 0, 0)
    again = forget(series.root, "user", [gone], "grace")
    assert (again.by, series.version) == ("ada", "3")
    assert len(list(Path(series.root, "forgotten").iterdir())) == 1


@pytest.mark.slow
def test_older_versions_are_listed_and_stay(series: Series) -> None:
    first = series.published
    series.refresh(2)
    before = {path: path.read_bytes() for path in Path(first).rglob("*") if path.is_file()}
    names = [user(number) for number in (GONE, 8, 9)]
    record = forget(series.root, "user", names, "ada")
    assert (record.version, record.replaced_by, record.removed, record.held) == ("2", "3", ["2"], {"1": 3})
    assert {path: path.read_bytes() for path in Path(first).rglob("*") if path.is_file()} == before
    assert not [path for path in holders(series, *(name.encode() for name in names)) if "versions/1/" not in path]
    rollback(series.root, "1")
    assert forget(series.root, "user", names, "ada").replaced_by == "4"
    assert not holders(series, *(name.encode() for name in names))
    assert series.version == "4"


@pytest.mark.slow
def test_a_later_version_is_removed_and_made_again(series: Series) -> None:
    series.arrive(2)
    planned = plan(series.text, series.root)
    prepare(config_file.load(planned.config), planned.root)
    record = forget(series.root, "user", [user(GONE)], "ada")
    assert (record.removed, record.replaced_by) == (["1", "2"], "3")
    assert not holders(series, user(GONE).encode())
    assert Path(series.refresh(2)).name == "4"
    read = {str(path) for path in (*series.raw.iterdir(), series.raw.parent / "labels.parquet")}
    assert find_manifest(series.published).taken.keys() == read


def test_an_auditor_can_check_an_id(series: Series) -> None:
    record = forget(series.root, "tweet", [tweet(1), tweet(2), "unknown"], "ada")
    (path,) = Path(series.root, "forgotten").iterdir()
    stored = json.loads(path.read_text())
    assert stored["table"] == "tweet"
    assert (stored["by"], stored["nodes"], stored["unknown"]) == ("ada", 2, 1)
    assert {
        hashlib.sha256(f"{stored['salt']}{name}".encode()).hexdigest() for name in (tweet(1), tweet(2), "unknown")
    } == set(stored["hashes"])
    assert hashlib.sha256(f"{stored['salt']}{tweet(3)}".encode()).hexdigest() not in stored["hashes"]
    assert not holders(series, tweet(1).encode())
    assert record.finished is not None


def test_unknown_ids_are_kept_out_all_the_same(series: Series) -> None:
    record = forget(series.root, "user", ["nobody", "person-new"], "ada")
    assert (record.unknown, record.nodes, record.replaced_by, record.removed) == (2, 0, None, [])
    assert series.version == "1"
    assert hashed(record.salt, "nobody") in record.hashes


STEPS = {rewriting: "forget_nodes copy_ranks export", forgetting: "rewrite publish remove_version _find"}
QUICK = [(rewriting, "export", False), (forgetting, "publish", True), (forgetting, "remove_version", True)]
INTERRUPTED = [
    pytest.param(module, name, after, id=f"{'after' if after else 'before'} {name}",
                 marks=[] if (module, name, after) in QUICK else pytest.mark.slow)
    for module, names in STEPS.items()
    for name in names.split()
    for after in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "after"), INTERRUPTED)
def test_an_interrupted_call_is_completed_by_the_same_call(
    series: Series, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, after: bool
) -> None:
    expected = edges(series.published)
    real, calls = getattr(module, name), 0

    def fail(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if after:
            real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(KeyboardInterrupt):
            forget(series.root, "user", [user(GONE)], "ada")
    assert calls == 1
    assert series.version in ("1", "2")
    for others in ([user(6)], [user(GONE), user(6)]):
        with pytest.raises(UserError, match=r"ada began on .* to forget 1 id of user, which has not finished"):
            forget(series.root, "user", others, "ada")
    record = forget(series.root, "user", [user(GONE)], "ada")
    assert (series.version, record.version, record.replaced_by, record.removed) == ("2", "1", "2", ["1"])
    assert (record.nodes, record.edges) == (1, sum(count for edge, count in expected.items() if user(GONE) in edge))
    assert not holders(series, user(GONE).encode())
    assert edges(series.published) == {edge: count for edge, count in expected.items() if user(GONE) not in edge}


@pytest.mark.slow
def test_a_refresh_may_come_between_an_interrupted_call_and_the_next(
    series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "export", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            forget(series.root, "user", [user(GONE)], "ada")
    assert Path(series.refresh(2)).name == "3"
    record = forget(series.root, "user", [user(GONE)], "ada")
    assert (record.version, record.replaced_by, record.nodes, record.held) == (None, None, 0, {"1": 1})
    assert {path.split("/")[1] for path in holders(series, user(GONE).encode())} == {"1"}
    assert series.version == "3"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_call_is_completed_by_the_same_call(series: Series, tmp_path: Path) -> None:
    undisturbed = Series(saved_config(series.published), series.raw, str(tmp_path / "undisturbed"))
    shutil.copytree(series.root, undisturbed.root)
    started = time.monotonic()
    forget(undisturbed.root, "user", [user(GONE)], "ada")
    whole = time.monotonic() - started  # on this machine, as busy as it is
    rng = random.Random(0)
    for _ in range(10):
        process = CONTEXT.Process(target=forget, args=(series.root, "user", [user(GONE)], "ada"), daemon=True)
        process.start()
        time.sleep(rng.uniform(0.05, 1) * whole)
        process.kill()
        process.join()
        assert series.version in ("1", "2")
    forget(series.root, "user", [user(GONE)], "ada")
    assert series.version == "2"
    assert not holders(series, user(GONE).encode())
    for table in ("user", "tweet"):
        assert vectors(series.published, table) == vectors(undisturbed.published, table)
    assert edges(series.published) == edges(undisturbed.published)
    assert len(list(Path(series.root, "forgotten").iterdir())) == 1


def test_a_version_that_is_read_is_removed_once_it_is_not(series: Series) -> None:
    reading = Reading(series.published)
    for _ in range(2):
        with pytest.raises(UserError, match=r"versions/1: holds ids that are to be forgotten and is still in use"):
            forget(series.root, "user", [user(GONE)], "ada")
        assert series.version == "2"
    reading.close()
    assert forget(series.root, "user", [user(GONE)], "ada").replaced_by == "2"
    assert not holders(series, user(GONE).encode())


@pytest.mark.parametrize("where", ["", "/versions/1", "/versions/2"])
def test_nothing_is_forgotten_while_a_stage_works(series: Series, where: str) -> None:
    shutil.copytree(f"{series.root}/versions/1", f"{series.root}/versions/2")
    with lease.hold(f"{series.root}{where}", "run"), pytest.raises(UserError, match="another run is active here: run"):
        forget(series.root, "user", [user(GONE)], "ada")
    assert not Path(series.root, "forgotten").exists()


def test_what_cannot_be_forgotten_from(series: Series, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no table named 'usr'; did you mean user"):
        forget(series.root, "usr", [user(GONE)], "ada")
    share(series.published, f"{series.root}/versions/2")
    shutil.copy(f"{series.published}/config.yaml", f"{series.root}/versions/2/config.yaml")
    with pytest.raises(
        UserError, match=r"versions/2: uses the graph of .*versions/1 \(prepare.graph\); remove it first"
    ):
        forget(series.root, "user", [user(GONE)], "ada")
    with pytest.raises(UserError, match="no version of this series is published"):
        forget(str(tmp_path), "user", [user(GONE)], "ada")


def test_a_shared_graph_may_not_bring_it_back(series: Series, tmp_path: Path) -> None:
    config = saved_config(series.published)
    assert config.prepare is not None
    sources = config.prepare.model_copy(update={"graph": str(tmp_path / "other")})
    prepare(config, str(tmp_path / "other"))
    forget(series.root, "user", [user(GONE)], "ada")
    with pytest.raises(UserError, match=r"prepare\.graph: .*other was made before this series forgot nodes"):
        prepare(config.model_copy(update={"prepare": sources}), f"{series.root}/versions/3")


def test_the_command(series: Series, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text(f"{user(GONE)}\nnobody\n")
    ran = twhin("forget", series.root, "--table", "user", "--ids", ids, "--by", "ada", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    counts = {row["what"]: row["count"] for row in found["forgotten"]}
    assert (counts["ids"], counts["unknown"], counts["nodes"]) == (2, 1, 1)
    assert found["versions"] == [
        {"version": "1", "state": "removed", "ids": None},
        {"version": "2", "state": "published in place of 1", "ids": 0},
    ]
    assert user(GONE) not in ran.stdout + ran.stderr
    ids.write_text("\n")
    assert_refused(twhin("forget", series.root, "--table", "user", "--ids", ids), "ids.txt: has no ids")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", STORES)
def test_on_an_object_store(store: str, series: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = vectors(series.published, "user")
    with serve_bucket(faults=0.02, store=store) as server:
        url = upload(series.root, server, monkeypatch)
        record = forget(url, "user", [user(GONE)], "ada")
        assert (record.replaced_by, record.removed, record.nodes) == ("2", ["1"], 1)
        assert user(GONE) not in Embeddings.load(url)["user"]
        fs, path = storage.filesystem(url)
        for name in fs.find(path):
            copy = tmp_path / "after" / name.removeprefix(f"{path}/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(fs.cat_file(name))
    after = Series(saved_config(str(tmp_path / "after/versions/2")), series.raw, str(tmp_path / "after"))
    assert not holders(after, user(GONE).encode())
    assert vectors(after.published, "user") == {name: of for name, of in others.items() if name != user(GONE)}
