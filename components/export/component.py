"""The export stage as a KFP component; README.md beside this file is its contract."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def export(config: str, run_root: str, embeddings: dsl.Output[dsl.Dataset], report: dsl.Output[dsl.HTML]) -> None:
    """Writes the embeddings with their original ids.

    Args:
        config: The config, as YAML.
        run_root: Folder or gs:// prefix of the run.
        embeddings: Manifest of the embeddings under the run root.
        report: The report again, with what was exported.
    """
    from components.step import publish, step
    from twhin_core import config_file, storage
    from twhin_core.evaluation.evaluate import REPORT
    from twhin_core.export import export

    with step():
        export.export(config_file.parse(config), run_root)
        folder = storage.join(run_root, "embeddings")
        publish(embeddings, storage.join(folder, "manifest.json"), uri=folder)
        publish(report, storage.join(run_root, REPORT), uri=storage.join(run_root, "evaluation"))
