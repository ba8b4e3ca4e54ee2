"""Notes in a run of the other runs that use it, so that nothing is removed of it before they are done with it.

What a run still needs is for its own files to say: see `series/needs.py`.
"""

from __future__ import annotations

import hashlib

from twhin_core import storage
from twhin_core.errors import StorageError, UserError
from twhin_core.progress import log
from twhin_core.published import is_version
from twhin_core.removed import check_present
from twhin_core.run import CONFIG

FOLDER = ".dependents"


def note_use(root: str, by: str) -> None:
    """Notes in `root`, if it is a run root, that the run at `by` uses it.

    Raises:
        UserError: the version was removed, or is being removed.
    """
    if same_root(root, by) or not (is_version(root) or storage.exists(storage.join(root, CONFIG))):
        return
    by = _absolute(by)
    url = storage.join(root, FOLDER, hashlib.sha256(by.encode()).hexdigest()[:16])
    try:
        storage.write_json(url, {"root": by})
    except StorageError as error:
        log.warning("%s: is used without a note that keeps it from being removed: %s", root, error)
    try:
        check_present(root)  # after the note is there: removal looks for notes after its own mark
    except UserError:
        storage.remove(url)
        raise


def noted(root: str) -> list[str]:
    """The roots of the runs that have used the one at `root`."""
    fs, path = storage.filesystem(storage.join(root, FOLDER))
    names = [str(name).rsplit("/", 1)[-1] for name in fs.find(path)]
    found = (storage.find_json(storage.join(root, FOLDER, name)) for name in names if not name.startswith("."))
    return [note["root"] for note in found if note is not None]


def same_root(one: str, other: str) -> bool:
    """Whether both name the same place."""
    return _absolute(one) == _absolute(other)


def _absolute(root: str) -> str:
    """The name of a root that is the same from any working folder."""
    return root.rstrip("/") if storage.is_remote(root) else storage.filesystem(root)[1]
