"""Compiled pipelines started on servers that speak the platforms' APIs, through the platforms' own clients."""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.auth
import pytest
from google.auth.credentials import AnonymousCredentials
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV

from tests import golden, platform_server
from tests.command_line import ROOT
from tests.object_store import serve_bucket
from tests.platform_server import PARENT, PlatformServer
from twhin.components import step
from twhin.pipelines import cli, resources, submit, vertex_client, vertex_section
from twhin.pipelines.compile import compile_pipeline
from twhin.pipelines.kubeflow_client import TOKEN, Kubeflow
from twhin.pipelines.resources import Target
from twhin.pipelines.submit import RunFailed
from twhin.pipelines.vertex_client import Vertex
from twhin_core import storage, vertex_ai
from twhin_core.config import file as config_file
from twhin_core.errors import GateFailed, Unreachable, UserError

CPU = str(golden.FOLDER / "cpu-small.kubeflow.yaml")
GPU = str(golden.FOLDER / "gpu-1.kubeflow.yaml")
VERTEX = str(golden.FOLDER / "gpu-1.vertex.yaml")
NODES = str(golden.FOLDER / "a100x16-2nodes.kubeflow.yaml")
ROOT_URL = "gs://bucket/run"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_S", 0.01)
    monkeypatch.setattr(vertex_client, "CONTEXT_POLL_S", 0.01)
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.delenv(KF_PIPELINES_SA_TOKEN_ENV, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PlatformServer]:
    with platform_server.serve() as running:
        monkeypatch.setattr(vertex_ai, "ENDPOINT", running.url)
        monkeypatch.setattr(google.auth, "default", lambda **_: (AnonymousCredentials(), None))
        yield running


def run(server: PlatformServer, target: Target, *arguments: str, path: str | None = None) -> None:
    """`twhin submit`, in this process."""
    places = {
        "kubeflow": ["--host", server.url],
        "vertex": ["--project", "my-project", "--region", "europe-west4"],
    }
    path = path or (GPU if target == "kubeflow" else VERTEX)
    command = ["submit", path, "--target", target, *places[target], "--run-root", ROOT_URL, *arguments]
    cli.app(command, standalone_mode=False)


def test_the_run_on_vertex_has_the_key_and_the_labels_of_its_jobs(server: PlatformServer, tmp_path: Path) -> None:
    key, labels = "projects/p/locations/l/keyRings/r/cryptoKeys/k", {"cost": "r42"}
    needs = resources.load(str(ROOT / "configs/resources/cpu-small.yaml"))
    of_jobs = vertex_section.Vertex(encryption_key=key, labels=labels)
    output = str(tmp_path / "pipeline.yaml")
    compile_pipeline(golden.source(), needs.model_copy(update={"vertex": of_jobs}), "vertex", output)
    run(server, "vertex", path=output)
    ((_, body),) = server.made
    assert (body["encryptionSpec"], body["labels"]) == ({"kmsKeyName": key}, labels)


@pytest.mark.parametrize("path", [CPU, GPU, NODES])
def test_kubeflow_gets_the_compiled_pipeline_and_the_runs_own_values(
    server: PlatformServer, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values = ["--set", "training.num_epochs=7", "--run-name", "mine", "--service-account", "runner"]
    run(server, "kubeflow", *values, path=path)
    ((kind, body),) = server.made
    assert (kind, body["display_name"], body["service_account"]) == ("runs", "mine", "runner")
    given = body["runtime_config"]["parameters"]
    assert set(given) == {"config", "overrides", "run_root"}
    assert given["run_root"] == ROOT_URL
    default = golden.documents(Path(path))[0]["root"]["inputDefinitions"]["parameters"]["config"]["defaultValue"]
    assert given["config"] == default
    assert given["overrides"] == [golden.TEST_DATA, "training.num_epochs=7"]
    assert capsys.readouterr().out.splitlines() == [
        f"run:        {server.url}/#/runs/details/run-1",
        f"run root:   {ROOT_URL}",
    ]


def test_vertex_gets_the_compiled_pipeline_and_the_runs_own_values(
    server: PlatformServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(server, "vertex", "--set", "training.num_epochs=7", "--run-name", "mine", "--service-account", "a@b.c")
    ((kind, body),) = server.made
    job = kind.removeprefix("pipelineJobs:")
    assert (body["displayName"], body["serviceAccount"]) == ("mine", "a@b.c")
    assert body["runtimeConfig"]["gcsOutputDirectory"].startswith(f"{ROOT_URL}/")
    given = body["runtimeConfig"]["parameterValues"]
    assert given["run_root"] == ROOT_URL
    assert config_file.parse(given["config"], overrides=given["overrides"]).training.num_epochs == 7
    assert "encryptionSpec" not in body
    assert "labels" not in body
    assert body["pipelineSpec"]["deploymentSpec"] == golden.documents(Path(VERTEX))[0]["deploymentSpec"]
    link = f"https://console.cloud.google.com/vertex-ai/locations/europe-west4/pipelines/runs/{job}?project=my-project"
    assert link in capsys.readouterr().out


NOT_GIVEN = ["test_data=null", "validation_data=null"]
EMPTY = "evaluation.split: the {0} split has no edges; hold some out in prepare.split, or set {0}_data.data_root"
NOTHING = "{0}_data.data_root: is required to evaluate on {0} edges without a prepare section"


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
@pytest.mark.parametrize(
    ("values", "split", "message"),
    [
        ([], "test", NOTHING),
        ([], "validation", NOTHING),
        (["prepare={generate: {}, split: {test: 0.0}}"], "test", EMPTY),
        (["prepare={generate: {}, split: {validation: 0.0}}"], "validation", EMPTY),
        (["prepare={generate: {}, split: {by: last, test: 0, validation: 1}}"], "test", EMPTY),
        (["prepare={generate: {}, split: {by: last, test: 1, validation: 0}}"], "validation", EMPTY),
        (["prepare={sources: [{path: a, relation: follow, split: train}]}"], "test", EMPTY),
        (["prepare={sources: [{path: a, relation: follow, split: test}]}"], "validation", EMPTY),
    ],
)
def test_a_run_without_edges_to_evaluate_on_is_not_submitted(
    server: PlatformServer, target: Target, values: list[str], split: str, message: str
) -> None:
    values = [*NOT_GIVEN, *values, f"evaluation.split={split}"]
    with pytest.raises(UserError) as refused:
        run(server, target, *(part for value in values for part in ("--set", value)))
    assert str(refused.value) == message.format(split)
    assert not server.made
    assert not server.experiments


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_the_run_root_is_shown_with_the_runs_id(
    server: PlatformServer, target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    run(server, target, "--run-root", "gs://bucket/{run}")
    ((kind, body),) = server.made
    made = "run-1" if target == "kubeflow" else kind.removeprefix("pipelineJobs:")
    given = body["runtime_config"]["parameters"] if target == "kubeflow" else body["runtimeConfig"]["parameterValues"]
    assert given["run_root"] == "gs://bucket/{run}"  # which each task fills in
    printed = capsys.readouterr().out
    assert f"/{made}" in printed.splitlines()[0]
    assert printed.splitlines()[1] == f"run root:   gs://bucket/{made}"


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_a_cron_line_makes_a_recurring_run(
    server: PlatformServer, target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    run(server, target, "--cron", "30 4 * * 1-5", "--run-root", "gs://bucket/nightly/{run}/")
    ((kind, body),) = server.made
    printed = capsys.readouterr().out
    assert "run root:   gs://bucket/nightly/{run}/" in printed
    if target == "kubeflow":  # whose cron lines begin with the second
        assert (kind, body["trigger"]["cron_schedule"]["cron"]) == ("recurringruns", "0 30 4 * * 1-5")
        assert (int(body["max_concurrency"]), body["no_catchup"]) == (1, True)
        assert f"{server.url}/#/recurringrun/details/recurring-1" in printed
        assert body["runtime_config"]["parameters"]["run_root"] == "gs://bucket/nightly/{run}/"
    else:
        assert (kind, body["cron"], int(body["maxConcurrentRunCount"])) == ("schedules", "30 4 * * 1-5", 1)
        assert "/pipelines/schedules/7?project=my-project" in printed
        config = body["createPipelineJobRequest"]["pipelineJob"]["runtimeConfig"]
        assert config["parameterValues"]["run_root"] == "gs://bucket/nightly/{run}/"
        assert config["gcsOutputDirectory"] == "gs://bucket/nightly/vertex"  # a place that is there as it stands


def kubeflow_look(state: str, **tasks: tuple[str, str]) -> dict[str, Any]:
    """`tasks`: the state and the error of each."""
    details = [
        {"display_name": name, "state": task, "error": {"message": error}} for name, (task, error) in tasks.items()
    ]
    return {"state": state, "run_details": {"task_details": details}}


def vertex_look(state: str, **tasks: tuple[str, str]) -> dict[str, Any]:
    details = [
        {"taskName": name, "state": task, "error": {"code": 9, "message": error}}
        for name, (task, error) in tasks.items()
    ]
    return {"state": f"PIPELINE_STATE_{state}", "jobDetail": {"taskDetails": details}}


LOOKS = [("kubeflow", kubeflow_look), ("vertex", vertex_look)]


def test_a_run_on_kubeflow_is_in_the_experiment_of_its_name(server: PlatformServer) -> None:
    run(server, "kubeflow", "--experiment", "Clicks, 2026")
    assert [made["display_name"] for made in server.experiments] == ["Clicks, 2026"]


CONTEXT = f"{PARENT}/metadataStores/default/contexts/the-run"
HAS_CONTEXT = {"state": "PIPELINE_STATE_RUNNING", "jobDetail": {"pipelineRunContext": {"name": CONTEXT}}}


@pytest.mark.parametrize("before", ["no store", "no experiment", "made by another meanwhile", "an experiment"])
def test_a_run_on_vertex_is_put_into_the_experiment_once_it_has_a_context(
    server: PlatformServer, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.metadata.exists = before != "no store"
    if before == "an experiment":
        server.metadata.contexts["clicks"] = {"schemaTitle": "system.Experiment"}
    elif before.startswith("made"):
        server.metadata.taken = ["clicks"]
    server.looks = [vertex_look("PENDING"), vertex_look("RUNNING"), HAS_CONTEXT]
    run(server, "vertex", "--experiment", "clicks")
    assert server.metadata.contexts["clicks"]["schemaTitle"] == "system.Experiment"
    assert server.metadata.children == {"clicks": [CONTEXT]}
    assert len(server.made) == 1
    assert not capsys.readouterr().err


def test_a_run_that_gets_no_context_runs_outside_of_the_experiment(
    server: PlatformServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vertex_client, "CONTEXT_S", 0.05)
    server.looks = [vertex_look("PENDING")]
    run(server, "vertex", "--experiment", "clicks")
    (warning,) = capsys.readouterr().err.splitlines()
    assert "the run has started, but is not in the experiment" in warning
    assert len(server.made) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        *[(name, (), "expected 4 to 128") for name in ("Clicks", "ads", "-ads", "a" * 129, "my_clicks", "clicks ")],
        ("taken", (), "a context of that name exists, and it is a system.PipelineRun"),
        ("clicks", ("--cron", "0 4 * * *", "--run-root", f"{ROOT_URL}/{{run}}"), "puts no run of a schedule into one"),
    ],
)
def test_an_experiment_that_vertex_would_not_take(
    server: PlatformServer, name: str, arguments: tuple[str, ...], why: str
) -> None:
    server.metadata.contexts["taken"] = {"schemaTitle": "system.PipelineRun"}
    with pytest.raises(UserError) as refused:
        run(server, "vertex", f"--experiment={name}", *arguments)
    assert str(refused.value).startswith(f"--experiment {name}: ")
    assert why in str(refused.value)
    assert not server.made


@pytest.mark.parametrize(("target", "look"), LOOKS)
def test_waiting_ends_with_the_run(
    server: PlatformServer, target: Target, look: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server.looks = [look("PENDING"), look("RUNNING"), look("RUNNING"), look("SUCCEEDED", export=("SUCCEEDED", ""))]
    run(server, target, "--wait")
    assert len(server.looks) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "succeeded"


@pytest.mark.parametrize(("target", "look"), LOOKS)
def test_a_run_without_an_export_has_missed_a_gate(server: PlatformServer, target: Target, look: Any) -> None:
    left_out = "SKIPPED" if target == "kubeflow" else "NOT_TRIGGERED"
    server.looks = [look("SUCCEEDED", evaluate=("SUCCEEDED", ""), condition=(left_out, ""))]
    with pytest.raises(GateFailed, match="nothing was exported: a gate was missed"):
        run(server, target, "--wait")


@pytest.mark.parametrize(("target", "look"), LOOKS)
def test_a_run_that_fails_is_told_with_its_tasks(server: PlatformServer, target: Target, look: Any) -> None:
    server.looks = [look("RUNNING"), look("FAILED", train=("FAILED", "out of memory\non node 1"))]
    with pytest.raises(RunFailed, match=r"ended as failed; train: out of memory on node 1$") as failed:
        run(server, target, "--wait")
    assert failed.value.exit_code == 1


@pytest.mark.parametrize(("target", "look", "state"), [(*LOOKS[0], "CANCELED"), (*LOOKS[1], "CANCELLED")])
def test_a_cancelled_run_has_not_succeeded(server: PlatformServer, target: Target, look: Any, state: str) -> None:
    server.looks = [look(state)]
    with pytest.raises(RunFailed, match=f"ended as {state.lower()}"):
        run(server, target, "--wait")


@pytest.mark.parametrize(("target", "look"), LOOKS)
def test_waiting_outlasts_a_platform_that_does_not_answer(
    server: PlatformServer, target: Target, look: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.looks = [look("SUCCEEDED")]
    platform = Kubeflow(server.url, None) if target == "kubeflow" else Vertex("my-project", "europe-west4")
    run_id = platform.start(submit.read(GPU if target == "kubeflow" else VERTEX, target, ROOT_URL))
    server.failures = [(503, "no healthy upstream"), (429, "slower")]
    submit.wait(platform, run_id)
    assert not server.failures
    monkeypatch.setattr(submit, "TIMEOUT_S", 0.0)
    server.failures = [(503, "no healthy upstream")]
    with pytest.raises(Unreachable, match="no healthy upstream"):
        submit.wait(platform, run_id)


def test_kubeflows_token_is_sent_and_never_shown(
    server: PlatformServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture, tmp_path: Path,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    mounted = tmp_path / "token"
    server.token = "a-secret"
    with pytest.raises(UserError, match=f"not logged in: set {TOKEN}.*401.*no user identity"):
        run(server, "kubeflow")
    monkeypatch.setenv(TOKEN, "a-secret")
    run(server, "kubeflow")
    assert len(server.made) == 1
    mounted.write_text("a-secret")  # as Kubernetes mounts one
    monkeypatch.setenv(KF_PIPELINES_SA_TOKEN_ENV, str(mounted))
    monkeypatch.delenv(TOKEN)
    run(server, "kubeflow")
    assert len(server.made) == 2
    monkeypatch.setenv(TOKEN, "another-secret")
    with pytest.raises(UserError, match="not logged in") as refused:
        run(server, "kubeflow")
    assert "secret" not in "".join((*capsys.readouterr(), caplog.text, str(refused.value)))


def test_several_users_need_a_namespace(server: PlatformServer) -> None:
    server.has_users = True
    with pytest.raises(UserError, match="is multi-user: set --namespace"):
        run(server, "kubeflow")
    run(server, "kubeflow", "--namespace", "team")
    assert server.experiments[0]["namespace"] == "team"


def test_a_missing_right_is_named(server: PlatformServer) -> None:
    why = "User 'me' is not authorized with reason: Verb: create, Group: pipelines.kubeflow.org, Resource: runs"
    server.failures = [(403, why)]
    with pytest.raises(UserError, match=r"no permission for runs.*kubeflow-edit.*Resource: runs"):
        run(server, "kubeflow")
    server.failures = [(403, "Permission 'aiplatform.pipelineJobs.create' denied")]
    with pytest.raises(
        UserError, match=r"roles/aiplatform.user in my-project, and roles/iam.serviceAccountUser on a@b"
    ):
        run(server, "vertex", "--service-account", "a@b")
    assert not server.made


def test_what_the_platform_refuses_is_said_in_one_line(server: PlatformServer) -> None:
    server.failures = [(400, "Invalid input:\n no such pipeline root")]
    with pytest.raises(UserError, match="400 Invalid input: no such pipeline root"):
        run(server, "kubeflow")
    server.failures = [(400, "Invalid field:\n labels")]
    with pytest.raises(UserError, match="europe-west4: Invalid field: labels"):
        run(server, "vertex")


def test_a_page_to_log_in_is_no_server_of_pipelines(server: PlatformServer) -> None:
    server.page = "<html>Log in</html>"
    with pytest.raises(UserError, match="this is not the address of Kubeflow Pipelines"):
        run(server, "kubeflow")


def test_a_host_that_is_not_there(
    server: PlatformServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(Unreachable, match=f"{url}: no response:.*refused"):
        Kubeflow(url, None)
    monkeypatch.setattr(vertex_ai, "ENDPOINT", url)
    with pytest.raises(Unreachable, match=r"Vertex AI in europe-west4: no response:.*refused"):
        run(server, "vertex")
    arguments = ["submit", GPU, "--target", "kubeflow", "--host", url, "--run-root", ROOT_URL]
    monkeypatch.setattr(sys, "argv", ["twhin", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {url}: no response")


REFUSED = [
    ("kubeflow", VERTEX, ["--run-root", ROOT_URL], "compiled for vertex"),
    ("vertex", GPU, ["--run-root", ROOT_URL], "compiled for kubeflow"),
    ("kubeflow", GPU, [], "there is no run root"),
    ("kubeflow", GPU, ["--run-root", "runs/here"], "the next pod cannot see it"),
    ("kubeflow", NODES, ["--run-root", "/data/run"], "the nodes do not share it"),
    ("vertex", VERTEX, ["--run-root", "/data/run"], "Vertex AI needs a gs:// prefix"),
    ("kubeflow", "none.yaml", [], "no such file"),
    ("kubeflow", "README.md", [], "expected a name that ends in .yaml"),
    ("kubeflow", "configs/quickstart.yaml", [], "not a compiled pipeline"),
    ("kubeflow", GPU, ["--run-root", ROOT_URL, "--set", "training.num_epoch=3"], "did you mean num_epochs"),
    ("kubeflow", GPU, ["--run-root", ROOT_URL, "--cron", "0 0 4 * * *"], "expected five fields"),
    ("kubeflow", GPU, ["--run-root", ROOT_URL, "--cron", "0 4 * * *"], "all runs of --cron would share it"),
    ("kubeflow", GPU, ["--cron", "0 4 * * *", "--wait"], "a recurring run does not end"),
    ("kubeflow", GPU, ["--project", "p"], "does not apply to --target kubeflow"),
    ("vertex", VERTEX, ["--namespace", "n"], "does not apply to --target vertex"),
]


@pytest.mark.parametrize(("target", "path", "arguments", "why"), REFUSED)
def test_refused_before_anything_is_sent(
    server: PlatformServer, target: Target, path: str, arguments: list[str], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    places = {"kubeflow": ["--host", server.url], "vertex": ["--project", "my-project", "--region", "europe-west4"]}
    with pytest.raises(UserError) as refused:
        cli.app(["submit", path, "--target", target, *places[target], *arguments], standalone_mode=False)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not server.made
    assert not server.experiments


def test_a_pipeline_without_gpus_is_of_one_target_too(tmp_path: Path) -> None:
    needs = resources.load(str(ROOT / "configs/resources/cpu-small.yaml"))
    path = str(tmp_path / "pipeline.yaml")
    compile_pipeline(golden.source(), needs, "vertex", path)
    with pytest.raises(UserError, match="is compiled for vertex: compile it with --target kubeflow"):
        submit.read(path, "kubeflow", ROOT_URL)


@pytest.mark.parametrize(
    ("target", "missing"), [("kubeflow", "needs --host"), ("vertex", "needs --project and --region")]
)
def test_each_target_needs_its_place(target: str, missing: str) -> None:
    with pytest.raises(UserError, match=missing):
        cli.app(["submit", GPU, "--target", target], standalone_mode=False)


def test_a_run_root_on_the_shared_volume(tmp_path: Path) -> None:
    needs = resources.load(str(ROOT / "configs/resources/cpu-small.yaml"))
    needs = needs.model_validate({**needs.model_dump(), "volume": {"claim": "runs", "mount": "/runs"}})
    path = str(tmp_path / "pipeline.yaml")
    compile_pipeline(golden.source(), needs, "kubeflow", path, "/runs/default")
    assert submit.read(path, "kubeflow").parameters["run_root"] == "/runs/default"
    assert submit.read(path, "kubeflow", "/runs/mine").parameters["run_root"] == "/runs/mine"
    with pytest.raises(UserError, match=r"--run-root /run/mine: is not on the volume, which is mounted at /runs"):
        submit.read(path, "kubeflow", "/run/mine")
    for graph in ("/runs/graph", "gs://bucket/graph"):
        submit.read(path, "kubeflow", overrides=[f"prepare={{generate: {{}}, graph: '{graph}'}}"])
    with pytest.raises(UserError, match=r"^prepare\.graph /run/graph: is not on the volume, which is mounted at /runs"):
        submit.read(path, "kubeflow", overrides=["prepare={generate: {}, graph: /run/graph}"])


def request_of(relations: int, run_root: str) -> submit.Request:
    """A run whose config lists so many relations."""
    names = "".join(f"    - {{name: rel_{number}, lhs: user, rhs: user}}\n" for number in range(relations))
    text = f"""
train_data: {{data_root: edges, per_replica_batch_size: 10, global_negatives: 1}}
model:
  embeddings: {{tables: [{{name: user, num_embeddings: 9, embedding_dim: 4, optimizer: {{sgd: {{lr: 0.1}}}}}}]}}
  translation_optimizer: {{sgd: {{lr: 0.1}}}}
  relations:
{names}"""
    return submit.Request("compiled.yaml", [], {"config": text, "overrides": [], "run_root": run_root}, "run")


@pytest.mark.parametrize(
    ("run_root", "folder"),
    [
        ("gs://bucket/run", "gs://bucket/run"),
        ("gs://bucket/runs/{run}", "gs://bucket/runs"),
        ("gs://bucket/runs/a-{run}/b", "gs://bucket/runs"),
        ("gs://bucket/{run}", "gs://bucket"),
    ],
)
def test_a_config_too_long_for_a_parameter_travels_as_a_file(
    run_root: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = (request_of(relations, run_root) for relations in (10, 300))
    with serve_bucket() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        assert submit.with_short_parameters(short) is short
        sent = submit.with_short_parameters(long)
        url = sent.parameters["config"]
        assert url.startswith(f"{folder}/submitted/")
        assert storage.read_text(url) == long.parameters["config"]
        assert sent.parameters == {**long.parameters, "config": url}
        assert len(json.dumps(sent.parameters)) < 1000
        expected = config_file.parse(long.parameters["config"])
        assert step.read_inputs(url, "gs://bucket/run", "", None)[0] == expected


def test_a_config_too_long_for_a_parameter_is_said_where_no_bucket_is_at_hand(caplog: pytest.LogCaptureFixture) -> None:
    for relations, lines in ((10, 0), (300, 1)):
        caplog.clear()
        request = request_of(relations, "/volume/run")
        assert submit.with_short_parameters(request) is request
        assert len(caplog.messages) == lines
    assert "refuses more than 10,000" in caplog.text
    assert "`*`" in caplog.text
