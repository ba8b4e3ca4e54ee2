"""Kubeflow Model Registry's REST API (v1alpha3), as far as publishing needs it, on loopback.

Bodies are validated against schemas that are stricter than the API's: unknown keys are refused too.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema

from tests.loopback import Api, serving

API = "/api/model_registry/v1alpha3/"
ID = {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"}
TEXT = {"type": "string"}
NAME = {"type": "string", "minLength": 1}


def _typed(kind: str, key: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["metadataType", key],
        "additionalProperties": False,
        "properties": {"metadataType": {"enum": [kind]}, key: value},
    }


PROPERTIES = {
    "type": "object",
    "additionalProperties": {
        "oneOf": [
            _typed("MetadataStringValue", "string_value", TEXT),
            _typed("MetadataDoubleValue", "double_value", {"type": "number"}),
            _typed("MetadataIntValue", "int_value", {"type": "string", "pattern": "^-?([1-9][0-9]{0,8}|0)$"}),
            _typed("MetadataBoolValue", "bool_value", {"type": "boolean"}),
        ]
    },
}
UPDATE = {
    "customProperties": PROPERTIES,
    "description": TEXT,
    "externalId": TEXT,
    "state": {"enum": ["LIVE", "ARCHIVED"]},
}


def _body(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


MODEL_UPDATE = {**UPDATE, "owner": TEXT, "provider": TEXT, "license": TEXT, "readme": TEXT}
VERSION_UPDATE = {**UPDATE, "author": TEXT}
ARTIFACT = {
    "id": ID, "name": NAME, "artifactType": {"enum": ["model-artifact"]}, "uri": {"type": "string", "format": "uri"},
    "description": TEXT, "externalId": TEXT, "customProperties": PROPERTIES, "modelFormatName": TEXT,
    "modelFormatVersion": TEXT, "storageKey": TEXT, "storagePath": TEXT, "serviceAccountName": TEXT,
    "state": {"enum": ["UNKNOWN", "PENDING", "LIVE", "MARKED_FOR_DELETION", "DELETED", "ABANDONED", "REFERENCE"]},
}  # fmt: skip
SCHEMAS = {
    ("POST", "registered_models"): _body(["name"], {**MODEL_UPDATE, "name": NAME}),
    ("PATCH", "registered_models/ID"): _body([], MODEL_UPDATE),
    ("POST", "model_versions"): _body(
        ["name", "registeredModelId"], {**VERSION_UPDATE, "name": NAME, "registeredModelId": ID}
    ),
    ("PATCH", "model_versions/ID"): _body([], VERSION_UPDATE),
    ("POST", "model_versions/ID/artifacts"): _body(["artifactType"], ARTIFACT),
}


@dataclass
class Registry:
    """What was registered, and what is answered."""

    url: str = ""
    token: str | None = None
    failures: list[int] = field(default_factory=list)
    """Statuses of the next answers."""
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Each by id; an artifact also holds the id of its version."""
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))


@contextlib.contextmanager
def serve() -> Iterator[Registry]:
    state = Registry()
    with serving(_Handler, state) as state.url:
        yield state


class _Handler(Api):
    state: Registry

    def serve(self, method: str, body: Any) -> None:
        if self.state.failures:
            return self._refuse(self.state.failures.pop(0), "as asked")
        if self.state.token and self.headers["Authorization"] != f"Bearer {self.state.token}":
            return self._refuse(401, "Unauthorized")
        parts = urlsplit(self.path)
        assert parts.path.startswith(API)
        path, by = parts.path.removeprefix(API), dict(parse_qsl(parts.query))
        kind = re.sub(r"/[1-9][0-9]*", "/ID", path)
        if body is not None:
            try:
                jsonschema.validate(body, SCHEMAS[method, kind])
            except (KeyError, jsonschema.ValidationError) as error:
                return self._refuse(400, str(error).splitlines()[0])
        return self._answer(method, kind, path.split("/"), by, body)

    def _answer(self, method: str, kind: str, path: list[str], by: dict[str, str], body: Any) -> None:
        state = self.state
        if kind == "registered_model":
            return self._find(state.models, by["name"], {})
        if kind == "model_version":
            return self._find(state.versions, by["name"], {"registeredModelId": by["parentResourceId"]})
        if kind == "model_versions/ID/artifacts":
            if method == "GET":
                items = [one for one in state.artifacts.values() if one["version"] == path[1]]
                return self.answer({"items": items, "size": len(items), "pageSize": 100, "nextPageToken": ""})
            return self._put(state.artifacts, {**body, "version": path[1]}, body.get("id"))
        of = state.models if path[0] == "registered_models" else state.versions
        if method == "POST":
            return self._put(of, body, None)
        if path[1] not in of:
            return self._refuse(404, "no such resource")
        of[path[1]].update(body)
        return self.answer(of[path[1]])

    def _find(self, of: dict[str, dict[str, Any]], name: str, others: dict[str, str]) -> None:
        for one in of.values():
            if one["name"] == name and others.items() <= one.items():
                return self.answer(one)
        return self._refuse(404, f"no {name}")

    def _put(self, of: dict[str, dict[str, Any]], body: dict[str, Any], number: str | None) -> None:
        same = [one for one in of.values() if one["name"] == body["name"] and one["id"] != number]
        parent = body.get("registeredModelId")
        if any(one.get("registeredModelId") == parent for one in same):
            return self._refuse(409, f"{body['name']} already exists")
        status, number = (201, str(next(self.state.ids))) if number is None else (200, number)
        of[number] = {**body, "id": number, "createTimeSinceEpoch": "1"}
        return self.answer(of[number], status)

    def _refuse(self, status: int, message: str) -> None:
        self.answer({"code": str(status), "message": message}, status)
