"""The DAG: prepare → train → evaluate → (every gate holds) → export."""

from collections.abc import Callable
from typing import Any, Optional

from kfp import dsl
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.graph_component import GraphComponent

from twhin.components.evaluate.component import evaluate
from twhin.components.export.component import export
from twhin.components.prepare.component import prepare
from twhin.components.task import configure
from twhin.components.train.component import train

Start = Callable[..., dsl.PipelineTask]
"""`start(component, config=…, run_root=…, run=…)` makes a stage's task, on the machines that a target has for it."""


def here(component: BaseComponent, **inputs: Any) -> dsl.PipelineTask:
    """The task as it is: of this machine."""
    return configure(component(**inputs))


def build(start: Start = here) -> GraphComponent:
    """The pipeline; `start` says what each of its tasks runs on."""

    @dsl.pipeline(name="twhin", description="Raw interactions in, entity embeddings out.")
    def twhin(config: str, run_root: str, overrides: Optional[list[str]] = None) -> None:
        """Raw interactions in, entity embeddings out.

        Args:
            config: The config, as YAML.
            run_root: Folder or gs:// prefix that holds everything of this run; `{run}` in it stands for the run's id.
            overrides: Values of the config to change, each `section.key=value`.
        """
        of_run = {
            "config": config,
            "overrides": overrides,
            "run_root": run_root,
            "run": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        }
        prepared = start(prepare, **of_run)
        trained = start(train, **of_run).after(prepared)
        evaluated = start(evaluate, **of_run).after(trained)
        with dsl.If(evaluated.outputs["Output"] == True, name="gates-hold"):  # noqa: E712 -- compiled, not compared
            start(export, **of_run)

    return twhin
