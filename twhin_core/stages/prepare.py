"""The prepare stage: turns raw interactions into the graph of a run."""

from __future__ import annotations

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.durations import measured
from twhin_core.errors import UserError
from twhin_core.graph.build import build_graph
from twhin_core.graph.changes import check_unchanged
from twhin_core.graph.manifest import MANIFEST, Manifest, read_manifest
from twhin_core.progress import log
from twhin_core.run import stage
from twhin_core.synthetic.generate import generate


@stage("prepare")
def prepare(config: Config, root: str) -> Manifest:
    """Builds the graph of the run under `root` unless it is there.

    Raises:
        UserError: the config has no `prepare` section, a raw file changed since the graph was built, or as
            `build_graph`.
    """
    manifest, settings = read_manifest(root), config.prepare
    if manifest is not None:
        if settings is not None:
            check_unchanged(settings, manifest.raw_files)
        log.info("prepare: already done: %s", storage.join(root, MANIFEST))
        return manifest
    if settings is None:
        raise UserError("prepare: the config has no such section; add it, or skip this stage")
    with measured(root, "prepare"):
        sources = settings.sources
        if settings.generate is not None:
            sources = generate(settings.generate, storage.join(root, "raw"))
        manifest = build_graph(config, sources, root)
    storage.publish_json(storage.join(root, MANIFEST), manifest.model_dump())
    return manifest
