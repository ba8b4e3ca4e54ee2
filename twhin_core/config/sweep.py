"""The section `sweep`: which settings to try, and how. `twhin_core.tuning` checks its keys against the config."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from twhin_core.config.numbers import Few, Figure, Seed
from twhin_core.config.section import Section

SECONDS = {"m": 60, "h": 3600, "d": 86_400}

Key = Annotated[str, Field(min_length=1, max_length=400)]
Bounds = Annotated[list[Figure], Field(min_length=2, max_length=2)]
WholeBounds = Annotated[list[Annotated[int, Field(ge=-(10**15), le=10**15)]], Field(min_length=2, max_length=2)]


def _is_budget(budget: float | str) -> float | str:
    is_valid = re.fullmatch(r"[1-9]\d{0,6}[mhd]", budget) if isinstance(budget, str) else 0 < budget <= 1e6
    if not is_valid:
        raise ValueError(f"needs a duration, such as 12h, or a number above 0; got {budget!r}")
    return budget


# Checked by one function, since a union of types would say what each of them expects.
Budget = Annotated[
    float | str,
    AfterValidator(_is_budget),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number", "exclusiveMinimum": 0, "maximum": 1e6}]}),
]


class Parameter(Section):
    """The values of one key: exactly one of `uniform`, `log`, `integer`, `log_integer` and `choice`."""

    uniform: Bounds | None = Field(None, description="A number between two: `[0.1, 0.9]`.")
    log: Bounds | None = Field(None, description="A number between two, on a logarithmic scale: `[0.05, 0.5]`.")
    integer: WholeBounds | None = Field(None, description="An integer from the first to the second: `[100, 500]`.")
    log_integer: WholeBounds | None = Field(None, description="An integer, on a logarithmic scale.")
    choice: list[Any] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="One of these values, which may be whole sections. A single one is set in every trial.",
    )
    when: dict[Key, Any] = Field(
        default_factory=dict,
        description="Only where other keys have these values: `{model.comparator: cos}`; a list means any of its "
        "values. The keys come earlier in the space, with a `choice`.",
    )
    also: list[Key] = Field(default_factory=list, description="Other keys that get the same value.")

    @property
    def kind(self) -> str:
        return self.exactly_one("uniform", "log", "integer", "log_integer", "choice")

    @property
    def bounds(self) -> tuple[float, float]:
        """Of a number."""
        low, high = getattr(self, self.kind)
        return low, high

    @model_validator(mode="after")
    def _check_values(self) -> Parameter:
        kind = self.kind
        if self.choice is not None:
            if any(one in self.choice[:position] for position, one in enumerate(self.choice)):
                raise ValueError(f"choice: lists a value twice: {self.choice}")
            return self
        low, high = self.bounds
        if low >= high:
            raise ValueError(f"{kind}: an empty range: {low} is not below {high}")
        if kind.startswith("log") and low <= 0:
            raise ValueError(f"{kind}: a logarithmic range starts above 0, not at {low}")
        return self


class Sweep(Section):
    """Which settings `twhin tune` tries, and how. See [sweeps](sweeps.md)."""

    space: dict[Key, Parameter] = Field(
        min_length=1,
        max_length=100,
        description="The values to try, by key of this config: `model.temperature: {log: [0.05, 0.5]}`. `*` in place "
        "of a position stands for every entry of a list.",
    )
    metric: str = Field(
        "validation.all.recall@20",
        min_length=1,
        max_length=1200,
        description="What to optimize, on validation edges: `validation.<relation or all>.<metric>`.",
    )
    direction: Literal["maximize", "minimize"] = Field("maximize", description="Whether more or less is better.")
    trials: Few = Field(20, description="How many combinations to try.")
    budget: Budget | None = Field(
        None,
        description="Stop when all trials together have taken this long: `12h`, or a number for that many times what "
        "the first complete trial took. Default: no limit.",
    )
    parallelism: int = Field(1, gt=0, le=1000, description="Trials at a time.")
    stopping: Literal["median", "asha"] | None = Field(
        "median",
        description="Which trials end early. `median`: those below the median of the others, from half of their "
        "training on; `asha`: those outside of the better half at 1, 2, 4, … looks. Null: none.",
    )
    looks: int = Field(
        4,
        gt=0,
        le=100,
        description="How many times a trial is measured: evenly over its training, the last at its end.",
    )
    seed: Seed = Field(0, description="Seeds the choice of combinations.")

    @property
    def budget_in_s(self) -> float | None:
        """None if it is a number of trainings, or if there is none."""
        budget = self.budget
        return int(budget[:-1]) * SECONDS[budget[-1]] if isinstance(budget, str) else None

    @model_validator(mode="after")
    def _check_space(self) -> Sweep:
        seen: dict[str, Parameter] = {}
        for key, parameter in self.space.items():
            for other, value in parameter.when.items():
                listed = seen[other].choice if other in seen else None
                if listed is None:
                    raise ValueError(f"space.{key}.when: {other} is not an earlier key of the space with a choice")
                for one in wanted(value, listed):
                    if one not in listed:
                        raise ValueError(f"space.{key}.when.{other}: {one!r} is not among its choices: {listed}")
            seen[key] = parameter
        names = [key for of, parameter in self.space.items() for key in (of, *parameter.also)]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"space.{repeated}: is set twice, by its own entry or by `also`")
        if not re.match(r"validation\..", self.metric):
            raise ValueError(
                f"metric: {self.metric!r} is no figure of validation edges, such as validation.all.recall@20; test "
                "edges are for the final model alone"
            )
        return self


def wanted(value: Any, choices: list[Any]) -> list[Any]:
    """The values that a `when` admits."""
    return value if isinstance(value, list) and value not in choices else [value]


def _turning(lr: float) -> dict[str, Any]:
    falling = {"learning_rate": lr, "final_learning_rate": 0.0, "num_ramp_steps": 1}
    return {"spherical_adagrad": {"lr": lr}, "learning_rate": {"linear_ramp_to_cosine": falling}}


_OPTIMIZER = "model.embeddings.tables.*.optimizer"
_PRESETS: dict[str, dict[str, Any]] = {
    "retrieval": {
        "space": {
            "model.loss": {"choice": ["softmax"]},
            _OPTIMIZER: {"choice": [_turning(3.0)]},
            f"{_OPTIMIZER}.spherical_adagrad.lr": {
                "log": [1.0, 9.0],
                "also": [f"{_OPTIMIZER}.learning_rate.linear_ramp_to_cosine.learning_rate"],
            },
            "model.temperature": {"log": [0.06, 0.24]},
            "model.prior": {"choice": [None, {"weight": 0.5}]},
        },
        "metric": "validation.all.recall@20",
    },
    "facts": {
        "space": {
            "model.loss": {"choice": ["softmax"]},
            "model.comparator": {"choice": ["l2", "dot"]},
            _OPTIMIZER: {"choice": [{"rowwise_adagrad": {"lr": 0.2}}]},
            "model.translation_optimizer": {"choice": [{"adagrad": {"lr": 0.2}}]},
            f"{_OPTIMIZER}.rowwise_adagrad.lr": {  # relations that learn more slowly than the tables hold them back
                "log": [0.05, 0.8],
                "also": ["model.translation_optimizer.adagrad.lr"],
            },
            "model.regularization.tables": {
                "log": [0.002, 0.05],
                "also": ["model.regularization.relations"],
                "when": {"model.comparator": "dot"},
            },
        },
        "metric": "validation.all.mrr",
    },
}
# A trial with two looks takes about 1.2 times what a run does, so this is within 10 runs.
_FOR_PRESETS = {"trials": 16, "budget": 8.0, "stopping": "median", "looks": 2}
PRESETS = {name: {**of, **_FOR_PRESETS} for name, of in _PRESETS.items()}
"""Around the two configs of docs/tuning.md."""


def _from_preset(value: Any) -> Any:
    """A preset's section for its name; `preset` in a section gives what the section does not set itself."""
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, dict) or "preset" not in value:
        return value
    name, own = value["preset"], {key: of for key, of in value.items() if key != "preset"}
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"no preset named {name!r}; there are {', '.join(PRESETS)}")
    space = own.get("space", {})
    if not isinstance(space, dict):
        return own
    return {**PRESETS[name], **own, "space": {**PRESETS[name]["space"], **space}}


SweepOrPreset = Annotated[Sweep, BeforeValidator(_from_preset)]
