"""Gates on what changed in the data: `data.edges: {max_drop: 0.2}`, `data.fav.psi: {max: 0.25}`.

They are decided at the end of prepare, before training. Names are `data.` and those of `graph/compared.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

from twhin_core.config import Config, Gate
from twhin_core.errors import UserError
from twhin_core.graph.compared import OF_ALL, OF_RELATION, OF_TABLE, Figure

DATA = "data."


def check_data_gate(path: str, config: Config, relations: Collection[str]) -> None:
    """Raises UserError if a gate names no figure. A `*` among the relations stands for any that prepare may find."""
    if config.prepare is None:
        raise UserError(f"evaluation.gates: {path}: there are figures of the data only with a prepare section")
    name = path.removeprefix(DATA)
    tables = [table.name for table in config.model.embeddings.tables]
    known = [*OF_ALL, *(f"{table}.{metric}" for table in tables for metric in OF_TABLE)]
    if name in known or any(_is_of(name, metric, relations) for metric in OF_RELATION):
        return
    known += [f"{relation}.{metric}" for relation in relations for metric in OF_RELATION]
    near = difflib.get_close_matches(name, known, cutoff=0.5) or known[:3]
    raise UserError(f"evaluation.gates: {path} names no metric; near it: {', '.join(DATA + of for of in near)}")


def _is_of(name: str, metric: str, relations: Collection[str]) -> bool:
    relation = name.removesuffix(f".{metric}")
    return relation != name and (relation in relations or ("*" in relations and relation != ""))


def decide_data(gates: dict[str, Gate], figures: dict[str, Figure]) -> list[dict[str, Any]]:
    """Each gate on the data with its value and whether it is met, as in `gates.Decision`.

    `max_drop` is a share of the value before, which are counts. Without a version before, what would be compared with
    it is met.
    """
    decided = []
    for path, gate in gates.items():
        if not path.startswith(DATA):
            continue
        now, before = figures.get(path.removeprefix(DATA), Figure(None))
        misses = [] if now is None and before is None else _misses(gate, now or 0.0, before)
        value = "has no version before to compare with" if now is None else f"is {now:,.6g}"
        reason = f"{path} {value}, {' and '.join(misses) or 'within its bounds'}"
        bounds = gate.model_dump(exclude_none=True)
        entry = {"metric": path, "value": now, "previous": before, "bounds": bounds}
        decided.append({**entry, "passed": not misses, "reason": reason})
    return decided


def _misses(gate: Gate, now: float, before: float | None) -> list[str]:
    misses = []
    if gate.min is not None and now < gate.min:
        misses.append(f"below its gate of at least {gate.min:g}")
    if gate.max is not None and now > gate.max:
        misses.append(f"above its gate of at most {gate.max:g}")
    if gate.max_drop is not None and before and now < before * (1 - gate.max_drop):
        misses.append(
            f"{1 - now / before:.1%} below the previous {before:,.6g}; at most {gate.max_drop:.1%} is allowed"
        )
    return misses
