"""The DAG: prepare → train → evaluate → (every gate holds) → export."""

from collections.abc import Callable

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.evaluate.component import evaluate
from components.export.component import export
from components.prepare.component import prepare
from components.train.component import train


def build(place: Callable[[dsl.PipelineTask], None] | None = None) -> GraphComponent:
    """The pipeline; `place` gives each task what it needs of the machines that it will run on."""

    @dsl.pipeline(name="twhin", description="Raw interactions in, entity embeddings out.")
    def twhin(config: str, run_root: str) -> None:
        """Raw interactions in, entity embeddings out.

        Args:
            config: The config, as YAML with every default resolved.
            run_root: Folder or gs:// prefix that holds everything of this run.
        """
        prepared = prepare(config=config, run_root=run_root)
        trained = train(config=config, run_root=run_root).after(prepared)
        evaluated = evaluate(config=config, run_root=run_root).after(trained)
        with dsl.If(evaluated.outputs["Output"] == True, name="gates-hold"):  # noqa: E712 -- compiled, not compared
            exported = export(config=config, run_root=run_root)

        for task in (prepared, trained, evaluated, exported):
            # A stage finds what it has finished under the run root. KFP's cache knows only the parameters: it would
            # skip a stage whose results have been removed.
            task.set_caching_options(False)
            if place is not None:
                place(task)

    return twhin
