"""A cluster for the train component, and what it is to train."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import ROOT
from tests.conftest import SmallConfig
from tests.kubernetes_server import NAMESPACE, KubernetesServer, serve
from twhin.components.train import train_job
from twhin.pipelines import resources, trainjob
from twhin.pipelines.resources import Resources
from twhin_core.config import Config


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("TWHIN_NAMESPACE", NAMESPACE)
    monkeypatch.setattr(train_job, "POLL_S", 0.02)
    return tmp_path / "kubeconfig"


@pytest.fixture
def server(kubeconfig: Path) -> Iterator[KubernetesServer]:
    with serve(kubeconfig) as running:
        yield running


@pytest.fixture
def needs(tmp_path: Path) -> Resources:
    """Two machines of eight GPUs, and a volume that they share."""
    preset = resources.load(str(ROOT / "configs/resources/a100x16-2nodes.yaml"))
    return preset.model_copy(update={"volume": resources.Volume(claim="runs", mount=str(tmp_path))})


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "run")


@pytest.fixture
def train(small_config: SmallConfig, needs: Resources, root: str) -> Callable[..., None]:
    """`train()` is what the component does; keywords say how it differs."""

    def call(
        config: Config | None = None, needs: Resources = needs, root: str = root, run: str = "run-1", **changes: Any
    ) -> None:
        changed = needs.model_copy(update={"train": needs.train.model_copy(update=changes)})
        train_job.train(config or small_config(), root, as_kfp_gives(trainjob.manifests(changed)), run)

    return call


def as_kfp_gives(manifests: list[Any]) -> list[Any]:
    """Through protobuf's Struct, which knows no integers."""
    text = json.loads(json.dumps(manifests), parse_int=float)
    assert text[0]["spec"]["trainer"]["numNodes"] == 2.0
    return list(text)
