"""Which rows a source's `where` keeps, as an Ibis expression.

Like SQL, a comparison with a missing value is neither true nor false, and a row is kept only if the condition is true.
"""

from __future__ import annotations

import datetime
import functools
import operator
import re
from collections.abc import Callable
from typing import Any

import ibis
import ibis.expr.types as ir

from twhin_core.conditions import AllOf, AnyOf, Compare, Condition, IsNull, Literal, Not

OPERATORS = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def check_comparison(leaf: Compare | IsNull, kind: str) -> None:
    """Raises ValueError if a column of the Arrow type `kind` cannot be compared in this way."""
    if isinstance(leaf, IsNull):
        return
    literal, shown = leaf.literal, repr(leaf.literal)
    if isinstance(literal, bool):
        good = (kind == "bool" or _is_text(kind)) and leaf.sign in ("=", "!=")
    elif isinstance(literal, str):
        good = _is_text(kind) or (_is_time(kind) and _time(literal) is not None)
    else:
        good = _is_text(kind) or _is_number(kind)
    if not good:
        raise ValueError(f"column {leaf.column!r} is {kind}, which `{leaf.sign}` cannot compare with {shown}")


def keeps(condition: Condition, column: Callable[[str], ir.Column], kind: Callable[[str], str]) -> ir.BooleanValue:
    """Whether the condition is true, never null.

    Args:
        column: a column by its name, null where the value is missing.
        kind: its Arrow type, which `check_comparison` has accepted.
    """
    return _truth(condition, column, kind).fill_null(False)


def _truth(condition: Condition, column: Callable[[str], ir.Column], kind: Callable[[str], str]) -> Any:
    match condition:
        case Not(part):
            return ~_truth(part, column, kind)
        case AllOf(parts):
            return functools.reduce(operator.and_, (_truth(part, column, kind) for part in parts))
        case AnyOf(parts):
            return functools.reduce(operator.or_, (_truth(part, column, kind) for part in parts))
        case IsNull(name):
            return column(name).isnull()
        case Compare(name, sign, literal):
            return _compare(column(name), kind(name), sign, literal)


def _compare(value: ir.Column, kind: str, sign: str, literal: Literal) -> Any:
    compare = OPERATORS[sign]
    if isinstance(literal, bool):
        return compare(value if kind == "bool" else value.strip().try_cast("boolean"), literal)
    if isinstance(literal, str):
        given: Any = _time(literal) if _is_time(kind) else literal
        return compare(value.cast("timestamp") if _is_time(kind) else value, given)
    if isinstance(literal, int) and re.fullmatch(r"u?int\d+", kind):
        return compare(value, literal)  # exactly, even where a float64 would not be
    number = (value.strip() if _is_text(kind) else value).try_cast("float64")
    finite = number * 0.0 == 0.0  # see `rows.with_reasons`
    return compare(finite.ifelse(number, ibis.null("float64")), float(literal))


def _is_text(kind: str) -> bool:
    return kind in ("string", "large_string", "string_view")


def _is_number(kind: str) -> bool:
    return re.match(r"u?int\d|halffloat|float|double|decimal", kind) is not None


def _is_time(kind: str) -> bool:
    return kind.startswith(("timestamp", "date"))


def _time(text: str) -> ir.Scalar | None:
    """A time in UTC, or None if the text is not an ISO date or time."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return ibis.literal(time if time.tzinfo is None else time.astimezone(datetime.UTC).replace(tzinfo=None))
