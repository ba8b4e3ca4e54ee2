"""Kubeflow Model Registry, through its REST API (v1alpha3)."""

from __future__ import annotations

import os
from typing import Any

import requests

from twhin_core.errors import Unreachable, UserError, one_line
from twhin_core.registry.lineage import Lineage

API = "/api/model_registry/v1alpha3"
TOKEN = "TWHIN_REGISTRY_TOKEN"  # noqa: S105 -- the name of a variable
"""Environment variable with a bearer token, if the registry asks for one."""
TIMEOUT = 30.0
NOT_FOUND, TOO_MANY = 404, 429

Resource = dict[str, Any]


class Kubeflow:
    """A registered model at `url`."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url.rstrip("/"), name
        self._session = requests.Session()
        if token := os.environ.get(TOKEN):
            self._session.headers["Authorization"] = f"Bearer {token}"

    def check(self) -> None:
        self._find("registered_model", name=self._name)

    def register(self, lineage: Lineage) -> str:
        model = self._find("registered_model", name=self._name)
        if model is None:
            about = {"name": self._name, "description": f"The embeddings of {lineage.series}"}
            model = self._ask("POST", "registered_models", about)
        version = self._find("model_version", name=lineage.version, parentResourceId=model["id"])
        properties = _properties({**lineage.facts, **lineage.figures})
        if version is None:
            made = {"name": lineage.version, "registeredModelId": model["id"], "customProperties": properties}
            version = self._ask("POST", "model_versions", made)
        else:
            self._ask("PATCH", f"model_versions/{version['id']}", {"customProperties": properties})
        self._put_artifact(version["id"], lineage)
        self._ask(
            "PATCH", f"registered_models/{model['id']}",
            {"customProperties": {**model.get("customProperties", {}), **_properties({"published": lineage.version})}},
        )  # fmt: skip
        return f"{self._url}: {self._name} {lineage.version}"

    def _put_artifact(self, version: str, lineage: Lineage) -> None:
        """The embeddings: a second artifact of the same name would be refused."""
        path = f"model_versions/{version}/artifacts"
        artifact = {
            "artifactType": "model-artifact",
            "name": f"{self._name}-{lineage.version}",
            "uri": lineage.uri,
            "modelFormatName": "twhin",
            "modelFormatVersion": lineage.facts["code_version"],
        }
        for there in self._ask("GET", path)["items"]:
            if there["name"] == artifact["name"]:
                artifact["id"] = there["id"]
        self._ask("POST", path, artifact)

    def _find(self, kind: str, **by: str) -> Resource | None:
        return self._ask("GET", kind, by=by, is_optional=True) or None

    def _ask(
        self, method: str, path: str, body: Resource | None = None, by: dict[str, str] | None = None,
        is_optional: bool = False,
    ) -> Resource:  # fmt: skip
        """The answer; empty if there is none and `is_optional`."""
        try:
            answer = self._session.request(method, f"{self._url}{API}/{path}", json=body, params=by, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise Unreachable(f"registry.kubeflow: {self._url}: {one_line(error)}") from None
        if is_optional and answer.status_code == NOT_FOUND and "message" in _json(answer):
            return {}
        if not answer.ok:
            message = (
                f"registry.kubeflow: {self._url}: {answer.status_code} for {path}: {_json(answer).get('message', '')}"
            )
            is_refused = answer.status_code < 500 and answer.status_code != TOO_MANY
            raise UserError(message) if is_refused else Unreachable(message)
        return _json(answer)


def _json(answer: requests.Response) -> Resource:
    try:
        found = answer.json()
    except requests.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _properties(values: dict[str, str | float]) -> Resource:
    """As the API types them. Its integers have 32 bits, so counts are strings."""
    return {
        name: {"metadataType": "MetadataStringValue", "string_value": value}
        if isinstance(value, str)
        else {"metadataType": "MetadataDoubleValue", "double_value": value}
        for name, value in values.items()
    }
