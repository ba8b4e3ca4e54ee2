"""The manifests that serve in a cluster: valid, and with a command that `twhin serve` accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from tests.command_line import ROOT
from tests.strict import check_manifest
from twhin.pipelines.cli import app
from twhin_core.serving.limits import OPEN
from twhin_core.serving.server import GRACE_SECONDS

DEPLOYMENT, SERVICE = yaml.safe_load_all((ROOT / "deploy/serve.yaml").read_text())
INFERENCE_SERVICE = yaml.safe_load((ROOT / "deploy/inference-service.yaml").read_text())
OF_KSERVE = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
"""What a predictor has beside the fields of a pod."""
PODS = {"serve": DEPLOYMENT["spec"]["template"]["spec"], "inference-service": INFERENCE_SERVICE["spec"]["predictor"]}


def pod_of(name: str) -> dict[str, Any]:
    return {key: value for key, value in PODS[name].items() if key not in OF_KSERVE}


def test_the_manifests_are_valid() -> None:
    for manifest in (DEPLOYMENT, SERVICE):
        check_manifest(manifest)
    assert (INFERENCE_SERVICE["apiVersion"], INFERENCE_SERVICE["kind"]) == (
        "serving.kserve.io/v1beta1", "InferenceService",
    )  # fmt: skip
    assert set(INFERENCE_SERVICE) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(INFERENCE_SERVICE["spec"]) == {"predictor"}
    check_manifest(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "twhin"}, "spec": pod_of("inference-service")}
    )


def test_the_service_finds_the_pods() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert SERVICE["spec"]["selector"].items() <= labels.items()
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (port,), (container,) = SERVICE["spec"]["ports"], PODS["serve"]["containers"]
    assert port["targetPort"] in [of["name"] for of in container["ports"]]


@pytest.mark.parametrize("name", PODS)
def test_the_command_is_one_that_twhin_accepts(name: str) -> None:
    (container,) = PODS[name]["containers"]
    words = [*container["command"], *container["args"]]
    of_serve = words.index("serve")
    command = get_command(app)
    assert command.make_context(words[0], words[1:]).params["log_format"] == "json"
    parsed = command.commands["serve"].make_context("serve", words[of_serve + 1 :]).params  # type: ignore[attr-defined]
    assert parsed["run_root"].startswith("gs://")
    host, _, port = parsed["bind"].rpartition(":")
    assert (host, int(port)) == ("0.0.0.0", container["ports"][0]["containerPort"])
    (token,) = (of for of in container["volumeMounts"] if of["name"] == "token")
    assert Path(parsed["token_file"]).parent == Path(token["mountPath"])


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_probed_where_no_token_is_needed_and_has_what_it_mounts(name: str) -> None:
    pod = PODS[name]
    (container,) = pod["containers"]
    probes = [container[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe") if kind in container]
    assert {probe["httpGet"]["path"] for probe in probes} <= set(OPEN)
    assert len(probes) >= 2
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(volumes) == {of["name"] for of in container["volumeMounts"]}
    assert volumes["token"]["secret"]["secretName"] == "twhin-serve"
    (scratch,) = (of["mountPath"] for of in container["volumeMounts"] if of["name"] == "scratch")
    assert {"name": "TMPDIR", "value": scratch} in container["env"]


def test_a_pod_lives_until_its_requests_have_ended() -> None:
    pod = PODS["serve"]
    pause = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + GRACE_SECONDS
