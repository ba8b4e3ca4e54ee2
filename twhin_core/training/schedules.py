"""Learning rates by step."""

from __future__ import annotations

import bisect
import math

from twhin_core.config import Config
from twhin_core.config.optimizer import LearningRate, Optimizer
from twhin_core.errors import UserError


def rate(optimizer: Optimizer, step: int) -> float:
    """The learning rate of step `step`, counted from 1. It depends on nothing else, so resuming needs no state."""
    assert step >= 1
    schedule = optimizer.learning_rate
    if schedule is None or schedule.constant is not None:
        return optimizer.choice.lr
    if schedule.piecewise_constant is not None:
        piecewise = schedule.piecewise_constant
        return piecewise.learning_rate_values[bisect.bisect_left(piecewise.learning_rate_boundaries, step)]
    if schedule.linear_ramp_to_constant is not None:
        ramp = schedule.linear_ramp_to_constant
        return ramp.learning_rate * min(step / ramp.num_ramp_steps, 1.0)
    cosine = schedule.linear_ramp_to_cosine
    assert cosine is not None
    assert cosine.final_num_steps is not None, "`until` fills it in"
    if step <= cosine.num_ramp_steps:
        return cosine.learning_rate * step / cosine.num_ramp_steps
    done = (step - cosine.num_ramp_steps) / (cosine.final_num_steps - cosine.num_ramp_steps)
    height = (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return cosine.final_learning_rate + height * (cosine.learning_rate - cosine.final_learning_rate)


def until(last_step: int, config: Config) -> Config:
    """`config` with `last_step` as the end of each cosine without `final_num_steps`.

    Raises:
        UserError: a cosine's ramp is as long as training.
    """
    model, tables = config.model, []
    for table in model.embeddings.tables:
        optimizer = _until(last_step, table.optimizer, f"model.embeddings.tables: {table.name}: optimizer")
        tables.append(table.model_copy(update={"optimizer": optimizer}))
    changed = {
        "embeddings": model.embeddings.model_copy(update={"tables": tables}),
        "translation_optimizer": _until(last_step, model.translation_optimizer, "model.translation_optimizer"),
    }
    return config.model_copy(update={"model": model.model_copy(update=changed)})


def _until(last_step: int, optimizer: Optimizer, key: str) -> Optimizer:
    cosine = None if optimizer.learning_rate is None else optimizer.learning_rate.linear_ramp_to_cosine
    if cosine is None or cosine.final_num_steps is not None:
        return optimizer
    if cosine.num_ramp_steps >= last_step:
        raise UserError(
            f"{key}.learning_rate.linear_ramp_to_cosine.num_ramp_steps: {cosine.num_ramp_steps} must be less than the "
            f"{last_step} steps of training"
        )
    ending = cosine.model_copy(update={"final_num_steps": last_step})
    return optimizer.model_copy(update={"learning_rate": LearningRate(linear_ramp_to_cosine=ending)})
