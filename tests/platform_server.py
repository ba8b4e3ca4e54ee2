"""The APIs of Kubeflow Pipelines and of Vertex AI Pipelines, as far as starting runs needs them, on loopback.

What is sent is parsed as strictly as the platforms do. How a run goes is up to the test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from google.cloud.aiplatform_v1.types import PipelineJob, Schedule
from google.protobuf import json_format

from tests import strict
from tests.loopback import Api, serving
from tests.metadata_store import Metadata

PARENT = "projects/my-project/locations/europe-west4"


@dataclass
class PlatformServer:
    """What came in, and what is answered."""

    url: str = ""
    has_users: bool = False
    token: str | None = None
    """What the requests to Kubeflow must bear, if anything."""
    failures: list[tuple[int, str]] = field(default_factory=list)
    """Statuses and messages that the next requests other than the first look are answered with."""
    page: str | None = None
    """A page that every request gets instead of an answer."""
    looks: list[dict[str, Any]] = field(default_factory=list)
    """What the next looks at a run show; the last one stays."""
    experiments: list[Any] = field(default_factory=list)
    made: list[tuple[str, Any]] = field(default_factory=list)
    """Kind and body of what was created."""
    metadata: Metadata = field(default_factory=lambda: Metadata(PARENT))


@contextlib.contextmanager
def serve() -> Iterator[PlatformServer]:
    state = PlatformServer()
    with serving(_Handler, state) as state.url:
        yield state


class _Handler(Api):
    state: PlatformServer

    def serve(self, method: str, body: Any) -> None:
        state, path = self.state, urlsplit(self.path).path
        if state.page is not None:
            return self.send(200, state.page.encode(), "text/html")
        if path.startswith("/apis/") and state.token and self.headers["Authorization"] != f"Bearer {state.token}":
            return self.answer({"code": 16, "message": "Request header error: there is no user identity"}, 401)
        if state.failures and not path.endswith("/healthz"):
            status, message = state.failures.pop(0)
            if path.startswith("/apis/"):
                return self.answer({"code": 7, "message": message}, status)
            return self.answer({"error": {"code": status, "message": message}}, status)
        if path.startswith(f"/v1/{PARENT}/metadataStores"):
            status, answer = state.metadata.respond(path.removeprefix(f"/v1/{PARENT}/"), self._query(), body)
            return self.answer(answer, status)
        return self.answer(self._kubeflow(path, body) if path.startswith("/apis/") else self._vertex(path, body))

    def _query(self) -> dict[str, str]:
        return {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}

    def _kubeflow(self, path: str, body: Any) -> Any:
        state, kind = self.state, path.removeprefix("/apis/v2beta1/")
        if kind == "healthz":
            return {"multi_user": state.has_users}
        if kind == "experiments" and body is None:
            return {"experiments": state.experiments} if state.experiments else {}
        if kind == "experiments":
            assert bool(body.get("namespace")) == state.has_users
            state.experiments.append({**body, "experiment_id": "experiment-1"})
            return state.experiments[-1]
        if body is None:
            assert kind == "runs/run-1"
            return {"run_id": "run-1", **self._look()}
        spec = body["pipeline_spec"]
        documents = [spec["pipeline_spec"], spec["platform_spec"]] if "pipeline_spec" in spec else [spec]
        strict.check_pipeline([document for document in documents if document])
        assert body["experiment_id"] == "experiment-1"
        state.made.append((kind, body))
        return {**body, "run_id": "run-1"} if kind == "runs" else {**body, "recurring_run_id": "recurring-1"}

    def _vertex(self, path: str, body: Any) -> Any:
        kind = path.removeprefix(f"/v1/{PARENT}/")
        query = self._query()
        if body is None:
            assert kind == self.state.made[0][0].replace(":", "/")
            return {"name": f"{PARENT}/{kind}", **self._look()}
        if kind == "schedules":
            json_format.ParseDict(body, Schedule.pb(Schedule()))
            assert body["createPipelineJobRequest"]["parent"] == PARENT
            self.state.made.append((kind, body))
            return {"name": f"{PARENT}/schedules/7"}
        json_format.ParseDict(body, PipelineJob.pb(PipelineJob()))
        self.state.made.append((f"{kind}:{query['pipelineJobId']}", body))
        return {"name": f"{PARENT}/pipelineJobs/{query['pipelineJobId']}"}

    def _look(self) -> Any:
        return self.state.looks.pop(0) if len(self.state.looks) > 1 else self.state.looks[0]
