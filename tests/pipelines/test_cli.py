"""The command line: its help, and how a mistake ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tests.command_line import ROOT, assert_refused, new_twhin, twhin
from tests.conftest import SmallConfig
from twhin_core import __version__
from twhin_core.config import Config
from twhin_core.config import file as config_file


def test_help_names_every_command() -> None:
    ran = new_twhin("--help")
    assert ran.returncode == 0
    for command in ("run", "prepare", "train", "evaluate", "export", "describe", "compile", "generate"):
        assert f"│ {command} " in ran.stdout


def test_version() -> None:
    assert new_twhin("--version").stdout == f"twhin {__version__}\n"


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
    tables = [[row.split("\t") for row in table.splitlines()] for table in ran.stdout.split("\n\n")]
    edges = {split: manifest.splits[split].edges for split in ("train", "validation", "test")}
    total = sum(edges.values())
    splits, _, relations, degrees, rejections = tables
    assert splits[0] == ["split", "edges", "share", "cold_edges", "files"]
    for (split, count), line in zip(edges.items(), splits[1:], strict=True):
        assert line == [split, str(count), f"{count / total:.6g}", str(manifest.splits[split].cold_edges), "1"]
    rejected = 600 - total
    assert 100 < rejected < 200  # half of 300
    assert rejections == [["reason", "rows", "share"], ["not_sampled", str(rejected), "1"]]
    follow, fav = manifest.relations
    assert ["follow", "user", "user", *(str(count) for count in follow.edges.values())] in relations
    of = fav.degrees["rhs"]
    shown = [f"{of.mean:.6g}", *map(str, of.quantiles.values()), f"{of.top_share:.6g}"]
    assert ["fav", "rhs", "tweet", str(of.nodes), *shown] in degrees
    for letter in "│┃━…":
        assert letter not in ran.stdout

    found = json.loads(twhin("describe", root, "--json").stdout)
    assert [entry["edges"] for entry in found["splits"]] == list(edges.values())
    assert found["rejected"] == [{"reason": "not_sampled", "rows": rejected, "share": 1.0}]
    (of_fav,) = [entry for entry in found["relation_degrees"] if (entry["relation"], entry["side"]) == ("fav", "rhs")]
    assert (of_fav["mean"], of_fav["top_share"]) == (of.mean, of.top_share)


def test_evaluate_and_export_take_the_runs_own_config(trained: tuple[Config, str], tmp_path: Path) -> None:
    from twhin_core.evaluation.result import read_metrics
    from twhin_core.stages.evaluate import evaluate

    config, root = trained
    expected = evaluate(config, root)
    shutil.rmtree(Path(root, "evaluation"))
    ran = twhin("evaluate", "--run-root", root, "--json")
    assert ran.returncode == 0, ran.stderr
    assert read_metrics(root) == expected
    found = json.loads(ran.stdout)
    assert {row["metric"]: row["result"] for row in found["metrics"]}["mrr"] == expected["test"]["all"]["mrr"]
    assert [row["stage"] for row in found["durations"]] == ["prepare", "train", "evaluate"]
    assert found["files"][0] == {"result": "metrics", "url": f"{root}/evaluation/metrics.json"}
    ran = twhin("evaluate", "--run-root", root, "--set", "evaluation.split=validation")
    assert ran.returncode == 0, ran.stderr
    assert f"report\t{root}/evaluation/validation/report.html" in ran.stdout.splitlines()
    assert read_metrics(root) == expected
    ran = twhin("export", "--run-root", root)
    assert ran.returncode == 0, ran.stderr
    assert f"embeddings\t{root}/embeddings/manifest.json" in ran.stdout.splitlines()
    for command in ("evaluate", "export"):
        assert_refused(twhin(command), "there is no config: name a file, or a run's own by --run-root")
        assert_refused(twhin(command, "--run-root", tmp_path / "none"), "none: there is no run here (config.yaml)")


def test_the_log_has_dates_or_is_json(small_config: SmallConfig, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config_file.to_yaml(small_config()))
    ran = twhin("prepare", path, "--run-root", tmp_path / "text")
    times = [datetime.strptime(line[:19], "%Y-%m-%d %H:%M:%S") for line in ran.stderr.splitlines()]
    assert times == sorted(times)
    assert any(line[19:].startswith(" prepare: took ") for line in ran.stderr.splitlines())

    def parsed(ran: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
        lines = [json.loads(line) for line in ran.stderr.splitlines()]
        assert all(datetime.fromisoformat(line["time"]).tzinfo is not None for line in lines)
        return lines

    ran = twhin("--log-format", "json", "prepare", path, "--run-root", tmp_path / "json")
    assert any(line["message"].startswith("prepare: edges: ") for line in parsed(ran))
    said = {("have their reverse in train" in line["message"], line["severity"]) for line in parsed(ran)}
    assert said == {(False, "INFO"), (True, "WARNING")}
    ran = twhin("train", path, "--run-root", tmp_path / "none", TWHIN_LOG_FORMAT="json")
    assert ran.returncode == 2
    *_, last = parsed(ran)
    assert last["severity"] == "ERROR"
    assert "there is no finished graph here" in last["message"]
    assert twhin("--log-format", "xml", "generate", tmp_path).returncode == 2


def test_a_bug_is_one_line_of_json_with_its_traceback() -> None:
    code = "from twhin_core.progress import show_log; show_log(); import warnings; warnings.warn('odd'); {}['ü']"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "TWHIN_LOG_FORMAT": "json"},
    )  # fmt: skip
    warning, bug = (json.loads(line) for line in ran.stderr.splitlines())
    assert (warning["severity"], bug["severity"]) == ("WARNING", "CRITICAL")
    assert "odd" in warning["message"]
    assert bug["message"] == "KeyError: 'ü'"
    assert bug["stack_trace"].startswith("Traceback")


def test_a_file_that_a_thread_misses_is_one_line_and_a_bug_in_it_a_traceback() -> None:
    code = (
        "import threading; from twhin_core.progress import show_log; show_log()\n"
        "for act in (lambda: open('/none'), lambda: {}['ü']):\n"
        "    thread = threading.Thread(target=act); thread.start(); thread.join()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    first, *others = ran.stderr.splitlines()
    missing = "[Errno 2] No such file or directory: '/none'"
    assert first.endswith(f"FileNotFoundError in thread Thread-1 (<lambda>): {missing}")
    assert others[-1] == "KeyError: 'ü'"
    assert ran.stderr.count("Traceback") == 1


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("twhin ev", ["evaluate"]),
        ("twhin com", ["compile", "compare"]),
        ("twhin launch ", ["train", "evaluate"]),
        ("twhin evaluate --fo", ["--follow"]),
        ("twhin neighbors --si", ["--side"]),
        ("twhin submit --target ", ["kubeflow", "vertex"]),
        ("twhin compare --split v", ["validation"]),
        ("twhin --log-format ", ["text", "json"]),
        ("twhin describe --js", ["--json"]),
        ("twhin nothing", []),
    ],
)
def test_a_shell_completes_commands_options_and_values(words: str, found: list[str]) -> None:
    ran = twhin(_TWHIN_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1))
    assert sorted(ran.stdout.split()) == sorted(found)
