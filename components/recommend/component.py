"""The recommend stage as a KFP component; README.md is its contract."""

from typing import Optional

from kfp import dsl

from twhin.components.stage import stage


@stage
def recommend(
    config: str,
    run_root: str,
    lists: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    run: str = "",
    overrides: Optional[list[str]] = None,
) -> None:
    """Writes lists of the best candidates for users, with one rank per GPU.

    Args:
        config: The config, as YAML, or the path or URL of a YAML file.
        run_root: Folder or URL of the run.
        lists: The manifests of the lists, by relation.
        metrics: Users and candidates of each relation.
        summary: The same as a table, with where the lists are.
        run: Id of the pipeline run, which replaces `{run}` in `run_root`.
        overrides: Values of the config to change, each `section.key=value`.
    """
    import json
    from pathlib import Path

    from twhin.components import step
    from twhin.components import summary as summaries
    from twhin_core import storage
    from twhin_core.distributed.launch import launch
    from twhin_core.recommend.manifest import FOLDER
    from twhin_core.stages import recommend as stages

    with step.step():
        settings, run_root = step.read_inputs(config, run_root, run, overrides)
        launch(stages.recommend, settings, run_root)
        made = stages.read_lists(settings, run_root)
        Path(lists.path).write_text(json.dumps({name: of.model_dump() for name, of in made.items()}))
        lists.metadata["uri"] = storage.join(run_root, FOLDER)
        text = summaries.lists_text(made, storage.join(run_root, FOLDER))
        step.report(metrics, summaries.lists_figures(made), summary, text)
