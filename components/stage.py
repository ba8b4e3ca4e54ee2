"""A stage of the pipeline as a KFP component."""

from collections.abc import Callable
from typing import Any

from kfp import dsl

from twhin.components.image import IMAGE

WITHIN_SHELL, IN_ITS_PLACE = "_KFP_RUNTIME=true python3", "export _KFP_RUNTIME=true; exec python3"


def stage(function: Callable[..., Any]) -> Any:
    """The component of `function`, on the one image, which installs nothing when it starts.

    KFP has a shell start Python and wait for it. The SIGTERM of a platform goes to the container's first process, and a
    shell there passes none on: Python takes its place.
    """
    component = dsl.component(function, base_image=IMAGE, install_kfp_package=False)
    container = component.component_spec.implementation.container
    (start,) = [part for part in container.command if WITHIN_SHELL in part]
    container.command[container.command.index(start)] = start.replace(WITHIN_SHELL, IN_ITS_PLACE)
    return component
