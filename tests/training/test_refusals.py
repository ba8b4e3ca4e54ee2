"""A user's mistake in training ends the command with one line that names the key and exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import SmallConfig
from twhin.pipelines.cli import main
from twhin_core.config import file as config_file
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

ADAM = "{name: user, embedding_dim: 8, data_type: fp16, optimizer: {adam: {lr: 0.1}}}"
TABLE = "{{name: {}, embedding_dim: 12, optimizer: {{sgd: {{lr: 1}}}}}}"
WIDE = f"[{TABLE.format('user')}, {TABLE.format('tweet')}]"
HUGE = "{name: user, embedding_dim: 8, num_embeddings: 10000000000000, optimizer: {sgd: {lr: 0.1}}}"

MISTAKES = {
    "a chunk beyond the batch": (["train_data.chunk_size=65"], "train_data.chunk_size: 65 exceeds per_replica_batch"),
    "no kernel for the type": ([f"model.embeddings.tables.0={ADAM}"], "model.embeddings.tables: user has adam, which"),
    "a table beyond the memory": ([f"model.embeddings.tables.0={HUGE}"], "model.embeddings.tables: the tables need"),
    "weights of another model": (
        ["training.initial_checkpoint_dir=FIRST", f"model.embeddings.tables={WIDE}"],
        "this checkpoint is of another model: dim 8 there, 12 here",
    ),
    "weights of nowhere": (
        ["training.initial_checkpoint_dir=/nowhere"],
        "training.initial_checkpoint_dir: there is no complete checkpoint at /nowhere",
    ),
    "a ramp as long as training": (
        [
            "model.translation_optimizer.learning_rate={linear_ramp_to_cosine: {learning_rate: 0.1, "
            "final_learning_rate: 0, num_ramp_steps: 1}}"
        ],
        "linear_ramp_to_cosine.num_ramp_steps: 1 must be less than the 1 steps of training",
    ),
    "a correction of margins": (
        ["train_data.in_batch_negatives=4", "train_data.logq_correction=true", "model.loss=ranking"],
        "train_data.logq_correction: is undefined for the ranking loss",
    ),
}


@pytest.mark.parametrize(("overrides", "message"), MISTAKES.values(), ids=MISTAKES)
def test_it_is_named_in_one_line(
    overrides: list[str],
    message: str,
    small_config: SmallConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = small_config(training={"num_train_steps": 1})
    (tmp_path / "config.yaml").write_text(config_file.to_yaml(config))
    prepare(config, str(tmp_path / "second"))
    if any("FIRST" in override for override in overrides):
        prepare(config, str(tmp_path / "first"))
        train(config, str(tmp_path / "first"))
    (tmp_path / "second/config.yaml").unlink()  # the graph is another's, the run is not
    options = [part for override in overrides for part in ("--set", override.replace("FIRST", str(tmp_path / "first")))]
    command = ["twhin", "train", str(tmp_path / "config.yaml"), "--run-root", str(tmp_path / "second"), *options]
    monkeypatch.setattr(sys, "argv", command)
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ended.value.code == 2
    assert len(errors) == 1
    assert message in errors[0]
