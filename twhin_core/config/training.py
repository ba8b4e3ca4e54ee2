"""The section `training`: duration, logging and checkpoints."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from twhin_core.config.earlier import Anchor, WarmStart
from twhin_core.config.numbers import Count, Location, Seconds, Seed
from twhin_core.config.section import Section


class EarlyStopping(Section):
    """Ends training once a metric stops improving. The newest checkpoint is of the last step, not of the best one."""

    metric: Literal["validation_loss"] = Field("validation_loss", description="The metric that should fall.")
    patience: Count = Field(description="End training after this many validations without a new minimum.")


class Training(Section):
    """Duration, logging and checkpoints."""

    save_dir: Location | None = Field(
        None, description="Run root of `twhin train` if `--run-root` is not given: a folder or URL."
    )
    num_train_steps: Count | None = Field(
        None, description="Train for this many steps or `num_epochs`, whichever ends first."
    )
    num_epochs: Count = Field(1, description="Passes over the training edges.")
    checkpoint_every_n: Count = Field(
        1000, description="Steps between checkpoints, which are written in the background. The last step writes one."
    )
    checkpoint_max_to_keep: Count | None = Field(
        None,
        description="Number of checkpoints to keep; older ones are removed once a new one is complete. Default: all.",
    )
    keep_checkpoints_after_success: Count | None = Field(
        None,
        description="(ours) Number of checkpoints to keep once training has finished; older ones are removed, except "
        "those that an export, another run or `evaluate --follow` still needs. Default: all.",
    )
    train_log_every_n: Count = Field(100, description="Steps between lines in `training/metrics.jsonl`.")
    num_eval_steps: Count = Field(100, description="Batches of validation edges per validation loss.")
    eval_log_every_n: Count = Field(
        1000, description="Steps between validation losses, if there are validation edges. The last step computes one."
    )
    eval_timeout_in_s: Seconds = Field(
        10000, description="Seconds that `twhin evaluate --follow` waits for the next checkpoint before giving up."
    )
    readers_timeout_in_s: Seconds = Field(
        300,
        description="(ours) Seconds that `twhin train --readers` waits for an answer from any reader before it exits "
        "with code 75.",
    )
    early_stopping: EarlyStopping | None = Field(None, description="(ours) When to end training early. Default: never.")
    initial_checkpoint_dir: Location | None = Field(
        None,
        description="Checkpoint with the initial weights: its folder, or a folder of checkpoints or a run root, whose "
        "newest checkpoint is used. Training starts at step 0 with new optimizer state. The tables, dimension and "
        "relations must match. No effect once the run has a checkpoint of its own.",
    )
    warm_start: WarmStart | None = Field(
        None,
        description="(ours) Start from the vectors of an earlier version of this model. No effect once the run has a "
        "checkpoint of its own. Default: start anew.",
    )
    anchor: Anchor | None = Field(
        None, description="(ours) Hold nodes near their vectors of an earlier version. Default: they may move freely."
    )
    gradient_accumulation: Count | None = Field(
        None,
        description="Batches per update: 1, or null for the same. Tables are updated inside each batch's backward pass "
        "and cannot accumulate gradients; increase `train_data.per_replica_batch_size` instead.",
    )
    seed: Seed = Field(0, description="(ours) Seeds initial weights, the order of edges and the negatives.")

    @model_validator(mode="after")
    def _check_start(self) -> Training:
        if self.warm_start is not None and self.initial_checkpoint_dir is not None:
            raise ValueError("initial_checkpoint_dir: has no effect with warm_start; remove one of them")
        return self

    @model_validator(mode="after")
    def _check_accumulation(self) -> Training:
        if self.gradient_accumulation not in (None, 1):
            raise ValueError(
                f"gradient_accumulation: {self.gradient_accumulation} is not supported, tables are updated inside each "
                "batch's backward pass; increase train_data.per_replica_batch_size instead"
            )
        return self
