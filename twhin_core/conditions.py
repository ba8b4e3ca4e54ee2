"""Conditions on the columns of a row, such as `rating >= 4 and kind in ('view', 'buy')`: their grammar and their tree.

    condition  = conjunction {"or" conjunction}
    conjunction = negation {"and" negation}
    negation   = "not" negation | "(" condition ")" | predicate
    predicate  = column ("=" | "!=" | "<" | "<=" | ">" | ">=") literal
               | column ["not"] "in" "(" literal {"," literal} ")"
               | column "is" ["not"] "null"
    column     = a word, or any text in double quotes
    literal    = a number, text in single quotes, "true" or "false"

A quote within quotes is doubled. Keywords may be in upper case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_LENGTH = 4000
MAX_DEPTH = 20
COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")
KEYWORDS = ("and", "or", "not", "in", "is", "null", "true", "false")

TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?!\w))
    | (?P<word>[^\W\d]\w*)
    | "(?P<quoted>(?:[^"]|"")+)"
    | '(?P<text>(?:[^']|'')*)'
    | (?P<sign><=|>=|!=|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)

Literal = bool | int | float | str


@dataclass(frozen=True)
class Compare:
    """`column sign literal`; `sign` is one of `COMPARISONS`."""

    column: str
    sign: str
    literal: Literal


@dataclass(frozen=True)
class IsNull:
    """`column is null`."""

    column: str


@dataclass(frozen=True)
class Not:
    """`not part`."""

    part: Condition


@dataclass(frozen=True)
class AllOf:
    """Parts joined by `and`."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """Parts joined by `or`."""

    parts: tuple[Condition, ...]


Condition = Compare | IsNull | Not | AllOf | AnyOf


def parse(text: str) -> Condition:
    """The tree of a condition. Raises ValueError with what was expected and where."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"is longer than {MAX_LENGTH:,} characters")
    parser = _Parser(text)
    condition = parser.condition(0)
    if parser.kind != "end":
        raise parser.error("`and`, `or` or the end")
    return condition


def comparisons(condition: Condition) -> Iterator[Compare | IsNull]:
    """The leaves of the tree, from left to right."""
    match condition:
        case Not(part):
            yield from comparisons(part)
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from comparisons(part)
        case _:
            yield condition


class _Parser:
    """Descends the grammar. `kind` and `value` are those of the next token."""

    def __init__(self, text: str) -> None:
        self._text, self._start, self._end = text.rstrip(), 0, 0
        self._advance()

    def error(self, expected: str) -> ValueError:
        rest = self._text[self._start :].strip()
        place = f"before {rest[:20]!r}" if rest else "at the end"
        return ValueError(f"expected {expected} {place}")

    def condition(self, depth: int) -> Condition:
        parts = [self._conjunction(depth)]
        while self._take("or"):
            parts.append(self._conjunction(depth))
        return AnyOf(tuple(parts)) if len(parts) > 1 else parts[0]

    def _conjunction(self, depth: int) -> Condition:
        parts = [self._negation(depth)]
        while self._take("and"):
            parts.append(self._negation(depth))
        return AllOf(tuple(parts)) if len(parts) > 1 else parts[0]

    def _negation(self, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested more than {MAX_DEPTH} deep")
        if self._take("not"):
            return Not(self._negation(depth + 1))
        if self._take("("):
            inner = self.condition(depth + 1)
            self._expect(")")
            return inner
        return self._predicate()

    def _predicate(self) -> Condition:
        if self.kind != "column":
            raise self.error("a column")
        column = str(self.value)
        self._advance()
        if self.kind == "sign" and self.value in COMPARISONS:
            sign = str(self.value)
            self._advance()
            return Compare(column, sign, self._literal())
        if self._take("is"):
            negated = self._take("not")
            self._expect("null")
            return Not(IsNull(column)) if negated else IsNull(column)
        negated = self._take("not")
        if not self._take("in"):
            raise self.error("`in`" if negated else "a comparison, `in` or `is null`")
        self._expect("(")
        choices = [self._literal()]
        while self._take(","):
            choices.append(self._literal())
        self._expect(")")
        any_of = AnyOf(tuple(Compare(column, "=", choice) for choice in choices))
        return Not(any_of) if negated else any_of

    def _literal(self) -> Literal:
        if self.kind != "literal":
            raise self.error("a number, text in single quotes, `true` or `false`")
        value = self.value
        self._advance()
        return value

    def _take(self, sign: str) -> bool:
        """Goes on if the next token is this sign or keyword."""
        found = self.kind == "sign" and self.value == sign
        if found:
            self._advance()
        return found

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self.error(f"`{sign}`")

    def _advance(self) -> None:
        self._start = self._end
        self.kind: str
        self.value: Literal
        if self._end == len(self._text):
            self.kind, self.value = "end", ""
            return
        found = TOKEN.match(self._text, self._end)
        if found is None:
            raise self.error("a column, a literal or a sign")
        self._end = found.end()
        self.kind, self.value = _token(str(found.lastgroup), found[str(found.lastgroup)])


def _token(group: str, text: str) -> tuple[str, Literal]:
    """(kind, value): a `column`, a `literal`, or a `sign`, which keywords are too."""
    if group == "number":
        return "literal", _number(text)
    if group == "text":
        return "literal", text.replace("''", "'")
    if group == "quoted":
        return "column", text.replace('""', '"')
    if group == "word" and text.lower() not in KEYWORDS:
        return "column", text
    if text.lower() in ("true", "false"):
        return "literal", text.lower() == "true"
    return "sign", text.lower()


def _number(text: str) -> int | float:
    if re.fullmatch(r"[-+]?\d{1,18}", text):
        return int(text)
    number = float(text)
    if abs(number) == float("inf"):
        raise ValueError(f"the number {text} is too large")
    return number
