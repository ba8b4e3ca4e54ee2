"""The prepare stage: turns raw interactions into the graph of a run."""

from __future__ import annotations

from functools import partial

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.config.prepare import Prepare
from twhin_core.dependents import note_use
from twhin_core.durations import measured
from twhin_core.errors import GateFailed, UserError
from twhin_core.evaluation.data_gates import decide_data
from twhin_core.evaluation.gates import check_names
from twhin_core.evaluation.labels import check_probe
from twhin_core.evaluation.task import nodes_only
from twhin_core.graph.build import Checks, build_graph
from twhin_core.graph.changes import check_unchanged
from twhin_core.graph.compared import compare, describe_changes, figures_of, write_changes
from twhin_core.graph.forgotten import blocked_at
from twhin_core.graph.manifest import MANIFEST, Manifest, find_manifest, read_manifest, read_schema, share
from twhin_core.progress import log
from twhin_core.published import find_root
from twhin_core.run import check_same_graph, working
from twhin_core.stages.refusals import check_earlier, check_initial, check_relations, check_sizes
from twhin_core.stages.track import tracking
from twhin_core.synthetic.generate import generate


def prepare(config: Config, root: str) -> Manifest:
    """Builds the graph of the run under `root`, or makes another run's its own, unless it has one.

    Raises:
        UserError: the config has no `prepare` section; a later stage would refuse the config, the files of the probe,
            the relations or the sizes of the tables; a raw file changed since the graph was built; the run of
            `prepare.graph` has no graph, or made it from something else; or as `build_graph`.
        GateFailed: the data miss a gate.
    """
    settings = config.prepare
    if settings is None:
        raise UserError("prepare: the config has no such section; add it, or skip this stage")
    check_names(config)  # before the config claims the root
    check_probe(config.evaluation)
    with working(config, root, "prepare"), tracking(config, root):
        manifest = read_manifest(root)
        if manifest is not None:
            check_unchanged(settings, list(manifest.taken.values()))
            _check(config, root, manifest)
            log.info("prepare: already done: %s", storage.join(root, MANIFEST))
        elif settings.graph is not None:
            manifest = _share(config, settings, settings.graph, root)
        else:
            with measured(root, "prepare"):
                manifest = _build(config, settings, root)
        _check_gates(config, root, manifest)
        return manifest


def _build(config: Config, settings: Prepare, root: str) -> Manifest:
    check_initial(config)
    for earlier in check_earlier(config):
        note_use(earlier, root)
    sources = settings.sources
    if settings.generate is not None:
        sources = generate(settings.generate, storage.join(root, "raw"))
    checks = Checks(partial(check_relations, config), partial(check_sizes, config))
    manifest = build_graph(config, sources, root, checks)
    if manifest.previous is not None:
        figures = compare(manifest, find_manifest(manifest.previous.root))
        write_changes(root, figures, manifest.previous.root, decide_data(config.evaluation.gates, figures))
        for line in describe_changes(figures, [entry.name for entry in manifest.relations]):
            log.info("prepare: changes: %s", line)
    storage.publish_json(storage.join(root, MANIFEST), manifest.model_dump())
    return manifest


def _share(config: Config, settings: Prepare, of: str, root: str) -> Manifest:
    of = find_root(of, "prepare.graph")
    try:
        manifest = find_manifest(of)
        check_same_graph(config, of)
    except UserError as error:
        raise UserError(f"prepare.graph: {error}") from None
    blocked = blocked_at(root)
    if blocked is not None and not blocked.is_within(manifest.forgotten):
        raise UserError(
            f"prepare.graph: {of} was made before this series forgot nodes, which it may have; prepare anew"
        )
    check_unchanged(settings, list(manifest.taken.values()))
    _check(config, of, manifest)
    note_use(manifest.holder(of), root)
    share(of, root)
    manifest = find_manifest(root)
    log.info("prepare: uses the graph of %s", manifest.shared_by)
    return manifest


def _check_gates(config: Config, root: str, manifest: Manifest) -> None:
    """Raises GateFailed if the data miss a gate. The gates may have changed since the graph was built."""
    figures = figures_of(root, manifest)
    decision = decide_data(config.evaluation.gates, figures)
    if manifest.previous is not None and manifest.shared_by is None:
        write_changes(root, figures, manifest.previous.root, decision)
    missed = [gate["reason"] for gate in decision if not gate["passed"]]
    if missed:
        raise GateFailed(f"nothing will be trained on this graph: {'; '.join(missed)}")


def _check(config: Config, root: str, manifest: Manifest) -> None:
    """As while building: how to evaluate and to export may have changed since."""
    schema = read_schema(config, root)
    check_relations(config, schema.names)
    check_sizes(config, nodes_only(schema, root), {name: entry.edges for name, entry in manifest.splits.items()})
