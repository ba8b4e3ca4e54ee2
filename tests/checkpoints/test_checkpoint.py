"""Checkpoints are complete or ignored, must fit the model, and cannot execute code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import pytest
import torch

from tests.conftest import SmallConfig
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.stages.train import train

Trained = tuple[Config, str]


def steps(root: str) -> list[int]:
    return [entry.step for entry in checkpoint.complete(root)]


def test_a_checkpoint_is_written_at_each_interval_and_after_the_last_step(trained: Trained) -> None:
    config, root = trained
    last = checkpoint.newest(root)
    assert last is not None
    edges = json.loads((Path(root) / "graph/manifest.json").read_text())["splits"]["train"]["edges"]
    total = 2 * -(-edges // config.train_data.per_replica_batch_size)
    assert steps(root) == sorted({*range(5, total + 1, 5), total})
    assert last.marker.position.model_dump() == {"step": total, "epoch": 1, "edges": edges}


def test_a_checkpoint_without_its_marker_is_ignored(trained: Trained) -> None:
    config, root = trained
    *_, before, last = steps(root)
    (Path(root) / f"checkpoints/{last}/complete.json").unlink()
    newest = checkpoint.newest(root)
    assert newest is not None
    assert newest.step == before
    weights = newest.rows("user").read(0, 40)
    train(config, root)
    again = checkpoint.newest(root)
    assert again is not None
    assert again.step == last
    assert not torch.equal(again.rows("user").read(0, 40), weights)


def test_blocks_of_rows_add_up_to_the_table(trained: Trained) -> None:
    newest = checkpoint.newest(trained[1])
    assert newest is not None
    whole = newest.rows("tweet").read(0, 30)
    assert whole.shape == (30, 8)
    assert torch.equal(torch.cat([newest.rows("tweet").read(start, start + 10) for start in (0, 10, 20)]), whole)


def test_older_checkpoints_are_removed(small_config: SmallConfig, tmp_path: Path) -> None:
    from twhin_core.stages.prepare import prepare

    config = small_config(training={"checkpoint_max_to_keep": 2})
    prepare(config, str(tmp_path / "run"))
    train(config, str(tmp_path / "run"))
    kept = steps(str(tmp_path / "run"))
    assert len(kept) == 2
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == sorted(map(str, kept))


def changed(config: Config, section: str, **values: object) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def test_a_checkpoint_of_another_model_is_refused_with_the_differences(trained: Trained) -> None:
    config, root = trained
    other = changed(config, "model", comparator="cos", reciprocal=True)
    (Path(root) / "config.yaml").write_text(config_file.to_yaml(other))
    with pytest.raises(
        UserError, match=r"another model: comparator 'dot' there, 'cos' here; reciprocal False there, Tr"
    ):
        train(other, root)


def test_a_run_root_of_another_config_is_refused(trained: Trained) -> None:
    config, root = trained
    with pytest.raises(UserError, match=r"made with another config: training\.seed was 0 and is 3"):
        train(changed(config, "training", seed=3), root)


def test_the_config_of_a_run_root_may_change_before_it_has_results(small_config: SmallConfig, tmp_path: Path) -> None:
    root = str(tmp_path / "run")
    with pytest.raises(UserError, match="run `twhin prepare` first"):
        train(small_config(training={"num_epochs": 3}), root)
    with pytest.raises(UserError, match="run `twhin prepare` first"):
        train(small_config(training={"num_epochs": 4}), root)
    assert config_file.load(f"{root}/config.yaml").training.num_epochs == 4


def test_train_before_prepare_is_refused(small_config: SmallConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `twhin prepare` first"):
        train(small_config(), str(tmp_path / "run"))


def test_an_index_that_names_a_function_is_not_unpickled(trained: Trained, tmp_path: Path) -> None:
    _, root = trained
    newest = checkpoint.newest(root)
    assert newest is not None

    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "touched",)  # type: ignore[return-value]

    (Path(newest.url) / ".metadata").write_bytes(pickle.dumps(Malicious()))
    newest.marker.files.clear()  # who writes an index can write its checksum too
    with pytest.raises(UserError, match="names pathlib"):
        newest.rows("user").read(0, 1)
    assert not (tmp_path / "touched").exists()


class PicklerOfPython311(pickle.Pickler):
    """Pickles enum members as early releases of Python 3.11 do."""

    def reducer_override(self, value: object) -> object:
        return (getattr, (type(value), value.name)) if isinstance(value, Enum) else NotImplemented


def test_an_index_written_by_another_python_is_read(trained: Trained) -> None:
    _, root = trained

    def newest() -> checkpoint.Checkpoint:  # reads its index once
        found = checkpoint.newest(root)
        assert found is not None
        found.marker.files.clear()  # of the index that is replaced
        return found

    index = Path(newest().url) / ".metadata"
    before, rows = index.read_bytes(), newest().rows("user").read(0, 5)
    with index.open("wb") as file:
        PicklerOfPython311(file).dump(pickle.loads(before))
    assert torch.equal(newest().rows("user").read(0, 5), rows)
    index.write_bytes(pickle.dumps(Reduced(getattr, Path, "touch")))
    with pytest.raises(UserError, match="names pathlib"):
        newest().rows("user").read(0, 1)
    index.write_bytes(pickle.dumps(Reduced(getattr, torch.Size, "__subclasses__")))
    with pytest.raises(UserError, match=r"names getattr\(<class 'tuple'>, '__subclasses__'\)"):
        newest().rows("user").read(0, 1)
    index.write_bytes(before)


class Reduced:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def test_the_scorer_is_read_back(trained: Trained) -> None:
    config, root = trained
    newest = checkpoint.newest(root)
    assert newest is not None
    scorer = newest.scorer(config.model, config.model.relations)
    assert (scorer.operator.translation.abs().sum(1) > 0).all(), "both relations have learned"
