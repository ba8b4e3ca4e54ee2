"""The section `tracking`: where else the figures of a run go."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from twhin_core.config.numbers import AnyLocation, Location, Name
from twhin_core.config.section import Section
from twhin_core.config.urls import web_url

FILE = "sqlite:///"


def _mlflow_uri(uri: str) -> str:
    if uri.startswith(FILE) and len(uri) > len(FILE):
        return uri
    if not uri.startswith(("http://", "https://")):
        raise ValueError(f"expected the http(s):// URL of a server, or {FILE}FILE; got {uri!r}")
    return web_url(uri)


def _textfile(path: str) -> str:
    if not path.endswith(".prom") or "://" in path:
        raise ValueError(f"expected a local file that ends in .prom, which is what node-exporter reads; got {path!r}")
    return path


def _wandb_project(name: str) -> str:
    if not re.fullmatch(r"([\w.-]+/)?[^/\\#?%:]{1,128}", name):
        raise ValueError(f"expected PROJECT or ENTITY/PROJECT; got {name!r}")
    return name


class Prometheus(Section):
    """Figures of training for Prometheus: through a file that node-exporter collects, or a Pushgateway."""

    textfile: Annotated[Location, AfterValidator(_textfile)] | None = Field(
        None, description="A `.prom` file in the folder of node-exporter's textfile collector. Replaced atomically."
    )
    pushgateway: Annotated[AnyLocation, AfterValidator(web_url)] | None = Field(
        None, description="The http(s):// URL of a Pushgateway."
    )

    @model_validator(mode="after")
    def _check_goals(self) -> Prometheus:
        self.exactly_one("textfile", "pushgateway")
        return self


class Tracking(Section):
    """Trackers that follow the run. One that cannot be reached does not end a stage."""

    mlflow: Annotated[AnyLocation, AfterValidator(_mlflow_uri)] | None = Field(
        None, description="The http(s):// URL of an MLflow server, or `sqlite:///FILE` for a store on this machine."
    )
    experiment: Name = Field("twhin", description="The experiment of MLflow; created if it does not exist.")
    wandb: Annotated[Name, AfterValidator(_wandb_project)] | None = Field(
        None, description="The project of Weights & Biases, or `entity/project`. `WANDB_MODE=offline` keeps it local."
    )
    prometheus: Prometheus | None = Field(None, description="Figures of training for Prometheus. Default: none.")
