"""Notices raw files that changed after prepare read them."""

from __future__ import annotations

from twhin_core.config.prepare import Prepare
from twhin_core.errors import NotFound, StorageRefused, UserError
from twhin_core.graph.raw_file_entry import RawFileEntry
from twhin_core.graph.raw_files import RawSource
from twhin_core.paths import FoundFile, find_files
from twhin_core.progress import log


def entries_of(sources: list[RawSource]) -> list[RawFileEntry]:
    """All files of all sources, for the manifest."""
    return list({file.url: _entry(file.found) for raw in sources for file in raw.files}.values())


def check_unchanged(settings: Prepare, before: list[RawFileEntry]) -> None:
    """Compares the raw files with what they were when prepare read them.

    Files that are gone are no mistake, since the graph does not need them anymore; they and new ones are logged.

    Raises:
        UserError: a file has another size, time or generation, and `settings` do not say to keep the graph.
    """
    if settings.changed_files == "keep" or not settings.sources:
        return
    paths = [
        *(source.path for source in settings.sources),
        *(labels.path for labels in settings.labels),
        *(features.path for features in settings.features),
    ]
    now = refuse_changes(paths, before, "prepare")
    gone, new = {entry.path for entry in before} - now, now - {entry.path for entry in before}
    for names, what in ((gone, "are gone"), (new, "are new and not in the graph")):
        if names:
            log.warning("prepare: %d raw files %s, such as %s", len(names), what, min(names))


def refuse_changes(paths: list[str], before: list[RawFileEntry], reader: str, may_keep: bool = True) -> set[str]:
    """Compares the files at `paths` with what they were when `reader` read them. Returns their URLs.

    `may_keep`: whether the config could say to go on.

    Raises:
        UserError: a file has another size, time or generation.
    """
    now = {file.url: _entry(file) for path in paths for file in _find(path)}
    changed = [entry for entry in before if now.get(entry.path, entry) != entry]
    if changed:
        first, more = changed[0], f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        size = now[first.path].size
        how = "has been written again" if size == first.size else f"had {first.size:,} bytes and has {size:,}"
        what = "the graph as it is" if reader == "prepare" else "what was read"
        keep = f", or add --set prepare.changed_files=keep to go on with {what}" if may_keep else ""
        raise UserError(f"{first.path}: changed since {reader} read it: it {how}{more}; use another --run-root{keep}")
    return set(now)


def _find(path: str) -> list[FoundFile]:
    try:
        return find_files(path)
    except (NotFound, StorageRefused):  # the raw files need not be within reach any more
        return []


def _entry(file: FoundFile) -> RawFileEntry:
    return RawFileEntry(path=file.url, size=file.size, version=file.version)
