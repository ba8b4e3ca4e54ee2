"""The config of a version of a series: it continues the version before, or is the first."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.config.earlier import PREVIOUS
from twhin_core.errors import UserError


def check_refresh(path: str, overrides: Iterable[str] = ()) -> None:
    """Raises UserError if the config at `path` cannot make the versions of a series, the first or a later one."""
    check_text(config_file.read_text(path), overrides, path)


def check_text(text: str, overrides: Iterable[str] = (), origin: str = "config") -> Config:
    """Like `check_refresh`, from YAML. Returns the config of the first version."""
    tree = config_file.read_tree(text, origin, overrides)
    with_previous(tree, "the version before", origin)
    return with_previous(tree, None, origin)


def with_previous(tree: dict[str, Any], root: str | None, origin: str = "config") -> Config:
    """The config of a version that continues the one at `root`, or of the first version.

    `previous` in `training.warm_start.from`, `training.anchor.to`, `evaluation.previous`, `export.align` and
    `export.map.to` stands for `root`, which `evaluation.previous` also is by default. For the first version, what needs
    an earlier one is left out: these keys, gates on drift, and `max_drop`.

    Raises:
        UserError: the config is invalid, generates its data, or names another previous version itself.
    """
    tree = copy.deepcopy(tree)
    sections = "prepare", "training", "evaluation", "export"
    prepare, training, evaluation, export = (_section(tree, name) for name in sections)
    if not prepare.get("sources"):
        raise UserError(f"{origin}: prepare.sources: a refresh needs raw files to look for")
    if prepare.get("previous") is not None:
        raise UserError(f"{origin}: prepare.previous: is set by the refresh; remove it")
    if root is not None:
        prepare["previous"] = root
        if evaluation.get("previous") in (None, PREVIOUS):
            evaluation["previous"] = root
    else:
        for of, key, place in ((training, "warm_start", "from"), (training, "anchor", "to"), (export, "map", "to")):
            section = of.get(key)
            if isinstance(section, dict) and section.get(place) == PREVIOUS:
                del of[key]
        if export.get("align") == PREVIOUS:
            del export["align"]
        if evaluation.get("previous") == PREVIOUS:
            del evaluation["previous"]
        if evaluation.get("previous") is None and isinstance(gates := evaluation.get("gates"), dict):
            evaluation["gates"] = _without_previous(gates)
    return config_file.validate(Config, tree, origin)


def _section(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of the config, added if it is missing."""
    section = tree.get(name)
    if section is not None and not isinstance(section, dict):
        return {}  # which the validation refuses
    if section is None:
        section = tree[name] = {}
    return section


def _without_previous(gates: dict[str, Any]) -> dict[str, Any]:
    """The gates that a first version can be judged by."""
    kept = {}
    for path, gate in gates.items():
        bounds = {name: bound for name, bound in gate.items() if name != "max_drop"} if isinstance(gate, dict) else gate
        if bounds and not str(path).startswith("drift."):
            kept[path] = bounds
    return kept
