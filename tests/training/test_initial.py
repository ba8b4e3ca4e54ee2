"""Initial weights from another run: only the weights are loaded, and only into a model that they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import SmallConfig
from twhin_core import storage
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.distributed.ranks import process_group
from twhin_core.errors import UserError
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.training.trainer import Trainer

Trained = tuple[Config, str]


def changed(config: Config, **values: Any) -> Config:
    tree = config.model_dump(exclude_none=True)
    for key, value in values.items():
        section = tree
        *path, name = key.split("__")
        for part in path:
            section = section[part]
        section[name] = value
    return config_file.validate(Config, tree, "changed")


@pytest.mark.parametrize("place", ["", "/checkpoints", "/checkpoints/5"])
def test_weights_are_taken_and_nothing_else(place: str, trained: Trained, tmp_path: Path) -> None:
    config, first = trained
    root = str(tmp_path / "second")
    config = changed(config, training__initial_checkpoint_dir=first + place)
    prepare(config, root)
    taken = next(entry for entry in checkpoint.complete(first)[::-1] if not place.endswith("5") or entry.step == 5)
    with process_group() as ranks:
        trainer = Trainer(config, root, ranks)
        state = {name: tensor.cpu().clone() for name, tensor in whole(trainer).items()}
    assert trainer.position.step == 0
    for table, rows in {"user": 40, "tweet": 30}.items():
        assert torch.equal(state[f"tables.embeddings.{table}.weight"], taken.rows(table).read(0, rows))
    kept = [tensor for name, tensor in state.items() if name.startswith("optimizer.")]
    assert kept
    assert all(not tensor.any() for tensor in kept)
    scorer = [tensor for name, tensor in state.items() if name.startswith("scorer.")]
    assert scorer
    assert all(tensor.any() for tensor in scorer)


def whole(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The state of one rank, which holds every row."""
    return {
        name: value.local_shards()[0].tensor if hasattr(value, "local_shards") else value.detach()
        for name, value in trainer.model.state().items()
    }


def test_a_run_with_a_checkpoint_of_its_own_goes_on_from_that(trained: Trained, tmp_path: Path) -> None:
    config, first = trained
    config = changed(config, training__initial_checkpoint_dir=first, training__num_train_steps=3)
    root = str(tmp_path / "second")
    prepare(config, root)
    train(config, root)
    with process_group() as ranks:
        assert Trainer(config, root, ranks).position.step == 3


def test_another_optimizer_or_comparator_may_go_on_with_them(trained: Trained, tmp_path: Path) -> None:
    config, first = trained
    tables = [{"name": name, "embedding_dim": 8, "optimizer": {"sgd": {"lr": 0.1}}} for name in ("user", "tweet")]
    other = changed(
        config, training__initial_checkpoint_dir=first, model__embeddings__tables=tables, model__comparator="cos"
    )
    prepare(other, str(tmp_path / "second"))
    train(other, str(tmp_path / "second"))


def test_each_difference_is_named(trained: Trained, small_config: SmallConfig, tmp_path: Path) -> None:
    _, first = trained
    for marker in Path(first).glob("checkpoints/*/complete.json"):
        tree = storage.read_json(str(marker))
        tree["model"]["tables"]["ad"] = 7
        storage.write_json(str(marker), tree)
    tables = [{"name": name, "embedding_dim": 12, "optimizer": {"sgd": {"lr": 0.1}}} for name in ("user", "tweet")]
    tables[0]["num_embeddings"] = 50
    relations = [{"name": name, "lhs": "user", "rhs": rhs} for name, rhs in (("fav", "tweet"), ("follow", "user"))]
    config = small_config(
        model={"embeddings": {"tables": tables}, "relations": relations}, training={"initial_checkpoint_dir": first}
    )
    prepare(config, str(tmp_path / "second"))
    with pytest.raises(UserError) as refused:
        train(config, str(tmp_path / "second"))
    message = str(refused.value)
    for difference in (
        "tables.user 40 there, 50 here",
        "tables.ad 7 there, 'missing' here",
        "dim 8 there, 12 here",
        "relations.0 'follow' there, 'fav' here",
        "relations.1 'fav' there, 'follow' here",
    ):
        assert difference in message
    assert checkpoint.newest(str(tmp_path / "second")) is None


def test_a_place_without_a_whole_checkpoint_is_refused(trained: Trained, tmp_path: Path) -> None:
    config, first = trained
    for marker in Path(first).glob("checkpoints/*/complete.json"):
        marker.unlink()
    config = changed(config, training__initial_checkpoint_dir=first)
    prepare(config, str(tmp_path / "second"))
    with pytest.raises(UserError, match=r"training\.initial_checkpoint_dir: there is no complete checkpoint at "):
        train(config, str(tmp_path / "second"))
