"""Each component's bare function: what it leaves under the run root, and what it gives KFP."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl, local

from tests.command_line import ROOT
from tests.conftest import SmallConfig
from tests.kubernetes_server import free_url
from twhin.components.evaluate.component import evaluate
from twhin.components.export.component import export
from twhin.components.prepare.component import prepare
from twhin.components.train import nodes_component, train_job
from twhin.components.train.component import train
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.config import file as config_file

Artifacts = dict[str, Any]


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., tuple[Any, Artifacts]]:
    """Calls a component's function with a place for each of its artifacts; gives the result and the artifacts."""

    def run(component: Any, config: Config, root: str, **inputs: Any) -> tuple[Any, Artifacts]:
        kinds = {
            "system.Dataset": dsl.Dataset, "system.Model": dsl.Model, "system.Metrics": dsl.Metrics,
            "system.HTML": dsl.HTML, "system.Markdown": dsl.Markdown,
        }  # fmt: skip
        artifacts = {
            name: kinds[spec.type.partition("@")[0]](name=name, uri=str(tmp_path / f"{component.name}-{name}"))
            for name, spec in component.component_spec.outputs.items()
            if "@" in spec.type
        }
        result = component.python_func(config=config_file.to_line(config), run_root=root, **inputs, **artifacts)
        return result, artifacts

    return run


def test_prepare_says_how_large_the_graph_is(
    call: Callable[..., Any], small_config: SmallConfig, tmp_path: Path
) -> None:
    root = str(tmp_path / "run")
    _, artifacts = call(prepare, small_config(), root)
    assert artifacts["graph"].metadata == {"uri": f"{root}/graph"}
    assert Path(artifacts["graph"].path).read_text() == Path(f"{root}/graph/manifest.json").read_text()
    figures = artifacts["metrics"].metadata
    assert (figures["nodes.user"], figures["nodes.tweet"], figures["rejected_rows"]) == (40, 30, 0)
    assert sum(figures[f"edges.{split}"] for split in ("train", "validation", "test")) == 600
    text = Path(artifacts["summary"].path).read_text()
    assert "| user | 40 |\n| tweet | 30 |" in text
    assert "| fav | user → tweet |" in text
    assert "0 rows rejected." in text


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"memory_limit": "8KB"}, "evaluation.memory_limit: 8KB is too small for 59 held-out edges"),
        ({"candidates": 35}, "evaluation.candidates: 35 are more than the 30 nodes of table tweet"),
    ],
)
def test_prepare_refuses_what_evaluate_would_after_training(
    evaluation: Any, message: str, call: Callable[..., Any], small_config: SmallConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(SystemExit, match="2"):
        call(prepare, small_config(evaluation=evaluation), str(tmp_path / "run"))
    assert f"error: {message}" in capsys.readouterr().err


def test_in_a_run_root_the_runs_id_has_its_place(
    call: Callable[..., Any], small_config: SmallConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path / "nightly/{run}")
    _, artifacts = call(prepare, small_config(), root, run="17")
    assert artifacts["graph"].metadata == {"uri": f"{tmp_path}/nightly/17/graph"}
    assert [path.name for path in (tmp_path / "nightly").iterdir()] == ["17"]
    with pytest.raises(SystemExit, match="2"):
        call(prepare, small_config(), root)
    assert f"error: {root}: {{run}} needs the id of a pipeline run on a cluster" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        call(prepare, small_config(), root, run="{{$.pipeline_job_uuid}}")  # as an old backend leaves it
    assert "error: Kubeflow Pipelines did not replace" in capsys.readouterr().err


def test_without_a_prepare_section_the_config_is_left_for_the_other_machines(
    call: Callable[..., Any], tmp_path: Path
) -> None:
    config = config_file.load(str(ROOT / "configs/local.yaml"))
    _, artifacts = call(prepare, config, str(tmp_path / "run"))
    assert config_file.load(str(tmp_path / "run/config.yaml")) == config
    assert artifacts["graph"].metadata == {"uri": config.train_data.data_root}


@pytest.mark.parametrize("component", [train, nodes_component.train])
def test_train_says_how_it_went_and_where_the_checkpoint_is(
    component: Any, call: Callable[..., Any], trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = trained
    monkeypatch.setattr(train_job, "train", lambda *_: None)  # tested by itself; here it has finished
    more = {"manifests": [], "run": "run-1"} if component is nodes_component.train else {}
    _, artifacts = call(component, config, root, **more)
    newest = checkpoint.newest(root)
    assert newest is not None
    assert artifacts["checkpoint"].metadata == {"uri": newest.url, "step": newest.step}
    lines = [json.loads(line) for line in Path(root, "training/metrics.jsonl").read_text().splitlines()]
    figures = artifacts["metrics"].metadata
    assert (figures["step"], figures["epoch"]) == (newest.step, 2)
    for name in ("loss", "edges_per_s", "validation_loss"):
        assert figures[name] == [line[name] for line in lines if name in line][-1]
    text = Path(artifacts["summary"].path).read_text()
    assert f"Finished after step {newest.step}: all steps are done." in text
    assert "| user | local | 1 |" in text


def test_evaluate_says_which_gates_hold(call: Callable[..., Any], trained: tuple[Config, str]) -> None:
    config, root = trained
    held, artifacts = call(evaluate, config, root)
    assert held
    metrics = json.loads(Path(root, "evaluation/metrics.json").read_text())
    assert artifacts["metrics"].metadata["test.all.mrr"] == metrics["test"]["all"]["mrr"]
    lineage = {name: artifacts["metrics"].metadata[name] for name in ("run_root", "checkpoint", "graph", "config")}
    assert lineage == {
        "run_root": root,
        "checkpoint": str(metrics["checkpoint"]),
        "graph": f"{root}/graph/manifest.json",
        "config": f"{root}/config.yaml",
    }
    assert artifacts["report"].metadata == {"uri": f"{root}/evaluation"}
    text = Path(artifacts["summary"].path).read_text()
    assert "The config has no gates." in text
    assert f"| fav | {metrics['test']['fav']['mrr']:.4f} |" in text
    gate = {"test.all.mrr": {"min": 1.0}}
    gated = config_file.parse(config_file.to_line(config), overrides=[f"evaluation.gates={json.dumps(gate)}"])
    held, artifacts = call(evaluate, gated, root)
    assert not held
    assert "- test.all.mrr is 0." in Path(artifacts["summary"].path).read_text()


def test_export_says_what_was_written_where(call: Callable[..., Any], trained: tuple[Config, str]) -> None:
    config, root = trained
    call(evaluate, config, root)
    _, artifacts = call(export, config, root)
    assert artifacts["embeddings"].metadata == {"uri": f"{root}/embeddings"}
    figures = artifacts["metrics"].metadata
    assert (figures["rows.user"], figures["rows.tweet"]) == (40, 30)
    assert f"8 dimensions, compared by the dot product, in `{root}/embeddings`." in (
        Path(artifacts["summary"].path).read_text()
    )


UNDER_KFP = """
import sys
from kfp import local
from twhin.components.train.component import train
from twhin_core.config import file as config_file
if __name__ == "__main__":
    config, root, kfp_root = sys.argv[1:]
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=kfp_root)
    task = train(config=config_file.to_line(config_file.load(config)), run_root=root)
    print("STEP", task.outputs["checkpoint"].metadata["step"])
"""


def start_train(config: Path, root: str, kfp_root: Path, **variables: str) -> subprocess.Popen[str]:
    """The train component under KFP's local runner, as on a machine with these variables."""
    script = kfp_root / "script.py"
    kfp_root.mkdir()
    script.write_text(UNDER_KFP)
    return subprocess.Popen(
        [sys.executable, str(script), str(config), root, str(kfp_root)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", **variables},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.fixture
def prepared(small_config: SmallConfig, tmp_path: Path) -> tuple[Path, str]:
    from twhin_core.stages.prepare import prepare

    config, root = small_config(training={"readers_timeout_in_s": 1}), str(tmp_path / "run")
    prepare(config, root)
    (tmp_path / "config.yaml").write_text(config_file.to_yaml(config))
    return tmp_path / "config.yaml", root


@pytest.mark.slow
def test_train_starts_a_rank_a_gpu_under_kfp(prepared: tuple[Path, str], tmp_path: Path) -> None:
    task = start_train(*prepared, tmp_path / "kfp", PET_NNODES="1", PET_NPROC_PER_NODE="2")  # as if it had two
    said, _ = task.communicate(timeout=200)
    assert task.returncode == 0, said
    newest = checkpoint.newest(prepared[1])
    assert newest is not None
    assert f"STEP {newest.step}" in said
    plan = json.loads(Path(prepared[1], "training/plan.json").read_text())
    assert {part["rank"] for table in plan for part in table["parts"]} == {0, 1}


def test_without_a_report_evaluate_gives_its_decision(call: Callable[..., Any], trained: tuple[Config, str]) -> None:
    config, root = trained
    Path(root, "training/metrics.jsonl").write_text('{"step": 1, "loss": "high"}')  # which the report cannot draw
    passed, artifacts = call(evaluate, config, root)
    assert passed
    assert "test.all.mrr" in artifacts["metrics"].metadata
    assert not Path(artifacts["report"].path).exists()


@pytest.mark.slow
def test_on_vertex_the_same_component_is_trainer_or_reader(prepared: tuple[Path, str], tmp_path: Path) -> None:
    def at(pool: str, address: str) -> str:
        cluster = {"workerpool0": ["127.0.0.1:2222"], "workerpool2": [address]}
        return json.dumps({"cluster": cluster, "environment": "cloud", "task": {"type": pool, "index": 0}})

    lost = start_train(*prepared, tmp_path / "lost", CLUSTER_SPEC=at("workerpool0", free_url().removeprefix("http://")))
    assert "none of the readers" in lost.communicate(timeout=200)[0]
    spec = at("workerpool2", "127.0.0.1:0")
    reader = start_train(*prepared, tmp_path / "reader", CLUSTER_SPEC=spec, TWHIN_BIND="127.0.0.1:0")
    assert reader.stdout is not None
    try:
        address = next(line.split()[-1] for line in reader.stdout if "edges at" in line)
        among_both = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "2222"}
        chief = start_train(*prepared, tmp_path / "chief", CLUSTER_SPEC=at("workerpool0", address), **among_both)
        said, _ = chief.communicate(timeout=200)
        assert chief.returncode == 0, said
    finally:
        os.killpg(reader.pid, signal.SIGTERM)  # KFP's runner does not pass it on
        reader.communicate()
    assert checkpoint.newest(prepared[1]) is not None


def test_a_pipeline_of_ones_own_compiles_without_a_cache_and_runs(
    small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of docs/components.md."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/components.md").read_text(), re.M | re.DOTALL)
    (tmp_path / "own.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own")
    compiler.Compiler().compile(own.own, str(tmp_path / "own.yaml"))
    (document, *_) = yaml.safe_load_all((tmp_path / "own.yaml").read_text())
    tasks = document["root"]["dag"]["tasks"]
    assert set(tasks) == {"collect", "prepare", "train"}
    for name, retries in (("prepare", 2), ("train", 5)):
        assert not tasks[name]["cachingOptions"].get("enableCache")
        assert tasks[name]["retryPolicy"]["maxRetryCount"] == retries

    raw = str(tmp_path / "pairs.csv")
    tree = small_config(prepare={"sources": [{"path": raw, "relation": "fav"}]}).model_dump()
    tree["model"]["relations"] = tree["model"]["relations"][1:]
    root = str(tmp_path / "run")
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "kfp"))
    own.own(config=config_file.to_line(config_file.validate(Config, tree, "test")), run_root=root, raw=raw)
    assert (Path(root) / "training/finished.json").exists()
