"""The hash of an edge, by which edges are ordered, split and sampled: of its ends, its relation and a seed alone.

It is made of MD5, as this is what all engines have, and compared as text, as they do not agree on other forms.
"""

from __future__ import annotations

from typing import Literal

import ibis
import ibis.expr.types as ir

DIGITS = 12  # 48 bits; DuckDB keeps strings of up to 12 bytes in place


def edge_hash(rows: ir.Table, seed: int, use: Literal["order", "sample"]) -> ir.StringValue:
    """`DIGITS` hexadecimal digits of each row (lhs, relation, rhs: string); those of the two uses are independent."""
    edge = ibis.literal("\t").join([ibis.literal(str(seed)), rows.lhs, rows.relation, rows.rhs])
    return edge.hexdigest("md5").substr(0 if use == "order" else DIGITS, DIGITS)


def below(digits: ir.StringValue, share: float) -> ir.BooleanValue:
    """Whether a hash is among the lowest `share` of all hashes."""
    bound = round(share * 16**DIGITS)
    return ibis.literal(True) if bound == 16**DIGITS else digits < f"{bound:0{DIGITS}x}"
