"""Copies the files of a graph that the next version keeps."""

from __future__ import annotations

import os
import shutil

from twhin_core import object_store, storage

COPIED_BYTES = 4 << 20


def copy_file(source: str, target: str) -> None:
    """Copies a file that nobody will write in place: on one disk as a hard link, in one object store without a read."""
    fs, path = storage.filesystem(target)
    if storage.is_remote(target) and object_store.scheme_of(source) == object_store.scheme_of(target):
        fs.cp_file(storage.filesystem(source)[1], path)
        return
    if not storage.is_remote(source) and not storage.is_remote(target):
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.link(storage.filesystem(source)[1], path)
            return
        except OSError:  # another disk, or one without links: a copy is as good, and says what is wrong if it fails too
            pass
    with storage.open_read(source) as given, storage.open_write(target) as written:
        shutil.copyfileobj(given, written, COPIED_BYTES)
