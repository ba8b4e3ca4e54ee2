"""The hash that orders, splits and samples edges. It only depends on an edge's nodes, its relation and a seed.

It is taken from MD5, which all engines provide, and compared as text, the only form on which they agree.
"""

from __future__ import annotations

import functools
from typing import Literal

import ibis
import ibis.expr.types as ir

DIGITS = 12  # 48 bits; DuckDB stores strings of up to 12 bytes inline


def edge_hash(rows: ir.Table, seed: int, use: Literal["order", "sample"]) -> ir.StringValue:
    """`DIGITS` hexadecimal digits per row (lhs, relation, rhs: string). The two uses get independent digits."""
    edge = ibis.literal("\t").join([ibis.literal(str(seed)), rows.lhs, rows.relation, rows.rhs])
    return edge.hexdigest("md5").substr(0 if use == "order" else DIGITS, DIGITS)


def below(digits: ir.StringValue, share: float) -> ir.BooleanValue:
    """Whether a hash is in the lowest `share` of all hashes."""
    limit = bound(share)
    return ibis.literal(True) if limit is None else digits < limit


def bound(share: float) -> str | None:
    """The digits that follow the lowest `share` of all hashes; None if none do."""
    number = round(share * 16**DIGITS)
    return None if number == 16**DIGITS else f"{number:0{DIGITS}x}"


def node_key(ids: ir.StringValue) -> ir.IntegerValue:
    """The first `DIGITS` hexadecimal digits of the MD5 of each id as a number: int64."""
    text = ids.hexdigest("md5")
    digits = [ibis.literal("0123456789abcdef").find(text.substr(place, 1)) for place in range(DIGITS)]
    digits = [digit.cast("int32").cast("int64") for digit in digits]  # on Spark, `find` has 32 bits and Ibis thinks 64
    return functools.reduce(lambda number, digit: number * 16 + digit, digits)
