"""Optimizers of tables and relations, and their learning rate schedules."""

from __future__ import annotations

import itertools

from pydantic import Field, model_validator

from twhin_core.config.numbers import Count, Decay, Epsilon, Rate, Strength
from twhin_core.config.section import Section


class LinearRampToConstant(Section):
    """learning_rate·n / num_ramp_steps at step n, then constant."""

    learning_rate: Rate = Field(description="The rate from step `num_ramp_steps` on.")
    num_ramp_steps: Count = Field(description="Steps of the ramp.")


class LinearRampToCosine(Section):
    """A linear ramp to `learning_rate`, a half cosine down to `final_learning_rate`, then constant."""

    learning_rate: Rate = Field(description="The peak rate, at step `num_ramp_steps`.")
    final_learning_rate: Strength = Field(description="The rate from step `final_num_steps` on.")
    num_ramp_steps: Count = Field(description="Steps of the ramp.")
    final_num_steps: Count | None = Field(
        None,
        description="The step at which the cosine ends, counted from the first step. Default: the last step of "
        "training, from `training.num_epochs` and `num_train_steps`.",
    )

    @model_validator(mode="after")
    def _check_decay(self) -> LinearRampToCosine:
        if self.final_num_steps is not None and self.final_num_steps <= self.num_ramp_steps:
            raise ValueError(f"final_num_steps: must be beyond num_ramp_steps, which is {self.num_ramp_steps}")
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(f"final_learning_rate: must not exceed learning_rate, which is {self.learning_rate}")
        return self


class PiecewiseConstant(Section):
    """One rate up to each boundary, and one after the last."""

    learning_rate_boundaries: list[Count] = Field(
        min_length=1, description="The last step of each rate except the final one, in ascending order."
    )
    learning_rate_values: list[Rate] = Field(description="The rates, one more than there are boundaries.")

    @model_validator(mode="after")
    def _check_boundaries(self) -> PiecewiseConstant:
        boundaries, values = self.learning_rate_boundaries, self.learning_rate_values
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"learning_rate_values: needs {len(boundaries) + 1}, one more than the boundaries; got {len(values)}"
            )
        if any(later <= earlier for earlier, later in itertools.pairwise(boundaries)):
            raise ValueError(f"learning_rate_boundaries: must ascend; got {boundaries}")
        return self


class LearningRate(Section):
    """Exactly one schedule. Steps count from 1: the rate at step n applies to the n-th update."""

    constant: Rate | None = Field(None, description="The same rate at every step.")
    linear_ramp_to_constant: LinearRampToConstant | None = Field(None, description="A linear ramp, then constant.")
    linear_ramp_to_cosine: LinearRampToCosine | None = Field(None, description="A linear ramp, then a half cosine.")
    piecewise_constant: PiecewiseConstant | None = Field(None, description="A constant rate between boundaries.")

    @model_validator(mode="after")
    def _check_one(self) -> LearningRate:
        self.exactly_one("constant", "linear_ramp_to_constant", "linear_ramp_to_cosine", "piecewise_constant")
        return self

    @property
    def stated(self) -> tuple[str, float]:
        """The key and value that the optimizer's own `lr` must equal."""
        if self.constant is not None:
            return "constant", self.constant
        if self.piecewise_constant is not None:
            return "piecewise_constant.learning_rate_values.0", self.piecewise_constant.learning_rate_values[0]
        if self.linear_ramp_to_constant is not None:
            return "linear_ramp_to_constant.learning_rate", self.linear_ramp_to_constant.learning_rate
        assert self.linear_ramp_to_cosine is not None
        return "linear_ramp_to_cosine.learning_rate", self.linear_ramp_to_cosine.learning_rate


class Sgd(Section):
    """θ ← θ - lr·g."""

    lr: Rate = Field(description="Learning rate.")


class Adam(Section):
    """Kingma & Ba, 2015. Only updates the rows that a step looks up. Not available on several CPU ranks."""

    lr: Rate = Field(description="Learning rate.")
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.999), strict=False, description="Decay rates of the first and second moments."
    )
    eps: Epsilon = Field(1e-8, gt=0, description="Added to the square root of the second moment.")


class Adagrad(Section):
    """Duchi et al., 2011: one accumulator per element."""

    lr: Rate = Field(description="Learning rate.")
    eps: Epsilon = Field(1e-8, description="Added to the square root of the accumulator.")


class RowwiseAdagrad(Adagrad):
    """Adagrad with one accumulator per row, for the row's mean squared gradient. Needs 1 / dim of the state."""


class SphericalAdagrad(Section):
    """Row-wise Adagrad on the unit sphere (Bécigneul & Ganea, 2019): rows have length 1 and turn by angles."""

    lr: Rate = Field(description="Learning rate: the angle, in radians, by which a row turns in its first step.")
    eps: Epsilon = Field(1e-8, description="Added to the root of the accumulator.")


OPTIMIZERS = ("sgd", "adam", "adagrad", "rowwise_adagrad", "spherical_adagrad")


class Optimizer(Section):
    """Exactly one optimizer, and its learning rate schedule."""

    sgd: Sgd | None = Field(None, description="Stochastic gradient descent.")
    adam: Adam | None = Field(None, description="Adam.")
    adagrad: Adagrad | None = Field(None, description="Adagrad with one accumulator per element.")
    rowwise_adagrad: RowwiseAdagrad | None = Field(
        None, description="(ours) Adagrad with one accumulator per row; only for tables."
    )
    spherical_adagrad: SphericalAdagrad | None = Field(
        None,
        description="(ours) Row-wise Adagrad for tables whose rows keep length 1, as the cosine wants them; fp32 only.",
    )
    learning_rate: LearningRate | None = Field(
        None,
        description="Schedule. The optimizer's own `lr` must equal its `constant`, its `learning_rate` or the first of "
        "its `learning_rate_values`. Default: `lr` at every step.",
    )

    @model_validator(mode="after")
    def _check_one(self) -> Optimizer:
        self.exactly_one(*OPTIMIZERS)
        if self.learning_rate is not None:
            key, rate = self.learning_rate.stated
            if rate != self.choice.lr:
                raise ValueError(f"{self.name}.lr is {self.choice.lr} but learning_rate.{key} is {rate}")
        return self

    @property
    def name(self) -> str:
        return next(name for name in OPTIMIZERS if getattr(self, name) is not None)

    @property
    def ends_with_training(self) -> bool:
        """Whether the rate falls until the last step, so that it depends on how long training is."""
        cosine = None if self.learning_rate is None else self.learning_rate.linear_ramp_to_cosine
        return cosine is not None and cosine.final_num_steps is None

    @property
    def choice(self) -> Sgd | Adam | Adagrad | RowwiseAdagrad | SphericalAdagrad:
        choice: Sgd | Adam | Adagrad | RowwiseAdagrad | SphericalAdagrad = getattr(self, self.name)
        return choice
