"""The section `registry`: where the published versions of a series are registered."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from twhin_core.config.numbers import AnyLocation
from twhin_core.config.section import Section
from twhin_core.config.urls import web_url


class Registry(Section):
    """Registries that learn which version of a series is published, and what it was made from."""

    kubeflow: Annotated[AnyLocation, AfterValidator(web_url)] | None = Field(
        None, description="The http(s):// URL of a Kubeflow Model Registry, without its `/api`."
    )
    vertex: str | None = Field(
        None,
        pattern=r"^projects/[a-z0-9:.-]+/locations/[a-z]+-[a-z]+\d+$",
        description="The project and region of a Vertex AI Model Registry: `projects/PROJECT/locations/REGION`.",
    )
    name: str | None = Field(
        None,
        pattern=r"^[a-z_][a-z0-9_-]{0,62}$",
        description="The name of the model in the registries: at most 63 of a-z, 0-9, _ and -. Default: the last part "
        "of the series' path.",
    )

    @model_validator(mode="after")
    def _check_use(self) -> Registry:
        if self.name is not None and self.kubeflow is None and self.vertex is None:
            raise ValueError("name: has no effect without kubeflow or vertex; set one of them, or remove it")
        return self
