"""The command line `twhin`. What only one command needs is imported in it, so that `twhin --help` is quick."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from twhin.components.run_root import fill_run_root
from twhin.pipelines import ask
from twhin_core import __version__, limits
from twhin_core.errors import GateFailed, TwhinError, UserError
from twhin_core.progress import log, show_log
from twhin_core.stages.readers import LOOPBACK

if TYPE_CHECKING:
    from twhin_core.config import Config
    from twhin_core.evaluation.metrics import Metrics

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

launch_app = typer.Typer(no_args_is_help=True, help="Run a stage with all ranks of this machine, and of others.")
app.add_typer(launch_app, name="launch")

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="The YAML of the run, local or gs://.")]
RunRoot = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Folder or gs:// prefix of the run. Default: the config's training.save_dir."),
]
Readers = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT,...", envvar="TWHIN_READERS", help="Processes of `serve-edges` that read its edges."
    ),
]

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Overrides one value of the config; repeatable."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"twhin {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Log more, and show the traceback of every error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Learns one vector a node of a heterogeneous network, from its typed edges.

    A run is one YAML and one run root: the folder or gs:// prefix that everything of the run lives under. `run` takes
    it through all stages; `prepare`, `train`, `evaluate` and `export` are those stages, one at a time. Each finds what
    is finished under the run root and goes on from there.

    Exit codes: 0 done, 2 a mistake of the user's (one line says which), 3 a metric missed its gate, 4 no new checkpoint
    came in the time that `evaluate --follow` waits, 75 stopped by SIGTERM, or no reader answered (the same
    command goes on from the newest checkpoint), 1 anything else.
    """
    show_log(debug)


@app.command()
def run(
    config: ConfigPath,
    run_root: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder or gs:// prefix of the run. Default: runs/<CONFIG>."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Run the whole pipeline on this machine and print the results."""
    settings = _load(config, overrides)
    root = fill_run_root(run_root or f"runs/{Path(config).stem}", run="")

    from twhin.pipelines import local
    from twhin_core.evaluation import gates
    from twhin_core.export import formats

    gates.check_names(settings)
    formats.check_installed(settings.export)
    local.run(settings, root, debug=log.isEnabledFor(logging.DEBUG))
    metrics = _show_results(root)
    decision = gates.decide(settings, metrics)
    if not decision["passed"]:
        raise GateFailed(f"nothing was exported: {'; '.join(gates.missed(decision))}")
    _show("embeddings", root, "embeddings/manifest.json")


@app.command()
def prepare(config: ConfigPath, run_root: RunRoot = None, overrides: Overrides = None) -> None:
    """Turn raw interactions into a vocabulary and edges, under graph/."""
    settings, root = _load_run(config, run_root, overrides)

    from twhin_core.stages.prepare import prepare

    prepare(settings, root)


@app.command()
def train(
    config: ConfigPath,
    run_root: RunRoot = None,
    readers: Readers = None,
    overrides: Overrides = None,
) -> None:
    """Learn the embeddings, from the newest checkpoint on if there is one.

    SIGTERM makes it write a checkpoint of the current step and end with exit code 75.

    Where the environment says TWHIN_TASK_TYPE=reader, or Vertex AI has started this process in its pool of readers,
    this is `serve-edges` at TWHIN_BIND instead, so that one command starts trainers and readers.
    """
    settings, root = _load_run(config, run_root, overrides)

    from twhin_core.stages.readers import find_readers, serve_if_reader
    from twhin_core.stages.train import train

    if not serve_if_reader(settings, root):
        train(settings, root, find_readers(readers))


@launch_app.command(name="train")
def launch_train(
    config: ConfigPath,
    run_root: RunRoot = None,
    readers: Readers = None,
    overrides: Overrides = None,
) -> None:
    """`twhin train` with a rank a GPU, on this machine and on those that the platform tells of.

    The platform's own variables say which machines these are: Kubeflow Trainer's PET_*, Vertex AI's CLUSTER_SPEC or
    Slurm's SLURM_*; without them it is this machine alone. It ends as its ranks end: 75 asks for a retry, and so may 1;
    2 is a mistake that no retry fixes.
    """
    settings, root = _load_run(config, run_root, overrides)

    from twhin_core.stages.readers import find_readers, serve_if_reader
    from twhin_core.stages.train import train

    if serve_if_reader(settings, root):
        return
    addresses = find_readers(readers)

    from twhin_core.distributed.launch import launch

    launch(train, settings, root, addresses)


@launch_app.command(name="evaluate")
def launch_evaluate(config: ConfigPath, run_root: RunRoot = None, overrides: Overrides = None) -> None:
    """`twhin evaluate` with a rank a GPU, on the machines that `twhin launch train` finds."""
    settings, root = _load_run(config, run_root, overrides)

    from twhin_core.distributed.launch import launch
    from twhin_core.stages.evaluate import evaluate

    launch(evaluate, settings, root)
    if os.environ.get("RANK", "0") == "0":
        _show_results(root)


@app.command()
def serve_edges(
    config: ConfigPath,
    run_root: RunRoot = None,
    bind: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            envvar="TWHIN_BIND",
            help="Where to listen; port 0 takes a free one. Beyond loopback a token is needed.",
        ),
    ] = LOOPBACK,
    overrides: Overrides = None,
) -> None:
    """Read the training edges for `train --readers`, until SIGTERM.

    TWHIN_READER_TOKEN_FILE, TWHIN_READER_TLS_CERT and the like secure it: see docs/operations.md.
    """
    settings, root = _load_run(config, run_root, overrides)

    from twhin_core.data import serve

    serve.serve(settings, root, bind)


@app.command()
def evaluate(
    config: ConfigPath,
    run_root: RunRoot = None,
    overrides: Overrides = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Evaluate every checkpoint as it appears, beside the training that writes them, until training has "
            "finished, or for training.eval_timeout_in_s seconds without a new one.",
        ),
    ] = False,
) -> None:
    """Rank the held-out edges and print the results."""
    settings, root = _load_run(config, run_root, overrides)

    if follow:
        from twhin_core.stages import follow as following

        following.follow(settings, root)
    else:
        from twhin_core.stages.evaluate import evaluate

        evaluate(settings, root)
    if os.environ.get("RANK", "0") == "0":  # of the ranks that torchrun started, one prints
        _show_results(root)


@app.command()
def export(config: ConfigPath, run_root: RunRoot = None, overrides: Overrides = None) -> None:
    """Write the embeddings with their original ids, if every gate holds."""
    settings, root = _load_run(config, run_root, overrides)

    from twhin_core.stages.export import export

    export(settings, root)
    _show("embeddings", root, "embeddings/manifest.json")


@app.command(name="compile")
def compile_command(
    config: ConfigPath,
    resources: Annotated[str, typer.Option(metavar="FILE", help="CPUs, memory, GPUs: see configs/resources/.")],
    target: Annotated[Literal["kubeflow", "vertex"], typer.Option(help="Where the pipeline will run.")],
    output: Annotated[str, typer.Option(metavar="FILE", help="The YAML to write.")],
    run_root: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Default of the pipeline's run_root. Left out: each run names its own."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Write nothing; if the file is not what would be compiled now, show why and exit with 1."
        ),
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Compile the pipeline for Kubeflow or Vertex AI.

    CONFIG becomes the default of the pipeline's parameter `config` as it is, and `--set` that of `overrides`. Others,
    given when a run is started, need no recompiling.
    """
    from twhin.pipelines.compile import OutOfDate, compile_pipeline, find_differences
    from twhin.pipelines.resources import load
    from twhin_core.config import file as config_file

    source = config_file.read(config, overrides or ())

    needs = load(resources)
    if not check:
        compile_pipeline(source, needs, target, output, run_root)
        typer.echo(f"compiled for {target}: {output}")
    elif differences := find_differences(source, needs, target, output, run_root):
        typer.echo(differences)
        raise OutOfDate(f"{output} is not what would be compiled now; compile it without --check")
    else:
        typer.echo(f"current: {output}")


@app.command()
def submit(
    compiled: Annotated[str, typer.Argument(metavar="COMPILED", help="The YAML that `twhin compile` wrote.")],
    target: Annotated[Literal["kubeflow", "vertex"], typer.Option(help="Where to run it.")],
    host: Annotated[str | None, typer.Option(metavar="URL", help="Kubeflow Pipelines' address.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Kubeflow: your profile, where it has several users.")] = None,
    project: Annotated[str | None, typer.Option(help="Vertex AI: the project.")] = None,
    region: Annotated[str | None, typer.Option(help="Vertex AI: the region.")] = None,
    service_account: Annotated[str | None, typer.Option(help="The account that the run's tasks have.")] = None,
    run_root: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where the run lives; {run} in it is its id. Default: the compiled file's, if it has one.",
        ),
    ] = None,
    run_name: Annotated[str | None, typer.Option(help="The run's name. Default: twhin and the time.")] = None,
    cron: Annotated[
        str | None,
        typer.Option(metavar="LINE", help="Make a recurring run, whose run root has {run} in it: five fields, UTC."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run to its end; exit code 1 if it does not succeed.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Start a compiled pipeline on Kubeflow or Vertex AI, and print a link to it.

    `--set` changes values of the compiled config. Credentials: TWHIN_KFP_TOKEN or the token that Kubernetes mounts for
    Kubeflow; for Vertex AI those that Google's libraries find.
    """
    wanted = {"kubeflow": {"--host": host}, "vertex": {"--project": project, "--region": region}}
    missing = [option for option, value in wanted[target].items() if value is None]
    if missing:
        raise UserError(f"--target {target} needs {' and '.join(missing)}")
    of_other = wanted["vertex"] if target == "kubeflow" else {**wanted["kubeflow"], "--namespace": namespace}
    for option, value in of_other.items():
        if value is not None:
            raise UserError(f"{option} {value}: --target {target} has no such thing")
    if cron is not None and wait:
        raise UserError("--cron and --wait: a recurring run has no end to wait for")

    from twhin.pipelines import submit as submitting

    request = submitting.read(compiled, target, run_root, overrides or (), run_name, service_account, cron)
    platform: submitting.Platform
    if target == "kubeflow":
        from twhin.pipelines.kubeflow_client import Kubeflow

        assert host is not None
        platform = Kubeflow(host, namespace)
    else:
        from twhin.pipelines.vertex_client import Vertex

        assert project is not None
        assert region is not None
        platform = Vertex(project, region)
    made = platform.start(request) if cron is None else platform.schedule(request)
    typer.echo(f"{'run:' if cron is None else 'recurring:':<12}{platform.link(made, is_schedule=cron is not None)}")
    root = request.parameters["run_root"]
    typer.echo(f"{'run root:':<12}{root if cron is not None else fill_run_root(root, made)}")
    if wait:
        submitting.wait(platform, made)
        typer.echo("succeeded")


@app.command()
def generate(folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder or gs:// prefix to write to.")]) -> None:
    """Write the raw data of the quickstart: a generated Twitter-like network."""
    from twhin_core.config.prepare import Generate
    from twhin_core.synthetic import generate

    generate.generate(Generate(), folder)


@app.command()
def describe(
    run_root: Annotated[str, typer.Argument(metavar="RUN_ROOT", help="Folder or gs:// prefix of the run.")],
) -> None:
    """Print what prepare made: edges a split, degrees a table and relation, and rejected rows by reason."""
    from rich.console import Console

    from twhin_core.graph.manifest import MANIFEST, read_manifest
    from twhin_core.graph.show import print_graph

    manifest = read_manifest(run_root)
    if manifest is None:
        raise UserError(f"{run_root}: there is no finished graph here ({MANIFEST}); run `twhin prepare` first")
    print_graph(manifest, Console())


app.command()(ask.neighbors)
app.command()(ask.score)


@app.command()
def doctor(
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="A folder or gs:// prefix that runs will write to.")
    ] = None,
) -> None:
    """Check versions, devices and, with URL, access to it; exit code 1 if something is amiss."""
    from twhin.pipelines.doctor import examine

    findings = list(examine(url))
    for finding in findings:
        typer.echo(f"{'ok' if finding.is_well else 'AMISS':<6}{finding.name:<16}{finding.found}")
    if not all(finding.is_well for finding in findings):
        raise typer.Exit(1)


def _load(path: str, overrides: list[str] | None) -> Config:
    from twhin_core.config import file as config_file

    return config_file.load(path, overrides or ())


def _load_run(path: str, run_root: str | None, overrides: list[str] | None) -> tuple[Config, str]:
    """The config and the run root. Raises UserError where there is none."""
    config = _load(path, overrides)
    root = run_root or config.training.save_dir
    if root is None:
        raise UserError("there is no run root: give --run-root, or training.save_dir in the config")
    return config, fill_run_root(root, run="")


def _show_results(root: str) -> Metrics:
    from rich.console import Console

    from twhin_core import storage
    from twhin_core.evaluation.result import METRICS, read_metrics
    from twhin_core.report.summary import print_summary
    from twhin_core.stages.report import REPORT

    metrics = read_metrics(root)
    assert metrics is not None
    print_summary(metrics, Console())
    _show("metrics", root, METRICS)
    if storage.exists(storage.join(root, REPORT)):  # else the log says why it could not be drawn
        _show("report", root, REPORT)
    return metrics


def _show(what: str, root: str, path: str) -> None:
    """Prints where a result is."""
    from twhin_core import storage

    url = storage.join(root, path)
    assert storage.exists(url), f"{url} is missing"  # KFP's local runner only warns of a condition it cannot read
    typer.echo(f"{what + ':':<12}{url}")


def main() -> None:
    """Runs the command line; an error that one line explains ends it with that line and its exit code."""
    limits.use_cores()
    try:
        app()
    except TwhinError as error:
        if log.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
