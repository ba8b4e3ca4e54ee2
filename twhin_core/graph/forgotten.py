"""The nodes that a series has forgotten, told by salted hashes of their ids, which keep them out of later versions.

<series>/forgotten/<number>.json    a record for each list of ids
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import BaseModel

from twhin_core import storage
from twhin_core.checksum import sha256
from twhin_core.errors import damaged
from twhin_core.graph.manifest import read_as
from twhin_core.published import series_of
from twhin_core.run import is_series

FOLDER = "forgotten"
REASON = "forgotten"
"""Of rejected rows."""


class Record(BaseModel):
    """What was forgotten, without the ids. Written before any work, and again once all is done."""

    begun: str
    """ISO 8601, UTC."""
    finished: str | None = None
    """Missing while some version that was to be treated still holds the ids."""
    by: str
    table: str
    ids: int
    """Distinct ids that were given."""
    unknown: int = 0
    """Those that neither the published version nor a later one held."""
    nodes: int = 0
    """Removed from the published version."""
    edges: int = 0
    """Removed with them, over all splits."""
    version: str | None = None
    """The version that was published."""
    replaced_by: str | None = None
    """The version without them that was published in its place; none if it held none of them."""
    removed: list[str] = []
    """Versions that were removed: the one that was replaced and, if need be, later ones."""
    held: dict[str, int | None] = {}
    """How many of the ids each older version still holds; None if it may hold any, because its graph is unfinished."""
    salt: str
    """Of all records of a series."""
    hashes: list[str]
    """For each id, ascending: the SHA-256 of the salt followed by the id, as 64 hexadecimal digits."""

    @property
    def key(self) -> str:
        """Tells what it keeps out from what any other does."""
        return sha256(text.encode() for text in (self.salt, self.table, *self.hashes))


@dataclass(frozen=True)
class Blocked:
    """The nodes that a graph must not have. `records`: the keys of those that say so."""

    salt: str
    hashes: dict[str, set[str]]
    """By table."""
    records: list[str]

    def is_within(self, records: Iterable[str]) -> bool:
        """Whether a graph that was made with these records has none of the nodes."""
        return set(self.records) <= set(records)


def hashed(salt: str, name: str) -> str:
    """What a record holds of an id."""
    return sha256([(salt + name).encode()])


def read_records(series: str) -> dict[str, Record]:
    """All records of a series by URL, the oldest first."""
    fs, path = storage.filesystem(storage.join(series, FOLDER))
    names = [str(name).rsplit("/", 1)[-1] for name in fs.find(path)]
    numbers = sorted(int(name.removesuffix(".json")) for name in names if re.fullmatch(r"\d+\.json", name))
    found = {}
    for number in numbers:
        url = record_url(series, number)
        record = read_as(Record, url)
        if record is None:
            raise damaged(url, "is missing")
        found[url] = record
    return found


def record_url(series: str, number: int) -> str:
    return storage.join(series, FOLDER, f"{number}.json")


def new_salt() -> str:
    return secrets.token_hex(16)


def blocked_by(records: dict[str, Record]) -> Blocked | None:
    """What the records of a series keep out; None if there are none."""
    if not records:
        return None
    hashes: dict[str, set[str]] = {}
    for record in records.values():
        hashes.setdefault(record.table, set()).update(record.hashes)
    salt = next(iter(records.values())).salt
    return Blocked(salt, hashes, [record.key for record in records.values()])


def blocked_at(root: str) -> Blocked | None:
    """What the graph of the run at `root` must not have; None unless it is a version of a series that forgot nodes.

    `root` may be the series.
    """
    series = series_of(root) or (root if is_series(root) else None)
    return None if series is None else blocked_by(read_records(series))
