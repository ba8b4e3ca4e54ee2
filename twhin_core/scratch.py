"""Temporary folders on this machine."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from twhin_core.errors import StorageError, StorageRefused


@contextlib.contextmanager
def scratch(stage: str) -> Iterator[Path]:
    """A temporary folder for `stage`. Raises StorageRefused if its disk is full."""
    prefix = f"twhin-{stage}-"
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as folder:
            yield Path(folder)
    except StorageError:
        raise
    except OSError as error:
        if error.filename is None or prefix in str(error.filename):
            raise StorageRefused(
                f"{tempfile.gettempdir()}: cannot be written: {error.strerror or error}; set TMPDIR to another folder"
            ) from error
        raise
