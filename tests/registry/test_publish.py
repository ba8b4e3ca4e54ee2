"""Publishing a version registers it with its lineage, once, and marks it; going back marks the earlier one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.auth
import pytest
from google.auth.credentials import AnonymousCredentials

from tests.conftest import SmallConfig
from tests.registry import kubeflow_server, vertex_server
from twhin_core import __version__, vertex_ai
from twhin_core.checksum import crc32c
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.published import read_current
from twhin_core.run import open_run, revision, saved_config
from twhin_core.series.publish import publish, rollback
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export


@pytest.fixture(scope="module")
def exported_once() -> list[str]:
    return []


@pytest.fixture
def series(
    trained: tuple[Config, str], exported_once: list[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Versions 1 and 2, exported."""
    if not exported_once:
        config, root = trained
        evaluate(config, root)
        export(config, root)
        exported_once.append(str(shutil.copytree(root, tmp_path_factory.mktemp("exported") / "run")))
    for version in ("1", "2"):
        shutil.copytree(exported_once[0], tmp_path / "clicks" / "versions" / version)
    return tmp_path / "clicks"


@pytest.fixture
def kubeflow() -> Iterator[kubeflow_server.Registry]:
    with kubeflow_server.serve() as state:
        yield state


@pytest.fixture
def of_vertex(monkeypatch: pytest.MonkeyPatch) -> Iterator[vertex_server.Registry]:
    with vertex_server.serve() as state:
        monkeypatch.setattr(vertex_ai, "ENDPOINT", state.url)
        monkeypatch.setattr(google.auth, "default", lambda **_: (AnonymousCredentials(), None))
        yield state


def registered_in(series: Path, **registry: str) -> None:
    """Writes the section into the versions' configs."""
    for root in (series / "versions").iterdir():
        tree = saved_config(str(root)).model_dump(mode="json") | {"registry": registry}
        open_run(config_file.validate(Config, tree, "test"), str(root))


def expected_facts(root: Path) -> dict[str, str]:
    """Read from the files, without the library."""
    graph = json.loads((root / "graph/manifest.json").read_text())
    exported = json.loads((root / "embeddings/manifest.json").read_text())
    return {
        "run_root": str(root),
        "checkpoint": str(exported["checkpoint"]),
        "code_version": __version__,
        "code_revision": revision(),
        "config": f"{root}/config.yaml",
        "config_crc32c": crc32c([(root / "config.yaml").read_bytes()]),
        "dim": "8",
        "comparator": "dot",
        "graph": f"{root}/graph/manifest.json",
        "graph_crc32c": crc32c([(root / "graph/manifest.json").read_bytes()]),
        **{f"nodes.{table['name']}": str(table["num_embeddings"]) for table in graph["tables"]},
        **{f"edges.{name}": str(split["edges"]) for name, split in graph["splits"].items()},
    }


def expected_figures(root: Path) -> dict[str, float]:
    metrics = json.loads((root / "evaluation/metrics.json").read_text())
    return {f"test.all.{name}": value for name, value in metrics["test"]["all"].items()}


def plain(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: next(one for key, one in of.items() if key != "metadataType") for name, of in properties.items()}


def test_kubeflow_gets_every_version_with_its_lineage(series: Path, kubeflow: kubeflow_server.Registry) -> None:
    registered_in(series, kubeflow=kubeflow.url)
    for version in ("1", "1", "2"):
        publish(str(series), version)
    (model,) = kubeflow.models.values()
    assert (model["name"], plain(model["customProperties"])) == ("clicks", {"published": "2"})
    assert [of["name"] for of in kubeflow.versions.values()] == ["1", "2"]
    for of in kubeflow.versions.values():
        root = series / "versions" / of["name"]
        assert of["registeredModelId"] == model["id"]
        assert plain(of["customProperties"]) == expected_facts(root) | expected_figures(root)
    assert [(of["name"], of["uri"]) for of in kubeflow.artifacts.values()] == [
        (f"clicks-{version}", f"{series}/versions/{version}/embeddings") for version in ("1", "2")
    ]
    rollback(str(series))
    assert plain(model["customProperties"]) == {"published": "1"}
    assert len(kubeflow.versions) == len(kubeflow.artifacts) == 2


def test_vertex_gets_every_version_with_its_lineage(series: Path, of_vertex: vertex_server.Registry) -> None:
    registered_in(series, vertex=vertex_server.PARENT, name="my_clicks")
    for version in ("1", "1", "2"):
        publish(str(series), version)
    assert [(of["model"], sorted(of["aliases"])) for of in of_vertex.versions] == [
        ("my_clicks", ["version-1"]),
        ("my_clicks", ["published", "version-2"]),
    ]
    root = series / "versions" / "1"
    first = of_vertex.versions[0]
    assert first["labels"]["twhin-code_revision"] == revision()
    assert first["labels"]["twhin-graph_crc32c"] == expected_facts(root)["graph_crc32c"]
    assert dict(line.split(": ", 1) for line in first["versionDescription"].splitlines()) == expected_facts(root)
    assert list(of_vertex.artifacts) == ["my-clicks-version-1", "my-clicks-version-2"]
    artifact = of_vertex.artifacts["my-clicks-version-1"]
    assert artifact["schemaTitle"] == "system.Metrics"
    assert artifact["metadata"] == expected_facts(root) | expected_figures(root)
    rollback(str(series))
    assert ["published" in of["aliases"] for of in of_vertex.versions] == [True, False]
    assert len(of_vertex.versions) == 2


def test_a_registry_that_is_down_gets_the_version_when_asked_again(
    series: Path, kubeflow: kubeflow_server.Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registered_in(series, kubeflow=kubeflow.url)
    kubeflow.failures = [503, 503]
    publish(str(series), "1")
    current = read_current(str(series))
    assert current is not None
    assert current.version == "1"
    assert kubeflow.models == {}
    assert "registry.kubeflow: " in caplog.text
    assert "`twhin publish` registers it when called again" in caplog.text
    publish(str(series), "1")
    assert [of["name"] for of in kubeflow.versions.values()] == ["1"]


@pytest.mark.parametrize("failed", range(7))
def test_a_registration_that_was_interrupted_anywhere_is_completed(
    series: Path, kubeflow: kubeflow_server.Registry, failed: int
) -> None:
    """After the look before publishing, there are seven requests, of which one fails."""
    registered_in(series, kubeflow=kubeflow.url)
    publish(str(series), "2")
    kubeflow.models.clear()
    kubeflow.versions.clear()
    kubeflow.artifacts.clear()

    class Failing(list[int]):
        asked = -1

        def __bool__(self) -> bool:
            self.asked += 1
            return self.asked == failed + 1

        def pop(self, _: Any = 0) -> int:
            return 500

    kubeflow.failures = Failing()
    publish(str(series), "1")
    kubeflow.failures = []
    publish(str(series), "1")
    (model,) = kubeflow.models.values()
    assert plain(model["customProperties"]) == {"published": "1"}
    assert [of["name"] for of in kubeflow.versions.values()] == ["1"]
    assert [of["name"] for of in kubeflow.artifacts.values()] == ["clicks-1"]


def test_a_vertex_upload_that_was_interrupted_is_completed(series: Path, of_vertex: vertex_server.Registry) -> None:
    registered_in(series, vertex=vertex_server.PARENT)
    of_vertex.artifacts["clicks-version-1"] = {}  # what was left
    publish(str(series), "1")
    assert [of["aliases"] for of in of_vertex.versions] == [["version-1", "published"]]


def test_a_registry_that_refuses_is_a_mistake_before_anything_is_published(
    series: Path, kubeflow: kubeflow_server.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered_in(series, kubeflow=kubeflow.url)
    kubeflow.token = "secret"
    with pytest.raises(UserError, match=r"registry\.kubeflow: .*401 for registered_model: Unauthorized"):
        publish(str(series), "1")
    assert read_current(str(series)) is None
    monkeypatch.setenv("TWHIN_REGISTRY_TOKEN", "secret")
    publish(str(series), "1")
    assert [of["name"] for of in kubeflow.versions.values()] == ["1"]


def test_no_permission_in_vertex_is_a_mistake_before_anything_is_published(
    series: Path, of_vertex: vertex_server.Registry
) -> None:
    registered_in(series, vertex=vertex_server.PARENT)
    of_vertex.failures = [403]
    with pytest.raises(UserError, match=r"registry\.vertex: .*no permission; it needs roles/aiplatform\.user"):
        publish(str(series), "1")
    assert read_current(str(series)) is None


def test_a_series_whose_name_no_registry_takes_needs_another(series: Path, kubeflow: kubeflow_server.Registry) -> None:
    other = series.rename(series.with_name("My clicks"))
    registered_in(other, kubeflow=kubeflow.url)
    with pytest.raises(UserError, match=r"registry\.name: set one; 'My clicks'"):
        publish(str(other), "1")


@pytest.mark.parametrize(
    ("registry", "message"),
    [
        ({"kubeflow": "registry.example"}, "registry.kubeflow: expected an http(s):// URL"),
        ({"kubeflow": "http://me:secret@registry.example"}, "registry.kubeflow: holds a password"),
        ({"vertex": "my-project"}, "registry.vertex: string should match pattern"),
        ({"vertex": "projects/p/locations/europe"}, "registry.vertex: string should match pattern"),
        ({"name": "clicks"}, "registry.name: has no effect without kubeflow or vertex"),
        ({"kubeflow": "http://a", "name": "Clicks"}, "registry.name: string should match pattern"),
        ({"kubeflow": "http://a", "name": "x" * 64}, "registry.name: string should match pattern"),
        ({"kubflow": "http://a"}, "registry.kubflow: unknown key; did you mean kubeflow?"),
    ],
)
def test_a_wrong_value_names_its_key(small_config: SmallConfig, registry: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        small_config(registry=registry)
    assert message in str(error.value)
