"""Checkpoints evaluated as they appear, until training has finished or nothing new comes."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import assert_refused, twhin
from twhin_core import storage
from twhin_core.checkpoints import checkpoint
from twhin_core.checkpoints.checkpoint import FINISHED, Checkpoint
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import TimedOut
from twhin_core.evaluation import measure as measuring
from twhin_core.evaluation.result import read_metrics
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.follow import follow, metrics_url

Trained = tuple[Config, str]


def steps(root: str) -> list[int]:
    return [entry.step for entry in checkpoint.complete(root)]


def done(root: str) -> list[int]:
    return sorted(int(path.parent.name) for path in Path(root).glob("evaluation/*/metrics.json"))


def with_timeout(config: Config, seconds: int) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"eval_timeout_in_s": seconds})})


def only(root: str, *kept: int) -> dict[int, Path]:
    """Hides all checkpoints but `kept`; where they are hidden."""
    hidden = {}
    for step in set(steps(root)) - set(kept):
        hidden[step] = Path(root) / f"hidden-{step}"
        shutil.move(Path(root) / f"checkpoints/{step}", hidden[step])
    return hidden


def test_every_checkpoint_is_evaluated_and_the_newest_is_the_result(trained: Trained) -> None:
    config, root = trained
    follow(config, root)
    assert done(root) == steps(root)
    assert len(done(root)) > 2
    *_, last = steps(root)
    each = {step: storage.read_json(metrics_url(root, step)) for step in steps(root)}
    assert {step: metrics["checkpoint"] for step, metrics in each.items()} == {step: step for step in each}
    published = read_metrics(root)
    assert published == each[last]
    assert len({metrics["test"]["all"]["mrr"] for metrics in each.values()}) > 1, "weights differ, and so do figures"
    # What `twhin evaluate` finds alone, on a copy that has not been evaluated.
    shutil.rmtree(Path(root) / "evaluation")
    assert evaluate(config, root) == published


def test_every_checkpoint_is_compared_with_the_previous_run(trained: Trained, tmp_path: Path) -> None:
    config, root = trained
    previous = str(shutil.copytree(root, tmp_path / "before"))
    tree = config.model_dump()
    tree["evaluation"]["previous"] = previous
    config = config_file.validate(Config, tree, "compared")
    follow(config, root)
    each = [storage.read_json(metrics_url(root, step)) for step in steps(root)]
    assert len(each) > 2
    for metrics in each:
        before = metrics["baselines"]["previous"]
        assert before == each[0]["baselines"]["previous"]
        for relation, of in metrics["differences"].items():
            for name, (difference, low, high) in of.items():
                now = metrics["test"][relation][name]
                assert difference == pytest.approx(now - before[relation][name], abs=1e-12)
                assert low <= difference <= high
    assert len({json.dumps([metrics["differences"], metrics["drift"]]) for metrics in each}) == len(each)
    shutil.rmtree(Path(root) / "evaluation")
    assert evaluate(config, root) == each[-1]


def test_one_that_is_done_is_not_done_again(trained: Trained) -> None:
    config, root = trained
    follow(config, root)
    before = {step: Path(metrics_url(root, step)).stat().st_mtime_ns for step in steps(root)}
    first, *_, last = steps(root)
    Path(metrics_url(root, first)).unlink()
    follow(config, root)
    after = {step: Path(metrics_url(root, step)).stat().st_mtime_ns for step in steps(root)}
    assert {step for step in before if before[step] != after[step]} == {first}
    published = read_metrics(root)
    assert published is not None
    assert published["checkpoint"] == last, "an older one takes no newer one's place"


def test_it_waits_for_those_that_come_later(trained: Trained) -> None:
    config, root = trained
    first, *_, last = steps(root)
    finished = Path(root) / FINISHED
    text = finished.read_text()
    finished.unlink()
    hidden = only(root, first)

    def later() -> None:
        deadline = time.monotonic() + 60
        while done(root) != [first]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        shutil.move(hidden[last], Path(root) / f"checkpoints/{last}")
        finished.write_text(text)

    training = threading.Thread(target=later)
    training.start()
    follow(config, root, poll_s=0.01)
    training.join()
    assert done(root) == [first, last]


def test_one_that_is_removed_while_it_waits_is_passed_over(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first is measured, training removes it and the second."""
    config, root = trained
    first, second, *others = steps(root)
    measure = measuring.measure

    def removing(config: Config, root: str, entry: Checkpoint, *rest: Any) -> Any:
        if entry.step == first:
            for step in (first, second):
                checkpoint.remove(next(other for other in checkpoint.complete(root) if other.step == step))
        return measure(config, root, entry, *rest)

    monkeypatch.setattr(measuring, "measure", removing)
    follow(config, root)
    assert done(root) == others


def test_it_gives_up_when_nothing_new_comes(trained: Trained) -> None:
    config, root = trained
    (Path(root) / FINISHED).unlink()
    with pytest.raises(TimedOut, match=r"no new checkpoint in 1 s \(training\.eval_timeout_in_s\)"):
        follow(with_timeout(config, 1), root, poll_s=0.05)
    assert done(root) == steps(root)


def test_the_command_says_how_it_ended(trained: Trained, tmp_path: Path) -> None:
    config, root = trained
    path = tmp_path / "config.yaml"
    path.write_text(config_file.to_yaml(config))
    only(root, steps(root)[-1])
    ran = twhin("evaluate", path, "--run-root", root, "--follow")
    assert ran.returncode == 0, ran.stderr
    assert "training has finished, and all its checkpoints are done" in ran.stderr
    assert json.loads((Path(root) / "evaluation/metrics.json").read_text())["checkpoint"] == steps(root)[0]
    (Path(root) / FINISHED).unlink()
    follows = ("evaluate", path, "--run-root", root, "--follow", "--set", "training.eval_timeout_in_s=1")
    assert_refused(twhin(*follows), "no new checkpoint in 1 s", exit_code=4)
