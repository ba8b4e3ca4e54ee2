"""Learning rates by step."""

from __future__ import annotations

import bisect
import math

from twhin_core.config import Optimizer


def rate(optimizer: Optimizer, step: int) -> float:
    """The learning rate of step `step`, counted from 1: a function of it alone, so that resuming needs no state."""
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
    if step <= cosine.num_ramp_steps:
        return cosine.learning_rate * step / cosine.num_ramp_steps
    done = (step - cosine.num_ramp_steps) / (cosine.final_num_steps - cosine.num_ramp_steps)
    height = (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return cosine.final_learning_rate + height * (cosine.learning_rate - cosine.final_learning_rate)
