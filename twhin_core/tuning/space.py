"""The combinations of a sweep: which there are, and the config that each one makes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.config.sweep import Parameter, Sweep, wanted
from twhin_core.errors import UserError
from twhin_core.evaluation.gates import check_names
from twhin_core.run import MADE_THE_GRAPH

SECTIONS = ("model", "training", "train_data", "runtime")
"""Those that a sweep may change: the others make the graph, or say how a model is measured or used."""

Values = dict[str, Any]
"""The value of each key of the space whose `when` holds."""


def sweep_of(config: Config) -> Sweep:
    """Raises UserError if there is none."""
    if config.sweep is None:
        raise UserError("sweep: the config has no such section; add one, such as `sweep: retrieval` (docs/sweeps.md)")
    return config.sweep


def free(sweep: Sweep) -> dict[str, Parameter]:
    """The keys that have several values."""
    return {key: of for key, of in sweep.space.items() if of.choice is None or len(of.choice) > 1}


def is_active(parameter: Parameter, values: Mapping[str, Any], sweep: Sweep) -> bool:
    """Whether a key has a value at all, given those of the keys before it."""
    return all(
        key in values and values[key] in wanted(value, sweep.space[key].choice or [])
        for key, value in parameter.when.items()
    )


def label(value: Any) -> str:
    """A choice as one word, for what cannot hold a section."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def labels(parameter: Parameter) -> list[str]:
    assert parameter.choice is not None
    return [label(value) for value in parameter.choice]


def words(parameter: Parameter) -> list[str]:
    """The choices as words that need no quotes in a shell: their labels, or else their positions."""
    return [
        of if re.fullmatch(r"[\w.+-]+", of, re.ASCII) else f"choice_{position}"
        for position, of in enumerate(labels(parameter))
    ]


def metric_id(sweep: Sweep) -> str:
    """The metric's name for platforms that admit only letters, digits and `_`."""
    return re.sub(r"\W+", "_", sweep.metric, flags=re.ASCII)


def short_names(sweep: Sweep) -> dict[str, str]:
    """A name of letters, digits and `_` for each key that has several values: the end of the key, if it is unique."""
    found: dict[str, str] = {}
    for key in free(sweep):
        parts = [re.sub(r"\W", "_", part) for part in key.split(".") if part != "*"]
        for count in range(1, len(parts) + 1):
            name = "_".join(parts[-count:])
            if name not in found.values() and sum(_ends(other, parts[-count:]) for other in free(sweep)) == 1:
                break
        found[key] = name if name not in found.values() else f"{name}_{len(found)}"
    return found


def _ends(key: str, parts: list[str]) -> bool:
    return [re.sub(r"\W", "_", part) for part in key.split(".") if part != "*"][-len(parts) :] == parts


def with_values(config: Config, values: Values) -> Config:
    """The config of a trial, without its sweep.

    Raises:
        UserError: a key does not exist, a value is not valid there, or values do not fit together.
    """
    sweep = sweep_of(config)
    tree = config.model_dump(mode="json", exclude_defaults=True)  # a section that is null has no keys to set
    del tree["sweep"]
    for key, parameter in sweep.space.items():
        for place in (key, *parameter.also) if key in values else ():
            config_file.put(tree, place, values[key], f"sweep.space.{key}")
    return config_file.validate(Config, tree, "sweep.space")


def combine(sweep: Sweep, draw: Callable[[str, Parameter], Any]) -> Values:
    """A combination: `draw` gives the values of free keys, in the order of the space, choices by their labels.

    Raises:
        UserError: a value is not in its range.
    """
    values: Values = {}
    for key, parameter in sweep.space.items():
        if not is_active(parameter, values, sweep):
            continue
        if parameter.choice is not None and len(parameter.choice) == 1:
            values[key] = parameter.choice[0]
        else:
            values[key] = _read(key, parameter, draw(key, parameter))
    return values


def _read(key: str, parameter: Parameter, given: Any) -> Any:
    if parameter.choice is not None:
        by_label = dict(zip(labels(parameter), parameter.choice, strict=True))
        if given not in by_label:
            raise UserError(f"sweep.space.{key}: {given!r} is not among its choices: {', '.join(by_label)}")
        return by_label[given]
    whole = parameter.kind.endswith("integer")
    low, high = parameter.bounds
    try:
        value: float = float(given)
    except ValueError:
        raise UserError(f"sweep.space.{key}: {given!r} is not a number") from None
    if not low <= value <= high or (whole and value != int(value)):
        raise UserError(
            f"sweep.space.{key}: {given} is not {'an integer' if whole else 'a number'} from {low} to {high}"
        )
    return int(value) if whole else value


def own_values(config: Config) -> dict[str, Any]:
    """What the config itself says for the free keys, where that is in the space; choices by their labels.

    Keys with a single choice are set before, so that a section that only the space has, has its values.
    """
    sweep = sweep_of(config)
    try:
        own = with_values(config, _combination(sweep, {}, with_others=False)).model_copy(update={"sweep": sweep})
    except UserError:  # they need values of other keys
        own = config
    tree, found = own.model_dump(mode="json"), dict[str, Any]()
    for key, parameter in free(sweep).items():
        if parameter.choice is not None:
            found.update((key, label(one)) for one in parameter.choice if _is_own(own, key, one))
            continue
        values = _get(tree, key.split("."))
        is_one = values and isinstance(values[0], int | float) and all(value == values[0] for value in values)
        if is_one and parameter.bounds[0] <= values[0] <= parameter.bounds[1]:
            found[key] = values[0]
    return found


def _is_own(config: Config, key: str, choice: Any) -> bool:
    """Whether a choice is what the config says, with its defaults."""
    try:
        return with_values(config, {key: choice}) == config.model_copy(update={"sweep": None})
    except UserError:
        return False


def _get(tree: Any, parts: list[str]) -> list[Any]:
    """The values at a path, one for each entry that a `*` stands for; none without such a key."""
    if not parts:
        return [tree]
    first, *rest = parts
    if isinstance(tree, list):
        nodes = tree if first == "*" else [tree[int(first)]] if first.isdecimal() and int(first) < len(tree) else []
        return [value for node in nodes for value in _get(node, rest)]
    return _get(tree[first], rest) if isinstance(tree, dict) and first in tree else []


def check(config: Config) -> None:
    """Tries every end of a range and every choice, each by itself and, where that fails, beside the other keys.

    Raises:
        UserError: the config has no sweep, a key does not exist or may not change, a value is not valid for its key, or
            the metric does not exist.
    """
    sweep = sweep_of(config)
    for key, parameter in sweep.space.items():
        for place in (key, *parameter.also):
            _check_section(key, place)
        for value in _samples(parameter):
            _check_value(config, sweep, key, value)
    measured(config)


def _check_section(key: str, place: str) -> None:
    if place.partition(".")[0] not in SECTIONS:
        raise UserError(
            f"sweep.space.{key}: {place} is not in {', '.join(SECTIONS)}, the sections that a sweep changes"
        )
    if MADE_THE_GRAPH.match(place.replace("*", "0")) or place in ("model", "model.embeddings"):
        raise UserError(f"sweep.space.{key}: {place} changes the graph, which all trials share")


def _samples(parameter: Parameter) -> list[Any]:
    """The ends of a range, and what is beside an integer's, which a key may not admit; or every choice."""
    if parameter.choice is not None:
        return parameter.choice
    low, high = getattr(parameter, parameter.kind)
    return [low, low + 1, high] if parameter.kind.endswith("integer") else [low, high]


def _check_value(config: Config, sweep: Sweep, key: str, value: Any) -> None:
    """Raises UserError, naming `key`, if no trial could give it this value."""
    admitted = {key: value}
    pending = [key]
    while pending:  # what the key needs to be active, and what that needs
        for other, of in sweep.space[pending.pop()].when.items():
            admitted[other] = wanted(of, sweep.space[other].choice or [])[0]
            pending.append(other)
    try:
        with_values(config, _combination(sweep, admitted, with_others=False))
    except UserError as error:
        try:  # it may need what the space says for other keys
            with_values(config, _combination(sweep, admitted, with_others=True))
        except UserError:
            message = str(error).removeprefix("sweep.space: ").removeprefix(f"sweep.space.{key}: ")
            raise UserError(f"sweep.space.{key}: {message.removeprefix(f'{key}: ')}") from None


def _combination(sweep: Sweep, admitted: Values, with_others: bool) -> Values:
    """The values of `admitted`, those of keys with a single choice and, `with_others`, the first ones of all others."""
    values: Values = {}
    for name, parameter in sweep.space.items():
        is_set = name in admitted or with_others or name not in free(sweep)
        if is_set and is_active(parameter, values, sweep):
            values[name] = admitted.get(name, _samples(parameter)[0])
    return values


def measured(config: Config) -> Config:
    """The config with which a trial is measured: by its metric alone, on validation edges.

    Raises:
        UserError: the metric does not exist.
    """
    metric = sweep_of(config).metric
    alone = {"split": "validation", "previous": None, "lists": None, "probe": None, "bootstrap": 20}
    gates = {metric: {"min": -1e15}}
    settings = {**config.evaluation.model_dump(mode="json"), **alone, "gates": gates}
    made = config.model_copy(update={"evaluation": type(config.evaluation).model_validate(settings)})
    try:
        check_names(made)
    except UserError as error:
        raise UserError(str(error).replace("evaluation.gates", "sweep.metric", 1)) from None
    return made
