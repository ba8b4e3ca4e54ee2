"""Content of nodes: steps against dense autograd, what a checkpoint holds, and who reads composed vectors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from tests.conftest import SmallConfig, small_configs
from tests.graph.reading import ids, rows
from tests.ranks import run_ranks
from tests.training import dense
from tests.training.surgery import merge, plain_queries
from tests.training.test_step import DIM, SIZES, STEPS, Case, make_batches, make_config, whole_weights
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.data.edges import Edges
from twhin_core.distributed.parts import local_parts
from twhin_core.distributed.ranks import Ranks, process_group
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.model.tower import Tower
from twhin_core.schema import ContentShape, Schema
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.build import build
from twhin_core.vectors.content import Towers

RATES = {"towers": 0.03, "predictors": 0.3}
PARTS, NAMES = ("towers.tweet", "predictors.tweet.tower"), ("vector", "values")
SHAPES = {"user": ContentShape(5, 2, 6), "tweet": ContentShape(0, 1, 3)}
CASES = [
    Case("sgd", "row_wise"), Case("adagrad", "table_wise"), Case("rowwise_adagrad", "row_wise", comparator="cos"),
    Case("spherical_adagrad", "row_wise"), Case("spherical_adagrad", "data_parallel", comparator="cos"),
]  # fmt: skip


def content(table: str) -> Tensor:
    """[rows, width]; some nodes have none."""
    generator, shape = torch.Generator().manual_seed(len(table)), SHAPES[table]
    vectors = torch.randn(SIZES[table], shape.dim, generator=generator)
    codes = torch.randint(shape.values + 1, (SIZES[table], shape.categories), generator=generator)
    whole = torch.cat([vectors, codes.float()], 1)
    whole[1::4] = 0
    return whole


def some_steps(case: Case, whole: bool, ranks: Ranks) -> dict[str, Any]:
    """As in test_step."""
    config = make_config(case)
    model = build(config, Schema(SIZES, config.model.relations, SHAPES), ranks)
    for table, target in model.content().items():
        for part in local_parts(target):
            mine = content(table)[part.first_row : part.first_row + len(part.values)]
            part.values.zero_()
            part.values[:, : mine.shape[1]] = mine
    generator = torch.Generator().manual_seed(5)
    module = model.model.module
    of_content = (module.towers, module.predictors)
    for part in (module.scorer, *of_content):
        for parameter in part.parameters():
            parameter.data.normal_(0.0, 0.5, generator=generator)
    for table in SHAPES:
        for tower in (module.towers[table], module.predictors[table].tower):
            tower.values.weight.data[0] = 0
    before, losses = whole_weights(model), []
    for step in range(STEPS):
        _, batches = make_batches(config, step)
        losses.append(ranks.sum(model.step(merge(batches) if whole else batches[ranks.rank])))
    state = {name for name in model.state() if "content" in name}
    return {"losses": losses, "before": before, "after": whole_weights(model), "state": state}


def all_cases(whole: bool) -> list[dict[str, Any]]:
    with process_group() as ranks:
        return [some_steps(case, whole, ranks) for case in CASES]


@pytest.fixture(scope="module")
def results() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return list(zip(run_ranks(2, all_cases, False)[0], run_ranks(1, all_cases, True)[0], strict=True))


@pytest.mark.parametrize("index", range(len(CASES)), ids=[str(case) for case in CASES])
def test_steps_equal_dense_ones(index: int, results: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    case, (two, one) = CASES[index], results[index]
    config = make_config(case)
    before = {name: torch.from_numpy(value).clone() for name, value in one["before"].items()}
    names = [name for name in before if not name.startswith("content.")]
    update, losses, squares = dense.UPDATES[case.optimizer](), list[float](), dict[str, Tensor]()
    learned = set[str]()
    tables = [f"tables.embeddings.{name}.weight" for name in SIZES]
    for step in range(STEPS):
        edges, batches = make_batches(config, step)
        queries = [query for rank in range(2) for query in plain_queries(batches[rank], edges[rank])]
        for name in names:
            before[name].requires_grad_(True)
        ids = {table: before[f"tables.embeddings.{table}.weight"] for table in SHAPES}
        composed = {table: ids[table] + added(before, f"towers.{table}", table) for table in SHAPES}
        if case.optimizer == "spherical_adagrad":
            composed = {table: rows / rows.norm(dim=1, keepdim=True) for table, rows in composed.items()}
        plain = dense.PlainModel(
            tables=composed,
            relation_tables=[(relation.lhs, relation.rhs) for relation in config.model.relations],
            operate=dense.OPERATORS["translation"],
            relations=before["scorer.operator.translation"],
            inverse=None,
            cosine=case.comparator == "cos",
            loss="softmax",
            temperature=0.7,
            at_most=(case.in_batch, case.uniform),
        )
        loss = plain.loss_of(queries)
        objective = loss + sum(prediction_losses(before, plain.relation_tables, edges)) / sum(map(len, edges))
        given = torch.autograd.grad(objective, [before[name] for name in names], allow_unused=True)
        gradients = [
            torch.zeros_like(before[name]) if of is None else of for name, of in zip(names, given, strict=True)
        ]
        learned |= {name for name, gradient in zip(names, gradients, strict=True) if gradient.any()}
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                if name in tables:
                    change = update.change(tables.index(name), gradient, before[name])
                elif (rate := RATES.get(name.partition(".")[0])) is not None:  # by Adagrad
                    squares[name] = squares.get(name, torch.zeros(())) + gradient.square()
                    change = rate * gradient / (squares[name].sqrt() + 1e-10)
                else:
                    change = 0.2 * gradient
                before[name] = before[name].detach() - change
    assert learned == set(names), "every parameter must learn"
    compare(before, losses, (one, two))


def compare(expected: dict[str, Tensor], losses: list[float], results: tuple[dict[str, Any], ...]) -> None:
    for result in results:
        assert not result["state"]
        assert result["losses"] == pytest.approx(losses, rel=1e-4)
        for name in (name for name in expected if not name.startswith("content.")):
            np.testing.assert_allclose(result["after"][name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
        for table, shape in SHAPES.items():
            kept = result["after"][f"content.of.{table}.embeddings.{table}@content.weight"]
            np.testing.assert_array_equal(kept[:, : shape.width], content(table))


def prediction_losses(
    weights: dict[str, Tensor], relation_tables: list[tuple[str, str]], edges: list[Edges]
) -> Iterator[Tensor]:
    """That of each end of an edge whose node has content."""
    for of_rank in edges:
        for lhs, rel, rhs in zip(of_rank.lhs.tolist(), of_rank.rel.tolist(), of_rank.rhs.tolist(), strict=True):
            for table, node in zip(relation_tables[rel], (lhs, rhs), strict=True):
                row = weights[f"tables.embeddings.{table}.weight"][node].detach()
                guess = added(weights, f"predictors.{table}.tower", table)[node]
                a = weights[f"predictors.{table}.log_scale"][0]
                length = torch.exp(2 * a) * (guess @ guess).detach() / 2 - a * (row @ row)
                slope = weights[f"predictors.{table}.slope"][0]
                if content(table)[node].any() and node % 8:
                    yield (row - guess) @ (row - guess) + length
                elif content(table)[node].any():
                    guess = guess.detach()
                    yield slope**2 * (guess @ guess) / 2 - slope * (guess @ row)


def added(weights: dict[str, Tensor], part: str, table: str) -> Tensor:
    """What a tower gives for all nodes of a table."""
    x, shape, total = content(table), SHAPES[table], torch.zeros(SIZES[table], DIM)
    if shape.dim:
        total = total + x[:, : shape.dim] @ weights[f"{part}.vector.weight"].T
    for at in range(shape.categories):
        chosen = x[:, shape.dim + at].long()
        total = total + weights[f"{part}.values.weight"][chosen] * (chosen > 0).float()[:, None]
    return total


def write_content(path: Path, names: list[str], seed: int = 3, kinds: int = 3, length: float = 1.0) -> None:
    rng = np.random.default_rng(seed)
    pq.write_table(
        pa.table({
            "id": names, "x": list(length * rng.normal(size=(len(names), 6))),
            "kind": [None if at % 5 == 0 else f"k{at % kinds}" for at in range(len(names))],
        }),
        path,
    )  # fmt: skip


def with_content(small_config: SmallConfig, folder: Path, **sections: Any) -> Config:
    write_content(folder / "content.parquet", [f"t{at}" for at in range(0, 50, 2)])
    features = {"table": "tweet", "path": str(folder / "content.parquet"), "column": "x", "categories": ["kind"]}
    return small_config(prepare={"features": [features], **sections.pop("prepare", {})}, **sections)


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """What `done` copies from."""
    folder = tmp_path_factory.mktemp("done")
    config, root = with_content(small_configs(folder), folder), folder / "run"
    prepare(config, str(root))
    train(config, str(root))
    return config, root


@pytest.fixture
def done(done_once: tuple[Config, Path], tmp_path: Path) -> tuple[Config, Path]:
    """The config and root of a trained run; each test has a copy of its own."""
    config, root = done_once
    return config, shutil.copytree(root, tmp_path / "run")


def composed(root: Path, unit: bool = False) -> dict[str, np.ndarray]:
    """The vectors of tweets by id, by numpy from the checkpoint and the files."""
    saved = checkpoint.newest(str(root))
    assert saved is not None
    used = ["tables.embeddings.tweet.weight", "predictors.tweet.log_scale", "predictors.tweet.slope"]
    used += [f"{part}.{name}.weight" for part in PARTS for name in NAMES]
    stored = {name: saved.stored(name).read_whole().numpy().astype(np.float64) for name in used}
    manifest = next(of for of in prepare_manifest(root).tables if of.name == "tweet")
    assert manifest.content is not None
    names, content_of = ids(root, "tweet"), {row["index"]: row for row in rows(root / "graph/features/tweet")}
    degrees = {row["id"]: row["degree"] for row in rows(root / "graph/vocab/tweet")}
    found = {}
    for index, name in enumerate(names):
        vector = stored["tables.embeddings.tweet.weight"][index].copy()
        if (row := content_of.get(index)) is not None:
            x = np.array(row["vector"]) * manifest.content.scale
            tower, predicted = (
                stored[f"{part}.vector.weight"] @ x + stored[f"{part}.values.weight"][row["code_0"]] for part in PARTS
            )
            scale = min(np.exp(stored["predictors.tweet.log_scale"][0]), 2.0)
            trust = 0.0 if degrees[name] else np.clip(2 * stored["predictors.tweet.slope"][0], 0.0, 1.0)
            vector = (1 - trust) * vector + trust * scale * predicted
            vector = tower + (vector / np.linalg.norm(vector) if unit else vector)
        found[name] = vector / np.linalg.norm(vector) if unit else vector
    for part in PARTS:
        assert stored[f"{part}.vector.weight"].any()
        assert stored[f"{part}.values.weight"][1:].any()
        assert not stored[f"{part}.values.weight"][0].any()
    return found


def prepare_manifest(root: Path) -> Any:
    from twhin_core.graph.manifest import find_manifest

    return find_manifest(str(root))


def test_all_who_read_vectors_read_composed_ones(done: tuple[Config, Path]) -> None:
    config, root = done
    expected = composed(root)
    cold = {"t42", "t44", "t46", "t48", "t32"} & set(expected)
    assert len(cold) >= 4
    export(config, str(root))
    exported = {row["id"]: row["embedding"] for row in rows(root / "embeddings/tweet")}
    assert set(exported) == set(expected)
    for name, vector in expected.items():
        np.testing.assert_allclose(exported[name], vector, rtol=1e-4, atol=1e-6)
    embeddings = Embeddings.load(root)
    np.testing.assert_allclose(embeddings["tweet"]["t44"], expected["t44"], rtol=1e-4, atol=1e-6)
    user = next(name for name in ids(root, "user"))
    found = {near.id: near.score for near in embeddings["user"].neighbors(user, "fav", k=len(expected))}
    saved = checkpoint.newest(str(root))
    assert saved is not None
    relation = saved.stored("scorer.operator.translation").read_whole().numpy()[1]
    query = embeddings["user"][user] + relation
    for name, score in found.items():
        assert score == pytest.approx(float(query @ expected[name]), rel=1e-3, abs=1e-5)
    assert set(found) == set(expected)


def test_evaluation_ranks_composed_vectors(done: tuple[Config, Path]) -> None:
    """Against the same model with these vectors in its tables."""
    config, root = done
    saved = checkpoint.newest(str(root))
    assert saved is not None
    expected, figures = composed(root), evaluate(config, str(root))
    tweets = np.stack(list(expected.values()))
    users = saved.stored("tables.embeddings.user.weight").read_whole().numpy()
    relation = saved.stored("scorer.operator.translation").read_whole().numpy()[1]
    edges = [(row["lhs"], row["rhs"], split) for split in ("train", "validation", "test")
             for row in rows(root / f"graph/edges/{split}") if row["rel"] == 1]  # fmt: skip
    known: dict[int, set[int]] = {}
    for lhs, rhs, _ in edges:
        known.setdefault(lhs, set()).add(rhs)
    reciprocal = []
    for lhs, rhs, split in edges:
        if split == "test":
            scores = tweets @ (users[lhs] + relation)
            others = [at for at in range(len(tweets)) if at not in known[lhs]]
            reciprocal.append(1 / (1 + sum(scores[others] > scores[rhs])))
    found = figures["test"]["fav"]["mrr_rhs"]
    assert found == pytest.approx(np.mean(reciprocal), rel=1e-4)


def test_resumed_equals_undisturbed(small_config: SmallConfig, tmp_path: Path) -> None:
    states = []
    for number, stops in enumerate(([], [7])):
        root = str(tmp_path / str(number))
        config = with_content(small_config, tmp_path, training={"num_train_steps": 13, "num_epochs": 3})
        prepare(config, root)
        for steps in (*stops, 13):
            train(with_content(small_config, tmp_path, training={"num_train_steps": steps, "num_epochs": 3}), root)
        saved = checkpoint.newest(root)
        assert saved is not None
        assert saved.step == 13
        states.append({name: saved.stored(name).read_whole() for name in saved._index})
    assert set(states[0]) == set(states[1])
    assert "optimizer.towers.tweet.vector.weight.sum" in states[0]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_checkpoint_of_other_content_is_refused(done: tuple[Config, Path], tmp_path: Path) -> None:
    config, root = done
    changed = config.model_copy(
        update={
            "training": config.training.model_copy(update={"initial_checkpoint_dir": str(root)}),
            "prepare": config.prepare.model_copy(update={"features": []}),  # type: ignore[union-attr]
        }
    )
    prepare(changed, str(tmp_path / "other"))
    with pytest.raises(UserError, match="content"):
        train(changed, str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("slope", "scale", "expected"),
    [
        (-1.0, 1.0, [2.0, 4.0]), (0.0, 9.0, [2.0, 4.0]), (0.125, 1.0, [1.75, 3.25]), (0.25, 1.0, [1.5, 2.5]),
        (0.25, 2.0, [2.0, 3.0]), (0.5, 1.0, [1.0, 1.0]), (0.5, 0.5, [0.5, 0.5]), (0.5, 2.0, [2.0, 2.0]),
        (0.5, 7.0, [2.0, 2.0]), (4.0, 1.5, [1.5, 1.5]),
    ],
)  # fmt: skip
def test_predictions_are_trusted_as_far_as_they_hold(slope: float, scale: float, expected: list[float]) -> None:
    """The id row (2, 4) of a new node whose prediction is (1, 1), and that of one with edges."""
    tower, predictor = (Tower(ContentShape(1, 0, 0), 2) for _ in range(2))
    predictor.vector.weight.data.fill_(1.0)  # type: ignore[union-attr]
    content = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    found = Towers(tower, predictor, scale, slope).with_new(torch.tensor([[2.0, 4.0]] * 2), content)
    assert found.tolist() == [pytest.approx(expected), [2.0, 4.0]]
