"""The gate decision, from `evaluation/gates.json`."""

from __future__ import annotations

from dataclasses import dataclass

from twhin_core.evaluation.gates import read_decision
from twhin_core.evaluation.metrics import Metrics

BOUNDS = {"min": "at least {:g}", "max": "at most {:g}", "max_drop": "at most {:g} below the previous run"}


@dataclass(frozen=True)
class Gate:
    """One gate, formatted."""

    metric: str
    value: str
    bounds: str
    previous: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """All gates. `passed` is whether every gate passed."""

    passed: bool
    gates: list[Gate]
    has_previous: bool


def collect(metrics: Metrics, root: str) -> Decision | None:
    """The decision on these metrics; None if there is none, or no gate is set."""
    decision = read_decision(root)
    if decision is None or decision["checkpoint"] != metrics["checkpoint"] or not decision["gates"]:
        return None
    gates = [
        Gate(
            metric=gate["metric"],
            value=_number(gate["value"]),
            bounds=_bounds(gate["bounds"]),
            previous=_number(gate.get("previous")),
            passed=gate["passed"],
            reason=gate["reason"].removeprefix(f"{gate['metric']} is "),
        )
        for gate in decision["gates"]
    ]
    return Decision(decision["passed"], gates, any(gate.get("previous") is not None for gate in decision["gates"]))


def _bounds(bounds: dict[str, float | None]) -> str:
    return ", ".join(BOUNDS[key].format(bound) for key, bound in bounds.items() if bound is not None)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"
