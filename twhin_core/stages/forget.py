"""Forgets nodes: publishes the current version of a series again without them, and keeps them out of the next ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from twhin_core import lease, storage
from twhin_core.dependents import same_root
from twhin_core.errors import NotFound, UserError, suggest
from twhin_core.graph.forgotten import Record, blocked_by, hashed, new_salt, read_records, record_url
from twhin_core.graph.manifest import Manifest, read_manifest, read_schema
from twhin_core.progress import log
from twhin_core.published import Current, list_ids, number_of, read_current, root_of
from twhin_core.removed import read_removed
from twhin_core.run import CONFIG, saved_config
from twhin_core.series.publish import publish
from twhin_core.series.retention import remove_version
from twhin_core.sizes import count_of
from twhin_core.stages.rewrite import rewrite
from twhin_core.vectors.ids import IDS_PER_BATCH
from twhin_core.vectors.names import open_ids

ARTIFACTS = "kfp"
"""Copies of reports that a local refresh leaves in the series."""


def forget(series: str, table: str, names: list[str], by: str) -> Record:
    """Removes nodes from the published version of a series, and keeps them out of those to come.

    - Before anything else, a record with hashes of the ids is written, which `prepare` obeys from then on.
    - If the published version has some of the nodes, a version without them is published in its place. The old one and
      all later ones are removed; the next refresh takes the files of the later ones again.
    - Else, later versions that have some of them are removed.

    A call that was interrupted is completed by the same call.

    Args:
        names: the ids, distinct.
        by: who signs for it.

    Returns:
        The finished record. If all ids were forgotten before, the record of that.

    Raises:
        UserError: nothing is published, or not with this table; an earlier call with other ids was interrupted; a stage
            works on the published version or a later one, or one of them shares its graph with another run; or one is
            still being read when all else is done.
    """
    with lease.hold(series, "plan"):  # no refresh begins a version meanwhile
        current = read_current(series)
        if current is None:
            raise UserError(f"{series}: no version of this series is published; there is nothing to forget from")
        _check(series, current, table)
        url, record = _begin(series, table, names, by)
        if record.finished is not None and not _holders(_look(series, current, record, names)):
            log.info("forget: all of them were forgotten on %s: %s", record.finished, url)
            return record
        if record.finished is not None:  # a version that was published earlier is published again
            url, record = _open(series, table, names, by)
        if not record.removed or record.replaced_by not in (None, current.version):  # or that is done, and was cut off
            record = _replace(series, current, url, record, names)
        return _finish(series, url, record, names)


@dataclass(frozen=True)
class _Looked:
    """A version, and which of the ids it has; None if it may have any, because its graph is not finished."""

    version: str
    found: set[str] | None


def _replace(series: str, current: Current, url: str, record: Record, names: list[str]) -> Record:
    """Publishes a version without the nodes, if need be. Returns the record of that, which it writes before."""
    published = {entry.version for entry in current.history}
    if record.replaced_by is not None and record.replaced_by not in published:  # what an interrupted call began
        storage.remove(root_of(series, record.replaced_by))
    looked = _look(series, current, record, names)
    first, *later = looked
    assert first.found is not None, "it is published"
    known = set().union(*(of.found or set() for of in looked))
    treated = [of.version for of in (looked if first.found else _holders(later))]
    target = _next_id(series, current.version) if first.found else None
    record = record.model_copy(
        update={
            "unknown": len(names) - len(known),
            "version": current.version if first.found else None,
            "replaced_by": target,
            "removed": treated,
            "nodes": len(first.found),
        }
    )
    _write(url, record)
    if target is not None:
        blocked = blocked_by(read_records(series))
        assert blocked is not None
        edges = rewrite(root_of(series, current.version), root_of(series, target), blocked)
        record = record.model_copy(update={"edges": edges})
        _write(url, record)
        publish(series, target, current.version)
    return record


def _finish(series: str, url: str, record: Record, names: list[str]) -> Record:
    """Removes the versions that still have the nodes, but for older ones, which it counts."""
    with lease.hold(series, "publish"):
        for version in reversed(record.removed):  # a later one may need an earlier one
            remove_version(series, version)
            if read_removed(root_of(series, version)) is None:
                raise UserError(
                    f"{root_of(series, version)}: holds ids that are to be forgotten and is still in use; new readers "
                    "of the series get the version without them; run the same command again once the others have ended"
                )
    storage.remove(storage.join(series, ARTIFACTS))
    found = {version: _find(root_of(series, version), record.table, names) for version in list_ids(series)}
    held = {version: None if ids is None else len(ids) for version, ids in found.items() if ids is None or ids}
    record = record.model_copy(update={"finished": _now(), "held": held})
    _write(url, record)
    log.info("forget: removed %s with %s: %s", count_of(record.nodes, "node"), count_of(record.edges, "edge"), url)
    return record


def _begin(series: str, table: str, names: list[str], by: str) -> tuple[str, Record]:
    """The record of these ids: that of an interrupted call, or of a finished one that had them all, or a new one."""
    records = read_records(series)
    for url, record in records.items():
        hashes = {hashed(record.salt, name) for name in names}
        if record.finished is None:
            if record.table != table or hashes != set(record.hashes):
                raise UserError(
                    f"{url}: {record.by} began on {record.begun} to forget {count_of(record.ids, 'id')} of "
                    f"{record.table}, which has not finished; run that command again first"
                )
            return url, record
    for url, record in records.items():
        if record.table == table and {hashed(record.salt, name) for name in names} <= set(record.hashes):
            return url, record
    return _open(series, table, names, by)


def _open(series: str, table: str, names: list[str], by: str) -> tuple[str, Record]:
    """A new record, which is written."""
    records = read_records(series)
    salt = next((record.salt for record in records.values()), None) or new_salt()
    hashes = sorted(hashed(salt, name) for name in names)
    record = Record(begun=_now(), by=by, table=table, ids=len(names), salt=salt, hashes=hashes)
    last = max((int(url.rsplit("/", 1)[-1].partition(".")[0]) for url in records), default=0)
    url = record_url(series, last + 1)
    _write(url, record)
    return url, record


def _look(series: str, current: Current, record: Record, names: list[str]) -> list[_Looked]:
    """The published version and those after it that are there."""
    ids = list_ids(series)
    versions = ids[ids.index(current.version) :]
    return [
        _Looked(version, _find(root_of(series, version), record.table, names))
        for version in versions
        if read_removed(root_of(series, version)) is None
    ]


def _holders(looked: list[_Looked]) -> list[_Looked]:
    """Those that have some of the ids, or may have."""
    return [of for of in looked if of.found is None or of.found]


def _find(root: str, table: str, names: list[str]) -> set[str] | None:
    """Which of the ids a version has; None if it may have any, because its graph is not finished."""
    if read_removed(root) is not None:
        return set()
    if (manifest := _graph(root)) is None:
        return None if storage.list_folders(storage.join(root, "graph")) else set()
    config, found = saved_config(root), set[str]()
    if all(entry.name != table for entry in manifest.tables):
        return found
    wanted = pa.array(names, pa.string())
    for batch in open_ids(config, root, table, read_schema(config, root).tables[table]).batches(IDS_PER_BATCH):
        found.update(batch["id"].filter(pc.is_in(batch["id"], wanted)).to_pylist())
    return found


def _check(series: str, current: Current, table: str) -> None:
    """Raises UserError unless the published version can be written again, and those after it can be removed."""
    ids, root = list_ids(series), root_of(series, current.version)
    settings, manifest = saved_config(root).prepare, read_manifest(root)
    if settings is None or manifest is None:
        raise UserError(f"{root}: was made without prepare: its edges and ids are not this series' to forget")
    if settings.generate is not None:
        raise UserError(f"{root}: its data are generated (prepare.generate), so there is nobody to forget")
    if manifest.shared_by is not None:
        raise UserError(f"{root}: uses the graph of {manifest.shared_by} (prepare.graph), which would keep the ids")
    if table not in (tables := [entry.name for entry in manifest.tables]):
        raise NotFound(f"{root}: no table named {table!r}; {suggest(table, tables)}")
    treated = [root_of(series, version) for version in ids[ids.index(current.version) :]]
    for each in (series, *treated):
        try:
            lease.check_alone(each)
        except UserError as error:
            raise UserError(f"{str(error).partition(';')[0]}; run it again once that has ended") from None
    for version in ids:
        used = None if (found := _graph(root_of(series, version))) is None else found.shared_by
        if used is not None and any(same_root(used, each) for each in treated):
            raise UserError(f"{root_of(series, version)}: uses the graph of {used} (prepare.graph); remove it first")


def _graph(root: str) -> Manifest | None:
    """The manifest of a version's graph; None if it is not finished or was removed."""
    is_there = read_removed(root) is None and storage.exists(storage.join(root, CONFIG))
    return read_manifest(root) if is_there else None


def _next_id(series: str, version: str) -> str:
    """The id of the version that replaces another: the next number, or the same name with a number behind."""
    ids = list_ids(series)
    if number_of(version) is not None:
        return str(1 + max(number_of(name) or 0 for name in ids))
    return next(name for count in range(1, len(ids) + 2) if (name := f"{version}.{count}") not in ids)


def _write(url: str, record: Record) -> None:
    storage.write_json(url, record.model_dump())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
