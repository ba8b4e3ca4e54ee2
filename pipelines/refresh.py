"""The DAG of a refresh: plan → prepare → train → evaluate → export, recommend and publish, if every gate passes."""

from typing import Optional

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from twhin.components.export.component import export
from twhin.components.plan.component import plan
from twhin.components.publish.component import publish
from twhin.components.recommend.component import recommend
from twhin.pipelines.pipeline import Start, start_locally, start_stages


def build(start: Start = start_locally) -> GraphComponent:
    """The pipeline, with tasks made by `start`."""

    @dsl.pipeline(name="twhin-refresh", description="New files in, the next version of the embeddings published.")
    def twhin_refresh(config: str, series: str, keep: int = 7, overrides: Optional[list[str]] = None) -> None:
        """New files in, the next version of the embeddings published.

        Args:
            config: The config, as YAML, or the path or URL of a YAML file.
            series: Folder or URL of the series.
            keep: How many of the newest versions to keep; 0: all.
            overrides: Values of the config to change, each `section.key=value`.
        """
        planned = start(plan, config=config, series=series, overrides=overrides)
        version = planned.outputs["version"]
        of_run = {
            "config": planned.outputs["config"],
            "run_root": planned.outputs["run_root"],
            "run": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        }
        evaluated = start_stages(start, of_run)
        with dsl.If(evaluated.outputs["Output"] == True, name="gates-hold"):  # noqa: E712 -- compiled, not compared
            exported = start(export, **of_run)
            of_series = {"series": series, "version": version, "after": planned.outputs["after"], "keep": keep}
            with dsl.If(exported.outputs["Output"] == True, name="has-lists"):  # noqa: E712 -- as above
                start(publish, **of_series).after(start(recommend, **of_run))
            with dsl.Else(name="has-none"):
                start(publish, **of_series)

    return twhin_refresh
