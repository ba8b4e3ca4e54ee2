"""The earlier versions that training starts from or stays near: found, compared with this one, and kept for reruns."""

from __future__ import annotations

from typing import Any

from twhin_core import storage
from twhin_core.checkpoints.checkpoint import last, refuse_differences
from twhin_core.checkpoints.earlier import EarlierRun
from twhin_core.config import Config
from twhin_core.config.earlier import PREVIOUS
from twhin_core.dependents import note_use
from twhin_core.distributed.ranks import Ranks
from twhin_core.errors import UserError, damaged
from twhin_core.graph.manifest import previous_root
from twhin_core.published import find_root
from twhin_core.schema import Schema

EARLIER = "training/earlier.json"
"""By key of the config, the checkpoint that this run uses, and what of it was matched."""
START, ANCHOR = "training.warm_start.from", "training.anchor.to"
PINNED = ("root", "step", "digest")
"""What tells a checkpoint apart from any other."""
NAMED = "series"
"""The series that the config names, of which `root` was the published version."""

Record = dict[str, Any]


def open_start(config: Config, root: str, schema: Schema, ranks: Ranks, resumes: bool) -> EarlierRun | None:
    """The earlier run that this one starts from; None for none, or if it `resumes` from a checkpoint of its own.

    The checkpoint is the one that this run has used before, or else the newest, which is recorded. A collective.

    Raises:
        UserError: there is no such run or checkpoint, or another one of the same step, or it does not fit this model.
    """
    settings = config.training.warm_start
    if settings is None or resumes:
        return None
    found = _open(root, START, settings.source, ranks, resumes)
    check_start(found, config, schema)
    return found


def open_anchored(config: Config, root: str, schema: Schema, ranks: Ranks, resumes: bool) -> EarlierRun | None:
    """The earlier run that this one stays near; None for none. As `open_start`.

    Raises:
        Damaged: this run `resumes`, but the record of the checkpoint that it has used is missing.
    """
    settings = config.training.anchor
    if settings is None:
        return None
    found = _open(root, ANCHOR, settings.to, ranks, resumes)
    check_anchor(found, config, schema)
    return found


def _open(root: str, key: str, place: str, ranks: Ranks, resumes: bool) -> EarlierRun:
    """`place`: the value of `key`."""

    def choose() -> Record:
        source = _find_place(root, place)
        record: Record = read_records(root).get(key, {})
        if record.get(NAMED, record.get("root")) == source:
            return record
        if resumes:
            url = storage.join(root, EARLIER)
            raise damaged(url, f"names no checkpoint for {key}, although this run has one of its own")
        found = find_root(source, key)
        newest = last(found)
        record = {"root": found} | ({} if found == source else {NAMED: source})
        return record | ({} if newest is None else {"step": newest.step, "digest": newest.digest})

    record = ranks.of_first(choose)
    if ranks.is_first:
        note_use(record["root"], root)
    found = EarlierRun(record["root"], key, record.get("step"))
    if found.checkpoint.digest != record["digest"]:
        raise UserError(
            f"{key}: the checkpoint of step {found.checkpoint.step} at {found.root} is another one than this run has "
            "used before; use another --run-root"
        )
    keep_record(root, key, found, {NAMED: record[NAMED]} if NAMED in record else {}, ranks)
    return found


def _find_place(root: str, place: str) -> str:
    """The run root or series that `place` names; for `previous`, the version whose graph this run continues."""
    return previous_root(root) if place == PREVIOUS else place


def read_records(root: str) -> Record:
    """What `training/earlier.json` holds; empty if there is none."""
    records: Record = storage.find_json(storage.join(root, EARLIER)) or {}
    return records


def keep_record(root: str, key: str, earlier: EarlierRun, figures: Record, ranks: Ranks) -> None:
    """Records the checkpoint that `key` stands for, with `figures` beside those that are there."""
    if ranks.is_first:
        records = read_records(root)
        pin = {"root": earlier.root, "step": earlier.checkpoint.step, "digest": earlier.checkpoint.digest}
        before = records.get(key, {})
        kept = before if {name: before.get(name) for name in PINNED} == pin else {}
        storage.write_json(storage.join(root, EARLIER), {**records, key: {**kept, **pin, **figures}})


def check_start(earlier: EarlierRun, config: Config, schema: Schema) -> None:
    """Raises UserError, naming the differences, unless this model can start from the vectors of the earlier one.

    Tables and relations that only one of them has are no difference, as long as they have a table in common.
    """
    assert config.training.warm_start is not None
    with_state = config.training.warm_start.optimizer_state
    names = {of.name for of in earlier.schema.relations} & set(schema.names)

    def described(of: Config, schema: Schema) -> Record:
        relations = [relation for relation in schema.relations if relation.name in names]
        return {
            "comparator": of.model.comparator,
            "reciprocal": of.model.reciprocal,
            "relations": {one.name: one.model_dump(include={"lhs", "rhs", "operator"}) for one in relations},
            "translation_optimizer": of.model.translation_optimizer.name if with_state else None,
        }

    there = _of_tables(earlier.config, earlier.schema, schema, with_state)
    here = _of_tables(config, schema, earlier.schema, with_state)
    refuse_differences(
        f"{START}: {earlier.checkpoint.url}",
        {**there, **described(earlier.config, earlier.schema)},
        {**here, **described(config, schema)},
    )


def check_anchor(earlier: EarlierRun, config: Config, schema: Schema) -> None:
    """Raises UserError, naming the differences, unless rows of this model can be held near those of the earlier one."""
    there = _of_tables(earlier.config, earlier.schema, schema)
    here = _of_tables(config, schema, earlier.schema)
    refuse_differences(f"{ANCHOR}: {earlier.checkpoint.url}", there, here)
    assert config.training.anchor is not None
    if config.training.anchor.by_degree and earlier.config.prepare is None:
        raise UserError(f"{ANCHOR}: {earlier.root} has no prepared graph to read degrees from; set by_degree: false")


def _of_tables(of: Config, schema: Schema, other: Schema, with_state: bool = False) -> Record:
    """What the tables of both models must share, described by the config and the schema of one."""
    common = [table for table in schema.tables if table in other.tables]
    optimizers = {table: of.model.table(table).optimizer.name for table in common if with_state}
    described: Record = {"dim": of.model.dim, "optimizers": optimizers}
    return described if common else {**described, "tables": ", ".join(schema.tables)}
