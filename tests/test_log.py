"""Lines of the log in JSON say which run, stage, rank and step they are about."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import twhin
from tests.conftest import SmallConfig
from twhin_core import progress
from twhin_core.config import file as config_file
from twhin_core.errors import UserError

KEYS = ("run", "stage", "rank", "step")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    context = dict(progress._context)
    yield
    progress._context.update(context)


def lines(ran: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.stderr.splitlines()]


@pytest.mark.parametrize(
    ("contexts", "expected"),
    [
        ([], (None, None, 0, None)),
        ([{"run": "r"}], ("r", None, 0, None)),
        ([{"run": "r", "stage": "train"}, {"step": 0}], ("r", "train", 0, 0)),
        ([{"run": "r", "stage": "train"}, {"step": 3}, {"step": 4}], ("r", "train", 0, 4)),
        ([{"run": "r", "stage": "train"}, {"step": 3}, {"run": "r", "stage": "train"}], ("r", "train", 0, 3)),
        ([{"run": "r", "stage": "train"}, {"step": 3}, {"run": "r", "stage": "evaluate"}], ("r", "evaluate", 0, None)),
    ],
)
def test_a_line_has_what_is_known(
    contexts: list[dict[str, Any]], expected: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    progress._context.update(run=None, stage=None, step=None)
    for context in contexts:
        progress.log_of(**context)
    record = progress.log.makeRecord("twhin", 20, "file", 1, "said %s", ("this",), None)
    found = json.loads(progress._JsonFormatter().format(record))
    assert tuple(found[key] for key in KEYS) == expected
    assert found["message"] == "said this"


def test_a_rank_is_that_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    record = progress.log.makeRecord("twhin", 20, "file", 1, "said", (), None)
    assert json.loads(progress._JsonFormatter().format(record))["rank"] == 3


@pytest.mark.slow
def test_lines_of_every_rank_and_stage_by_the_config_alone(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(runtime={"log_format": "json"}, evaluation={"bootstrap": 20})
    path, root = tmp_path / "config.yaml", str(tmp_path / "run")
    path.write_text(config_file.to_yaml(config))
    assert os.environ.get("TWHIN_LOG_FORMAT") is None
    for stage in ("prepare", "train", "evaluate", "export"):
        launched = [] if stage in ("prepare", "export") else ["launch"]
        ran = twhin(*launched, stage, path, "--run-root", root, PET_NNODES="1", PET_NPROC_PER_NODE="2")
        assert ran.returncode == 0, ran.stderr
        found = lines(ran)
        assert found
        assert all(set(KEYS) <= line.keys() for line in found)
        assert {line["run"] for line in found} == {root}
        of_stage = [line for line in found if line["message"].startswith(f"{stage}: ")]
        assert of_stage
        assert {(line["stage"], line["rank"]) for line in of_stage} == {(stage, 0)}
        if stage != "prepare":
            assert of_stage[-1]["step"] == 8  # two epochs of some 480 edges, 128 a step


def test_the_environment_takes_precedence(small_config: SmallConfig, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config_file.to_yaml(small_config(runtime={"log_format": "json"})))
    ran = twhin("--log-format", "text", "prepare", path, "--run-root", tmp_path / "run")
    assert ran.returncode == 0
    assert not [line for line in ran.stderr.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("message", ["no such file", "error: twice", "two: parts", '{"severity": "ERROR"}', "é"])
def test_an_error_is_found_in_either_format(
    form: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TWHIN_LOG_FORMAT", form)
    progress.show_log()
    progress.say("a title")
    progress.show_error(UserError(message))
    progress.say("the end")
    shown = capsys.readouterr().err.splitlines()
    assert [progress.error_in(line) for line in shown] == [None, message, None]


@pytest.mark.parametrize("line", ["", "{", "[1]", "null", '"error"', "an error: ", '{"severity": "INFO"}', "3"])
def test_other_lines_are_no_errors(line: str) -> None:
    assert progress.error_in(line) is None
