"""The prepare stage as a KFP component; README.md beside this file is its contract."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare(config: str, run_root: str, graph: dsl.Output[dsl.Dataset]) -> None:
    """Turns raw interactions into a vocabulary and edges.

    Args:
        config: The config, as YAML.
        run_root: Folder or gs:// prefix of the run.
        graph: Manifest of the graph under the run root.
    """
    from components.step import publish, step
    from twhin_core import config_file, storage
    from twhin_core.graph import manifest, prepare
    from twhin_core.progress import log

    with step():
        settings = config_file.parse(config)
        if settings.prepare is None:
            log.info("prepare: the config has no such section; its edges are prepared already")
            return
        prepare.prepare(settings, run_root)
        publish(graph, storage.join(run_root, manifest.MANIFEST), uri=storage.join(run_root, "graph"))
