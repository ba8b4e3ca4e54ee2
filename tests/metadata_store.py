"""Vertex AI's ML Metadata, as far as experiments need it. Bodies are parsed into the API's own messages."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from google.cloud.aiplatform_v1.types import AddContextChildrenRequest, Context, MetadataStore
from google.protobuf import json_format

CONTEXT_ID = r"[a-z0-9][a-z0-9-]{3,127}"


@dataclass
class Metadata:
    parent: str
    exists: bool = True
    contexts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id."""
    children: dict[str, list[str]] = field(default_factory=dict)
    """The resource names of the contexts in a context."""
    taken: list[str] = field(default_factory=list)
    """Ids that somebody else creates just before us."""

    def respond(self, kind: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """The status of a response and its body. `kind`: the path below the project and region."""
        if kind == "metadataStores":
            json_format.ParseDict(body, MetadataStore.pb(MetadataStore()))
            assert query["metadataStoreId"] == "default"
            self.exists = True
            store = {"@type": "type.googleapis.com/google.cloud.aiplatform.v1.MetadataStore", "name": "default"}
            return 200, {"name": f"{self.parent}/operations/1", "done": True, "response": store}
        if not self.exists:
            return _error(404, "NOT_FOUND")
        if kind == "metadataStores/default":
            return 200, {"name": f"{self.parent}/{kind}"}
        name, _, action = kind.removeprefix("metadataStores/default/contexts").strip("/").partition(":")
        if not name:
            return self._create(query["contextId"], body)
        if name not in self.contexts:
            return _error(404, "NOT_FOUND")
        if action:
            assert action == "addContextChildren"
            asked = {"context": f"{self.parent}/{kind.partition(':')[0]}", **body}
            added = json_format.ParseDict(asked, AddContextChildrenRequest.pb(AddContextChildrenRequest()))
            self.children.setdefault(name, []).extend(added.child_contexts)
            return 200, {}
        return 200, self.contexts[name]

    def _create(self, name: str, body: Any) -> tuple[int, Any]:
        assert re.fullmatch(CONTEXT_ID, name)
        json_format.ParseDict(body, Context.pb(Context()))
        if name in self.contexts or name in self.taken:
            self.contexts.setdefault(name, body)
            return _error(409, "ALREADY_EXISTS")
        self.contexts[name] = {"name": f"{self.parent}/metadataStores/default/contexts/{name}", **body}
        return 200, self.contexts[name]


def _error(code: int, status: str) -> tuple[int, Any]:
    return code, {"error": {"code": code, "message": status.lower(), "status": status}}
