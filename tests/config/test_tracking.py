"""What the section `tracking` refuses, naming the key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import SmallConfig
from twhin_core.errors import UserError


@pytest.mark.parametrize(
    ("tracking", "message"),
    [
        ({"mlflow": "mlflow.example:5000"}, "tracking.mlflow: expected the http"),
        ({"mlflow": "ftp://mlflow.example"}, "tracking.mlflow: expected the http"),
        ({"mlflow": "http://"}, "tracking.mlflow: expected an http"),
        ({"mlflow": "sqlite:///"}, "tracking.mlflow: expected the http"),
        ({"mlflow": "./mlruns"}, "tracking.mlflow: expected the http"),
        ({"mlflow": "http://me:secret@mlflow.example"}, "tracking.mlflow: holds a password"),
        ({"mlflow": 5000}, "tracking.mlflow: input should be a valid string"),
        ({"experiment": ""}, "tracking.experiment: string should have at least 1 character"),
        ({"wandb": "a/b/c"}, "tracking.wandb: expected PROJECT or ENTITY/PROJECT"),
        ({"wandb": "what?"}, "tracking.wandb: expected PROJECT or ENTITY/PROJECT"),
        ({"prometheus": {}}, "tracking.prometheus: needs exactly one of textfile, pushgateway; got none"),
        (
            {"prometheus": {"textfile": "a.prom", "pushgateway": "http://push.example"}},
            "tracking.prometheus: needs exactly one of textfile, pushgateway; got textfile, pushgateway",
        ),
        ({"prometheus": {"textfile": "a.txt"}}, "tracking.prometheus.textfile: expected a local file"),
        ({"prometheus": {"textfile": "gs://b/a.prom"}}, "tracking.prometheus.textfile: expected a local"),
        ({"prometheus": {"pushgateway": "push.example"}}, "tracking.prometheus.pushgateway: expected an http"),
        ({"mlfow": "http://mlflow.example"}, "tracking.mlfow: unknown key; did you mean mlflow?"),
    ],
)
def test_a_wrong_value_names_its_key(small_config: SmallConfig, tracking: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        small_config(tracking=tracking)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "tracking",
    [
        {"mlflow": "https://mlflow.example/base"},
        {"mlflow": "sqlite:///runs/mlflow.db", "experiment": "clicks"},
        {"wandb": "clicks"},
        {"wandb": "my-team/clicks"},
        {"prometheus": {"pushgateway": "http://push.example:9091"}},
    ],
)
def test_what_a_tracker_takes(small_config: SmallConfig, tracking: dict[str, Any]) -> None:
    assert small_config(tracking=tracking).tracking.model_dump(exclude_unset=True) == tracking


@pytest.mark.parametrize("url", ["http://registry.example:8080", "https://registry.example/base"])
def test_what_a_registry_takes(small_config: SmallConfig, url: str) -> None:
    assert small_config(registry={"kubeflow": url}).registry.kubeflow == url
