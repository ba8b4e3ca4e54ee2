"""Removes the oldest versions of a series."""

from __future__ import annotations

from datetime import UTC, datetime

from twhin_core import lease, storage
from twhin_core.dependents import FOLDER as DEPENDENTS
from twhin_core.errors import UserError
from twhin_core.progress import log
from twhin_core.published import list_ids, read_current, root_of
from twhin_core.removed import REMOVED, read_removed
from twhin_core.series.needs import dependent
from twhin_core.series.reading import FOLDER as READERS
from twhin_core.series.reading import is_read
from twhin_core.series.versions import as_removed, describe


def keep_newest(series: str, count: int) -> list[str]:
    """Removes all versions but the newest `count`, the published one, newer ones, and those in use.

    In use is a version that a stage works on, that is read (see `reading`), or that another run needs (see `needs`).
    The log says which and why. Of a removed one, its row of `twhin versions` is kept. A removal that was interrupted
    is completed by the next call.

    Returns:
        The versions removed now.

    Raises:
        UserError: nothing is published, so no version is known to be good.
    """
    assert count >= 1, count
    with lease.hold(series, "publish"):
        current = read_current(series)
        if current is None:
            raise UserError(f"{series}: no version of this series is published; nothing was removed")
        ids = list_ids(series)
        older = ids[: ids.index(current.version)] if current.version in ids else []
        removed = [
            version for version in reversed(older) if version not in ids[-count:] and remove_version(series, version)
        ]
        return removed[::-1]  # the newest went first, because it may have been the last to need an older one


def remove_version(series: str, version: str) -> bool:
    """Removes a version unless it is in use; whether something was removed. The caller holds the lease `publish`."""
    root = root_of(series, version)
    mark = storage.join(root, REMOVED)
    if read_removed(root) is None:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        storage.write_json(mark, as_removed(describe(series, version, read_current(series)), when))
    elif not left_of(root):
        return False  # removed by an earlier call
    if (use := _use(root)) is not None:
        storage.remove(mark)
        log.info("versions: kept version %s: %s", version, use)
        return False
    storage.remove_all_but(root, [mark])
    log.info("versions: removed version %s", version)
    return True


def _use(root: str) -> str | None:
    """What a version is in use for, or None."""
    try:
        lease.check_alone(root)
    except UserError as error:
        return str(error)
    return "it is being read" if is_read(root) else dependent(root)


def left_of(root: str) -> list[str]:
    """The files of a version but its mark, and what readers and other runs leave."""
    fs, path = storage.filesystem(root)
    left = f"/{READERS}/", f"/{DEPENDENTS}/"
    return [name for name in fs.find(path) if not name.endswith(f"/{REMOVED}") and not any(of in name for of in left)]
