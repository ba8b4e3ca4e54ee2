"""Starts and follows runs on Vertex AI Pipelines through the client of its API."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from typing import Any

from google.cloud import aiplatform_v1

from twhin.components.run_root import RUN
from twhin.pipelines import vertex_experiment
from twhin.pipelines.submit import Outcome, Request
from twhin_core.errors import LONGEST_ANSWER, Unreachable, UserError, in_one_line
from twhin_core.progress import log
from twhin_core.vertex_ai import ROLE, asking, client_arguments

CONSOLE = "https://console.cloud.google.com/vertex-ai/locations/{region}/pipelines/{kind}/{run}?project={project}"
TIMEOUT = 60.0
CONTEXT_S = 120.0
"""Seconds to wait for a run's context in ML Metadata. Vertex AI makes it when the run starts."""
CONTEXT_POLL_S = 2.0


class Vertex:
    """Runs of `project` in `region`, with the credentials that Google's libraries find."""

    def __init__(self, project: str, region: str) -> None:
        if not re.fullmatch(r"[a-z]+-[a-z]+\d+", region):
            raise UserError(f"--region {region}: expected the name of a region, such as europe-west4")
        self.project, self.region = project, region
        self._parent = f"projects/{project}/locations/{region}"
        self._where = f"Vertex AI in {region}"
        self._how = client_arguments(region, self._where)
        self._pipelines = aiplatform_v1.PipelineServiceClient(**self._how)
        self._metadata = aiplatform_v1.MetadataServiceClient(**self._how)

    def start(self, request: Request) -> str:
        made = {
            "parent": self._parent,
            "pipeline_job": self._job(request),
            "pipeline_job_id": f"twhin-{secrets.token_hex(8)}",
        }
        with self._asking(request.service_account):
            if request.experiment is not None:
                experiment = vertex_experiment.find_or_create(self._metadata, self._parent, request.experiment)
            job = self._pipelines.create_pipeline_job(request=made, timeout=TIMEOUT)
        if request.experiment is not None:
            self._add_to(experiment, job.name)
        return str(job.name).rpartition("/")[2]

    def _add_to(self, experiment: str, job: str) -> None:
        """Adds the run to the experiment. It runs already, so a failure costs a warning."""
        try:
            with self._asking():
                vertex_experiment.add_run(self._metadata, experiment, self._context(job))
        except (Unreachable, UserError) as error:
            log.warning("submit: the run has started, but is not in the experiment: %s", error)

    def _context(self, job: str) -> str:
        """The resource name of the run's context, once it has one. Raises Unreachable if it has none in time."""
        given_up = time.monotonic() + CONTEXT_S
        while time.monotonic() < given_up:
            found = self._pipelines.get_pipeline_job(name=job, timeout=TIMEOUT)
            if found.job_detail.pipeline_run_context.name:
                return str(found.job_detail.pipeline_run_context.name)
            time.sleep(CONTEXT_POLL_S)
        raise Unreachable(f"it has no context in ML Metadata after {CONTEXT_S:.0f} s")

    def schedule(self, request: Request) -> str:
        if request.experiment is not None:
            raise UserError(f"--experiment {request.experiment}: Vertex AI puts no run of a schedule into one")
        made = {"parent": self._parent, "pipeline_job": self._job(request)}
        schedule = aiplatform_v1.Schedule(
            display_name=request.name, cron=request.cron, max_concurrent_run_count=1, create_pipeline_job_request=made
        )
        client = aiplatform_v1.ScheduleServiceClient(**self._how)
        with self._asking(request.service_account):
            made = client.create_schedule(parent=self._parent, schedule=schedule, timeout=TIMEOUT)
        return str(made.name).rpartition("/")[2]

    def link(self, run: str, is_schedule: bool) -> str:
        kind = "schedules" if is_schedule else "runs"
        return CONSOLE.format(region=self.region, kind=kind, run=run, project=self.project)

    def look(self, run: str) -> Outcome:
        with self._asking():
            job = self._pipelines.get_pipeline_job(name=f"{self._parent}/pipelineJobs/{run}", timeout=TIMEOUT)
        state = job.state.name.removeprefix("PIPELINE_STATE_")
        failures = [
            f"{task.task_name}: {in_one_line(task.error.message or 'see its log', LONGEST_ANSWER)}"
            for task in job.job_detail.task_details
            if task.state.name == "FAILED"
        ]
        has_missed_gate = any(task.state.name == "NOT_TRIGGERED" for task in job.job_detail.task_details)
        has_succeeded = state == "SUCCEEDED"
        is_over = has_succeeded or state in ("FAILED", "CANCELLED")
        return Outcome(state, is_over, has_succeeded, failures, has_missed_gate)

    def _job(self, request: Request) -> Any:
        shared, *_ = request.root.partition(RUN)
        document = request.documents[0]
        key = _of_jobs(document, "encryption_spec_key_name")
        return aiplatform_v1.PipelineJob(
            labels=_of_jobs(document, "labels") or {},
            encryption_spec={"kms_key_name": key} if key else None,
            display_name=request.name,
            pipeline_spec=document,
            service_account=request.service_account or "",
            runtime_config={
                "gcs_output_directory": f"{shared.rstrip('/')}/vertex",
                "parameter_values": request.parameters,
            },
        )

    def _asking(self, account: str | None = None) -> contextlib.AbstractContextManager[None]:
        """`account`: that of the run's tasks, which the caller must be allowed to act as."""
        act = f", and roles/iam.serviceAccountUser on {account}" if account else ""
        return asking(self._where, f"{ROLE} in {self.project}{act}")


def _of_jobs(document: Any, parameter: str) -> Any:
    """The default of a parameter of the pipeline's CustomJobs, which all have the same; None if there is none."""
    inputs = [component.get("inputDefinitions", {}) for component in document["components"].values()]
    found = [part["parameters"][parameter] for part in inputs if parameter in part.get("parameters", {})]
    return next((default["defaultValue"] for default in found if "defaultValue" in default), None)
