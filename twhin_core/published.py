"""Which version of a series is published: `<series>/current.json`.

    <series>/versions/<id>/   a run root each
    <series>/current.json     the published version; replaced as a whole, so that readers see one version or the other

A series may be a local folder or a prefix on an object store.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from twhin_core import storage
from twhin_core.checksum import crc32c
from twhin_core.errors import UserError, damaged, one_line
from twhin_core.removed import check_present
from twhin_core.run import CURRENT, VERSIONS, check_is_no_sweep, is_series
from twhin_core.stores.interface import Generation


class Entry(BaseModel):
    """One change of the published version."""

    version: str
    when: str
    """ISO 8601, UTC."""
    action: Literal["publish", "rollback"]


class Current(BaseModel):
    """`current.json`."""

    version: str
    when: str
    """When it was published or rolled back to: ISO 8601, UTC."""
    gates: dict[str, Any] | None
    """The decision that let it pass, as in its `gates.json`."""
    checksums: dict[str, str]
    """CRC-32C of each manifest under its run root, which in turn holds the checksums of all other files."""
    history: list[Entry]
    """Every change, the newest last."""


def read_current(series: str) -> Current | None:
    """The published version, or None if there is none yet."""
    return read_generation(series)[0]


def read_generation(series: str) -> tuple[Current | None, Generation]:
    """Like `read_current`, with the generation that `storage.write_if` takes."""
    url = storage.join(series, CURRENT)
    text, generation = storage.read_generation(url)
    if not text:
        return None, generation
    try:
        return Current.model_validate(storage.parse_json(text.encode(), url)), generation
    except ValidationError as error:
        raise damaged(url, f"does not say which version is published: {one_line(error)}") from None


def root_of(series: str, version: str) -> str:
    """The run root of a version."""
    return storage.join(series, VERSIONS, version)


def list_ids(series: str) -> list[str]:
    """The ids of all versions, the oldest first: numbers by value, others by name."""
    return sorted(storage.list_folders(storage.join(series, VERSIONS)), key=_in_order)


def find_current(series: str) -> str:
    """The run root of the published version.

    Raises:
        UserError: no version is published, or its manifests have changed since.
    """
    current = read_current(series)
    if current is None:
        raise UserError(f"{series}: no version of this series is published; `twhin versions` says why")
    root = root_of(series, current.version)
    for path, checksum in current.checksums.items():
        url = storage.join(root, path)
        if not storage.exists(url):
            raise damaged(url, "is missing, although this version is published")
        if crc32c([storage.read_bytes(url)]) != checksum:
            raise damaged(url, "has changed since this version was published; publish it again if that was intended")
    return root


def series_of(root: str) -> str | None:
    """The series that the run root is a version of, or None."""
    parts = root.rstrip("/").rsplit("/", 2)
    if parts[-2:-1] != [VERSIONS]:
        return None
    return parts[0] if len(parts) > 2 else "."


def is_version(root: str) -> bool:
    """Whether the run root is a version of a series."""
    return series_of(root) is not None


def find_root(path: str, key: str | None = None) -> str:
    """The run root that `path` stands for: itself, or the published version of a series.

    Args:
        key: the config's key that names `path`, for errors.

    Raises:
        UserError: it is a version that was removed, or a sweep; or as `find_current`.
    """
    try:
        if is_series(path):
            return find_current(path)
        if is_version(path):
            check_present(path)
        check_is_no_sweep(path)
    except UserError as error:
        if key is None:
            raise
        raise UserError(f"{key}: {error}") from None
    return path


def number_of(version: str) -> int | None:
    """The value of an id that is a number."""
    return int(version) if re.fullmatch(r"\d{1,18}", version) else None


def _in_order(version: str) -> tuple[int, str]:
    number = number_of(version)
    return (10**18 if number is None else number, version)
