"""Carries what an earlier version learned of content into a warm start."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from twhin_core.checkpoints.checkpoint import OPTIMIZER
from twhin_core.checkpoints.earlier import EarlierRun
from twhin_core.config import Config
from twhin_core.progress import log
from twhin_core.schema import Schema
from twhin_core.training.matched_rows import Whole
from twhin_core.vectors.content import content_entry, values_of


def tables_carried(earlier: EarlierRun, config: Config, root: str, schema: Schema) -> list[str]:
    """The tables whose content is that of the earlier version: of the same columns, added to id rows in the same way.

    Rows of other tables start from whole vectors, and their towers from zero.
    """
    found = []
    for table in schema.content:
        if table not in earlier.schema.content:
            continue
        there, here = (content_entry(of, table) for of in (earlier.root, root))
        is_unit = [of.model.table(table).is_spherical for of in (earlier.config, config)]
        is_same = (there.column, there.dim, there.categories) == (here.column, here.dim, here.categories)
        if is_same and is_unit[0] == is_unit[1]:
            found.append(table)
    return found


def carry(earlier: EarlierRun, root: str, table: str, state: Mapping[str, Whole], with_optimizer: bool) -> None:
    """Copies the tower and the predictor of a table, and their optimizer's state, into `state`.

    Rows of categories are matched by their values. Those of new values start from the row that their nodes had: that of
    all rare values.
    """
    # What vectors are multiplied by may have doubled, say; then the weights halve, and products stay what they are.
    ratio = content_entry(earlier.root, table).scale / content_entry(root, table).scale
    known = {value: code for code, value in enumerate(values_of(earlier.root, table), 1)}
    values = values_of(root, table)
    same = [(known[value], code) for code, value in enumerate(values, 1) if value in known]
    rare = [(known[category, None], code) for code, (category, value) in enumerate(values, 1)
            if (category, value) not in known]  # fmt: skip
    parts = (f"towers.{table}.", f"predictors.{table}.")
    for name in [of for of in state if of.startswith(parts)]:
        is_vector, is_values = (name.endswith(f".{kind}.weight") for kind in ("vector", "values"))
        _copy(earlier, name, state, [*same, *rare] if is_values else None, ratio if is_vector else 1.0)
        for entry in [of for of in state if of.startswith(f"{OPTIMIZER}{name}.")] if with_optimizer else []:
            is_sum = entry.endswith(".sum")  # of squares of gradients, which grow as the weights shrink
            factor = ratio**-2 if is_vector and is_sum else 1.0
            _copy(earlier, entry, state, same if is_values and is_sum else None, factor)
    if values:
        log.info("train: %s: %s of %s values of categories are known", table, f"{len(same):,}", f"{len(values):,}")


def _copy(
    earlier: EarlierRun, name: str, state: Mapping[str, Whole], rows: list[tuple[int, int]] | None, factor: float
) -> None:
    """Copies a tensor, or its `rows`, pairs of an earlier one and one of here."""
    target, found = state[name], earlier.checkpoint.stored(name).read_whole()
    assert isinstance(target, Tensor)
    if rows is None:
        target.data.copy_(found * factor)
    elif rows:
        there, here = torch.tensor(rows).T
        target.data[here.to(target.device)] = found[there].to(target)
