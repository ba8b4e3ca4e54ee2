"""Two runs compared: their own figures, the same edges, and intervals that hold the true difference."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig
from tests.evaluation.test_figures import all_sums
from twhin_core import storage
from twhin_core.config import Config, Evaluation
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.evaluation import paired
from twhin_core.evaluation.intervals import Groups, intervals, intervals_of_differences
from twhin_core.evaluation.kept_ranks import KeptRanks
from twhin_core.evaluation.paired import compare
from twhin_core.evaluation.result import read_metrics
from twhin_core.run import saved_config
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

Trained = tuple[Config, str]


def changed(config: Config, **evaluation: object) -> Config:
    return config_file.validate(Config, config.model_dump() | {"evaluation": evaluation}, "changed")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"folder": tmp_path_factory.mktemp("runs")}


@pytest.fixture
def runs(kept: dict[str, Path], small_config: SmallConfig, tmp_path: Path) -> tuple[str, str]:
    """Two evaluated runs on the same raw file with other seeds; each test has copies of its own."""
    for number, seed in enumerate((1, 2)):
        root = kept["folder"] / str(number)
        if not root.exists():
            config = small_config(training={"seed": seed})
            for stage in (prepare, train, evaluate):
                stage(config, str(root))
        shutil.copytree(root, tmp_path / f"run{number}")
    return str(tmp_path / "run0"), str(tmp_path / "run1")


def test_the_figures_are_those_of_each_run(runs: tuple[str, str]) -> None:
    found = compare(*runs)
    for root, figures in zip(runs, (found.first, found.second), strict=True):
        metrics = read_metrics(root)
        assert metrics is not None
        del metrics["test"]["all"]["auc_reference"]  # not of ranks
        assert figures.keys() == metrics["test"].keys()
        for relation, of in figures.items():
            assert of == pytest.approx(metrics["test"][relation], abs=1e-12)
    assert found.first != found.second


def test_the_intervals_are_those_of_a_plain_paired_bootstrap(runs: tuple[str, str]) -> None:
    """Resample the queries, with the same for both runs, and take quantiles of the difference of the MRRs."""
    tables = [pq.read_table(Path(root, "evaluation/ranks.parquet")).to_pandas() for root in runs]
    keys = ["side", "relation", "node", "answer"]
    both = tables[0].merge(tables[1], on=keys, suffixes=("", "_other"))
    assert len(both) == len(tables[0]) == len(tables[1])
    both["difference"] = (1 / both["rank_other"] - 1 / both["rank"]) * both["edges"]
    rng = np.random.default_rng(11)
    found = compare(*runs)
    for relation in ("all", "follow", "fav"):
        mine = both if relation == "all" else both[both["relation"] == relation]
        queries = mine.groupby(["side", "relation", "node"]).agg({"difference": "sum", "edges": "sum"}).to_numpy()
        drawn = rng.integers(len(queries), size=(4000, len(queries)))
        means = queries[drawn].sum(1)
        expected = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
        width = expected[1] - expected[0]
        assert found.differences[relation]["mrr"] == pytest.approx(expected, abs=0.15 * width)


def test_a_run_differs_from_itself_by_nothing(runs: tuple[str, str]) -> None:
    found = compare(runs[0], runs[0])
    assert found.first == found.second
    assert {tuple(bounds) for of in found.differences.values() for bounds in of.values()} == {(0.0, 0.0)}


def test_the_other_way_round_all_signs_change(runs: tuple[str, str]) -> None:
    one, other = compare(*runs), compare(*reversed(runs))
    assert (one.first, one.second) == (other.second, other.first)
    for relation, of in one.differences.items():
        for name, (low, high) in of.items():
            assert other.differences[relation][name] == pytest.approx([-high, -low], abs=1e-12)


def test_intervals_of_differences_cover_the_truth_and_are_narrower_than_unpaired() -> None:
    """400 queries, hard or easy for both runs alike, of which the second is better by .05 on average."""
    evaluation, rng, held = Evaluation(bootstrap=200), np.random.default_rng(0), 0
    for trial in range(200):
        common = rng.exponential(0.3, 400)
        first, second = common + rng.normal(0, 0.1, 400), common + rng.normal(0.05, 0.1, 400)
        groups = Groups(np.zeros(400, np.int64), 1, trial)
        sums = [(all_sums(of, groups.of_all), all_sums(of, groups.of_relation)) for of in (first, second)]
        low, high = intervals_of_differences(groups, sums[0], sums[1], ["to"], evaluation)["to"]["mrr"]
        alone = intervals(groups, *sums[0], ["to"], evaluation)["to"]["mrr"]
        assert high - low < 0.75 * (alone[1] - alone[0])
        held += low <= 0.05 <= high
    assert held / 200 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 200))


class Numbered:
    """Ids of a table whose rows were numbered anew."""

    index = None

    def __init__(self, names: list[str]) -> None:
        self.names, self.size = names, len(names)

    def at(self, positions: np.ndarray) -> list[str]:
        return [self.names[position] for position in positions.tolist()]


def renumbered(of: Any, rng: np.random.Generator, ids: dict[tuple[str, str], list[str]]) -> Any:
    """The same ranks in a run whose rows and relations have other numbers."""
    new = {name: rng.permutation(size) for name, size in of.schema.tables.items()}
    for name, numbers in new.items():
        names = [""] * len(numbers)
        for row, number in enumerate(numbers.tolist()):
            names[number] = f"{name} {row}"
        ids["other", name] = names
    ranks: KeptRanks = of.ranks
    order = rng.permutation(len(ranks.relations))
    back = np.argsort(order)
    relations = [ranks.relations[at] for at in order]
    tables = {entry.name: (entry.lhs, entry.rhs) for entry in of.schema.relations}
    node, answer = ranks.node.copy(), ranks.answer.copy()
    for at, name in enumerate(ranks.relations):
        for is_rhs in (0, 1):
            mine = (ranks.rel == at) & (ranks.side == bool(is_rhs))
            node[mine] = new[tables[name][1 - is_rhs]][ranks.node[mine]]
            answer[mine] = new[tables[name][is_rhs]][ranks.answer[mine]]
    there = replace(ranks, relations=relations, rel=back[ranks.rel], node=node, answer=answer)
    return replace(of, root="other", ranks=there.take(np.lexsort((answer, node, there.rel, there.side))))


@pytest.mark.parametrize("seed", range(10))
def test_nodes_and_relations_are_matched_by_their_names(
    seed: int, runs: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = paired._open(runs[0], "test")
    ids = {(one.root, name): [f"{name} {row}" for row in range(size)] for name, size in one.schema.tables.items()}
    other = renumbered(one, np.random.default_rng(seed), ids)
    assert not np.array_equal(other.ranks.node, one.ranks.node)
    monkeypatch.setattr(paired, "open_ids", lambda _, root, table, __: Numbered(ids[root, table]))
    found = paired._matched(one, other)
    for name in ("side", "rel", "node", "answer", "edges", "negatives", "rank", "list_rank"):
        assert np.array_equal(getattr(found, name), getattr(one.ranks, name), equal_nan=name == "list_rank")


def without_a_row(ranks: KeptRanks) -> KeptRanks:
    (gone, *_) = np.flatnonzero(ranks.side)
    twin = ~ranks.side & (ranks.rel == ranks.rel[gone]) & (ranks.node == ranks.answer[gone])
    twin &= ranks.answer == ranks.node[gone]
    return ranks.take(np.setdiff1d(np.arange(len(ranks)), [gone, *np.flatnonzero(twin)]))


def twice(ranks: KeptRanks) -> KeptRanks:
    edges = ranks.edges.copy()
    edges[0] += 1
    return replace(ranks, edges=edges)


DIFFERENCES: dict[str, tuple[Callable[[KeptRanks], KeptRanks], bool, str]] = {
    "one is missing": (without_a_row, False, r"it lacks 1 of \d+, such as \(user u\d+, follow, user u\d+\)$"),
    "one more": (without_a_row, True, "it has 1 more$"),
    "one twice": (twice, False, "some occur more often$"),
    "a relation": (lambda ranks: ranks.take(np.flatnonzero(ranks.rel == 0)), False, "such as"),
    "a relation's name": (
        lambda ranks: replace(ranks, relations=["follow", "likes"]), False, "relation fav has some in one of them",
    ),
}  # fmt: skip


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_other_edges_are_refused_with_one_of_them(
    difference: str, runs: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, of_first, message = DIFFERENCES[difference]
    opened = {root: paired._open(root, "test") for root in runs}
    which = runs[0 if of_first else 1]
    opened[which] = replace(opened[which], ranks=change(opened[which].ranks))
    monkeypatch.setattr(paired, "_open", lambda root, _: opened[root])
    with pytest.raises(UserError, match=message) as error:
        compare(*runs)
    assert str(error.value).startswith(f"{runs[1]}: its held-out edges are not those of {runs[0]}: ")


def test_what_cannot_be_compared_is_refused_in_one_line(
    runs: tuple[str, str], small_config: SmallConfig, tmp_path: Path
) -> None:
    first, second = runs
    config = saved_config(second)
    assert_refused(twhin("compare", first, tmp_path / "none"), f"{tmp_path}/none: there is no run here (config.yaml)")
    with pytest.raises(UserError, match=r"no ranks of validation edges here; run `twhin evaluate --run-root .* first$"):
        compare(first, second, "validation")
    evaluate(changed(config, candidates=10), second)
    with pytest.raises(UserError, match=r"ranks are among 10 candidates sampled with power 0, but those of .* all nod"):
        compare(first, second)
    other = changed(small_config(training={"seed": 2}, prepare={"split": {"test": 0.2}}), hits_at=[1])
    root = str(tmp_path / "other")
    for stage in (prepare, train, evaluate):
        stage(other, root)
    with pytest.raises(UserError, match="its held-out edges are not those of"):
        compare(first, root)
    Path(root, "evaluation/ranks.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(UserError, match=r"ranks\.parquet: not a complete Parquet file"):
        compare(first, root)


def test_ranks_of_other_metrics_are_not_compared_but_made_again(runs: tuple[str, str]) -> None:
    config, (first, second) = saved_config(runs[0]), runs
    shutil.copy(Path(second, "evaluation/ranks.parquet"), Path(first, "evaluation/ranks.parquet"))
    metrics = read_metrics(first)
    assert metrics is not None
    storage.write_json(f"{first}/evaluation/metrics.json", metrics | {"checkpoint": 1})
    with pytest.raises(UserError, match="no ranks of test edges here"):
        compare(first, second)
    evaluate(config, first)
    assert compare(first, second).steps == (metrics["checkpoint"], metrics["checkpoint"])
    Path(first, "evaluation/ranks.parquet").unlink()
    assert evaluate(config, first) == metrics
    compare(first, second)


def test_the_command_prints_both_and_the_difference(runs: tuple[str, str]) -> None:
    found = compare(*runs)
    ran = twhin("compare", *runs, "--json")
    assert ran.returncode == 0, ran.stderr
    rows = {row["metric"]: row for row in json.loads(ran.stdout)["metrics"]}
    low, high = found.differences["all"]["mrr"]
    first, second = found.first["all"]["mrr"], found.second["all"]["mrr"]
    assert rows["mrr"] == {
        "metric": "mrr", "a": first, "b": second, "difference": second - first, "low": low, "high": high
    }  # fmt: skip
    largest = sorted(["follow", "fav"], key=lambda name: -found.first[name]["edges"])
    plain = twhin("compare", *runs).stdout.split("\n\n")
    assert plain[0].splitlines()[0] == "metric\ta\tb\tdifference\tlow\thigh"
    assert [line.split("\t")[0] for line in plain[1].splitlines()] == ["relation", *largest]
