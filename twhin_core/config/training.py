"""The section `training`: how long to train, what to log and what to keep."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from twhin_core.config.section import Section


class EarlyStopping(Section):
    """Training ends once a figure has stopped falling. Its newest checkpoint is then of the last step, not the best."""

    metric: Literal["validation_loss"] = Field("validation_loss", description="The figure that should fall.")
    patience: PositiveInt = Field(description="Validations in a row without a new lowest value that end training.")


class Training(Section):
    """How long to train, what to log and what to keep."""

    save_dir: str | None = Field(
        None, description="The run root of `twhin train` where `--run-root` is not given: a folder or gs:// prefix."
    )
    num_train_steps: PositiveInt | None = Field(
        None, description="Training ends after this many steps, or after `num_epochs`, whichever comes first."
    )
    num_epochs: PositiveInt = Field(1, description="Passes over the training edges.")
    checkpoint_every_n: PositiveInt = Field(
        1000, description="Steps between checkpoints; the last step always writes one. Training goes on meanwhile."
    )
    checkpoint_max_to_keep: PositiveInt | None = Field(
        None,
        description="Older checkpoints are removed beyond this number, once a new one is whole; null keeps all.",
    )
    train_log_every_n: PositiveInt = Field(100, description="Steps between lines of `training/metrics.jsonl`.")
    num_eval_steps: PositiveInt = Field(100, description="Batches of validation edges a validation loss is taken over.")
    eval_log_every_n: PositiveInt = Field(
        1000,
        description="Steps between validation losses; the last step always has one. Without validation edges, none.",
    )
    eval_timeout_in_s: PositiveInt = Field(
        10000, description="Seconds that `twhin evaluate --follow` waits for the next checkpoint before it gives up."
    )
    readers_timeout_in_s: PositiveInt = Field(
        300,
        description="(ours) Seconds that `twhin train --readers` waits for edges while no reader answers; then it ends "
        "with exit code 75.",
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="(ours) Ends training before its last step; left out, never."
    )
    initial_checkpoint_dir: str | None = Field(
        None,
        description="Weights to begin with, at step 0 and with fresh optimizers: a checkpoint's folder, the folder of "
        "several or a run root, of which the newest is taken. Its tables, dim and relations must be these. No effect "
        "once the run has a checkpoint of its own.",
    )
    gradient_accumulation: PositiveInt | None = Field(
        None,
        description="Batches an update: only 1, or null for the same. Tables are updated within the backward pass of "
        "each batch, so several have no common update; raise `train_data.per_replica_batch_size` instead.",
    )
    seed: int = Field(0, ge=0, description="(ours) Seeds initial weights, the order of edges and the negatives.")

    @model_validator(mode="after")
    def _one_batch_an_update(self) -> Training:
        if self.gradient_accumulation not in (None, 1):
            raise ValueError(
                f"gradient_accumulation: {self.gradient_accumulation} batches cannot make one update, because tables "
                "are updated within the backward pass of each; raise train_data.per_replica_batch_size instead"
            )
        return self
