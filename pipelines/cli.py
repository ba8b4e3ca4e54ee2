"""The command `twhin`. Each subcommand imports what only it needs, so that `twhin --help` is fast."""

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

launch_app = typer.Typer(no_args_is_help=True, help="Run a stage with one rank per GPU, on one or several machines.")
app.add_typer(launch_app, name="launch")

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="The config of the run, a YAML file or gs:// URL.")]
RunRoot = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Folder or gs:// prefix of the run. Default: the config's training.save_dir."),
]
Readers = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT,...", envvar="TWHIN_READERS", help="Addresses of `serve-edges` processes to read from."
    ),
]

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value of the config. Repeatable."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"twhin {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Log more, and show the traceback of every error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Learns an embedding for every node of a heterogeneous network from its typed edges.

    A run is one config and one run root, the folder or gs:// prefix that holds everything the run produces. `run`
    executes all stages; `prepare`, `train`, `evaluate` and `export` execute one each. A stage resumes from what is
    already finished under the run root.

    Exit codes: 0 success; 2 a user's mistake, explained in one line; 3 a metric missed its gate; 4 `evaluate --follow`
    timed out waiting for a checkpoint; 75 stopped by SIGTERM or lost all readers (run the same command again to resume
    from the newest checkpoint); 1 anything else.
    """
    show_log(debug)


@app.command()
def run(
    config: ConfigPath,
    run_root: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder or gs:// prefix of the run. Default: runs/ and the config's name."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Run the complete pipeline on this machine and print the results."""
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
    """Turn raw interactions into a graph of numbered nodes and edges."""
    settings, root = _load_run(config, run_root, overrides)

    from twhin_core.stages.prepare import prepare

    prepare(settings, root)


@app.command()
def train(config: ConfigPath, run_root: RunRoot = None, readers: Readers = None, overrides: Overrides = None) -> None:
    """Learn the embeddings, resuming from the newest checkpoint.

    On SIGTERM, writes a checkpoint of the current step and exits with code 75.

    If TWHIN_TASK_TYPE is `reader`, or if Vertex AI started this process in its pool of readers, this command is
    `serve-edges` at the address TWHIN_BIND. One command can thus start trainers and readers.
    """
    settings, root = _load_run(config, run_root, overrides)

    from twhin_core.stages.readers import find_readers, serve_if_reader
    from twhin_core.stages.train import train

    if not serve_if_reader(settings, root):
        train(settings, root, find_readers(readers))


@launch_app.command(name="train")
def launch_train(
    config: ConfigPath, run_root: RunRoot = None, readers: Readers = None, overrides: Overrides = None
) -> None:
    """`twhin train` with one rank per GPU, on all machines of the job.

    Finds the machines through the platform's variables: PET_* of Kubeflow Trainer, CLUSTER_SPEC of Vertex AI or SLURM_*
    of Slurm; without them, uses this machine alone. Exits with the code of its ranks: 75 asks for a retry, 1 may be
    worth one, 2 is a mistake that a retry does not fix.
    """
    settings, root = _load_run(config, run_root, overrides)

    from twhin_core.distributed.launch import launch
    from twhin_core.stages.readers import find_readers, serve_if_reader
    from twhin_core.stages.train import train

    if not serve_if_reader(settings, root):
        launch(train, settings, root, find_readers(readers))


@launch_app.command(name="evaluate")
def launch_evaluate(config: ConfigPath, run_root: RunRoot = None, overrides: Overrides = None) -> None:
    """`twhin evaluate` with one rank per GPU, on the machines that `twhin launch train` would use."""
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
            help="Address to listen on; port 0 picks a free port. Other addresses than loopback require a token.",
        ),
    ] = LOOPBACK,
    overrides: Overrides = None,
) -> None:
    """Serve the training edges to `train --readers` until SIGTERM.

    docs/operations.md lists the environment variables that secure it, such as TWHIN_READER_TOKEN_FILE.
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
            help="Evaluate every checkpoint as it appears, alongside training, until training has finished or no new "
            "checkpoint appears for training.eval_timeout_in_s seconds.",
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
    if os.environ.get("RANK", "0") == "0":  # under torchrun, only the first rank prints
        _show_results(root)


@app.command()
def export(config: ConfigPath, run_root: RunRoot = None, overrides: Overrides = None) -> None:
    """Write the embeddings with their original ids, if every gate passes."""
    settings, root = _load_run(config, run_root, overrides)

    from twhin_core.stages.export import export

    export(settings, root)
    _show("embeddings", root, "embeddings/manifest.json")


@app.command(name="compile")
def compile_command(
    config: ConfigPath,
    resources: Annotated[str, typer.Option(metavar="FILE", help="CPUs, memory and GPUs; see configs/resources/.")],
    target: Annotated[Literal["kubeflow", "vertex"], typer.Option(help="Where the pipeline will run.")],
    output: Annotated[str, typer.Option(metavar="FILE", help="The YAML to write.")],
    run_root: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Default of the parameter run_root. Without it, each run must set its own."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Write nothing. If the file is out of date, print the difference and exit with code 1."
        ),
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Compile the pipeline for Kubeflow or Vertex AI.

    The text of CONFIG becomes the default of the pipeline's parameter `config`, and `--set` that of `overrides`. Both
    can be changed when a run is started, without recompiling.
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
        raise OutOfDate(f"{output} is out of date; compile it without --check")
    else:
        typer.echo(f"current: {output}")


@app.command()
def submit(
    compiled: Annotated[str, typer.Argument(metavar="COMPILED", help="The YAML that `twhin compile` wrote.")],
    target: Annotated[Literal["kubeflow", "vertex"], typer.Option(help="Where to run it.")],
    host: Annotated[
        str | None, typer.Option(metavar="URL", help="Kubeflow: the address of Kubeflow Pipelines.")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="Kubeflow: your profile, if it is multi-user.")] = None,
    project: Annotated[str | None, typer.Option(help="Vertex AI: the project.")] = None,
    region: Annotated[str | None, typer.Option(help="Vertex AI: the region.")] = None,
    service_account: Annotated[str | None, typer.Option(help="The service account of the run's tasks.")] = None,
    run_root: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Run root; {run} in it is replaced by the run's id. Default: that of the compiled file."
        ),
    ] = None,
    run_name: Annotated[str | None, typer.Option(help="The run's name. Default: twhin and the time.")] = None,
    cron: Annotated[
        str | None,
        typer.Option(metavar="LINE", help="Create a recurring run: five fields, UTC. Its run root must contain {run}."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run to its end. Exit with code 1 if it does not succeed.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Start a compiled pipeline on Kubeflow or Vertex AI, and print a link to it.

    `--set` overrides values of the compiled config. Credentials for Kubeflow are TWHIN_KFP_TOKEN or the token that
    Kubernetes mounts; for Vertex AI, those that Google's libraries find.
    """
    wanted = {"kubeflow": {"--host": host}, "vertex": {"--project": project, "--region": region}}
    missing = [option for option, value in wanted[target].items() if value is None]
    if missing:
        raise UserError(f"--target {target} needs {' and '.join(missing)}")
    unsupported = wanted["vertex"] if target == "kubeflow" else {**wanted["kubeflow"], "--namespace": namespace}
    for option, value in unsupported.items():
        if value is not None:
            raise UserError(f"{option} {value}: does not apply to --target {target}; leave it out")
    if cron is not None and wait:
        raise UserError("--cron and --wait: a recurring run does not end; leave out --wait")

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
    """Write the raw data of the quickstart, a generated Twitter-like network."""
    from twhin_core.config.prepare import Generate
    from twhin_core.synthetic import generate

    generate.generate(Generate(), folder)


@app.command()
def describe(run_root: ask.RunRoot) -> None:
    """Print the graph that prepare made: edges per split, degrees per table and relation, rejected rows per reason."""
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
    """Check versions, devices and, with URL, access to storage. Exits with code 1 if a check fails."""
    from twhin.pipelines.doctor import examine

    findings = list(examine(url))
    for finding in findings:
        typer.echo(f"{'ok' if finding.passed else 'FAILED':<8}{finding.name:<16}{finding.found}")
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)


def _load(path: str, overrides: list[str] | None) -> Config:
    from twhin_core.config import file as config_file

    return config_file.load(path, overrides or ())


def _load_run(path: str, run_root: str | None, overrides: list[str] | None) -> tuple[Config, str]:
    """The config and the run root. Raises UserError if neither names a run root."""
    config = _load(path, overrides)
    root = run_root or config.training.save_dir
    if root is None:
        raise UserError("there is no run root: set --run-root, or training.save_dir in the config")
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
    if storage.exists(storage.join(root, REPORT)):  # otherwise the log says why it could not be drawn
        _show("report", root, REPORT)
    return metrics


def _show(what: str, root: str, path: str) -> None:
    """Prints where a result is."""
    from twhin_core import storage

    url = storage.join(root, path)
    assert storage.exists(url), f"{url} is missing"  # KFP's local runner only warns if it cannot parse a condition
    typer.echo(f"{what + ':':<12}{url}")


def main() -> None:
    """Runs the command line. A TwhinError ends it with one line and the error's exit code."""
    limits.use_cores()
    try:
        app()
    except TwhinError as error:
        if log.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
