"""The probe of a run: labels that vectors hold and labels by chance, how labels find nodes, and what is refused."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import small_configs
from tests.object_store import GS_FIRST, reach, serve_bucket
from tests.ranks import run_ranks
from twhin_core import storage
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config, Evaluation
from twhin_core.errors import UserError
from twhin_core.evaluation import probe
from twhin_core.evaluation.gates import check_names, decide, missed, read_decision
from twhin_core.evaluation.labels import find_labeled
from twhin_core.evaluation.probe import measure_probe
from twhin_core.evaluation.task import check_graph
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.follow import follow
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.tuning.space import measured
from twhin_core.vectors.ids import NumberedIds

USERS, TWEETS, COMMUNITIES = 240, 60, 3
Probed = Callable[..., tuple[Config, str]]


def write_graph(path: Path) -> None:
    """Every user favs 8 of the 20 tweets of a community and follows 6 of its 80 users: `u7` is in community 7 mod 3."""
    rng, rows = np.random.default_rng(0), []
    for user in range(USERS):
        own = user % COMMUNITIES
        for relation, kind, count, size in (("fav", "t", 8, TWEETS), ("follow", "u", 6, USERS)):
            others = rng.choice(size // COMMUNITIES, count, replace=False) * COMMUNITIES + own
            rows += [{"lhs": f"u{user}", "relation": relation, "rhs": f"{kind}{other}"} for other in others]
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_labels(path: Path) -> None:
    rng, users = np.random.default_rng(1), np.arange(USERS)
    community = users % COMMUNITIES
    columns = {
        "id": [f"u{user}" for user in users],
        "community": community,
        "first": community == 0,
        "coin": rng.choice(["heads", "tails"], USERS),
        "same": ["one"] * USERS,
        "hint": (community == 0) + rng.normal(size=USERS),
        "noise": rng.integers(100, size=USERS),
        "gap": [None if user == 17 else 1.0 * user for user in users],
        "nan": np.where(users == 23, np.nan, users),
        "text": ["many words"] * USERS,
        "height": rng.normal(size=USERS),
        "lists": [[user] for user in users],
    }
    pq.write_table(pa.table(columns), path)


@pytest.fixture(scope="module")
def trained_on_communities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config, str]:
    folder = tmp_path_factory.mktemp("communities")
    write_graph(folder / "raw.parquet")
    write_labels(folder / "labels.parquet")
    training = {"num_epochs": 6, "checkpoint_every_n": 1000}
    config, root = small_configs(folder)(training=training), str(folder / "run")
    prepare(config, root)
    train(config, root)
    return folder, config, root


@pytest.fixture
def probed(trained_on_communities: tuple[Path, Config, str], tmp_path: Path) -> Probed:
    """`probed(column, …)`: a config with this probe, further keys of it and of `evaluation`, and a root of its own."""
    folder, _, trained = trained_on_communities
    root = str(shutil.copytree(trained, tmp_path / "run"))

    def build(column: str, evaluation: dict[str, Any] | None = None, **keys: Any) -> tuple[Config, str]:
        section = {"table": "user", "path": str(folder / "labels.parquet"), "column": column, **keys}
        training = {"num_epochs": 6, "checkpoint_every_n": 1000}
        return small_configs(folder)(training=training, evaluation={"probe": section, **(evaluation or {})}), root

    return build


def test_a_community_is_in_the_vectors_and_a_coin_is_not(probed: Probed) -> None:
    found = evaluate(*probed("first", features=["hint", "noise"]))["probe"]
    assert found["classes"] == {"false": 160, "true": 80}
    assert found["fitted"] + found["held_out"] == USERS
    assert found["counts"] == {"labels": 240, "incomplete": 0, "unmatched": 0, "repeated": 0, "unused": 0}
    figures, intervals = found["figures"], found["intervals"]
    assert list(figures) == ["majority", "degree", "vectors", "features", "features_and_vectors"]
    assert figures["vectors"]["auc"] > 0.97
    assert figures["vectors"]["accuracy"] > 0.9
    assert figures["majority"]["auc"] == 0.5
    assert intervals["degree"]["auc"][0] < 0.6
    assert 0.6 < figures["features"]["auc"] < 0.9, "Φ(1 / √2) is .76"
    assert figures["features_and_vectors"]["auc"] > 0.95
    gain, low, high = found["differences"]["features_and_vectors"]["auc"]
    assert gain == pytest.approx(figures["features_and_vectors"]["auc"] - figures["features"]["auc"])
    assert 0 < low < gain < high
    coin = evaluate(*probed("coin"))["probe"]
    assert list(coin["figures"]) == ["majority", "degree", "vectors"]
    assert set(coin["differences"]) == {"vectors"}
    low, high = coin["intervals"]["vectors"]["auc"]
    assert low < 0.5 < high
    low, high = coin["differences"]["vectors"]["auc"][1:]
    assert low < 0 < high


def test_more_than_two_classes(probed: Probed) -> None:
    found = evaluate(*probed("community"))["probe"]
    assert found["classes"] == {"0": 80, "1": 80, "2": 80}
    assert found["figures"]["vectors"]["auc"] > 0.97
    assert found["figures"]["majority"]["auc"] == 0.5
    assert found["figures"]["majority"]["accuracy"] < 0.5 < found["figures"]["vectors"]["accuracy"]


def test_nodes_are_held_out_by_their_ids_alone(probed: Probed, tmp_path: Path) -> None:
    """The baseline is the most frequent class of the others, counted here from the hashes."""
    config, root = probed("coin", {"seed": 3})
    table = pq.read_table(config.evaluation.probe.path)  # type: ignore[union-attr]
    share = [int(hashlib.md5(f"3\t{name}".encode()).hexdigest()[:12], 16) / 16**12 for name in table["id"].to_pylist()]
    coins = table["coin"].to_pylist()
    held, rest = (
        [coin for coin, of in zip(coins, share, strict=True) if (of < 0.3) == is_held] for is_held in (True, False)
    )
    majority = max(("heads", "tails"), key=rest.count)
    found = evaluate(config, root)["probe"]
    assert (found["held_out"], found["fitted"]) == (len(held), len(rest))
    assert found["figures"]["majority"]["accuracy"] == pytest.approx(held.count(majority) / len(held))
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    pq.write_table(shuffled.append_column("more", table["noise"]), tmp_path / "shuffled.parquet")
    again = evaluate(*probed("coin", {"seed": 3}, path=str(tmp_path / "shuffled.parquet")))["probe"]
    assert again["figures"] == found["figures"]


def test_it_is_measured_once_and_again_when_its_files_change(
    probed: Probed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(probed("coin")[0].evaluation.probe.path, tmp_path / "labels.parquet")  # type: ignore[union-attr]
    config, root = probed("coin", path=str(tmp_path / "labels.parquet"))
    first = evaluate(config, root)
    assert '<section id="probe">' in (report := Path(root, "evaluation/report.html").read_text())
    assert f"{first['probe']['figures']['vectors']['auc']:.4f}" in report
    calls: list[str] = []
    measure = probe.measure_probe
    monkeypatch.setattr(probe, "measure_probe", lambda *of: calls.append("") or measure(*of))
    monkeypatch.setattr("twhin_core.evaluation.measure.measure", lambda *_, **__: pytest.fail("ranked again"))
    assert evaluate(config, root) == first
    assert not calls
    pq.write_table(pq.read_table(tmp_path / "labels.parquet").slice(10), tmp_path / "labels.parquet")
    second = evaluate(config, root)
    assert (second["probe"]["counts"]["labels"], len(calls)) == (230, 1)
    assert second["test"] == first["test"]
    without, _ = probed("coin", {"probe": None})
    assert "probe" not in evaluate(without, root)
    assert '<section id="probe">' not in Path(root, "evaluation/report.html").read_text()


def test_follow_measures_it_too(probed: Probed) -> None:
    config, root = probed("coin")
    follow(config, root)
    found = storage.read_json(f"{root}/evaluation/metrics.json")["probe"]
    shutil.rmtree(Path(root, "evaluation"))
    assert found == evaluate(config, root)["probe"]


def test_gates_bound_the_vectors_and_compare_them(probed: Probed) -> None:
    gates = {
        "probe.vectors.auc": {"min": 0.9, "at_least_baseline": "degree"},
        "probe.vectors.accuracy": {"at_least_baseline": "majority", "factor": 10.0},
        "probe.features_and_vectors.auc": {"at_least_baseline": "features"},
    }
    config, root = probed("first", {"gates": gates}, features=["hint"])
    check_names(config)
    figures = evaluate(config, root)["probe"]["figures"]
    decision = read_decision(root)
    assert decision is not None
    assert [gate["passed"] for gate in decision["gates"]] == [True, False, True]
    assert [gate["value"] for gate in decision["gates"]] == [
        figures["vectors"]["auc"], figures["vectors"]["accuracy"], figures["features_and_vectors"]["auc"],
    ]  # fmt: skip
    assert [gate["baseline"] for gate in decision["gates"]] == [
        figures["degree"]["auc"], figures["majority"]["accuracy"], figures["features"]["auc"],
    ]  # fmt: skip


def test_a_gate_on_a_label_that_is_not_measured_is_missed(probed: Probed) -> None:
    config, root = probed("coin", {"gates": {"probe.vectors.auc": {"min": 0}}})
    metrics = evaluate(probed("coin", {"probe": None})[0], root)
    assert missed(decide(config, metrics)) == [
        "probe.vectors.auc has no value: the label has not been measured; run `twhin evaluate`"
    ]


def test_a_trial_of_a_sweep_does_not_probe(probed: Probed) -> None:
    config, _ = probed("coin", {"gates": {"probe.vectors.auc": {"min": 0.9}}})
    sweep = {"space": {"model.temperature": {"log": [0.1, 0.2]}}}
    config = Config.model_validate(config.model_dump() | {"sweep": sweep})
    assert measured(config).evaluation.probe is None


@pytest.mark.parametrize(
    ("column", "keys", "evaluation", "message"),
    [
        ("coin", {"path": "/nowhere/labels.csv"}, {}, r"/nowhere/labels\.csv: no file matches"),
        ("coins", {}, {}, r"labels\.parquet: has no column 'coins' \(evaluation\.probe\.column\); its columns are id"),
        ("coin", {"id": "user"}, {}, r"has no column 'user' \(evaluation\.probe\.id\)"),
        ("coin", {"features": ["age"]}, {}, r"has no column 'age' \(evaluation\.probe\.features\)"),
        ("coin", {"features": ["nan"]}, {}, r"column 'nan' \(evaluation\.probe\.features\) of id 'u23' is not a"),
        ("coin", {"features": ["noise", "gap"]}, {}, r"column 'gap' .*of id 'u17' is not a finite number"),
        ("coin", {"features": ["text"]}, {}, r"column 'text' \(evaluation\.probe\.features\) is string, not a number"),
        ("coin", {"features": ["lists"]}, {}, r"column 'lists' .* is list<.*, not a number"),
        ("coin", {"id": "lists"}, {}, r"column 'lists' \(evaluation\.probe\.id\) holds lists, not ids"),
        ("height", {}, {}, r"column 'height' \(evaluation\.probe\.column\) is double, not a string, an"),
        ("same", {}, {}, r"all labeled nodes of table user have same 'one'; a probe needs two classes"),
        ("noise", {"table": "tweet"}, {}, r"none of the 240 labels of .* is of a node of table tweet; it has ids like "
         "'u0', the table like 't0'"),
        ("id", {"id": "noise"}, {}, r"none of the 240 labels"),
        ("coin", {"table": "users"}, {}, r"evaluation\.probe\.table: no table named 'users'; there are tweet, user"),
        ("coin", {"features": ["coin"]}, {}, r"evaluation\.probe\.features: columns must differ; repeated: coin"),
        ("coin", {"path": ""}, {}, r"evaluation\.probe\.path: "),
        ("coin", {"path": "ftp://host/labels.csv"}, {}, r"evaluation\.probe\.path: "),
        ("coin", {}, {"gates": {"probe.vectors.acc": {"min": 0}}}, r"probe\.vectors\.acc names no metric; near"),
        ("coin", {}, {"gates": {"probe.features_and_vectors.auc": {"min": 0}}}, "names no metric"),
        ("coin", {}, {"gates": {"probe.vectors.auc": {"at_least_baseline": "features"}}}, "features is not comp"),
        ("coin", {}, {"gates": {"probe.vectors.auc": {"max_drop": 0.1}}, "previous": "runs/a"}, "not probed; set min"),
        ("coin", {}, {"probe": None, "gates": {"probe.vectors.auc": {"min": 0}}}, "needs evaluation.probe"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_any_work(
    probed: Probed, column: str, keys: dict[str, Any], evaluation: dict[str, Any], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("twhin_core.evaluation.measure.measure", lambda *_, **__: pytest.fail("ranked"))
    with pytest.raises(UserError, match=message) as error:
        evaluate(*probed(column, evaluation, **keys))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"path": "/nowhere.csv"}, "no file matches"), ({"column": "coins"}, "no column 'coins'")],
)
def test_what_the_files_lack_is_found_before_the_graph_is_built(
    trained_on_communities: tuple[Path, Config, str], tmp_path: Path, keys: dict[str, str], message: str
) -> None:
    folder, _, _ = trained_on_communities
    section = {"table": "user", "path": str(folder / "labels.parquet"), "column": "coin", **keys}
    with pytest.raises(UserError, match=message):
        prepare(small_configs(folder)(evaluation={"probe": section}), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("column", "keys", "message"),
    [
        ("coin", {}, None),
        ("same", {}, "a probe needs two classes"),
        ("coin", {"table": "tweet"}, "none of the 240 labels"),
        ("coin", {"features": ["nan"]}, "of id 'u23' is not a finite number"),
    ],
)
def test_labels_are_refused_before_training(
    probed: Probed, column: str, keys: dict[str, Any], message: str | None
) -> None:
    with contextlib.nullcontext() if message is None else pytest.raises(UserError, match=message):
        check_graph(*probed(column, **keys))


def test_two_ranks_find_what_one_does(probed: Probed) -> None:
    config, root = probed("first", features=["hint"])
    alone = evaluate(config, root)
    shutil.rmtree(Path(root, "evaluation"))
    assert run_ranks(2, evaluate, config, root) == [alone, alone]


@pytest.mark.parametrize("store", GS_FIRST)
def test_labels_may_be_on_an_object_store(probed: Probed, monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    with serve_bucket(store=store) as server:
        bucket = reach(server, monkeypatch)
        local, root = probed("coin")
        assert local.evaluation.probe is not None
        with storage.open_write(f"{bucket}/labels/part-0.parquet") as file:
            file.write(Path(local.evaluation.probe.path).read_bytes())
        remote, _ = probed("coin", path=f"{bucket}/labels")
        found = measure_probe(remote, root, newest(root))
    assert found == measure_probe(local, root, newest(root))


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv"])
@pytest.mark.parametrize("seed", range(4))
def test_labels_find_their_nodes_as_a_loop_does(tmp_path: Path, seed: int, form: str) -> None:
    """Ids are the numbers below 50, of which rows repeat some, lack some, and name others that no node has."""
    rng = np.random.default_rng(seed)
    rows = [
        (None if rng.random() < 0.05 else int(rng.integers(70)), None if rng.random() < 0.1 else f"c{rng.integers(3)}",
         float(rng.integers(5)))
        for _ in range(200)
    ]  # fmt: skip
    path = tmp_path / f"labels.{form}"
    if form == "parquet":
        columns = dict(zip(("node", "label", "number"), zip(*rows, strict=True), strict=True))
        pq.write_table(pa.table({name: list(of) for name, of in columns.items()}), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="," if form == "csv" else "\t")
            writer.writerows([("node", "label", "number"), *(["" if of is None else of for of in row] for row in rows)])
    section = {"table": "user", "path": str(path), "id": "node", "column": "label", "features": ["number"]}
    found = find_labeled(Evaluation(probe=section, seed=seed), NumberedIds(50), 8, tmp_path)
    complete = [(node, label, number) for node, label, number in rows if node is not None and label is not None]
    known = [row for row in complete if row[0] < 50]
    nodes = {node: min((label, number) for other, label, number in known if other == node) for node, _, _ in known}
    assert found.rows.tolist() == sorted(nodes)
    assert [found.classes[of] for of in found.label] == [nodes[row][0] for row in sorted(nodes)]
    assert found.numbers[:, 0].tolist() == [nodes[row][1] for row in sorted(nodes)]
    assert found.counts == {
        "labels": len(complete), "incomplete": 200 - len(complete), "unmatched": len(complete) - len(known),
        "repeated": len(known) - len(nodes), "unused": 0,
    }  # fmt: skip


def test_of_too_many_labeled_nodes_a_sample_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twhin_core.evaluation.labels.MOST_NODES", 100)
    labels = {"id": list(range(1000)), "label": ["a", "b"] * 500}
    pq.write_table(pa.table(labels), tmp_path / "labels.parquet")
    section = {"table": "user", "path": str(tmp_path / "labels.parquet"), "column": "label"}
    found = find_labeled(Evaluation(probe=section), NumberedIds(1000), 8, tmp_path)
    assert len(found.rows) == 100
    assert found.counts["unused"] == 900
    assert 15 < found.held_out.sum() < 45, "the sample is drawn by other digits than the split"
    more = find_labeled(Evaluation(probe=section, seed=1), NumberedIds(1000), 8, tmp_path)
    assert more.rows.tolist() != found.rows.tolist()
