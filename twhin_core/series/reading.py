"""Marks versions that are being read, so that they are not removed meanwhile.

A reader writes `<run root>/.readers/<its own name>` with the time until which it reads at most, and renews it. A reader
that is killed thus keeps its version for an hour and no longer.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
import weakref

from twhin_core import storage
from twhin_core.errors import StorageError, UserError
from twhin_core.progress import log
from twhin_core.removed import check_present

FOLDER = ".readers"
LASTS, RENEWED_EVERY = 3600.0, 1200.0
"""Seconds. Clocks of machines may differ by as much as lies between the two."""


class Reading:
    """Keeps a version from being removed until `close` is called, or nothing refers to this object any more."""

    def __init__(self, root: str) -> None:
        """Raises UserError if the version is being removed."""
        url = storage.join(root, FOLDER, uuid.uuid4().hex)
        stop = threading.Event()
        try:
            _write(url)
        except StorageError as error:
            log.warning("%s: is read without a mark that keeps it from being removed: %s", root, error)
            return
        self._finalize = weakref.finalize(self, _end, url, stop)
        try:
            check_present(root)  # after the mark is there: removal looks for marks after its own
        except UserError:
            self.close()
            raise
        threading.Thread(target=_renew, args=(url, stop), name="reading", daemon=True).start()

    def close(self) -> None:
        self._finalize()


def is_read(root: str) -> bool:
    """Whether a reader may still be reading the version at `root`."""
    fs, path = storage.filesystem(storage.join(root, FOLDER))
    names = [str(name).rsplit("/", 1)[-1] for name in fs.find(path)]
    return any(_until(storage.join(root, FOLDER, name)) > time.time() for name in names if not name.startswith("."))


def _write(url: str) -> None:
    storage.write_json(url, {"until": time.time() + LASTS})


def _until(url: str) -> float:
    """When a mark ends, in seconds since the epoch."""
    found = storage.find_json(url)  # a reader may end and remove it at any moment
    return 0.0 if found is None else float(found["until"])


def _renew(url: str, stop: threading.Event) -> None:
    while not stop.wait(RENEWED_EVERY):
        try:
            _write(url)
        except StorageError as error:
            log.warning("%s: could not be renewed; retrying: %s", url, error)


def _end(url: str, stop: threading.Event) -> None:
    stop.set()
    with contextlib.suppress(StorageError):  # the mark then expires
        storage.remove(url)
