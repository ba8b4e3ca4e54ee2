"""Writes docs/configuration.md and docs/resources.md from docstrings, descriptions and defaults of their schemas.

These are `twhin_core.config` and `twhin.pipelines.resources`.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from twhin.pipelines.resources import Resources
from twhin_core.config import Config
from twhin_core.config.section import Section

FOLDER = Path(__file__).parent

INTRODUCTION = """# Configuration

One YAML drives a run. `configs/` holds some to start from; this page lists every key. It is generated from
`twhin_core/config/`, a module a section, by `make docs`.

- A key that is not listed here is an error, and so is a value of another type.
- `${NAME}` in a string stands for the environment variable of that name; it must be set.
- `--set section.key=value` overrides one value on the command line; a list's entry is named by its position, as in
  `--set model.embeddings.tables.0.embedding_dim=32`.
- `(ours)` marks what is added to the schema of the reference implementation.
- Each run saves its config, with all defaults, as `<run_root>/config.yaml`.
"""

RESOURCES = """# Resources

A resources file says what each stage needs from a cluster's machines. `twhin compile --resources` reads it.
`configs/resources/` has files to start from; this page lists every key. `make docs` generates it from
`pipelines/resources.py`.

- A key that is not listed here is an error, and so is a key that the compile target does not support.
- The tag of an image must be this version, optionally followed by a dash and a suffix such as `-cuda`. A digest is
  accepted too.
- On Kubeflow, a run root that is not on gs:// must be below `volume.mount`. Vertex AI requires gs://.
- On Vertex AI, a stage that sets more than `cpu`, `memory`, `image` and `retries` is a CustomJob on the smallest
  machine type that is large enough: one with the accelerator, or one of the family n2.
- On Kubeflow, training with several `nodes` or with `readers` is a TrainJob. [deploy](../deploy/README.md) lists what
  the namespace needs for it.
"""


def pages() -> dict[Path, str]:
    """Each page, and what it should hold."""
    schemas = {"configuration.md": (INTRODUCTION, Config), "resources.md": (RESOURCES, Resources)}
    return {FOLDER / name: text + "".join(_section("", schema, {})) for name, (text, schema) in schemas.items()}


def _section(path: str, section: type[BaseModel], described: dict[type[BaseModel], str]) -> Iterator[str]:
    """A section and those within it, in the order of the fields; one that stands elsewhere is referred to."""
    yield f"\n## `{path}`\n\n" if path else "\n## Sections\n\n"
    if section in described:
        yield f"As `{described[section]}`.\n"
        return
    described[section] = path
    yield _table(section)
    for name, field in section.model_fields.items():
        inner, suffix = _inner(field.annotation)
        if inner is not None:
            yield from _section(f"{path}.{name}{suffix}".lstrip("."), inner, described)


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section that an annotation holds, and what follows the key on the way to it: `[]` for a list's entries."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, ""
    suffix = {list: "[]", dict: ".<name>"}.get(get_origin(annotation), "")
    for argument in get_args(annotation):
        inner, more = _inner(argument)
        if inner is not None:
            return inner, suffix + more
    return None, ""


def _table(section: type[BaseModel]) -> str:
    rows = "".join(
        f"| `{name}` | {_type(field)} | {_default(field)} | {_cell(field)} |\n"
        for name, field in section.model_fields.items()
    )
    return f"{_paragraph(section.__doc__)}\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n{rows}"


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(field: FieldInfo) -> str:
    return _paragraph(field.description).replace("|", "\\|")


def _type(field: FieldInfo) -> str:
    return _name(field.annotation) + _bounds(field)


def _name(annotation: Any) -> str:
    """The type in YAML's words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _name(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_name(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is list:
        return f"list of {_name(arguments[0])}s"
    if origin is dict:
        return f"mapping of names to {_name(arguments[1])}"
    if origin is tuple:
        return f"list of {len(arguments)} {_name(arguments[0])}s"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    words = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null", Any: "any"}
    return words[annotation]


def _bounds(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    shown = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return f" {' and '.join(shown)}" if shown else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    assert value is not PydanticUndefined
    if isinstance(value, Section):
        return "its defaults"
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
