"""The DAG: prepare → train → evaluate → export and recommend, if every gate passes."""

from collections.abc import Callable, Mapping
from typing import Any, Optional

from kfp import dsl
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.graph_component import GraphComponent

from twhin.components.evaluate.component import evaluate
from twhin.components.export.component import export
from twhin.components.prepare.component import prepare
from twhin.components.recommend.component import recommend
from twhin.components.task import configure
from twhin.components.train.component import train

Start = Callable[..., dsl.PipelineTask]
"""`start(component, config=…, run_root=…, run=…)` makes a stage's task and sets the resources it needs on a target."""


def start_locally(component: BaseComponent, **inputs: Any) -> dsl.PipelineTask:
    """A task without resource settings."""
    return configure(component(**inputs))


def start_stages(start: Start, of_run: Mapping[str, Any]) -> dsl.PipelineTask:
    """Starts prepare, train and evaluate, one after the other, and returns the last task."""
    prepared = start(prepare, **of_run)
    trained = start(train, **of_run).after(prepared)
    return start(evaluate, **of_run).after(trained)


def build(start: Start = start_locally) -> GraphComponent:
    """The pipeline, with tasks made by `start`."""

    @dsl.pipeline(name="twhin", description="Raw interactions in, entity embeddings out.")
    def twhin(config: str, run_root: str, overrides: Optional[list[str]] = None) -> None:
        """Raw interactions in, entity embeddings out.

        Args:
            config: The config, as YAML, or the path or URL of a YAML file.
            run_root: Folder or URL of the run. The id of the pipeline run replaces `{run}` in it.
            overrides: Values of the config to change, each `section.key=value`.
        """
        of_run = {
            "config": config,
            "overrides": overrides,
            "run_root": run_root,
            "run": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        }
        evaluated = start_stages(start, of_run)
        with dsl.If(evaluated.outputs["Output"] == True, name="gates-hold"):  # noqa: E712 -- compiled, not compared
            exported = start(export, **of_run)
            with dsl.If(exported.outputs["Output"] == True, name="has-lists"):  # noqa: E712 -- as above
                start(recommend, **of_run)

    return twhin
