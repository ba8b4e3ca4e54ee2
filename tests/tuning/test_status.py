"""`twhin status` and `twhin clean` in a sweep: what it is, how far it is, and that nothing is removed that it needs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig
from tests.stages.test_clean import LONG_AGO, going, kept, write_aside
from twhin_core import activity, lease
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.run import open_run
from twhin_core.stages.clean import clean
from twhin_core.stages.prepare import prepare
from twhin_core.stages.show_status import list_status
from twhin_core.stages.train import train
from twhin_core.tuning.status import read_sweep_status
from twhin_core.tuning.study import Study, check_installed
from twhin_core.tuning.trial import Looks, trial_config, trial_root, with_looks


@pytest.fixture
def config(small_config: SmallConfig) -> Config:
    check_installed()
    return small_config(
        sweep={"space": {"model.temperature": {"log": [0.1, 10.0]}}, "trials": 10, "looks": 4},
        training={"keep_checkpoints_after_success": 1},
    )


# How many trials ended in each way, and how the note begins, by hand.
CASES = [
    ("", "a sweep: 0 of 10 trials have ended"),
    ("r", "a sweep: 0 of 10 trials have ended"),
    ("c", "a sweep: 1 of 10 trials have ended (complete 1)"),
    ("s", "a sweep: 1 of 10 trials have ended (stopped 1)"),
    ("f", "a sweep: 1 of 10 trials have ended (failed 1)"),
    ("ccr", "a sweep: 2 of 10 trials have ended (complete 2)"),
    ("csfr", "a sweep: 3 of 10 trials have ended (complete 1, stopped 1, failed 1)"),
    ("csscfs", "a sweep: 6 of 10 trials have ended (complete 2, stopped 3, failed 1)"),
    ("rrr", "a sweep: 0 of 10 trials have ended"),
    ("cccccccccc", "a sweep: 10 of 10 trials have ended (complete 10)"),
]


@pytest.mark.parametrize(("trials", "note"), CASES)
def test_a_sweep_says_how_many_trials_have_ended(config: Config, tmp_path: Path, trials: str, note: str) -> None:
    root = str(tmp_path)
    study = Study(config, root)
    for letter in trials:
        trial = study.ask()
        if letter == "r":
            open_run(config, trial_root(root, trial.number))
        else:
            study.tell(trial, 0.5 if letter == "c" else None, failed=letter == "f")
    before = sorted(path.name for path in tmp_path.iterdir())
    own, *running = read_sweep_status(root)
    assert [of.note for of in own.stages] == [note]
    assert [of.root for of in running] == [
        f"{root}/trials/{number}" for number, letter in enumerate(trials, 1) if letter == "r"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_sweep_shows_who_works_on_it_and_how_it_ended(config: Config, tmp_path: Path) -> None:
    root = str(tmp_path)

    def row() -> dict[str, Any]:
        stages, *_ = list_status(read_sweep_status(root), root)
        return {
            name: cell for column, cell in zip(stages.columns, stages.rows[0], strict=True) for name in column.names
        }

    study = Study(config, root)
    study.tell(study.ask(), 0.5)
    with contextlib.suppress(RuntimeError), lease.hold(root, "tune"), activity.noted(root, "tune"):
        shown = row()
        assert (shown["stage"], shown["state"], shown["done"], shown["unit"]) == ("tune", "running", 0.1, "trials")
        raise RuntimeError("a bug")
    shown = row()
    assert (shown["state"], shown["note"]) == (
        "failed", "a sweep: 1 of 10 trials have ended (complete 1); a bug"
    )  # fmt: skip


def test_commands_for_runs_name_a_trial_of_a_sweep(config: Config, tmp_path: Path) -> None:
    Study(config, str(tmp_path))
    for command in ("clean", "verify", "describe"):
        assert_refused(twhin(command, tmp_path), f"{tmp_path}: is a sweep, not a run root; name a trial, such as ")
    with pytest.raises(UserError, match="is a sweep, not a run root"):
        prepare(config, str(tmp_path))
    ran = twhin("status", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "a sweep: 0 of 10 trials have ended" in ran.stdout


def test_every_look_of_a_trial_can_be_measured_after_its_training_whatever_is_cleaned(
    config: Config, tmp_path: Path
) -> None:
    root = str(tmp_path / "sweep")
    Study(config, root)
    prepared, trial = f"{root}/prepared", trial_root(root, 0)
    prepare(config.model_copy(update={"sweep": None}), prepared)
    own = trial_config(config, {}, prepared)
    prepare(own, trial)
    own = with_looks(own, trial, 4)
    train(own, trial)
    looks = Looks(config, own, trial)
    waiting = [of.step for of in looks.waiting(0)]
    assert len(waiting) == 4
    assert going(trial) == going(prepared) == []
    assert set(kept(trial).values()) == {f"the sweep {root} may not have measured it"}
    before = sorted(path for path in Path(root).rglob("*") if ".leases" not in path.parts)
    for place in (trial, prepared):
        clean(place, removes=True)
    assert sorted(path for path in Path(root).rglob("*") if ".leases" not in path.parts) == before
    assert [of.step for of in looks.waiting(0)] == waiting
    Path(root, "sweep.yaml").rename(Path(root, "moved.yaml"))  # then it is a run like any other
    assert going(trial) == [f"checkpoints/{step}" for step in sorted(map(str, waiting[:-1]))]


def test_cleaning_the_root_of_a_cluster_s_sweep_leaves_its_trials_alone(config: Config, tmp_path: Path) -> None:
    root = str(tmp_path)
    prepare(config, root)
    own = write_aside(root, "training/metrics.jsonl", LONG_AGO)
    write_aside(root, "trials/one/training/metrics.jsonl", LONG_AGO)
    assert going(root) == [own]
    open_run(config, f"{root}/trials/one")
    assert checkpoint.complete(f"{root}/trials/one") == []
