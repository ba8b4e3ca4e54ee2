"""Publishes a version of a series, or goes back to an earlier one."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Literal

from twhin_core import lease, storage
from twhin_core.checkpoints.checkpoint import FINISHED
from twhin_core.checksum import crc32c
from twhin_core.config import Config
from twhin_core.errors import GateFailed, StorageRefused, Unreachable, UserError
from twhin_core.evaluation.gates import read_decision
from twhin_core.evaluation.result import metrics_url
from twhin_core.export.manifest import MANIFEST as EXPORT
from twhin_core.export.manifest import read_export_manifest
from twhin_core.graph.manifest import MANIFEST as GRAPH
from twhin_core.progress import log
from twhin_core.published import Current, Entry, list_ids, read_generation, root_of
from twhin_core.registry.lineage import read_lineage
from twhin_core.registry.open import open_registries
from twhin_core.registry.registry import Registry
from twhin_core.removed import check_present
from twhin_core.run import CURRENT, check_is_run, saved_config
from twhin_core.series.versions import missed_gates
from twhin_core.stores.interface import Generation


def publish(series: str, version: str, after: str | None = None) -> Current:
    """Makes `version` the published one, unless it is already, and registers it as its config says.

    Args:
        after: the version that must be the published one until then; empty: none. By default, whichever it is now.

    Raises:
        UserError: there is no such version, it was removed, or its export has not finished; a registry refuses; or
            another version than `after` is published, maybe since this call began.
        GateFailed: its data or its metrics miss a gate.
    """
    current, generation = read_generation(series)
    published = current.version if current else ""
    if after not in (None, published) and published != version:
        raise UserError(f"{series}: version {published or 'none'} is published, not {after or 'none'}; nothing changed")
    root = root_of(series, version)
    _check_version(series, version)
    manifest = read_export_manifest(root)
    if manifest is None:
        raise UserError(f"{root}: nothing is exported ({EXPORT}); a version is published once its export has finished")
    config = saved_config(root)
    if reasons := missed_gates(root, config):
        raise GateFailed(f"version {version} was not published: {'; '.join(reasons)}")
    registries = _open_registries(config, series)
    new = _replace(series, version, "publish", current, generation)
    _register(registries, series, version)
    return new


def rollback(series: str, version: str | None = None) -> Current:
    """Makes an earlier version the published one again: `version`, or the one that was published before the current.

    Raises:
        UserError: nothing was published before, `version` was never published, or it was removed; or as `publish`.
    """
    current, generation = read_generation(series)
    if current is None:
        raise UserError(f"{series}: no version of this series is published")
    published = list(dict.fromkeys(entry.version for entry in current.history if entry.action == "publish"))
    if version is None:
        before = published[: published.index(current.version)]
        if not before:
            raise UserError(f"{series}: no version was published before {current.version}")
        version = before[-1]
    elif version not in published:
        raise UserError(f"{series}: version {version} was never published; there are {', '.join(published)}")
    _check_version(series, version)
    registries = _open_registries(saved_config(root_of(series, version)), series)
    new = _replace(series, version, "rollback", current, generation)
    _register(registries, series, version)
    return new


def _open_registries(config: Config, series: str) -> list[Registry]:
    """Those of the config. Raises UserError if one refuses, before anything is published."""
    registries = open_registries(config.registry, series)
    for registry in registries:
        with contextlib.suppress(Unreachable):  # `_register` tries again
            registry.check()
    return registries


def _register(registries: list[Registry], series: str, version: str) -> None:
    """A registry that fails does not undo what is published."""
    for registry in registries:
        try:
            name = registry.register(read_lineage(series, version, root_of(series, version)))
            log.info("registered: %s", name)
        except (Unreachable, UserError) as error:
            log.warning("%s; the version is published: `twhin publish` registers it when called again", error)


def _check_version(series: str, version: str) -> None:
    check_present(root_of(series, version))
    if version not in (ids := list_ids(series)):
        there = f"there are {', '.join(ids[-10:])}" if ids else "it has none"
        raise UserError(f"{series}: there is no version {version}; {there}")
    check_is_run(root_of(series, version))


def _replace(
    series: str, version: str, action: Literal["publish", "rollback"], current: Current | None, generation: Generation
) -> Current:
    """Writes `current.json`, if nobody has since `current` was read with this `generation`."""
    root = root_of(series, version)
    checksums = _checksums(root)
    if current is not None and (current.version, current.checksums) == (version, checksums):
        log.info("%s: up to date: %s, version %s", action, storage.join(series, CURRENT), version)
        return current
    when = datetime.now(UTC).isoformat(timespec="seconds")
    gates = read_decision(root, saved_config(root).evaluation.split)
    history = [*(current.history if current else []), Entry(version=version, when=when, action=action)]
    new = Current(version=version, when=when, gates=gates, checksums=checksums, history=history)
    with lease.hold(series, "publish"):  # removing versions holds it too
        check_present(root)
        if storage.write_if(storage.join(series, CURRENT), storage.as_json(new.model_dump()), generation) is None:
            raise StorageRefused(
                f"{series}: another process has published in the meantime; `twhin versions` shows which version"
            )
    log.info("%s: %s: version %s is published", action, series, version)
    return new


def _checksums(root: str) -> dict[str, str]:
    """Of the manifests that are there."""
    split = saved_config(root).evaluation.split
    urls = {path: storage.join(root, path) for path in (GRAPH, FINISHED, EXPORT)}
    url = metrics_url(root, split)
    urls[url.removeprefix(storage.join(root, ""))] = url
    return {path: crc32c([storage.read_bytes(url)]) for path, url in urls.items() if storage.exists(url)}
