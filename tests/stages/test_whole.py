"""Training from Python: the stages of `twhin run`, in one process, and what they leave."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import twhin_core
from tests.command_line import ROOT, twhin
from tests.conftest import SmallConfig
from twhin_core.embeddings import Embeddings
from twhin_core.errors import GateFailed, UserError


@pytest.mark.slow
def test_it_ends_as_the_command_does(small_config: SmallConfig, tmp_path: Path) -> None:
    config, path = small_config(recommend={"fav": {"k": 3}}), tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(exclude_unset=True)))
    ran = twhin("run", path, "--run-root", tmp_path / "command")
    assert ran.returncode == 0, ran.stderr
    run = twhin_core.train(path, tmp_path / "python")
    metrics = json.loads((tmp_path / "command/evaluation/metrics.json").read_text())
    assert run.metrics["test"] == metrics["test"]
    for place in ("embeddings/user", "embeddings/tweet", "recommendations/fav", "graph/edges/train"):
        made, theirs = (sorted((tmp_path / of / place).glob("*.parquet")) for of in ("python", "command"))
        assert pq.read_table(made).equals(pq.read_table(theirs))
    other = Embeddings.load(tmp_path / "command")
    assert np.array_equal(run.embeddings["user"]["u7"], other["user"]["u7"])
    assert run.embeddings["user"].neighbors("u7", "fav") == other["user"].neighbors("u7", "fav")
    assert run.report is not None
    assert Path(run.report).is_file()
    assert run.config == config
    opened = twhin_core.Run(tmp_path / "command")
    assert opened.metrics["test"] == metrics["test"]
    assert repr(opened) == f"<Run at {tmp_path / 'command'}>"


def test_a_config_of_any_form_is_the_same_and_nothing_is_done_twice(small_config: SmallConfig, tmp_path: Path) -> None:
    config, path = small_config(training={"num_epochs": 1}), tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(exclude_unset=True)))
    run = twhin_core.train(config.model_dump(exclude_unset=True), tmp_path / "run")
    assert run.config == config
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").glob("*/**/part-*.parquet")}
    assert files
    for given in (config, path, str(path)):
        assert twhin_core.train(given, str(tmp_path / "run")).metrics == run.metrics
        assert {file: file.stat().st_mtime_ns for file in files} == files


def test_mistakes_are_those_of_the_command(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config()
    tree = config.model_dump(exclude_unset=True)
    wrong: list[tuple[Any, str]] = [
        (tmp_path / "none.yaml", r"none\.yaml: no such config file"),
        ({**tree, "trainning": {}}, r"^config: trainning: .*training"),
        ({**tree, "training": {"num_epochs": 0}}, r"^config: training\.num_epochs"),
        ({**tree, "evaluation": {"gates": {"test.all.nothing": {"min": 0}}}}, r"evaluation\.gates"),
        (
            {**tree, "prepare": {"sources": [{"path": "none.parquet", "relation_column": "relation"}]}},
            "no file matches",
        ),
    ]
    for given, message in wrong:
        with pytest.raises(UserError, match=message) as error:
            twhin_core.train(given, tmp_path / "run")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="there is no run here"):
        twhin_core.Run(tmp_path / "nowhere")


def test_a_missed_gate_exports_nothing_and_leaves_the_metrics(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(training={"num_epochs": 1}, evaluation={"gates": {"test.all.mrr": {"min": 0.99}}})
    with pytest.raises(GateFailed, match=r"nothing was exported: .*mrr"):
        twhin_core.train(config, tmp_path / "run")
    assert not (tmp_path / "run/embeddings/manifest.json").exists()
    run = twhin_core.Run(tmp_path / "run")
    assert 0 < run.metrics["test"]["all"]["mrr"] < 0.99
    assert len(run.embeddings["tweet"]) == 30, "they are those of the checkpoint"


def test_the_example_of_the_readme_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(example.strip().splitlines()) == 10
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert (len(names["tweets"]), len(names["vectors"])) == (3, len(names["run"].embeddings["tweet"]))
    assert names["run"].metrics["test"]["all"]["mrr"] > 0


def test_importing_the_package_imports_nothing_else() -> None:
    program = "import sys, twhin_core; print([name for name in sys.modules if name.startswith('twhin_core.')])"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "[]\n"
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        twhin_core.trian  # noqa: B018
    assert {"train", "Run", "__version__"} <= set(dir(twhin_core))
