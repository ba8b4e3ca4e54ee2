"""Vertex AI's Model Registry and ML Metadata, as far as publishing needs them, on loopback.

Bodies are parsed into the API's own messages, which refuses unknown fields, and checked against its documented formats.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from google.cloud.aiplatform_v1.types import Artifact, MergeVersionAliasesRequest, UploadModelRequest
from google.protobuf import json_format

from tests.loopback import Api, serving

PARENT = "projects/my-project/locations/europe-west4"
ALIAS = r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]"
LABEL = r"[a-z0-9_-]{0,63}"


@dataclass
class Registry:
    url: str = ""
    failures: list[int] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    """Of the model, in the order in which they were uploaded, with its id as `model`."""
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)


@contextlib.contextmanager
def serve() -> Iterator[Registry]:
    state = Registry()
    with serving(_Handler, state) as state.url:
        yield state


class _Handler(Api):
    state: Registry

    def serve(self, method: str, body: Any) -> None:
        if self.state.failures:
            return self._refuse(self.state.failures.pop(0))
        parts = urlsplit(self.path)
        kind = unquote(parts.path).removeprefix(f"/v1/{PARENT}/")
        if kind == "models:upload":
            return self._upload(body)
        if kind == "metadataStores/default/artifacts":
            return self._create_artifact(dict(parse_qsl(parts.query))["artifactId"], body)
        found = self._version(kind.removeprefix("models/").removesuffix(":mergeVersionAliases"))
        if found is None:
            return self._refuse(404)
        if kind.endswith(":mergeVersionAliases"):
            merged = json_format.ParseDict(body, MergeVersionAliasesRequest.pb(MergeVersionAliasesRequest()))
            self._move(list(merged.version_aliases), found)
        return self.answer({"name": f"{PARENT}/models/{found['model']}", **self._shown(found)})

    def _upload(self, body: Any) -> None:
        request = json_format.ParseDict({"parent": PARENT, **body}, UploadModelRequest.pb(UploadModelRequest()))
        model = request.model_id or request.parent_model.removeprefix(f"{PARENT}/models/")
        assert re.fullmatch(r"[a-z_][a-z0-9_-]{0,62}", model)
        if bool(request.model_id) == any(one["model"] == model for one in self.state.versions):
            return self._refuse(409 if request.model_id else 404)
        made = body["model"]
        assert made["displayName"]
        assert made.get("artifactUri", "gs://").startswith("gs://")
        assert len(made["labels"]) <= 64
        for key, value in made["labels"].items():
            assert re.fullmatch(r"[a-z]" + LABEL, key)
            assert re.fullmatch(LABEL, value)
        version = {"model": model, "aliases": [], **made}
        self.state.versions.append(version)
        self._move(made["versionAliases"], version)
        response = {"@type": "type.googleapis.com/google.cloud.aiplatform.v1.UploadModelResponse"}
        response["model"] = f"{PARENT}/models/{model}"
        return self.answer({"name": f"{PARENT}/operations/1", "done": True, "response": response})

    def _create_artifact(self, name: str, body: Any) -> None:
        assert re.fullmatch(r"[a-z0-9-]{1,128}", name)
        json_format.ParseDict(body, Artifact.pb(Artifact()))
        if name in self.state.artifacts:
            return self._refuse(409)
        self.state.artifacts[name] = body
        return self.answer({"name": f"{PARENT}/metadataStores/default/artifacts/{name}", **body})

    def _version(self, name: str) -> dict[str, Any] | None:
        model, _, alias = name.partition("@")
        of = [one for one in self.state.versions if one["model"] == model]
        return next((one for one in of if not alias or alias in one["aliases"]), None)

    def _move(self, aliases: list[str], to: dict[str, Any]) -> None:
        for alias in aliases:
            assert re.fullmatch(ALIAS, alias)
            for one in self.state.versions:
                one["aliases"] = [other for other in one["aliases"] if other != alias]
            to["aliases"].append(alias)

    def _shown(self, version: dict[str, Any]) -> dict[str, Any]:
        return {"displayName": version["displayName"], "versionAliases": version["aliases"]}

    def _refuse(self, status: int) -> None:
        names = {404: "NOT_FOUND", 409: "ALREADY_EXISTS", 403: "PERMISSION_DENIED", 503: "UNAVAILABLE"}
        self.answer({"error": {"code": status, "message": "as asked", "status": names[status]}}, status)
