"""A loss that is not finite ends the run at once, says where it began, and spares the checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import SmallConfig
from tests.ranks import run_ranks
from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.checkpoint import Position
from twhin_core.config import Config
from twhin_core.errors import TwhinError, UserError
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.divergence import LossGuard


def poisoned(small_config: SmallConfig, tmp_path: Path) -> Config:
    """One edge, the only one of its relation, weighs so much that its loss has no float32; batches hold one edge."""
    odd = 50
    raw = {
        "lhs": [f"u{n % 40}" for n in range(90)],
        "rhs": [f"t{n % 30}" for n in range(90)],
        "relation": ["poison" if n == odd else "fav" for n in range(90)],
        "weight": [3e38 if n == odd else 1.0 for n in range(90)],
    }
    path = tmp_path / "weighted.parquet"
    pq.write_table(pa.table(raw), path)
    source = {"path": str(path), "relation_column": "relation", "weight": "weight", "split": "train"}
    relations = [{"name": name, "lhs": "user", "rhs": "tweet"} for name in ("fav", "poison")]
    return small_config(
        prepare={"sources": [source], "split": None},
        model={"relations": relations},
        train_data={"per_replica_batch_size": 1, "chunk_size": 1},
        training={"checkpoint_every_n": 1, "seed": 3},
    )


def test_the_step_and_its_relations_are_named_and_the_last_good_checkpoint_is_the_newest(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    config = poisoned(small_config, tmp_path)
    root = str(tmp_path / "run")
    prepare(config, root)
    with pytest.raises(UserError, match=r"the loss is (inf|nan) at step (\d+), in a batch of the relations poison; "):
        train(config, root)
    logged = [json.loads(line)["step"] for line in (tmp_path / "run/training/metrics.jsonl").read_text().splitlines()]
    last = logged[-1]
    assert 1 < last < 90
    newest = checkpoint.newest(root)
    assert newest is not None
    assert newest.step == last
    assert newest.rows("tweet").read(0, 30).isfinite().all()
    with pytest.raises(UserError, match=rf"at step {last + 1}, in a batch of the relations poison; "):
        train(config, root)


def train_and_tell(config: Config, root: str) -> tuple[str, str]:
    """How training ended on this rank."""
    try:
        train(config, root)
    except TwhinError as end:
        return type(end).__name__, str(end)
    return "", "trained to the end"


def test_the_rank_that_finds_it_ends_the_others(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = poisoned(small_config, tmp_path), str(tmp_path / "run")
    prepare(config, root)
    (kind, found), (other_kind, other) = sorted(run_ranks(2, train_and_tell, config, root), reverse=True)
    assert (kind, other_kind) == ("UserError", "TwhinError")
    assert "in a batch of the relations poison; " in found
    assert "another rank has failed" in other
    newest = checkpoint.newest(root)
    assert newest is None or newest.rows("tweet").read(0, 30).isfinite().all()


def test_weights_that_are_not_finite_are_never_a_checkpoint(small_config: SmallConfig, tmp_path: Path) -> None:
    """The loss of the first step is sound, the weights that it leaves are not."""
    table = {"embedding_dim": 8, "optimizer": {"sgd": {"lr": 1e38}}}
    tables = [{"name": name, **table} for name in ("user", "tweet")]
    config = small_config(model={"embeddings": {"tables": tables}, "init_std": 1e4}, training={"num_train_steps": 1})
    root = str(tmp_path / "run")
    prepare(config, root)
    with pytest.raises(UserError, match=r"step 1 made values in tables\.embeddings\.\w+\.weight that are not finite; "):
        train(config, root)
    assert checkpoint.newest(root) is None
    assert not list((tmp_path / "run").glob("checkpoints/*")), "nothing is left of it"


def test_looking_later_names_the_first_step_all_the_same() -> None:
    guard = LossGuard(lambda before: [f"relation {before.step}"], steps_between_checks=4)
    losses = [0.5, 0.4, float("nan"), float("inf"), 0.1]
    for step, loss in enumerate(losses[:3]):
        guard.add(torch.tensor(loss), Position(step=step))
    with pytest.raises(UserError, match="the loss is nan at step 3, in a batch of the relations relation 2;"):
        guard.add(torch.tensor(losses[3]), Position(step=3))


def test_many_relations_are_counted() -> None:
    guard = LossGuard(lambda _: [f"r{n}" for n in range(12)], steps_between_checks=1)
    with pytest.raises(UserError, match="r8, r9 and 2 more;"):
        guard.add(torch.tensor(float("inf")), Position())
