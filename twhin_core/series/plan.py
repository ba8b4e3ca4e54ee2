"""What the next refresh of a series works on: a version that is not finished, a new one, or nothing new."""

from __future__ import annotations

from typing import NamedTuple

from twhin_core import lease, run, storage
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.graph.manifest import read_manifest
from twhin_core.paths import find_files
from twhin_core.progress import log
from twhin_core.published import list_ids, number_of, read_current, root_of
from twhin_core.removed import read_removed
from twhin_core.series.continued import with_previous
from twhin_core.training.outside_record import read_record

CONFIG = "refresh.yaml"
"""The config of a version, under its run root, before its first stage has saved it."""


class Planned(NamedTuple):
    """A version to work on."""

    version: str
    root: str
    """Its run root."""
    config: str
    """URL of its config."""
    after: str
    """The version that is published now; empty if there is none."""


def plan(text: str, series: str, overrides: tuple[str, ...] = (), origin: str = "config") -> Planned:
    """Finds or begins the version that the raw files of now belong to.

    - Without raw files that the published version has not taken, that version, whose stages then find their work done.
    - Else a newer version that was begun and not published, if it goes on under this config with these files.
    - Else a new version, which continues the published one: see `with_previous`.

    So the same files are published once, and those of a day that failed belong to the next one too.

    Args:
        text: the config, as YAML.

    Raises:
        UserError: the config is invalid or cannot continue a series, or a source has no file.
    """
    tree = config_file.read_tree(text, origin, overrides)
    with lease.hold(series, "plan"):
        current = read_current(series)
        published = None if current is None else root_of(series, current.version)
        config = with_previous(tree, published, origin)
        files = _raw_files(config)
        ids = list_ids(series)
        newer = ids if current is None else ids[ids.index(current.version) + 1 :]
        if current is not None:  # what was rolled back is not to come back
            newer = [name for name in newer if name not in {entry.version for entry in current.history}]
        after = "" if current is None else current.version
        if current is not None and published is not None and not _new(files, published):
            log.info("refresh: version %s has taken all files", current.version)
            return Planned(current.version, published, storage.join(published, run.CONFIG), after)
        if newer and _goes_on(config, files, root_of(series, newer[-1])):
            version = newer[-1]
            log.info("refresh: goes on with version %s", version)
        else:
            version = str(1 + max((number_of(name) or 0 for name in ids), default=0))
            log.info("refresh: begins version %s%s", version, f", after {after}" if after else "")
        root = root_of(series, version)
        url = storage.join(root, CONFIG)
        storage.write_text(url, config_file.to_yaml(config))
        return Planned(version, root, url, after)


class RawFiles(NamedTuple):
    """The raw files of now: those of sources, and those of content and of vectors, which may be written again."""

    sources: set[str]
    content: set[tuple[str, int, int]]
    """Path, size and version."""
    outside: set[tuple[str, int, int]]
    """The same of vectors from outside, at which tables start."""


def _raw_files(config: Config) -> RawFiles:
    """Raises UserError if a source has none."""
    assert config.prepare is not None
    sources = {file.url for source in config.prepare.sources for file in find_files(source.path)}
    content = [file for features in config.prepare.features for file in find_files(features.path)]
    tables = config.model.embeddings.tables
    outside = [file for table in tables if table.initial is not None for file in find_files(table.initial.path)]
    return RawFiles(sources, *({(file.url, file.size, file.version) for file in files} for files in (content, outside)))


def _new(files: RawFiles, root: str) -> bool:
    """Whether the version at `root` and those before it have not taken all files."""
    manifest = read_manifest(root)
    if manifest is None:
        return bool(files.sources)
    known = {(file.path, file.size, file.version) for file in manifest.taken.values()}
    return bool(files.sources - manifest.taken.keys() or files.content - known)


def _read_others(files: RawFiles, root: str) -> bool:
    """Whether training of the version at `root` has begun with other vectors from outside than those of now."""
    read = {(of.path, of.size, of.version) for entry in read_record(root).values() for of in entry.raw_files}
    return bool(read) and read != files.outside


def _goes_on(config: Config, files: RawFiles, root: str) -> bool:
    """Whether a version that was begun can be finished with this config, and will have taken all files then."""
    if read_removed(root) is not None or not storage.exists(storage.join(root, CONFIG)):
        return False
    if read_manifest(root) is not None and (_new(files, root) or _read_others(files, root)):
        return False
    try:
        run.check_goes_on(config, root)
    except UserError:
        return False
    return True
