"""Every kind of model goes through all stages, and what comes out is its score, computed from the exported files."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.evaluation.brute_force import BruteForce, Triple
from tests.ranks import run_ranks
from tests.training.dense import OPERATORS
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.ranks import process_group
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.run import open_run
from twhin_core.schema import SIDES, Side
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.trainer import Trainer

Array = npt.NDArray[np.float32]

DIM = 8
TABLES = ("user", "tweet")
RELATIONS = {"follow": ("user", "user"), "fav": ("user", "tweet"), "by": ("tweet", "user")}
MIXED = ("identity", "linear", "translation")
"""The operators of the relations where they have several."""

AXES: dict[str, tuple[Any, ...]] = {
    "operator": (*OPERATORS, "mixed"),
    "comparator": ("dot", "cos", "l2", "squared_l2"),
    "loss": ("bce", "softmax", "ranking"),
    "optimizer": ("sgd", "adam", "adagrad", "rowwise_adagrad", "spherical_adagrad"),
    "data_type": ("fp32", "fp16"),
    # Of two ranks, or a process alone.
    "sharding": ("alone", "auto", "data_parallel", "table_wise", "row_wise", "column_wise"),
    "reciprocal": (False, True),
    "amp": (False, True),
}


@dataclass(frozen=True)
class Case:
    operator: str
    comparator: str
    loss: str
    optimizer: str
    data_type: str
    sharding: str
    reciprocal: bool
    amp: bool

    @property
    def values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        return "-".join(map(str, self.values))


def is_refused(case: Case) -> bool:
    """What the config's documentation excludes."""
    refused = {
        ("rowwise_adagrad", "column_wise"), ("spherical_adagrad", "column_wise"), ("spherical_adagrad", "fp16"),
        ("data_parallel", "fp16"), ("adam", "fp16"), *(("adam", kind) for kind in AXES["sharding"] if kind != "alone"),
    }  # fmt: skip
    return any(pair <= set(case.values) for pair in map(set, refused))


@cache
def covering(together: int) -> list[Case]:
    """Cases in which every combination of values of so many axes occurs, unless each case with it is refused.

    Greedy: of some random cases that have a missing combination, the one that has the most.
    """
    drawn, names = random.Random(together), list(AXES)
    groups = list(itertools.combinations(range(len(names)), together))

    def combinations(case: Case) -> set[Any]:
        return {tuple((at, case.values[at]) for at in group) for group in groups}

    missing: set[Any] = set()
    for case in itertools.starmap(Case, itertools.product(*AXES.values())):
        if not is_refused(case):
            missing |= combinations(case)
    chosen = []
    while missing:
        wanted = dict(min(missing))
        options = []
        while len(options) < 60:
            values = [wanted.get(at, drawn.choice(AXES[name])) for at, name in enumerate(names)]
            if not is_refused(Case(*values)):
                options.append(Case(*values))
        best = max(options, key=lambda case: len(combinations(case) & missing))
        missing -= combinations(best)
        chosen.append(best)
    return chosen


def config_of(case: Case, raw: Path) -> Config:
    table: dict[str, Any] = {"embedding_dim": DIM, "optimizer": {case.optimizer: {"lr": 0.1}}}
    table |= {"data_type": case.data_type, "sharding": "auto" if case.sharding == "alone" else case.sharding}
    operators = MIXED if case.operator == "mixed" else [case.operator] * 3
    tree: dict[str, Any] = {
        "prepare": {
            "sources": [{"path": str(raw), "relation_column": "relation"}],
            "split": {"validation": 0.1, "test": 0.15},
            "memory_limit": "512MB",
        },
        "model": {
            "embeddings": {"tables": [{"name": name, **table} for name in TABLES]},
            "relations": [
                {"name": name, "lhs": lhs, "rhs": rhs, "operator": operator}
                for (name, (lhs, rhs)), operator in zip(RELATIONS.items(), operators, strict=True)
            ],
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
            "comparator": case.comparator,
            "loss": case.loss,
            "reciprocal": case.reciprocal,
            "init_std": 0.01 if case.optimizer == "spherical_adagrad" else 0.4,
        },
        "runtime": {"enable_amp": case.amp},
        "training": {"num_train_steps": 3, "num_epochs": 9},
        "train_data": {"per_replica_batch_size": 16, "in_batch_negatives": 2, "global_negatives": 2, "chunk_size": 8},
        "evaluation": {"bootstrap": 20, "recall_at": [3], "hits_at": [1, 3]},
        "export": {"formats": ["parquet", "faiss"]},
    }
    return config_file.validate(Config, tree, str(case))


def write_raw(path: Path) -> None:
    rng = np.random.default_rng(3)
    sizes = {"user": 9, "tweet": 7}
    rows = {
        (f"{lhs[0]}{rng.integers(sizes[lhs])}", name, f"{rhs[0]}{rng.integers(sizes[rhs])}")
        for name, (lhs, rhs) in RELATIONS.items()
        for _ in range(40)
    }
    lhs, relation, rhs = zip(*sorted(rows), strict=True)
    pq.write_table(pa.table({"lhs": lhs, "relation": relation, "rhs": rhs}), path)


def train_all(runs: list[tuple[Config, str]]) -> None:
    """Trains all of them on the ranks that call it, which start once."""
    with process_group() as ranks:
        for config, root in runs:
            Trainer(config, root, ranks).run()


def prepare_all(cases: list[Case], folder: Path) -> list[tuple[Config, str]]:
    """The config and run root of each case, with the same graph."""
    write_raw(folder / "raw.parquet")
    configs = [config_of(case, folder / "raw.parquet") for case in cases]
    prepare(configs[0], str(folder / "first"))
    runs = []
    for number, config in enumerate(configs):
        root = str(folder / str(number))
        shutil.copytree(folder / "first/graph", f"{root}/graph")
        open_run(config, root)
        runs.append((config, root))
    return runs


def train_cases(cases: list[Case], folder: Path) -> dict[Case, tuple[Config, str]]:
    runs = dict(zip(cases, prepare_all(cases, folder), strict=True))
    for case, (config, root) in runs.items():
        if case.sharding == "alone":
            train(config, root)
    run_ranks(2, train_all, [run for case, run in runs.items() if case.sharding != "alone"], seconds=600)
    return runs


@pytest.fixture(scope="module")
def runs_of_pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, tuple[Config, str]]:
    return train_cases(covering(2), tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def runs_of_triples(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, tuple[Config, str]]:
    return train_cases(covering(3), tmp_path_factory.mktemp("triples"))


class Exported:
    """A run as its exported files describe it."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.ids, self.vectors = {}, {}
        for table in TABLES:
            rows = pq.read_table(self.root / "embeddings" / table)
            self.ids[table] = rows["id"].to_pylist()
            self.vectors[table] = torch.tensor(rows["embedding"].to_pylist())
        self.relations = pq.read_table(self.root / "embeddings/relations.parquet").to_pylist()

    def scores(self, comparator: str, rel: int, side: Side) -> Array:
        """Of each lhs with each rhs, as answers to queries for `side`: [rows of the lhs, rows of the rhs]."""
        relation = self.relations[rel]
        lhs, rhs = (self.vectors[table] for table in RELATIONS[relation["name"]])
        if side == "lhs" and "inverse" in relation:
            rhs = moved(relation["operator"], relation["inverse"], rhs)
        else:
            lhs = moved(relation["operator"], relation["embedding"], lhs)
        return np.array([[compare(comparator, one, other) for other in rhs] for one in lhs], np.float32)

    def edges(self, split: str) -> list[Triple]:
        rows = pq.read_table(self.root / "graph/edges" / split).to_pylist()
        return [(row["lhs"], row["rel"], row["rhs"]) for row in rows]


def moved(operator: str, parameters: list[float], vectors: torch.Tensor) -> torch.Tensor:
    values = torch.tensor(parameters)
    if operator in ("linear", "affine"):
        values = values.view(DIM, -1)
    return OPERATORS[operator](values, vectors)


def compare(comparator: str, one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.double(), other.double()
    by: dict[str, Callable[[], torch.Tensor]] = {
        "dot": lambda: one @ other,
        "cos": lambda: one @ other / (one.norm() * other.norm()),
        "l2": lambda: -(one - other).norm(),
        "squared_l2": lambda: -(one - other).square().sum(),
    }
    return float(by[comparator]())


def check(case: Case, config: Config, root: str) -> None:
    """Evaluates, exports and queries a trained run, and compares all of it with the exported vectors."""
    metrics, manifest = evaluate(config, root), export(config, root)
    assert newest(root).step == metrics["checkpoint"] == manifest.checkpoint == 3
    exported = Exported(root)
    scores = {(rel, side): exported.scores(case.comparator, rel, side) for rel in range(3) for side in SIDES}
    assert all(np.isfinite(of).all() for of in scores.values())
    if case.optimizer == "spherical_adagrad":
        for vectors in exported.vectors.values():
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))

    splits = {split: exported.edges(split) for split in ("train", "validation", "test")}
    sizes = [[len(exported.ids[table]) for table in of] for of in RELATIONS.values()]
    by_side = {"lhs": [lhs for lhs, _ in sizes], "rhs": [rhs for _, rhs in sizes]}
    plain = BruteForce(splits, "test", by_side, lambda side, edge: scores[edge[1], side][edge[0], edge[2]])
    expected = plain.figures(None, [1, 3], [3])
    assert {name: metrics["test"]["all"][name] for name in expected} == pytest.approx(expected, abs=1e-6)

    for entry in manifest.formats["faiss"].values():
        assert entry.figures["recall@10"] == 1.0  # flat
    embeddings = Embeddings.load(root)
    for rel, (name, (lhs_table, rhs_table)) in enumerate(RELATIONS.items()):
        lhs, rhs = 2, 3
        lhs_id, rhs_id = exported.ids[lhs_table][lhs], exported.ids[rhs_table][rhs]
        found = embeddings.score(name, lhs_id, rhs_id)
        for side, of in (("rhs", found.rhs), ("lhs", found.lhs)):
            assert of.score == pytest.approx(float(scores[rel, side][lhs, rhs]), rel=1e-3, abs=1e-4)
        others = scores[rel, "rhs"][lhs].copy()
        if lhs_table == rhs_table:
            others[lhs] = -np.inf
        nearest = embeddings[lhs_table].neighbors(lhs_id, name, k=3)
        best = np.sort(others)[::-1][:3]
        assert [of.score for of in nearest] == pytest.approx(best.tolist(), rel=1e-3, abs=1e-4)
        for of in nearest:
            place = exported.ids[rhs_table].index(of.id)
            assert of.score == pytest.approx(float(others[place]), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("case", covering(2), ids=str)
def test_every_pair_of_choices(case: Case, runs_of_pairs: dict[Case, tuple[Config, str]]) -> None:
    check(case, *runs_of_pairs[case])


@pytest.mark.slow
def test_every_three_choices(runs_of_triples: dict[Case, tuple[Config, str]]) -> None:
    for case, run in runs_of_triples.items():
        try:
            check(case, *run)
        except Exception as error:
            raise AssertionError(str(case)) from error


def refused_pairs() -> Iterator[Case]:
    """One case for each combination of two choices that no other choice makes possible."""
    possible = {
        pair
        for case in itertools.starmap(Case, itertools.product(*AXES.values()))
        if not is_refused(case)
        for pair in itertools.combinations(case.values, 2)
    }
    default = Case("translation", "dot", "softmax", "sgd", "fp32", "alone", reciprocal=False, amp=False)
    for one, other in itertools.combinations(range(len(AXES)), 2):
        for pair in itertools.product(*(list(AXES.values())[at] for at in (one, other))):
            values = list(default.values)
            values[one], values[other] = pair
            if tuple(pair) not in possible:
                yield Case(*values)


def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path: Path) -> None:
    """By the config; adam's lack of a kernel only where the ranks are known."""
    allowed = []
    for case in refused_pairs():
        if case.optimizer != "adam" or case.sharding == "data_parallel":
            with pytest.raises(UserError):
                config_of(case, tmp_path / "raw.parquet")
        else:
            allowed.append(case)
    assert len(allowed) == 5
    for told in run_ranks(2, refusals, prepare_all(allowed, tmp_path)):
        assert all("has adam" in line for line in told), told


def refusals(runs: list[tuple[Config, str]]) -> list[str]:
    found = []
    with process_group() as ranks:
        for config, root in runs:
            try:
                Trainer(config, root, ranks)
            except UserError as error:
                found.append(str(error))
            else:
                found.append("")
    return found
