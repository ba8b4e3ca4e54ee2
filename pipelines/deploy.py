"""Commands for clusters: `twhin compile`, `submit` and `doctor`. Each imports what it needs when called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from twhin.components.run_root import fill_run_root
from twhin.pipelines.options import AsJson, ConfigPath, Overrides
from twhin_core.errors import UserError


def compile_pipeline(
    config: ConfigPath,
    resources: Annotated[str, typer.Option(metavar="FILE", help="CPUs, memory and GPUs; see configs/resources/.")],
    target: Annotated[
        Literal["kubeflow", "vertex", "katib"],
        typer.Option(
            help="Where the pipeline will run; katib: the config's sweep, as an Experiment of Kubeflow Katib."
        ),
    ],
    output: Annotated[str, typer.Option(metavar="FILE", help="The YAML to write.")],
    run_root: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Default of the parameter run_root. Without it, each run must set its own."),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Compile the refresh of a series, and make this the default of its series."),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Vertex AI: compile the sweep of the config, as a HyperparameterTuningJob."),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Write nothing. If the file is out of date, print the difference and exit with code 1."
        ),
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Compile the pipeline for Kubeflow or Vertex AI, or the sweep of the config for Katib.

    The text of CONFIG becomes the default of the pipeline's parameter `config`, and `--set` that of `overrides`. Both
    can be changed when a run is started, without recompiling.
    """
    from twhin.pipelines import compile as compiling
    from twhin.pipelines.resources import load
    from twhin_core.config import file as config_file
    from twhin_core.series.continued import check_refresh

    if series is not None and run_root is not None:
        raise UserError("--run-root and --series: a refresh makes a run root for each version; leave out --run-root")
    if sweep and (target != "vertex" or series is not None):
        raise UserError("--sweep: is for --target vertex, of one run; for Kubeflow, use --target katib")
    if target == "katib":
        _compile_sweep(config, resources, output, run_root, series, check, overrides or [])
        return
    source = config_file.read(config, overrides or (), config_file.load if series is None else check_refresh)

    needs = load(resources)
    if not check:
        compiling.compile_pipeline(source, needs, target, output, run_root, series, sweep)
        typer.echo(f"compiled for {target}: {output}")
    elif differences := compiling.find_differences(source, needs, target, output, run_root, series, sweep):
        typer.echo(differences)
        raise compiling.OutOfDate(f"{output} is out of date; compile it without --check")
    else:
        typer.echo(f"current: {output}")


def _compile_sweep(
    config: str,
    resources: str,
    output: str,
    run_root: str | None,
    series: str | None,
    check: bool,
    overrides: list[str],
) -> None:
    """Writes the Experiment, or compares the file with it."""
    from twhin.pipelines import katib
    from twhin.pipelines.compile import OutOfDate
    from twhin.pipelines.resources import load
    from twhin_core.config import file as config_file

    if series is not None:
        raise UserError(f"--series {series}: a sweep is of one run; name the run root of its graph with --run-root")
    if run_root is None:
        raise UserError("--target katib needs --run-root: the run that `twhin prepare` has made with this config")
    made = katib.experiment(config_file.load(config, overrides), load(resources), run_root, Path(output).stem)
    if not check:
        katib.write(made, output)
        typer.echo(f"compiled for katib: {output}")
    elif differences := katib.find_differences(made, output):
        typer.echo(differences)
        raise OutOfDate(f"{output} is out of date; compile it without --check")
    else:
        typer.echo(f"current: {output}")


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
    series: Annotated[
        str | None, typer.Option(metavar="URL", help="The series to refresh. Default: that of the compiled file.")
    ] = None,
    run_name: Annotated[str | None, typer.Option(help="The run's name. Default: twhin and the time.")] = None,
    experiment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The run's experiment, created if it does not exist. Default: twhin on Kubeflow, none on Vertex AI.",
        ),
    ] = None,
    cron: Annotated[
        str | None,
        typer.Option(metavar="LINE", help="Create a recurring run: five fields, UTC. A run root must contain {run}."),
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

    request = submitting.read(
        compiled, target, run_root, overrides or (), run_name, service_account, cron, series, experiment
    )
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
    request = submitting.with_short_parameters(request)
    made = platform.start(request) if cron is None else platform.schedule(request)
    typer.echo(f"{'run:' if cron is None else 'recurring:':<12}{platform.link(made, is_schedule=cron is not None)}")
    root, named = request.root, request.root_name.replace("_", " ")
    typer.echo(f"{f'{named}:':<12}{root if cron is not None else fill_run_root(root, made)}")
    if wait:
        submitting.wait(platform, made)
        typer.echo("succeeded")


def doctor(
    url: Annotated[str | None, typer.Argument(metavar="URL", help="A folder or URL that runs will write to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check versions, devices and, with URL, access to storage. Exits with code 1 if a check fails."""
    from twhin.pipelines.doctor import examine
    from twhin_core.output import Cell, Column, Listing, show

    findings = list(examine(url))
    rows: list[list[Cell]] = [["ok" if one.passed else "FAILED", one.name, one.found] for one in findings]
    columns = [Column("result"), Column("check"), Column("found")]
    show([Listing("checks", "what this machine has", columns, rows)], as_json)
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)
