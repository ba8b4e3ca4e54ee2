"""The version that a graph continues: its files, which raw files it has taken, and whether it can be continued."""

from __future__ import annotations

from dataclasses import dataclass

from twhin_core import storage
from twhin_core.checksum import crc32c
from twhin_core.config import Config
from twhin_core.config.prepare import Split
from twhin_core.errors import UserError
from twhin_core.graph.manifest import MANIFEST, Manifest, PreviousEntry, TableEntry, find_manifest
from twhin_core.graph.raw_files import RawSource, id_kinds
from twhin_core.graph.rules import differences, rules_of
from twhin_core.parquet import FileEntry, StoredFile
from twhin_core.paths import FoundFile
from twhin_core.progress import log
from twhin_core.published import find_root
from twhin_core.sizes import count_of


@dataclass(frozen=True)
class Earlier:
    """A finished graph. `checksum`: the CRC-32C of its manifest."""

    run: str
    """The run root of the version."""
    root: str
    """The one that holds its graph."""
    manifest: Manifest
    checksum: str

    @property
    def entry(self) -> PreviousEntry:
        return PreviousEntry(root=self.run, manifest=self.checksum, raw_files=list(self.manifest.taken.values()))

    @property
    def sizes(self) -> dict[str, int]:
        """The number of nodes by table."""
        return {entry.name: entry.num_embeddings for entry in self.manifest.tables}

    @property
    def relations(self) -> list[str]:
        return [entry.name for entry in self.manifest.relations]

    def table(self, name: str) -> TableEntry | None:
        return next((entry for entry in self.manifest.tables if entry.name == name), None)

    def stored(self, entries: list[FileEntry]) -> list[StoredFile]:
        """Files of the graph that have been compared with their checksums. Raises Damaged if one has changed."""
        for entry in entries:
            entry.check(self.root)
        return [entry.under(self.root) for entry in entries]

    def check_fits(self, config: Config, split: Split | None, sources: list[RawSource]) -> None:
        """Raises UserError, naming all differences, if `sources` cannot continue this graph by the config."""
        assert config.prepare is not None
        found = list(differences(config, rules_of(config.prepare, split), self.manifest))
        kinds = {file.time for raw in sources for file in raw.files} - {None}
        if self.manifest.times is not None and kinds - {self.manifest.times}:
            found.append(f"times were {self.manifest.times}s and are {next(iter(kinds))}s")
        for entry in self.manifest.tables:
            new = id_kinds(entry.name, sources, config.model.relations) - set(entry.id_kinds)
            if entry.id_kinds and new:
                found.append(f"ids of {entry.name} were {_listed(entry.id_kinds)} and are {_listed(sorted(new))}")
        if found:
            raise UserError(f"prepare.previous: {self.root} cannot be continued: {'; '.join(found)}")


def find_earlier(config: Config) -> Earlier | None:
    """The version that the config's graph continues. Raises UserError if it cannot be."""
    previous = None if config.prepare is None else config.prepare.previous
    if previous is None:
        return None
    run = find_root(previous, "prepare.previous")
    try:
        manifest = find_manifest(run)
    except UserError as error:
        raise UserError(f"prepare.previous: {error}") from None
    holder = manifest.holder(run)
    if manifest.rules is None:
        raise UserError(f"prepare.previous: {holder} does not say how its edges were made; prepare it anew")
    content = storage.read_bytes(storage.join(holder, MANIFEST))
    return Earlier(run, holder, manifest, crc32c([content]))


def without_taken(found: list[FoundFile], earlier: Earlier, keep_changed: bool) -> list[FoundFile]:
    """The files that no earlier version has taken. Logs the others.

    Raises:
        UserError: one has changed since, unless `keep_changed`.
    """
    taken = earlier.manifest.taken
    old = [file for file in found if file.url in taken]
    for file in old:
        entry = taken[file.url]
        if (file.size, file.version) != (entry.size, entry.version) and not keep_changed:
            raise UserError(
                f"{file.url}: changed since {earlier.root} or a version before took it; put new rows into new files, "
                "or add --set prepare.changed_files=keep to leave it out"
            )
    if old:
        log.info("prepare: left out %s taken before, such as %s", count_of(len(old), "file"), old[-1].url)
    return [file for file in found if file.url not in taken]


def check_new(sources: list[RawSource], content: list[RawSource], earlier: Earlier) -> None:
    """Raises UserError if neither a source nor `content` has a new file."""
    if not any(raw.files for raw in [*sources, *content]):
        paths = ", ".join(raw.source.path for raw in sources)
        raise UserError(f"prepare.sources: no new files: all of {paths} were taken before, by {earlier.root}")


def _listed(kinds: list[str]) -> str:
    return " or ".join(f"{kind}s" for kind in kinds)
