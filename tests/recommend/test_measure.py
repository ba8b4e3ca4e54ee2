"""Measured lists: against plain Python on the run's own files, and what the stage makes of them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.command_line import twhin
from tests.conftest import SmallConfig
from tests.evaluation.test_deciles import plain_deciles
from tests.ranks import run_ranks
from tests.recommend.test_lists import Graph
from twhin.components.summary import evaluation_figures, evaluation_text
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.evaluation import measure as ranking
from twhin_core.evaluation.gates import read_decision
from twhin_core.recommend import held_out
from twhin_core.recommend.baselines import PopularityFinder
from twhin_core.recommend.write import identified
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.follow import follow, metrics_url
from twhin_core.storage import read_json, write_json

Trained = tuple[Config, str]
TABLES = {"fav": "tweet", "follow": "user"}
BASELINES = ["popularity", "random", "item-item"]
BUCKETS = ["0", "1-9", "10-99", "100-999", "1000+"]


def with_lists(config: Config, recommend: dict[str, dict[str, Any]], **evaluation: Any) -> Config:
    tree = config.model_dump(mode="json", exclude_unset=True)
    tree |= {"recommend": recommend, "evaluation": {"lists": {}, "bootstrap": 20} | evaluation}
    return config_file.validate(Config, tree, "changed")


def measured(config: Config, root: str) -> dict[str, Any]:
    found: dict[str, Any] = evaluate(config, root)["lists"]["relations"]
    return found


def in_small_parts(config: Config, root: str) -> dict[str, Any]:
    held_out.ENTRIES_AT_ONCE = 70
    return measured(config, root)


class Expected:
    """The definitions, for the model's lists of one relation."""

    def __init__(
        self, graph: Graph, relation: str, split: str, k: int, among: set[str], left_out: set[tuple[str, str]]
    ) -> None:
        self._graph, self._relation, self._among, table = graph, relation, among, TABLES[relation]
        held = graph.known(relation, (split,)) - left_out
        self.answers = {user: {item for other, item in held if other == user} for user, _ in held}
        self.lists = {
            user: [name for name, _ in graph.best(relation, table, user, left_out, k, among)] for user in self.answers
        }
        train = graph.known(relation, ("train",))
        self._degree, nodes = Counter(item for _, item in train), graph.tables[table]
        self._bits = {item: -math.log2((self._degree[item] + 1) / (len(train) + len(nodes))) for item in nodes}

    def buckets(self) -> dict[str, list[str]]:
        """The users by the bucket of their degree."""
        degree = Counter[tuple[str, str]]()
        for relation, lhs, rhs in self._graph.edges["train"]:
            degree.update([("user", lhs), (TABLES[relation], rhs)])
        of = {user: BUCKETS[sum(degree["user", user] >= bound for bound in (1, 10, 100, 1000))] for user in self.lists}
        return {name: [user for user in of if of[user] == name] for name in BUCKETS if name in of.values()}

    def figures(self, users: list[str], k: int) -> dict[str, float]:
        recall, hit, ndcg, average, bits, edges, different = ([] for _ in range(7))
        shown = Counter[str]()
        for user in users:
            listed, answers = self.lists[user][:k], self.answers[user]
            ranks = [rank for rank, item in enumerate(listed, 1) if item in answers]
            most = min(k, len(answers))
            recall.append(len(ranks) / len(answers))
            hit.append(bool(ranks))
            ideal = sum(1 / math.log2(1 + rank) for rank in range(1, most + 1))
            ndcg.append(sum(1 / math.log2(1 + rank) for rank in ranks) / ideal)
            average.append(sum(place / rank for place, rank in enumerate(ranks, 1)) / most)
            shown.update(listed)
            if listed:
                bits.append(float(np.mean([self._bits[item] for item in listed])))
                edges.append(float(np.mean([self._degree[item] for item in listed])))
            if len(listed) > 1:
                vectors = [self._graph.tables[TABLES[self._relation]][item] for item in listed]
                cosines = [
                    float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
                    for one, other in itertools.combinations(vectors, 2)
                ]
                different.append(1 - float(np.mean(cosines)))
        every = [shown[item] for item in self._among]
        values = {
            "recall": recall, "hit_rate": hit, "ndcg": ndcg, "map": average, "novelty": bits, "popularity": edges,
            "diversity": different,
        }  # fmt: skip
        differences = sum(abs(one - other) for one, other in itertools.product(every, every))
        means = {name: float(np.mean(of)) for name, of in values.items() if of}
        gini = differences / (2 * len(every) * sum(every)) if sum(every) else 0.0
        return means | {"coverage": len(shown) / len(self._among), "gini": gini}

    def deciles(self, at: list[int]) -> list[dict[str, Any]]:
        """The answers by their degree, with their ranks."""
        return plain_deciles(
            [
                (self._degree[item], self.lists[user].index(item) + 1 if item in self.lists[user] else None)
                for user, answers in self.answers.items()
                for item in answers
            ],
            at,
        )


def assert_measured(found: dict[str, Any], expected: Expected, at: list[int]) -> None:
    def all_lengths(users: list[str]) -> dict[str, float]:
        return {f"{name}@{k}": value for k in at for name, value in expected.figures(users, k).items()}

    answers = {(user, item) for user, of in expected.answers.items() for item in of}
    assert found["at"] == at
    assert (found["users"], found["answers"]) == (len(expected.lists), len(answers))
    assert found["figures"]["model"] == pytest.approx(all_lengths(list(expected.lists)), abs=1e-5)
    buckets = expected.buckets()
    assert list(found["degrees"]["model"]) == list(buckets)
    for bucket, users in buckets.items():
        of = {"users": len(users), **all_lengths(users)}
        assert found["degrees"]["model"][bucket] == pytest.approx(of, abs=1e-5)
    for k in at:
        hits = sum(item in expected.answers[user] for user, listed in expected.lists.items() for item in listed[:k])
        listed = sum(len(of[:k]) for of in expected.lists.values())
        sources = found["sources"]["model"]
        assert list(sources) == ["vector"]
        assert (sources["vector"][f"listed@{k}"], sources["vector"][f"hits@{k}"]) == (listed, hits)
    assert set(found["intervals"]["model"]) == {
        f"{name}@{k}" for name in ("recall", "hit_rate", "ndcg", "map") for k in at
    }
    assert list(found["figures"]) == list(found["deciles"]) == ["model", *BASELINES]
    assert found["deciles"]["model"] == expected.deciles(at)
    assert_conserved(found)


def assert_conserved(found: dict[str, Any]) -> None:
    """The deciles of each source have all answers, and all hits that the source has."""
    for source, groups in found["deciles"].items():
        assert sum(group["answers"] for group in groups) == found["answers"]
        for k in found["at"]:
            hits = sum(round(group[f"recall@{k}"] * group["answers"]) for group in groups)
            assert hits == sum(of[f"hits@{k}"] for of in found["sources"][source].values())


@pytest.mark.parametrize(("relation", "split"), [("fav", "test"), ("fav", "validation"), ("follow", "test")])
def test_figures_are_those_of_the_definitions(trained: Trained, relation: str, split: str) -> None:
    config, root = trained
    graph = Graph(config, root)
    config = with_lists(config, {relation: {"k": 8}}, split=split, lists={"k": [2, 5, 50]})
    before = ("train",) if split == "validation" else ("train", "validation")
    left_out = graph.known(relation, before)
    if relation == "follow":
        left_out |= {(user, user) for user in graph.tables["user"]}
    expected = Expected(graph, relation, split, 8, set(graph.tables[TABLES[relation]]), left_out)
    assert_measured(measured(config, root)[relation], expected, [2, 5, 8])


@given(data=st.data())
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_settings_of_lists_apply(trained: Trained, tmp_path: Path, data: st.DataObject) -> None:
    config, root = trained
    graph = Graph(config, root)
    names = {table: sorted(of) for table, of in graph.tables.items()}
    given: dict[str, Any] = {"k": data.draw(st.integers(1, 12)), "min_degree": data.draw(st.integers(0, 6))}
    exclude = data.draw(st.sampled_from([None, [], ["fav"]]))
    wanted = data.draw(st.none() | st.lists(st.sampled_from(names["tweet"]), min_size=12, unique=True))
    asked = data.draw(st.none() | st.lists(st.sampled_from(names["user"]), min_size=15, unique=True))
    shown = data.draw(
        st.none() | st.lists(st.tuples(*(st.sampled_from(names[of]) for of in ("user", "tweet"))), min_size=1)
    )
    for key, ids in (("candidates", wanted), ("users", asked)):
        if ids is not None:
            (tmp_path / key).write_text("\n".join(ids))
            given[key] = str(tmp_path / key)
    if exclude is not None:
        given["exclude"] = exclude
    if shown is not None:
        given["exclude_edges"] = str(tmp_path / "pairs.parquet")
        lhs, rhs = map(list, zip(*shown, strict=True))
        pq.write_table(pa.table({"lhs": lhs, "rhs": rhs}), given["exclude_edges"])
    degree = Counter(rhs for _, rhs in graph.known("fav", ("train",)))
    among = {name for name in wanted or names["tweet"] if degree[name] >= given["min_degree"]}
    left_out = (set() if exclude == [] else graph.known("fav", ("train", "validation"))) | set(shown or [])
    expected = Expected(graph, "fav", "test", given["k"], among, left_out)
    for of in (expected.answers, expected.lists):
        for user in set(of) - set(asked or names["user"]):
            del of[user]
    config = with_lists(config, {"fav": given}, lists={"k": [1, 4]})
    if not among:
        with pytest.raises(UserError, match=r"recommend.fav: no node of table tweet is a candidate"):
            evaluate(config, root)
    elif not expected.answers:
        assert measured(config, root).get("fav", {"users": 0})["users"] == 0
    else:
        found = measured(config, root)["fav"]
        assert_measured(found, expected, sorted({min(given["k"], k) for k in (1, 4)}))
        assert found["candidates"] == len(among)
        assert found["reachable"] == sum(item in among for of in expected.answers.values() for item in of)


def test_users_whose_answers_are_all_left_out_do_not_count(trained: Trained, tmp_path: Path) -> None:
    config, root = trained
    graph = Graph(config, root)
    held = graph.known("fav", ("test",))
    some = sorted({user for user, _ in held})[::2]
    shown = {pair for pair in held if pair[0] in some}
    lhs, rhs = map(list, zip(*sorted(shown), strict=True))
    pq.write_table(pa.table({"lhs": lhs, "rhs": rhs}), tmp_path / "shown.parquet")
    left_out = shown | graph.known("fav", ("train", "validation"))
    expected = Expected(graph, "fav", "test", 6, set(graph.tables["tweet"]), left_out)
    assert not expected.lists.keys() & set(some)
    settings = {"k": 6, "exclude_edges": str(tmp_path / "shown.parquet")}
    assert_measured(measured(with_lists(config, {"fav": settings}, lists={"k": [3]}), root)["fav"], expected, [3])


def test_lists_of_everything_agree_with_ranks(trained: Trained) -> None:
    """Without conditions, the recall and ndcg of lists are those of ranking, which computes them in another way."""
    config, root = trained
    metrics = evaluate(with_lists(config, {"fav": {}, "follow": {"exclude": ["follow"]}}), root)
    for name in ("recall@10", "recall@50", "ndcg@10", "ndcg@50"):
        assert metrics["lists"]["relations"]["fav"]["figures"]["model"][name] == pytest.approx(
            metrics["test"]["fav"][name]
        )


def test_ranks_that_share_the_users_find_the_same(trained: Trained) -> None:
    config, root = trained
    config = with_lists(config, {"fav": {"k": 7}, "follow": {"k": 5}})
    first, second = run_ranks(2, in_small_parts, config, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "ENTRIES_AT_ONCE", 70)
        Path(root, "evaluation/metrics.json").unlink()
        assert first == second == measured(config, root)
    Path(root, "evaluation/metrics.json").unlink()
    whole = measured(config, root)
    for relation, of in whole.items():
        for name in ("model", "popularity", "item-item"):  # the random one draws for the users at once
            assert first[relation]["figures"][name] == pytest.approx(of["figures"][name])
            assert first[relation]["deciles"][name] == of["deciles"][name]


def test_few_users_are_in_memory_at_once(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    config, root = trained
    asked = list[int]()
    find = PopularityFinder.find

    def record(self: PopularityFinder, rows: Any, *rest: Any) -> Any:
        asked.append(len(rows))
        return find(self, rows, *rest)

    monkeypatch.setattr(PopularityFinder, "find", record)
    monkeypatch.setattr(held_out, "ENTRIES_AT_ONCE", 50)
    users = measured(with_lists(config, {"fav": {"k": 10}}), root)["fav"]["users"]
    assert sum(asked) == users == 20
    assert max(asked) == 5


def test_users_are_sampled_by_the_seed(trained: Trained) -> None:
    config, root = trained
    figures = []
    for seed in (0, 0, 1):
        found = measured(with_lists(config, {"fav": {"k": 5}}, lists={"users": 9, "k": [5]}, seed=seed), root)
        assert found["fav"]["users"] == 9
        figures.append(found["fav"]["figures"])
        Path(root, "evaluation/metrics.json").unlink()
    assert figures[0] == figures[1] != figures[2]


def test_lists_are_measured_again_without_ranking_again(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    config, root = trained
    plain = evaluate(with_lists(config, {"fav": {}}, lists=None), root)
    assert "lists" not in plain
    calls = list[object]()
    monkeypatch.setattr(ranking, "measure", lambda *_: calls.append(_))
    of_lists = evaluate(with_lists(config, {"fav": {"k": 5}}), root)
    assert of_lists | {"lists": None} == plain | {"lists": None}
    assert read_json(f"{root}/evaluation/metrics.json") == of_lists
    written = Path(root, "evaluation/metrics.json").stat().st_mtime_ns
    assert evaluate(with_lists(config, {"fav": {"k": 5}}), root) == of_lists
    assert Path(root, "evaluation/metrics.json").stat().st_mtime_ns == written
    other = evaluate(with_lists(config, {"fav": {"k": 4}}), root)
    assert other["lists"]["relations"]["fav"]["at"] == [4]
    (Path(root).parent / "users.txt").write_text("u1\nu2\nu3\nu4")
    asked = with_lists(config, {"fav": {"k": 4, "users": str(Path(root).parent / "users.txt")}})
    few = evaluate(asked, root)["lists"]["relations"]["fav"]["users"]
    (Path(root).parent / "users.txt").write_text("\n".join(f"u{user}" for user in range(30)))
    assert evaluate(asked, root)["lists"]["relations"]["fav"]["users"] > few
    assert evaluate(with_lists(config, {"fav": {}}, lists=None), root) == plain
    assert not calls


def test_lists_that_an_earlier_release_measured_are_measured_again(trained: Trained) -> None:
    """It had fewer figures, and a digest of the settings alone."""
    config, root = trained
    config = with_lists(config, {"fav": {"k": 5}})
    now, url = evaluate(config, root), f"{root}/evaluation/metrics.json"
    earlier = read_json(url)
    of = earlier["lists"]["relations"]["fav"]
    del of["deciles"]
    for figures in of["figures"].values():
        del figures["popularity@5"]
    assert config.evaluation.lists is not None
    settings = [config.evaluation.lists.model_dump(), {"fav": identified(config.recommend["fav"], None)}]
    earlier["lists"]["config"] = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    write_json(url, earlier)
    assert evaluate(config, root) == now == read_json(url)


def test_follow_measures_the_lists_of_each_checkpoint(trained: Trained) -> None:
    config, root = trained
    config = with_lists(config, {"fav": {"k": 5}})
    follow(config, root)
    newest = evaluate(config, root)
    assert newest["lists"]["relations"]["fav"]["figures"]["model"]["recall@5"] > 0
    assert read_json(metrics_url(root, newest["checkpoint"])) == newest


@pytest.mark.parametrize(
    ("gate", "bounds", "reason"),
    [
        ("lists.fav.recall@5", {"min": 0.99}, "lists.fav.recall@5 is 0."),
        ("lists.fav.gini@10", {"max": 1}, None),
        ("lists.fav.popularity@10", {"max": 300}, None),
        ("lists.fav.popularity@5", {"max": 0.5}, "lists.fav.popularity@5 is "),
        ("lists.fav.coverage@5", {"min": 0.01}, None),
        ("lists.fav.coverage@5", {"at_least_baseline": "item-item", "factor": 1000.0}, "lists.fav.coverage@5 is "),
        ("lists.fav.coverage@5", {"at_least_baseline": "popularity", "factor": 0.001}, None),
    ],
)
def test_gates_may_name_figures_of_lists(trained: Trained, gate: str, bounds: dict[str, Any], reason: str) -> None:
    config, root = trained
    evaluate(with_lists(config, {"fav": {"k": 10}}, lists={"k": [5, 10]}, gates={gate: bounds}), root)
    decision = read_decision(root)
    assert decision is not None
    assert decision["passed"] == (reason is None)
    assert decision["gates"][0]["reason"].startswith(reason or gate)


@pytest.mark.parametrize(
    ("recommend", "evaluation", "message"),
    [
        ({}, {}, "evaluation.lists: needs the section recommend"),
        ({"fav": {}}, {"lists": {"k": [5, 5]}}, "evaluation.lists.k: must be strictly ascending"),
        ({"fav": {}}, {"lists": {"k": []}}, "evaluation.lists.k: "),
        ({"fav": {}}, {"lists": {"k": [0]}}, "evaluation.lists.k.0: "),
        ({"fav": {}}, {"lists": {"users": 0}}, "evaluation.lists.users: "),
        ({"fav": {}}, {"lists": {"baselines": ["popular"]}}, "evaluation.lists.baselines.0: "),
        ({"fav": {}}, {"lists": {"baselines": ["random", "random"]}}, "evaluation.lists.baselines: each may be listed"),
        ({"fav": {}}, {"lists": None, "gates": {"lists.fav.recall@10": {"min": 0}}}, "needs evaluation.lists"),
        (
            {"fav": {}},
            {"previous": "a", "gates": {"lists.fav.recall@10": {"max_drop": 0}}},
            "max_drop: lists of earlier",
        ),
        ({"fav": {}}, {"gates": {"lists.fav.recall@11": {"min": 0}}}, "lists.fav.recall@11 names no metric; near it"),
        ({"fav": {"k": 20}}, {"gates": {"lists.fav.recall@50": {"min": 0}}}, "lists.fav.recall@50 names no metric"),
        ({"fav": {}}, {"gates": {"lists.follow.recall@10": {"min": 0}}}, "lists.follow.recall@10 names no metric"),
        ({"fav": {"exclude": ["follow"]}}, {}, "recommend.fav.exclude: relation follow does not lead between tables"),
        ({"fav": {"users": "/nowhere.txt"}}, {}, "nowhere.txt"),
        ({"fav": {"min_degree": 1000}}, {}, "recommend.fav: no node of table tweet is a candidate"),
    ],
)
def test_a_mistake_names_its_key(
    trained: Trained, recommend: dict[str, Any], evaluation: dict[str, Any], message: str
) -> None:
    config, root = trained
    with pytest.raises(UserError) as error:
        evaluate(with_lists(config, recommend, **evaluation), root)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_relation_without_held_out_edges_has_no_lists(
    small_config: SmallConfig, trained: Trained, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    config, root = trained
    (tmp_path / "users.txt").write_text("nobody\n")
    found = measured(with_lists(config, {"fav": {"users": str(tmp_path / "users.txt")}, "follow": {}}), root)
    assert list(found) == ["follow"]
    assert "no lists of fav: no user has a held-out edge" in caplog.text


def test_the_command_the_step_and_the_report_show_them(trained: Trained) -> None:
    config, root = trained
    config = with_lists(config, {"fav": {"k": 6}}, lists={"k": [3, 6]})
    metrics = evaluate(config, root)
    model = metrics["lists"]["relations"]["fav"]["figures"]["model"]
    assert evaluation_figures(config, metrics)["lists.fav.recall@6"] == model["recall@6"]
    assert f"| recall@3 | {model['recall@3']:.4f} |" in evaluation_text(config, metrics, [])
    done = twhin(
        "evaluate", "--run-root", root, "--json", "--set", "recommend={fav: {k: 6}}",
        "--set", "evaluation.lists={k: [3, 6]}", "--set", "evaluation.bootstrap=20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["metric"]: row for row in json.loads(done.stdout)["lists.fav"]}
    assert list(rows) == list(model)
    assert rows["map@6"]["result"] == model["map@6"]
    for baseline in BASELINES:
        assert rows["gini@3"][baseline] == metrics["lists"]["relations"]["fav"]["figures"][baseline]["gini@3"]
    page = Path(root, "evaluation/report.html").read_text()
    assert 'id="lists"' in page
    assert "item-item (baseline)" in page
