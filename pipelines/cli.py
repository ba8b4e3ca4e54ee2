"""The command `twhin`. Each subcommand imports what only it needs, so that `twhin --help` is fast."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from twhin.components.run_root import fill_run_root
from twhin.pipelines import ask, deploy, operate, recommend, series, tune
from twhin.pipelines import serve as serving
from twhin.pipelines.options import AsJson, ConfigPath, Overrides, SavedConfigPath
from twhin_core import __version__, limits
from twhin_core.errors import GateFailed, TwhinError, UserError
from twhin_core.progress import LOG_FORMAT, log, log_of, prefer_format, show_error, show_log
from twhin_core.stages.readers import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twhin_core.config import Config

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

launch_app = typer.Typer(no_args_is_help=True, help="Run a stage with one rank per GPU, on one or several machines.")
app.add_typer(launch_app, name="launch")

RunRoot = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Folder or URL of the run. Default: the config's training.save_dir."),
]
Readers = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT,...", envvar="TWHIN_READERS", help="Addresses of `serve-edges` processes to read from."
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"twhin {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Log more, and show the traceback of every error.")] = False,
    log_format: Annotated[
        Literal["text", "json"] | None,
        typer.Option(
            envvar=LOG_FORMAT,
            help="How the log is written to stderr; json is one object per line. Default: the config's "
            "runtime.log_format, or text.",
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Learns an embedding for every node of a heterogeneous network from its typed edges.

    A run is one config and one run root, the folder or URL that holds everything the run produces. `run`
    executes all stages; `prepare`, `train`, `evaluate` and `export` execute one each. A stage resumes from what is
    already finished under the run root.

    Exit codes: 0 success; 2 a user's mistake, explained in one line; 3 a metric missed its gate; 4 `evaluate --follow`
    timed out waiting for a checkpoint; 75 stopped by SIGTERM, or lost all readers or its lease (run the same command
    again to resume from the newest checkpoint); 1 anything else.
    """
    if log_format is not None:
        os.environ[LOG_FORMAT] = log_format  # the processes that this one starts inherit it
    show_log(debug)


@app.command()
def run(
    config: ConfigPath,
    run_root: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder or URL of the run. Default: runs/ and the config's name."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run the complete pipeline on this machine and print the results."""
    settings = _load(config, overrides)
    root = fill_run_root(run_root or f"runs/{Path(config).stem}", run="")

    from twhin.pipelines import local
    from twhin_core.evaluation import checks, gates, result
    from twhin_core.export import formats

    checks.check_pipeline(settings)
    formats.check_installed(settings.export)
    local.run(settings, root, debug=log.isEnabledFor(logging.DEBUG))
    metrics = result.read_metrics(root, settings.evaluation.split)
    assert metrics is not None
    decision = gates.decide(settings, metrics)
    exported = {"embeddings": EXPORTED, **_lists(settings)} if decision["passed"] else {}
    _show_results(settings, root, as_json, exported)
    if not decision["passed"]:
        raise GateFailed(f"nothing was exported: {'; '.join(gates.missed(decision))}")


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

    from twhin_core import heartbeat

    heartbeat.end_if_abandoned(root)

    from twhin_core.distributed.launch import launch
    from twhin_core.stages.readers import find_readers, serve_if_reader
    from twhin_core.stages.train import train

    if not serve_if_reader(settings, root):
        launch(train, settings, root, find_readers(readers))


@launch_app.command(name="evaluate")
def launch_evaluate(
    config: SavedConfigPath = None, run_root: RunRoot = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """`twhin evaluate` with one rank per GPU, on the machines that `twhin launch train` would use."""
    settings, root = _load_run(config, run_root, overrides)

    from twhin_core.distributed.launch import launch
    from twhin_core.distributed.nodes import find_nodes
    from twhin_core.stages.evaluate import evaluate

    launch(evaluate, settings, root)
    if find_nodes().index == 0:
        _show_results(settings, root, as_json)


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
    config: SavedConfigPath = None,
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
    as_json: AsJson = False,
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
        _show_results(settings, root, as_json)


@app.command()
def export(
    config: SavedConfigPath = None, run_root: RunRoot = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Write the embeddings with their original ids, if every gate passes."""
    settings, root = _load_run(config, run_root, overrides)

    from twhin_core.stages.export import export

    export(settings, root)
    _show_results(settings, root, as_json, {"embeddings": EXPORTED}, with_metrics=False)


@app.command()
def generate(folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URL to write to.")]) -> None:
    """Write the raw data of the quickstart, a generated Twitter-like network."""
    from twhin_core.config.generate import Generate
    from twhin_core.synthetic import generate

    generate.generate(Generate(), folder)


app.command()(ask.describe)
app.command()(ask.neighbors)
app.command()(ask.score)
app.command()(ask.embed)
app.command()(recommend.recommend)
app.command()(serving.serve)
app.command()(ask.compare)
app.command()(ask.verify)
app.command()(operate.status)
app.command()(operate.clean)
app.command()(series.refresh)
app.command()(series.versions)
app.command()(series.publish)
app.command()(series.rollback)
app.command()(series.forget)
app.command()(tune.tune)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(tune.trial)
app.command(name="compile")(deploy.compile_pipeline)
app.command()(deploy.submit)
app.command()(deploy.doctor)


def _load(path: str, overrides: list[str] | None) -> Config:
    from twhin_core.config import file as config_file

    config = config_file.load(path, overrides or ())
    prefer_format(config.runtime.log_format)
    return config


def _load_run(path: str | None, run_root: str | None, overrides: list[str] | None) -> tuple[Config, str]:
    """The config and the run root; without a path, the config that was saved there.

    Raises:
        UserError: neither names a run root, or nothing was saved there.
    """
    if path is None:
        if run_root is None:
            raise UserError("there is no config: name a file, or a run's own by --run-root")
        from twhin_core import run as runs
        from twhin_core import storage

        run_root = _find_saved(run_root, overrides)
        path = storage.join(run_root, runs.CONFIG)
        if not storage.exists(path):
            raise UserError(f"{run_root}: there is no run here ({runs.CONFIG}); name a config")
    config = _load(path, overrides)
    root = run_root or config.training.save_dir
    if root is None:
        raise UserError("there is no run root: set --run-root, or training.save_dir in the config")
    root = fill_run_root(root, run="")
    log_of(run=root)
    return config, root


def _find_saved(run_root: str, overrides: list[str] | None) -> str:
    """The run root, or the published version of a series.

    Raises:
        UserError: no version is published, or `overrides` would change what readers of the series get.
    """
    from twhin_core.published import find_root

    root = find_root(run_root)
    if overrides and root != run_root:
        raise UserError(f"{run_root}: is a series, whose published version stays as it is; to change it, name {root}")
    return root


EXPORTED = "embeddings/manifest.json"


def _lists(config: Config) -> dict[str, str]:
    """The manifest of each relation's lists, under the run root."""
    from twhin_core.recommend.manifest import path_of

    return {f"lists of {name}": f"{path_of(name)}/manifest.json" for name in config.recommend}


def _show_results(
    config: Config, root: str, as_json: bool, exported: Mapping[str, str] | None = None, with_metrics: bool = True
) -> None:
    """Prints the metrics, the durations and where the results are. `exported`: paths under the root, by name."""
    from twhin_core import storage
    from twhin_core.durations import list_durations
    from twhin_core.evaluation.result import metrics_url, read_metrics
    from twhin_core.output import Cell, Column, Listing, show
    from twhin_core.report.summary import list_metrics
    from twhin_core.stages.report import report_url

    split, listings, places = config.evaluation.split, list[Listing](), dict[str, str]()
    if with_metrics:
        metrics = read_metrics(root, split)
        assert metrics is not None
        listings += list_metrics(metrics)
        places["metrics"] = metrics_url(root, split)
        if storage.exists(url := report_url(root, split)):  # otherwise the log says why it could not be drawn
            places["report"] = url
    places |= {name: storage.join(root, path) for name, path in (exported or {}).items()}
    for url in places.values():
        assert storage.exists(url), f"{url} is missing"  # KFP's local runner only warns if it cannot parse a condition
    rows: list[list[Cell]] = [[name, url] for name, url in places.items()]
    listings += [
        list_durations(root),
        Listing("files", "results", [Column("result"), Column("url")], rows, as_pairs=True),
    ]
    show(listings, as_json)


def main() -> None:
    """Runs the command line. A TwhinError ends it with one line and the error's exit code."""
    limits.use_cores()
    try:
        app(prog_name="twhin")
    except TwhinError as error:
        show_error(error)
        sys.exit(error.exit_code)
