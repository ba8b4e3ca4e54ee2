"""A stage of the pipeline as a KFP component."""

from collections.abc import Callable
from typing import Any

from kfp import dsl
from kfp.dsl.pipeline_context import Pipeline
from kfp.dsl.python_component import PythonComponent

from twhin.components.image import IMAGE

FROM_SHELL, IN_ITS_PLACE = "_KFP_RUNTIME=true python3", "export _KFP_RUNTIME=true; exec python3"


class _Stage(PythonComponent):  # type: ignore[misc] # kfp has no types
    """A component whose tasks are not cached, in whatever pipeline they are.

    KFP's cache depends on the parameters and the image, but not on the raw files or on whether the results still exist:
    it would skip a stage whose results were removed. A stage checks by itself what is finished under the run root.
    """

    def __call__(self, *args: Any, **inputs: Any) -> dsl.PipelineTask:
        task = super().__call__(*args, **inputs)
        if Pipeline.get_default_pipeline() is not None:  # else KFP has already run it, on this machine
            task.set_caching_options(False)
        return task


def stage(function: Callable[..., Any]) -> Any:
    """Makes `function` a component on our image that installs nothing at startup and is not cached.

    KFP starts Python from a shell. A platform sends SIGTERM to the container's first process, and the shell would not
    forward it, hence Python replaces the shell by `exec`.
    """
    component = dsl.component(function, base_image=IMAGE, install_kfp_package=False)
    container = component.component_spec.implementation.container
    (start,) = [part for part in container.command if FROM_SHELL in part]
    container.command[container.command.index(start)] = start.replace(FROM_SHELL, IN_ITS_PLACE)
    return _Stage(component.component_spec, component.python_func)
