"""What a run says of its lists, published when they are complete, and the records of finished parts."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from pydantic import BaseModel

from twhin_core import storage
from twhin_core.graph.manifest import read_as
from twhin_core.parquet import FileEntry
from twhin_core.records import Record, read_record

FOLDER = "recommendations"
"""Under a run root; has a folder for each relation."""
MANIFEST, FINISHED = "manifest.json", ".finished"


class ListsManifest(BaseModel):
    """`manifest.json` beside the parts: their paths are relative to its folder."""

    version: str
    relation: str
    made_from: str
    """Digest of all that the lists depend on."""
    checkpoint: int
    """The step of the vectors."""
    comparator: str
    k: int
    users: int
    """With a list."""
    unknown_users: int
    """Ids of `users` that the table does not have."""
    candidates: int
    unknown_candidates: int
    excluded: list[str]
    """The relations whose known edges are left out."""
    share_of_exact: float | None = None
    """Which share of exact lists is in these, measured with some users; None if they are exact."""
    files: list[FileEntry]


class Part(Record):
    """The record of a file."""

    file: FileEntry
    compared: tuple[int, int] = (0, 0)
    """As `Found.compared`."""


def path_of(relation: str) -> str:
    """Where the lists of a relation are under a run root."""
    return f"{FOLDER}/{quote(relation, safe='')}"


def read_lists_manifest(folder: str) -> ListsManifest | None:
    """The manifest of the lists in `folder`, or None if they are not complete."""
    return read_as(ListsManifest, storage.join(folder, MANIFEST))


def read_part(folder: str, part: int, made_from: str) -> Part | None:
    """The record of a part, or None if it is not finished, made from something else, or incomplete."""
    record = read_record(Part, record_url(folder, part), made_from)
    return record if record is not None and record.file.is_there(folder) else None


def write_finished_part(folder: str, part: int, record: Part) -> None:
    storage.write_json(record_url(folder, part), record.model_dump())


def share_of_exact(parts: Iterable[Part]) -> float | None:
    """As in the manifest."""
    found, wanted = (sum(of) for of in zip(*(part.compared for part in parts), strict=True))
    return round(found / wanted, 4) if wanted else None


def record_url(folder: str, part: int) -> str:
    return storage.join(folder, FINISHED, f"{part:05d}.json")
