"""The command line: its help, and how a mistake ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig
from twhin_core import __version__


def test_help_names_every_command() -> None:
    ran = twhin("--help")
    assert ran.returncode == 0
    for command in ("run", "prepare", "train", "evaluate", "export", "describe", "compile", "generate"):
        assert f"│ {command} " in ran.stdout


def test_version() -> None:
    assert twhin("--version").stdout == f"twhin {__version__}\n"


MISTAKES = {
    "misspelt key": (["--set", "training.num_epoch=3"], "configs/local.yaml: training.num_epoch: unknown key"),
    "wrong type": (["--set", "training.num_epochs=many"], "training.num_epochs: input should be a valid integer"),
    "two optimizers": (
        ["--set", "model.embeddings.tables.0.optimizer.adagrad={lr: 0.1}"],
        "model.embeddings.tables.0.optimizer: needs exactly one of",
    ),
    "unequal dims": (["--set", "model.embeddings.tables.0.embedding_dim=8"], "embedding_dim must be equal"),
    "no such table": (["--set", "model.relations.0.rhs=tweets"], "model.relations.0.rhs: no table named 'tweets'"),
    "accumulated gradients": (
        ["--set", "training.gradient_accumulation=2"],
        "training.gradient_accumulation: 2 is not supported",
    ),
    "half an override": (["--set", "training.num_epochs"], "expected section.key=value"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_config_is_one_line_and_exit_code_2(options: list[str], message: str, tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert_refused(twhin("train", "configs/local.yaml", "--run-root", root, *options), message)
    assert not root.exists()


@pytest.mark.parametrize("command", ["run", "prepare", "train", "evaluate", "export"])
def test_every_command_refuses_a_missing_config(command: str, tmp_path: Path) -> None:
    assert_refused(twhin(command, "no.yaml", "--run-root", tmp_path), "no.yaml: no such config file")


def test_an_unset_variable_is_named(tmp_path: Path) -> None:
    ran = twhin("run", "configs/amazon_book.yaml", "--run-root", tmp_path, TWHIN_DATA=None)
    assert_refused(ran, "configs/amazon_book.yaml", "TWHIN_DATA is not set")


def test_a_stage_needs_a_run_root() -> None:
    assert_refused(twhin("train", "configs/quickstart.yaml"), "--run-root", "training.save_dir")


def test_a_gate_of_no_metric_is_refused_before_any_work(tmp_path: Path) -> None:
    root = tmp_path / "run"
    options = ["--set", "evaluation.gates={test.all.mmr: {min: 0.1}}"]
    assert_refused(
        twhin("run", "configs/quickstart.yaml", "--run-root", root, *options), "test.all.mmr", "test.all.mrr"
    )
    assert not root.exists()


def test_debug_shows_the_traceback() -> None:
    ran = twhin("--debug", "train", "configs/quickstart.yaml")
    assert ran.returncode == 2
    assert "Traceback" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("error: there is no run root")


def refuses(resources: str, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "resources.yaml"
    path.write_text(resources)
    output = tmp_path / "pipeline.yaml"
    ran = twhin(
        "compile", "configs/local.yaml", "--resources", path, "--target", "vertex", "--output", output, *options
    )
    assert not output.exists()
    return ran


STAGES = "".join(f"{stage}: {{cpu: '1', memory: 1Gi}}\n" for stage in ("prepare", "train", "evaluate", "export"))


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (STAGES.replace("train:", "trian:"), "trian: unknown key; did you mean train?"),
        (STAGES.replace("1Gi", "1 GB"), "prepare.memory"),
        (STAGES + "image: twhin/twhin\n", "image"),
        (STAGES.replace("cpu: '1'", "cpu: 1"), "prepare.cpu: input should be a valid string"),
        ("[", "not valid YAML"),
    ],
)
def test_a_mistake_in_the_resources_is_named(resources: str, message: str, tmp_path: Path) -> None:
    assert_refused(refuses(resources, tmp_path), "resources.yaml: ", message)


def test_vertex_refuses_a_local_run_root(tmp_path: Path) -> None:
    assert_refused(refuses(STAGES, tmp_path, "--run-root", "runs/x"), "--run-root runs/x", "gs://")


@pytest.mark.parametrize("command", ["run", "train"])
def test_on_this_machine_a_run_has_no_id(command: str, tmp_path: Path) -> None:
    ran = twhin(command, "configs/quickstart.yaml", "--run-root", tmp_path / "{run}")
    assert_refused(ran, "{run} needs the id of a pipeline run on a cluster")


def test_describe_prints_what_prepare_made(small_config: SmallConfig, tmp_path: Path) -> None:
    from twhin_core.stages.prepare import prepare

    root = tmp_path / "run"
    assert_refused(twhin("describe", root), f"{root}: there is no finished graph here")
    small_config()
    half = {"fav": 0.5}
    manifest = prepare(small_config(prepare={"sampling": half}), str(root))
    ran = twhin("describe", root)
    assert ran.returncode == 0, ran.stderr
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in ran.stdout.splitlines()]
    edges = {split: manifest.splits[split].edges for split in ("train", "validation", "test")}
    total = sum(edges.values())
    for split, count in edges.items():
        cold = str(manifest.splits[split].cold_edges)
        assert [split, str(count), f"{count / total:.1%}", cold, "1"] in lines
    rejected = 600 - total
    assert 100 < rejected < 200  # half of 300
    assert ["not_sampled", str(rejected), "100.0%"] in lines
    follow, fav = manifest.relations
    assert ["follow", "user → user", *(str(count) for count in follow.edges.values())] in lines
    degrees = fav.degrees["rhs"]
    shown = [f"{degrees.mean:.1f}", *map(str, degrees.quantiles.values()), f"{degrees.top_share:.1%}"]
    assert ["fav", "rhs tweet", str(degrees.nodes), *shown] in lines
