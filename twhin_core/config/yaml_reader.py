"""Reads YAML within limits, so that no text exhausts memory or stack and each fault is one line, and writes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

from twhin_core.errors import UserError, in_one_line

MAX_BYTES = 16 << 20
"""Of the text in UTF-8."""
MAX_VALUES = 1_000_000
"""Values once every alias is replaced by a copy of what it refers to."""
MAX_DEPTH = 20
"""Levels of mappings and lists, aliases included. The schema has eight."""
MAX_NUMBER = 64
"""Characters of a number. Python refuses to print integers of more than 4,300 digits."""


def read_yaml(text: str, origin: str) -> Any:
    """The value of a YAML document; `origin` names it in errors.

    The format is PyYAML's YAML 1.1, except that `1e-3` is a number, as in YAML 1.2, and a repeated key is an error.

    Raises:
        UserError: it is not valid, or exceeds a limit.
    """
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        raise UserError(f"{origin}: larger than {MAX_BYTES >> 20} MiB")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Limits().check(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(f"{origin}: not valid YAML: {in_one_line(error)}") from None


class _Loader(yaml.SafeLoader):
    """The parser recurses with the nesting, so its depth is limited while it reads."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, _TOO_DEEP, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


class _Extent(NamedTuple):
    """The size of a node with its aliases replaced."""

    values: int
    depth: int


class _Limits:
    """Measures nodes, each once. An alias refers to an earlier node, so the walk recurses no deeper than the text."""

    def __init__(self) -> None:
        self._measured: dict[yaml.Node, _Extent | None] = {}

    def check(self, node: yaml.Node) -> _Extent:
        """The extent of a node. Raises a YAMLError if it, or anything in it, is beyond a limit."""
        if node in self._measured:
            extent = self._measured[node]
            if extent is None:
                raise _refusal("an anchor that contains an alias of itself", node)
            return extent
        self._measured[node] = None  # being measured
        if isinstance(node, yaml.ScalarNode):
            _check_text(node)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        extents = [self.check(child) for child in _children(node)]
        extent = _Extent(1 + sum(each.values for each in extents), 1 + max((each.depth for each in extents), default=0))
        if extent.values > MAX_VALUES:
            raise _refusal(f"more than {MAX_VALUES:,} values, counting each alias as a copy", node)
        if extent.depth > MAX_DEPTH + 1:  # a value is below the deepest level
            raise _refusal(_TOO_DEEP, node)
        self._measured[node] = extent
        return extent


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise _refusal(f"repeated key {key.value[:100]!r}", node)
            seen.add(key.value)


def _check_text(node: yaml.ScalarNode) -> None:
    """Refuses text that no file name and no UTF-8 file can hold."""
    if "\0" in node.value:
        raise _refusal("text with a NUL character", node)
    if any("\ud800" <= character <= "\udfff" for character in node.value):
        raise _refusal("text with half a surrogate pair", node)


def _refusal(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


Construct = Callable[[yaml.SafeLoader, Any], Any]


def _in_one_line(construct: Construct, kind: str) -> Construct:
    """PyYAML's constructor of a scalar, whose failures (the 30th of February, `0x_`, `!!int a`) become YAMLErrors."""

    def constructed(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
        text = str(node.value)
        if len(text) > MAX_NUMBER:
            raise _refusal(f"{kind} of {len(text):,} characters", node)
        try:
            return construct(loader, node)
        except (ValueError, OverflowError, LookupError, AttributeError):
            raise _refusal(f"{text!r} is not {kind}", node) from None

    return constructed


for _name, _kind in (("int", "an integer"), ("float", "a number"), ("timestamp", "a date"), ("bool", "true or false")):
    _tag = f"tag:yaml.org,2002:{_name}"
    _Loader.add_constructor(_tag, _in_one_line(yaml.SafeLoader.yaml_constructors[_tag], _kind))


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would take for a number."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def to_yaml(tree: Any) -> str:
    """A document that `read_yaml` reads back."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    if any(character in text for character in "\x85\u2028\u2029\ufeff"):  # which PyYAML reads back as spaces
        text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
    return text
