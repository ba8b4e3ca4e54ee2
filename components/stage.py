"""A stage of the pipeline as a KFP component."""

from collections.abc import Callable
from typing import Any

from kfp import dsl

from twhin.components.image import IMAGE

FROM_SHELL, IN_ITS_PLACE = "_KFP_RUNTIME=true python3", "export _KFP_RUNTIME=true; exec python3"


def stage(function: Callable[..., Any]) -> Any:
    """Makes `function` a component on our image that installs nothing at startup.

    KFP starts Python from a shell. A platform sends SIGTERM to the container's first process, and the shell would not
    forward it, hence Python replaces the shell by `exec`.
    """
    component = dsl.component(function, base_image=IMAGE, install_kfp_package=False)
    container = component.component_spec.implementation.container
    (start,) = [part for part in container.command if FROM_SHELL in part]
    container.command[container.command.index(start)] = start.replace(FROM_SHELL, IN_ITS_PLACE)
    return component
