"""Copies the files of a graph that the next version keeps."""

from __future__ import annotations

import os
import shutil

from twhin_core import storage

COPIED_BYTES = 4 << 20


def copy_file(source: str, target: str) -> None:
    """Copies a file that nobody will write in place: on one disk as a hard link, in one object store without a read."""
    (of_source, given_path), (fs, path) = storage.filesystem(source), storage.filesystem(target)
    if storage.is_remote(target) and of_source == fs:
        fs.cp_file(given_path, path)
        return
    if not storage.is_remote(source) and not storage.is_remote(target):
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.link(given_path, path)
            return
        except OSError:  # another disk, or one without links: a copy is as good, and says what is wrong if it fails too
            pass
    with storage.open_read(source) as given, storage.open_write(target) as written:
        shutil.copyfileobj(given, written, COPIED_BYTES)
