"""Sweeps on this machine: what they write, and that a kill at any moment changes nothing."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import COMMAND, ROOT, assert_refused, twhin
from tests.conftest import SmallConfig
from tests.pipelines.test_killed_run import members
from tests.report.page import Page
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.tuning.study import CURVE, Study, check_installed
from twhin_core.tuning.tune import remove_checkpoints

METRIC = "validation.all.mrr_rhs"
LR = "model.embeddings.tables.*.optimizer.rowwise_adagrad.lr"
SPACE = {"model.temperature": {"log": [0.1, 10.0]}, LR: {"log": [0.001, 1.0]}}


def write_config(config: Config, path: Path) -> Path:
    path.write_text(config_file.to_yaml(config))
    return path


def sweep(small_config: SmallConfig, epochs: int = 8, **settings: Any) -> Config:
    return small_config(
        sweep={"space": SPACE, "metric": METRIC, "trials": 3, "looks": 2, **settings}, training={"num_epochs": epochs}
    )


def trials_of(ran: subprocess.CompletedProcess[str]) -> dict[int, dict[str, Any]]:
    """What `--json` says of each trial, without how long it took."""
    assert ran.returncode == 0, ran.stderr
    return {
        trial["trial"]: {key: of for key, of in trial.items() if key != "seconds"}
        for trial in json.loads(ran.stdout)["trials"]
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_best_of_all_trials_is_a_config_that_gives_its_figure_again(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    config, root = sweep(small_config, stopping=None, parallelism=2), tmp_path / "sweep"
    trials = trials_of(twhin("tune", write_config(config, tmp_path / "config.yaml"), "--run-root", root, "--json"))
    assert sorted(trials) == [1, 2, 3]
    assert all(trial["state"] == "complete" for trial in trials.values())
    assert (trials[1]["model.temperature"], trials[1][LR]) == ("1", "0.1")  # the config's own

    def value(trial: dict[str, Any]) -> float:
        found: float = trial[METRIC]
        return found

    number, best = max(trials.items(), key=lambda of: value(of[1]))
    made = config_file.load(str(root / "best.yaml"))
    assert made.sweep is None
    assert made.model.temperature == pytest.approx(float(best["model.temperature"]), rel=1e-5)
    again = str(tmp_path / "again")
    measured = made.model_copy(
        update={"evaluation": made.evaluation.model_copy(update={"split": "validation"})}
    )  # fmt: skip
    prepare(measured, again)
    train(measured, again)
    assert evaluate(measured, again)["validation"]["all"]["mrr_rhs"] == pytest.approx(value(best), abs=1e-6)

    assert not list((root / "trials").glob("*/graph/edges")), "a trial has a graph of its own"
    assert [path.parent.name for path in (root / "trials").glob("*/checkpoints")] == [str(number)]
    page = Page((root / "report.html").read_text())
    rows = [row for row in page.rows if row[0] in ("1", "2", "3")]
    assert [float(row[1]) for row in rows] == sorted((round(value(of), 4) for of in trials.values()), reverse=True)
    assert "script" not in page.tags


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_sweep_leaves_no_process_and_the_next_ends_as_an_undisturbed_one(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    path = write_config(sweep(small_config, epochs=40, stopping="asha", looks=4), tmp_path / "config.yaml")
    undisturbed = trials_of(twhin("tune", path, "--run-root", tmp_path / "undisturbed", "--json"))
    root, draw = tmp_path / "disturbed", random.Random(3)
    for number in (1, 2, 3):
        kill(path, root, number, draw.uniform(0.0, 6.0))
    assert trials_of(twhin("tune", path, "--run-root", root, "--json")) == undisturbed
    again = twhin("tune", path, "--run-root", root, "--json")  # all is done
    assert trials_of(again) == undisturbed
    more = twhin("tune", path, "--run-root", root, "--set", "training.seed=3")
    assert_refused(more, "another config", "training.seed")


def kill(path: Path, root: Path, number: int, delay: float) -> None:
    """Starts the sweep and kills it some time after a trial has its first file of training."""
    process = subprocess.Popen(
        [*COMMAND, "tune", str(path), "--run-root", str(root)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (root / "trials" / str(number) / "trial.log").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while left := [of for of in members(process.pid) if not is_tracker(of)]:
        assert time.monotonic() < deadline, f"these live on: {left}"
        time.sleep(0.01)


def is_tracker(pid: int) -> bool:
    """Whether it is multiprocessing's own helper, which ends by itself once it is alone."""
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return True


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trials_that_fail_do_not_end_a_sweep_unless_all_do(small_config: SmallConfig, tmp_path: Path) -> None:
    path = write_config(sweep(small_config, stopping=None), tmp_path / "config.yaml")
    impossible = '{"training.initial_checkpoint_dir": {"choice": ["nowhere"]}}'
    ran = twhin("tune", path, "--run-root", tmp_path / "all", "--set", f"sweep.space={impossible}")
    assert_refused(ran, "the first 3 trials failed", "nowhere")
    some = '{"training.initial_checkpoint_dir": {"choice": [null, "nowhere"]}}'
    trials = trials_of(twhin("tune", path, "--run-root", tmp_path / "some", "--set", f"sweep.space={some}", "--json"))
    for trial in trials.values():
        failed = trial["training.initial_checkpoint_dir"] == "nowhere"
        assert trial["state"] == ("failed" if failed else "complete")
    assert {trial["state"] for trial in trials.values()} == {"failed", "complete"}
    assert "nowhere" in (tmp_path / "some" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_best_trial_keeps_as_many_checkpoints_as_the_config_says(small_config: SmallConfig, tmp_path: Path) -> None:
    """Training is over before most of its checkpoints are measured; none may go before."""
    config = small_config(
        sweep={"space": SPACE, "metric": METRIC, "trials": 2, "looks": 4, "stopping": None},
        training={"num_epochs": 8, "keep_checkpoints_after_success": 1},
    )
    root = tmp_path / "sweep"
    trials = trials_of(twhin("tune", write_config(config, tmp_path / "config.yaml"), "--run-root", root, "--json"))
    assert [trial["state"] for trial in trials.values()] == ["complete"] * 2
    study = Study(config_file.load(str(root / "sweep.yaml")), str(root))
    assert [len(trial.user_attrs[CURVE]) for trial in study.trials()] == [4, 4]
    assert len(list((root / "trials").glob("*/checkpoints/[0-9]*"))) == 1


def test_only_the_best_of_the_trials_that_ended_keeps_its_checkpoints(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    """Whatever ended them, and also if the process was killed before it removed them."""
    check_installed()
    root = str(tmp_path)
    study = Study(sweep(small_config, trials=9), root)

    def ask() -> Any:
        trial = study.ask()
        (tmp_path / "trials" / str(trial.number + 1) / "checkpoints/8").mkdir(parents=True)
        return trial

    def kept() -> list[int]:
        remove_checkpoints(root, study)
        return sorted(int(path.parent.name) for path in (tmp_path / "trials").glob("*/checkpoints"))

    running = ask()
    assert kept() == [1]
    study.tell(ask(), None, "its loss diverged", failed=True)
    assert kept() == [1]
    study.tell(ask(), None, "stopped: others were better by then")
    assert kept() == [1]
    study.tell(ask(), 0.25)
    assert kept() == [1, 4]
    study.tell(ask(), 0.125)
    assert kept() == [1, 4]
    study.tell(ask(), 0.5)
    assert kept() == [1, 6]
    study.tell(running, 0.375)
    assert kept() == [6]


def test_a_sweep_needs_validation_edges_and_a_folder(small_config: SmallConfig, tmp_path: Path) -> None:
    path = write_config(sweep(small_config), tmp_path / "config.yaml")
    assert_refused(twhin("tune", path, "--run-root", "gs://bucket/sweep"), "gs://bucket/sweep", "local file")
    ran = twhin("tune", path, "--run-root", tmp_path / "sweep", "--set", "prepare.split={validation: 0, test: 0.1}")
    assert_refused(ran, "no validation edges", "prepare.split")
