"""Vertex AI Model Registry, through the client of its API."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from google.api_core import exceptions
from google.cloud import aiplatform_v1

from twhin_core.registry.lineage import Lineage
from twhin_core.vertex_ai import asking, client_arguments

TIMEOUT = 120.0
PUBLISHED = "published"
"""The alias of the published version."""
LONGEST = 63
"""Of a label's key and value."""


class Vertex:
    """The model with the id `name` in the project and region `parent`."""

    def __init__(self, parent: str, name: str) -> None:
        """Raises UserError if there are no credentials."""
        self._parent, self._name = parent, name
        self._model = f"{parent}/models/{name}"
        self._where = f"registry.vertex: {parent}"
        how = client_arguments(parent.rsplit("/", 1)[-1], self._where)
        self._client = aiplatform_v1.ModelServiceClient(**how)
        self._metadata = aiplatform_v1.MetadataServiceClient(**how)

    def check(self) -> None:
        self._find(self._model)

    def register(self, lineage: Lineage) -> str:
        alias = f"version-{re.sub('[^a-z0-9-]', '-', lineage.version.lower())}"[:LONGEST].rstrip("-")
        found = self._find(f"{self._model}@{alias}")
        if found is None:
            self._add_metrics(lineage, alias)
            self._upload(lineage, alias)
        else:
            with asking(self._where):
                self._client.merge_version_aliases(
                    name=f"{self._model}@{alias}", version_aliases=[PUBLISHED], timeout=TIMEOUT
                )
        return f"{self._model}@{alias}"

    def _upload(self, lineage: Lineage, alias: str) -> None:
        model = aiplatform_v1.Model(
            display_name=self._name,
            description=f"The embeddings of {lineage.series}",
            version_description="\n".join(f"{name}: {value}" for name, value in lineage.facts.items()),
            version_aliases=[alias, PUBLISHED],
            artifact_uri=lineage.uri if lineage.uri.startswith("gs://") else "",
            labels=dict(_label(name, value) for name, value in lineage.facts.items()),
        )
        request: dict[str, Any] = {"parent": self._parent, "model": model}
        if self._find(self._model) is None:
            request["model_id"] = self._name
        else:
            request["parent_model"] = self._model
        with asking(self._where):
            uploading: Any = self._client.upload_model(request=request, timeout=TIMEOUT)
            uploading.result(timeout=TIMEOUT)

    def _add_metrics(self, lineage: Lineage, alias: str) -> None:
        """The figures and facts as an artifact of ML Metadata, whose type takes any; Vertex AI shows it by its id."""
        artifact = aiplatform_v1.Artifact(
            display_name=f"{self._name} {lineage.version}",
            schema_title="system.Metrics",
            schema_version="0.0.1",
            uri=lineage.uri,
            metadata={**lineage.facts, **lineage.figures},
        )
        request = {
            "parent": f"{self._parent}/metadataStores/default",
            "artifact": artifact,
            "artifact_id": f"{self._name.replace('_', '-')}-{alias}",
        }
        with asking(self._where), contextlib.suppress(exceptions.Conflict):  # by a call that was interrupted
            self._metadata.create_artifact(request=request, timeout=TIMEOUT)

    def _find(self, name: str) -> Any:
        with asking(self._where):
            try:
                return self._client.get_model(name=name, timeout=TIMEOUT)
            except exceptions.NotFound:
                return None


def _label(name: str, value: str) -> tuple[str, str]:
    """As labels are restricted: the ends of long values, in lower case, other characters as `_`."""
    plain = re.sub(r"[^a-z0-9_-]", "_", f"twhin-{name}".lower())
    return plain[:LONGEST], re.sub(r"[^a-z0-9_-]", "_", value.lower())[-LONGEST:]
