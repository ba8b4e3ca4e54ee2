"""Anchors: the gradients of an epoch against those of the whole sum, and what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import SmallConfig
from tests.ranks import run_ranks
from tests.training.surgery import merge
from tests.training.test_step import (
    DIM,
    SHARDINGS,
    SIZES,
    STEPS,
    Case,
    make_batches,
    make_config,
    whole_weights,
)
from tests.training.test_warm_start import Array, Graph, days, saved
from twhin_core import storage
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.config.earlier import Anchor
from twhin_core.distributed.parts import local_parts
from twhin_core.distributed.ranks import process_group
from twhin_core.errors import UserError
from twhin_core.model.batch import Batch
from twhin_core.schema import Schema
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.build import build
from twhin_core.training.earlier import ANCHOR, EARLIER
from twhin_core.training.trainer import Trainer

__all__ = ["days"]

LAMBDA = 0.3


def anchored_gradients(config: Config, root: str, epochs: int) -> tuple[dict[str, Array], float, int]:
    """By table, the sum over this rank's batches of (edges of the step) · gradient of the anchors' part of the loss.

    Also the sum of these parts themselves, and the number of edges of an epoch. Nothing is trained.
    """
    with process_group() as ranks:
        trainer = Trainer(config, root, ranks)
        model, sizes = trainer.model.model.module, trainer.schema.tables
        weights = {}
        for name, size in sizes.items():
            weights[name] = torch.zeros(size, config.model.dim)
            for part in local_parts(trainer.model.state()[f"tables.embeddings.{name}.weight"]):
                weights[name][part.first_row : part.first_row + len(part.values)] = part.values
        if ranks.world_size > 1:
            for weight in weights.values():
                torch.distributed.all_reduce(weight)
        for weight in weights.values():
            weight.requires_grad_()
        total = 0.0
        for batch, _ in trainer.batches.epochs({"epoch": 0, "edges": 0}, epochs):
            assert isinstance(batch, Batch)
            assert batch.lookups is not None
            rows = torch.cat([weights[name][ids.values()] for name, ids in batch.lookups.to_dict().items()])
            part = model.anchors(batch, [rows[index] for index in batch.gathers], ranks.world_size)
            (part * batch.step_edges).backward()
            total += float(part.detach()) * batch.step_edges
        return {name: weight.grad.numpy() for name, weight in weights.items()}, total, trainer.batches.edges_per_epoch


def expected(before: str, first: Graph, second: Graph, weights: dict[str, Array]) -> tuple[dict[str, Array], float]:
    """2·λ·(θ - θ°) of every matched row, and λ·Σ|θ - θ°|², row by row."""
    total, found = 0.0, {}
    for name, old, new in (("user", first.users, second.users), ("tweet", first.tweets, second.tweets)):
        earlier, gradient = saved(before, f"tables.embeddings.{name}.weight"), np.zeros_like(weights[name])
        for row, id_ in enumerate(new):
            if id_ in old:
                apart = weights[name][row].astype(np.float64) - earlier[old.index(id_)]
                gradient[row] = 2 * LAMBDA * apart
                total += LAMBDA * float((apart**2).sum())
        found[name] = gradient
    return found, total


def with_edges(graph: Graph) -> dict[str, Array]:
    """Whether each row has a training edge."""
    ends = {end for lhs, _, rhs, _ in graph.edges for end in (lhs, rhs)}
    return {"user": np.isin(graph.users, list(ends)), "tweet": np.isin(graph.tweets, list(ends))}


def anchored(graph: Graph, folder: Path, before: str, **training: Any) -> Config:
    anchor = {"to": before, "weight": LAMBDA, "by_degree": False}
    return graph.config(folder, training={"anchor": anchor, "seed": 3, **training})


def initial(config: Config, root: str) -> dict[str, Array]:
    with process_group() as ranks:
        state = Trainer(config, root, ranks).model.state()
        return {name: state[f"tables.embeddings.{name}.weight"].numpy().copy() for name in ("user", "tweet")}


def isolate(graph: Graph) -> None:
    """Takes all edges from some nodes that both days know."""
    lost = {"u20", "u21", "t10", "t11"}
    graph.edges = [edge for edge in graph.edges if not {edge[0], edge[2]} & lost]


@pytest.fixture
def two_days(days: tuple[Graph, Graph], tmp_path: Path) -> tuple[Graph, Graph, str]:
    first, second = days
    isolate(second)
    second.write(tmp_path / "isolated")
    train(first.config(tmp_path / "first"), str(tmp_path / "run1"))
    return first, second, str(tmp_path / "run1")


def test_an_epoch_has_the_loss_and_the_gradient_of_the_whole_sum(
    two_days: tuple[Graph, Graph, str], tmp_path: Path
) -> None:
    first, second, before = two_days
    config, root = anchored(second, tmp_path / "isolated", before), str(tmp_path / "run2")
    weights = initial(config, root)
    whole, total = expected(before, first, second, weights)
    once, _, _ = anchored_gradients(config, root, epochs=1)
    often, found, _ = anchored_gradients(config, root, epochs=300)
    for table, seen in with_edges(second).items():
        is_held = whole[table].any(1)
        assert (is_held & ~seen).sum() >= 2
        assert once[table][seen] == pytest.approx(whole[table][seen], rel=1e-4, abs=1e-7), "exact, edge by edge"
        assert not once[table][~is_held].any()
        # By the draws of negatives, on average: each of 300 epochs draws such a node some ten times.
        assert often[table][~seen] / 300 == pytest.approx(whole[table][~seen], rel=0.1, abs=1e-7)
    assert found / 300 == pytest.approx(total, rel=0.02)


def test_two_ranks_add_up_to_it(two_days: tuple[Graph, Graph, str], tmp_path: Path) -> None:
    first, second, before = two_days
    config, root = anchored(second, tmp_path / "isolated", before), str(tmp_path / "run2")
    whole, _ = expected(before, first, second, initial(config, root))
    parts = run_ranks(2, anchored_gradients, config, root, 20)
    for table, seen in with_edges(second).items():
        total = sum(gradients[table] for gradients, _, _ in parts) / 20
        assert total[seen] == pytest.approx(whole[table][seen], rel=1e-4, abs=1e-7)
        assert total[~seen] == pytest.approx(whole[table][~seen], rel=0.4, abs=1e-7)


RATES = {"sgd": 0.5, "adagrad": 0.01, "rowwise_adagrad": 0.01, "adam": 0.01, "spherical_adagrad": 0.1}


@pytest.mark.parametrize("optimizer", RATES)
def test_a_strong_anchor_holds_and_a_weak_one_does_not(
    optimizer: str, two_days: tuple[Graph, Graph, str], tmp_path: Path
) -> None:
    first, second, _ = two_days
    table = {"optimizer": {optimizer: {"lr": RATES[optimizer]}}}
    before = str(tmp_path / "of-this-optimizer")
    train(first.config(tmp_path / "first", table=table, training={"num_epochs": 8}), before)
    moved = {}
    for strength in (1e-9, 30.0):
        training = {
            "warm_start": {"from": before, "optimizer_state": False},
            "anchor": {"to": before, "weight": strength, "by_degree": False},
            "num_epochs": 30,
        }
        root = str(tmp_path / f"run{strength}")
        train(second.config(tmp_path / "isolated", table=table, training=training), root)
        old, new = (saved(of, "tables.embeddings.user.weight") for of in (before, root))
        common = [name for name in second.users if name in first.users]
        rows = [first.users.index(name) for name in common], [second.users.index(name) for name in common]
        moved[strength] = np.linalg.norm(old[rows[0]] - new[rows[1]]) / np.linalg.norm(old[rows[0]])
    assert moved[30.0] < 0.25 * moved[1e-9]


def anchored_steps(whole: bool) -> list[dict[str, Any]]:
    """By sharding, the losses and the weights after some steps. `whole`: one rank takes both ranks' batches."""
    results = []
    with process_group() as ranks:
        for sharding in SHARDINGS:
            config = make_config(Case("adagrad", sharding))
            anchor = Anchor(to="unused", weight=1.0)
            training = config.training.model_copy(update={"anchor": anchor})
            config = config.model_copy(update={"training": training})
            model = build(config, Schema(SIZES, config.model.relations), ranks)
            rng = np.random.default_rng(8)
            for name, target in sorted(model.anchors().items()):  # in one order on all ranks
                # No factors for draws: two ranks and one lay out their chunks, and so count their draws, differently.
                rows = np.zeros((SIZES[name], DIM + 4), np.float32)
                rows[:, : DIM + 1] = rng.uniform(0, 2, (SIZES[name], DIM + 1))
                for part in local_parts(target):
                    part.values.copy_(torch.from_numpy(rows[part.first_row : part.first_row + len(part.values)]))
            losses = []
            for step in range(STEPS):
                _, batches = make_batches(config, step)
                losses.append(ranks.sum(model.step(merge(batches) if whole else batches[ranks.rank])))
            weights = {name: of for name, of in whole_weights(model).items() if "@" not in name}
            assert not any("@" in name for name in model.state())
            results.append({"losses": losses, **weights})
    return results


def test_ranks_that_share_tables_step_as_one() -> None:
    (one,) = run_ranks(1, anchored_steps, True)
    for rank in run_ranks(2, anchored_steps, False):
        for found, expected in zip(rank, one, strict=True):
            assert found.keys() == expected.keys()
            for name in expected:
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_two_ranks_train_with_anchors(two_days: tuple[Graph, Graph, str], tmp_path: Path) -> None:
    _, second, before = two_days
    root = str(tmp_path / "run2")
    training = {"anchor": {"to": before, "weight": LAMBDA, "by_degree": False}, "warm_start": {"from": before}}
    config = second.config(tmp_path / "isolated", table={"sharding": "row_wise"}, training=training)
    run_ranks(2, train, config, root)
    assert storage.read_json(storage.join(root, EARLIER))[ANCHOR]["tables"] == {"user": 33, "tweet": 21}


def test_degrees_are_those_of_the_earlier_graph(small_config: SmallConfig, tmp_path: Path) -> None:
    before, root = str(tmp_path / "before"), str(tmp_path / "run")
    old = small_config(training={"num_epochs": 1})
    prepare(old, before)
    train(old, before)
    config = small_config(
        prepare={"split": {"validation": 0.3, "test": 0.1}}, training={"anchor": {"to": before, "weight": LAMBDA}}
    )
    prepare(config, root)
    gradients, _, _ = anchored_gradients(config, root, epochs=1)
    weights = initial(config, root)
    degrees = {table: np.zeros(size, np.int64) for table, size in {"user": 40, "tweet": 30}.items()}
    with process_group() as ranks:
        edges = Trainer(old, before, ranks).edges.all()
    for lhs, rel, rhs in zip(edges.lhs, edges.rel, edges.rhs, strict=True):
        degrees["user"][lhs] += 1
        degrees["tweet" if rel == 1 else "user"][rhs] += 1
    for table, of in degrees.items():  # the same nodes, so the same rows
        earlier = saved(before, f"tables.embeddings.{table}.weight")
        whole = 2 * LAMBDA * of[:, None] * (weights[table] - earlier)
        assert gradients[table] == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_a_resumed_run_ends_as_an_uninterrupted_one(two_days: tuple[Graph, Graph, str], tmp_path: Path) -> None:
    _, second, before = two_days
    roots = [str(tmp_path / "whole"), str(tmp_path / "resumed")]
    config = anchored(second, tmp_path / "isolated", before, checkpoint_every_n=4)
    for root in roots:
        train(config, root)
    newest = checkpoint.newest(roots[1])
    assert newest is not None
    checkpoint.remove(newest)
    train(config, roots[1])
    assert np.array_equal(*(saved(root, "tables.embeddings.user.weight") for root in roots))
    checkpoint.remove(newest)
    Path(roots[1], EARLIER).unlink()
    with pytest.raises(UserError, match=r"training/earlier\.json: names no checkpoint for training\.anchor\.to"):
        train(config, roots[1])


@pytest.mark.parametrize("what", ["dim", "degrees"])
def test_what_cannot_be_held_is_refused(what: str, two_days: tuple[Graph, Graph, str], tmp_path: Path) -> None:
    _, second, before = two_days
    anchor = {"to": before, "weight": 1.0, "by_degree": what == "degrees"}
    config = second.config(
        tmp_path / "isolated", table={"embedding_dim": 12 if what == "dim" else 8}, training={"anchor": anchor}
    )
    message = "dim 8 there, 12 here" if what == "dim" else "has no prepared graph to read degrees from; set by_degree"
    with pytest.raises(UserError, match=rf"^training\.anchor\.to: .*{message}"):
        train(config, str(tmp_path / "run2"))
