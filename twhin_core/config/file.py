"""Reads a `Config` from a YAML file with `${VARIABLES}` and `--set` overrides, and writes it back to YAML."""

from __future__ import annotations

import copy
import difflib
import json
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from twhin_core import storage
from twhin_core.config import Config, yaml_reader
from twhin_core.config.yaml_reader import read_yaml
from twhin_core.errors import UserError, in_one_line

T = TypeVar("T", bound=BaseModel)
VARIABLE = re.compile(r"\$\{(\w+)\}")
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 200


class ConfigText(NamedTuple):
    """A config as the user wrote it; `parse(text, overrides=overrides)` gives the same config on any machine."""

    text: str
    overrides: tuple[str, ...] = ()
    """Each `section.key=value`."""


def load(path: str, overrides: Iterable[str] = ()) -> Config:
    """Reads the config at `path` (local or on an object store) and applies `overrides`, each `section.key=value`.

    Raises:
        UserError: the file does not exist or is not YAML in UTF-8, a variable is not set, or a key or value is invalid.
    """
    return parse(read_text(path), origin=path, overrides=overrides)


def read(
    path: str, overrides: Iterable[str] = (), check: Callable[[str, tuple[str, ...]], object] = load
) -> ConfigText:
    """The config at `path` for other machines, with an override for each value that contains a `${VARIABLE}`.

    Args:
        check: takes the path and the overrides. Raises UserError for a mistake in the config.

    Raises:
        UserError: as `check`.
    """
    overrides = tuple(overrides)
    check(path, overrides)
    text = read_text(path)
    tree = read_yaml(text, path)
    for override in overrides:
        _override(tree, override)
    return ConfigText(text, (*overrides, *_expanded(tree, ())))


def read_text(path: str) -> str:
    """The text of the config at `path`. Raises UserError if there is none."""
    try:
        return storage.read_text(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None


def parse(text: str, origin: str = "config", overrides: Iterable[str] = ()) -> Config:
    """Like `load`, from YAML text; `origin` names it in errors."""
    return validate(Config, read_tree(text, origin, overrides), origin)


def read_tree(text: str, origin: str = "config", overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The sections of a config, with variables and `overrides` applied, before their keys and values are checked.

    Raises:
        UserError: the text is not YAML, a variable is not set, or an override names no key.
    """
    tree = read_yaml(text, origin)
    if not isinstance(tree, dict):
        raise UserError(f"{origin}: expected a mapping of sections, got {type(tree).__name__}")
    for override in overrides:
        _override(tree, override)
    expanded: dict[str, Any] = _expand(tree, origin)
    return expanded


def validate(schema: type[T], tree: Any, origin: str) -> T:
    """`tree` as a `schema`. Raises UserError with one line that names the key."""
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{origin}: {in_one_line(_message(error, schema), 1000)}") from None


def to_yaml(config: Config) -> str:
    """The resolved config with all defaults; `parse` restores it."""
    return yaml_reader.to_yaml(config.model_dump(mode="json"))


def to_line(config: Config) -> str:
    """The values that the user set, as one line of JSON, which is also YAML; `parse` restores the config."""
    return json.dumps(config.model_dump(mode="json", exclude_unset=True), ensure_ascii=False)


def _expand(value: Any, origin: str) -> Any:
    """Replaces `${NAME}` in every string with that environment variable."""
    if isinstance(value, dict):
        return {key: _expand(item, origin) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, origin) for item in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise UserError(f"{origin}: the environment variable {name} is not set (it is used in {value!r})")
        return os.environ[name]

    return VARIABLE.sub(variable, value)


def _expanded(value: Any, path: tuple[str, ...]) -> Iterator[str]:
    """An override for every value that contains a `${VARIABLE}`, with its value on this machine."""
    items: dict[Any, Any] = value if isinstance(value, dict) else {}
    if isinstance(value, list):
        items = dict(enumerate(value))
    if items and not any("." in str(key) for key in items):
        for key, item in items.items():
            yield from _expanded(item, (*path, str(key)))
        return
    expanded = _expand(value, ".".join(path))
    if expanded != value:  # possibly a mapping: `--set` cannot address its keys if one contains a dot
        yield f"{'.'.join(path)}={json.dumps(expanded, ensure_ascii=False)}"


def _override(tree: dict[str, Any], override: str) -> None:
    """Applies one `section.key=value` in place; the value is YAML, and list entries are addressed by position."""
    path, separator, text = override.partition("=")
    origin = in_one_line(f"--set {override}", 200)
    if not separator or not path:
        raise UserError(f"{origin}: expected section.key=value")
    put(tree, path, read_yaml(text, origin), origin)


def put(tree: dict[str, Any], path: str, value: Any, origin: str) -> None:
    """Sets one `section.key` of a tree in place. `*` stands for every entry of a list.

    Raises:
        UserError: there is no such key. Starts with `origin`.
    """
    *parents, last = path.split(".")
    nodes: list[Any] = [tree]
    try:
        for key in parents:
            nodes = [child for node in nodes for child in _children(node, key)]
            if any(node is None for node in nodes):
                raise UserError(f"{origin}: {key} is null and has no keys")
        for node in nodes:
            for place in _places(node, last):
                node[place] = copy.deepcopy(value)
    except (TypeError, ValueError, IndexError, AttributeError):
        raise UserError(f"{origin}: there is no key {in_one_line(path, 200)}") from None


def _places(node: Any, key: str) -> list[Any]:
    """The positions or keys of a list or mapping that one part of a path names."""
    if not isinstance(node, list):
        return [key]
    return list(range(len(node))) if key == "*" else [int(key)]


def _children(node: Any, key: str) -> list[Any]:
    if isinstance(node, list):
        return [node[place] for place in _places(node, key)]
    return [node.setdefault(key, {})]


def _message(error: ValidationError, schema: type[BaseModel]) -> str:
    errors = error.errors(include_url=False)
    # A misspelt key often explains a missing one.
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        message = "unknown key" + _suggestion(schema, first["loc"])
    elif first["type"] == "value_error":
        message = str(first["ctx"]["error"])
    elif first["type"] == "missing":
        message = "is required"
    else:
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}, got {SHORT.repr(first['input'])}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if re.match(r"[a-z_][\w.]*: ", message):  # a section's validator, which names the key within the section
        return ".".join(filter(None, (place, message))) + more
    return (f"{place}: {message}" if place else message) + more


def _suggestion(schema: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """The known key closest to an unknown one."""
    known: Any = schema
    for part in place[:-1]:
        if isinstance(part, str) and part in known.model_fields:
            known = _section(known.model_fields[part].annotation) or known
    near = difflib.get_close_matches(str(place[-1]), known.model_fields, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known.model_fields)}"


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section in an annotation such as `Prepare | None` or `list[Table]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section, getattr(annotation, "__args__", ()))), None)
