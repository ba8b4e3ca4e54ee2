"""What platforms accept, checked without one: unknown fields, wrong types and names of enums are refused."""

from __future__ import annotations

import copy
import functools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from google.cloud.aiplatform_v1.types import CustomJob
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec, PlatformSpec

from tests.command_line import ROOT

Manifest = dict[str, Any]

CRD = ROOT.parent / "shared/schemas/trainjobs.trainer.kubeflow.org.crd.yaml"
"""The TrainJob of Kubeflow Trainer 2.3, as its maintainers publish it; not part of this repository."""
KUBERNETES = "1.30.0"


def check_pipeline(documents: list[Any]) -> None:
    """A compiled pipeline: the spec and, for Kubernetes, the platform's."""
    spec = json_format.ParseDict(documents[0], PipelineSpec())
    deployment = json_format.ParseDict(documents[0]["deploymentSpec"], PipelineDeploymentConfig())
    labels = {component.executor_label for component in spec.components.values() if component.executor_label}
    assert labels == set(deployment.executors)
    for platform in documents[1:]:
        json_format.ParseDict(platform, PlatformSpec())
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert set(executors) <= labels
        for executor in executors.values():
            json_format.ParseDict(executor, KubernetesExecutorConfig())


def custom_jobs(document: Any) -> dict[str, CustomJob]:
    """The CustomJobs that a pipeline creates, by task: the payload with the parameters' defaults, as a protobuf."""
    jobs = {}
    for name, component in document["components"].items():
        executor = document["deploymentSpec"]["executors"].get(component.get("executorLabel"), {}).get("container", {})
        if "--payload" in executor.get("args", []):
            payload = executor["args"][executor["args"].index("--payload") + 1]
            filled = json.loads(_with_defaults(payload, component["inputDefinitions"]["parameters"]))
            jobs[name.removeprefix("comp-")] = json_format.ParseDict(filled, CustomJob.pb(CustomJob()))
    return jobs


def _with_defaults(payload: str, parameters: dict[str, Any]) -> str:
    def default(match: re.Match[str]) -> str:
        parameter = parameters[match[1]]
        if parameter["parameterType"] == "STRING":
            return str(parameter["defaultValue"])
        empty = {"LIST": [], "STRUCT": {}}.get(parameter["parameterType"])
        return json.dumps(parameter.get("defaultValue", empty))

    return re.sub(r"\{\{\$\.inputs\.parameters\['(\w+)'\]\}\}", default, payload)


def check_manifest(manifest: Manifest) -> None:
    """A manifest of Kubernetes' own or, where its schema is at hand, a TrainJob."""
    if manifest["kind"] != "TrainJob":
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])
    assert len(manifest["metadata"]["name"]) <= 63
    if CRD.exists():
        jsonschema.Draft202012Validator(_train_job_schema(CRD)).validate(manifest)


@functools.cache
def _train_job_schema(path: Path) -> Any:
    (version,) = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    return _closed(version["schema"]["openAPIV3Schema"])


def _closed(schema: Any) -> Any:
    """The schema with every object that lists its fields refusing others."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def as_created(manifest: Manifest, name: str = "twhin-run-0123456789", run_root: str = "gs://bucket/run") -> Manifest:
    """A manifest in a compiled pipeline as it is to be created: the words filled in, the numbers whole."""
    text = json.dumps(copy.deepcopy(manifest)).replace("{name}", name).replace("{run_root}", run_root)
    filled: Manifest = json.loads(text, parse_float=lambda number: int(float(number)))
    return filled
