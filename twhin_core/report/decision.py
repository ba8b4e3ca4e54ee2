"""The gate decision, from `gates.json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twhin_core.evaluation.gates import read_decision
from twhin_core.evaluation.metrics import Metrics, split_of

BOUNDS = {"min": "at least {:g}", "max": "at most {:g}", "max_drop": "at most {:g} below the previous run"}


def collect(metrics: Metrics, root: str) -> dict[str, Any] | None:
    """The decision on these metrics, formatted; None if there is none, or no gate is set."""
    decision = read_decision(root, split_of(metrics)[0])
    if decision is None or decision["checkpoint"] != metrics["checkpoint"] or not decision["gates"]:
        return None
    gates = [
        gate
        | {
            "value": _number(gate["value"]),
            "bounds": ", ".join(_bounds(gate)),
            "previous": _number(gate.get("previous")),
            "reason": gate["reason"].removeprefix(f"{gate['metric']} is "),
        }
        for gate in decision["gates"]
    ]
    has_previous = any(gate.get("previous") is not None for gate in decision["gates"])
    return {"passed": decision["passed"], "gates": gates, "has_previous": has_previous}


def _bounds(gate: dict[str, Any]) -> Iterator[str]:
    bounds = {key: bound for key, bound in gate["bounds"].items() if bound is not None}
    yield from (text.format(bounds[key]) for key, text in BOUNDS.items() if key in bounds)
    if (name := bounds.get("at_least_baseline")) is not None:
        times = f"{bounds['factor']:g} times " if "factor" in bounds else ""
        yield f"at least {times}the {_number(gate['baseline'])} of {name}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"
