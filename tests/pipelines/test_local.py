"""The whole DAG under KFP's local runner, each step a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.command_line import assert_refused, new_twhin, twhin
from twhin.pipelines.local import _StepOutput

SMALL = [
    "prepare.generate={users: 150, tweets: 200, communities: 5, edges_per_user: 20}",
    "training.num_epochs=3",
    "train_data.per_replica_batch_size=500",
    "train_data.global_negatives=20",
]


def arguments(root: Path, *more: str) -> list[str | Path]:
    options = [option for override in [*SMALL, *more] for option in ("--set", override)]
    return ["run", "configs/quickstart.yaml", "--run-root", root, *options]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local") / "run"


@pytest.fixture(scope="module")
def first(root: Path) -> subprocess.CompletedProcess[str]:
    """The DAG from nothing to embeddings, with KFP's own way to start a step."""
    ran = new_twhin(*arguments(root, "evaluation.gates={test.all.mrr: {min: 0.0}}"))
    assert ran.returncode == 0, ran.stderr
    return ran


def test_the_dag_goes_from_raw_files_to_embeddings(first: subprocess.CompletedProcess[str], root: Path) -> None:
    metrics = json.loads((root / "evaluation/metrics.json").read_text())
    for relation in ("follow", "fav", "reply", "retweet"):
        assert relation in first.stdout
        assert 0 < metrics["test"][relation]["mrr"] <= 1
    for place in ("evaluation/metrics.json", "evaluation/report.html", "embeddings/manifest.json"):
        assert f"{root}/{place}" in first.stdout
    for table in ("user", "tweet"):
        vocabulary = pq.read_table(root / f"graph/vocab/{table}")
        exported = pq.read_table(root / f"embeddings/{table}")
        assert exported["id"].to_pylist() == vocabulary["id"].to_pylist()
        assert exported.schema.field("embedding").type.list_size == 64


def test_kfp_gets_the_metrics_the_report_and_the_places(first: subprocess.CompletedProcess[str], root: Path) -> None:
    outputs = {path.parent.name: path for path in (root / "kfp").glob("*/*/executor_output.json")}
    assert set(outputs) == {"prepare", "train", "evaluate", "export"}

    def metadata(stage: str, artifact: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(outputs[stage].read_text())["artifacts"][artifact]["artifacts"][0][
            "metadata"
        ]
        return found

    figures = json.loads((root / "evaluation/metrics.json").read_text())["test"]["all"]
    found = metadata("evaluate", "metrics")
    named = {name: found.pop(name) for name in list(found) if name.startswith("test.")}
    assert named == {f"test.all.{name}": value for name, value in figures.items()}
    assert found.items() >= {"run_root": str(root), "graph": f"{root}/graph/manifest.json"}.items()
    reports = {stage: (outputs[stage].parent / "report").read_text() for stage in ("evaluate", "export")}
    assert reports["export"] == (root / "evaluation/report.html").read_text()
    assert 'id="exported"' in reports["export"]
    assert 'id="exported"' not in reports["evaluate"]  # it was written before there was any export
    assert 'id="figures"' in reports["evaluate"]
    checkpoint = metadata("train", "checkpoint")
    assert found["checkpoint"] == str(checkpoint["step"])
    assert Path(str(checkpoint["uri"])) == root / "checkpoints" / str(checkpoint["step"])
    assert metadata("export", "embeddings") == {"uri": f"{root}/embeddings"}


def test_the_steps_speak_and_kfp_does_not(first: subprocess.CompletedProcess[str]) -> None:
    assert "prepare: " in first.stderr
    assert "train: " in first.stderr
    for noise in ("KFP", "executor", "Streamed logs", "RuntimeWarning", "----"):
        assert noise not in first.stderr
        assert noise not in first.stdout


def test_run_again_it_finds_all_done_and_a_missed_gate_exports_nothing(
    first: subprocess.CompletedProcess[str], root: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (root / "checkpoints").rglob("*")}
    embeddings = (root / "embeddings/manifest.json").stat().st_mtime_ns
    ran = twhin(*arguments(root, "evaluation.gates={test.all.mrr: {min: 0.99}}"))
    assert_refused(ran, "test.all.mrr is 0.", "below its gate of at least 0.99", exit_code=3)
    assert "mrr" in ran.stdout  # the results are shown all the same
    assert "embeddings" not in ran.stdout
    assert {path: path.stat().st_mtime_ns for path in (root / "checkpoints").rglob("*")} == before
    assert (root / "embeddings/manifest.json").stat().st_mtime_ns == embeddings


def test_a_users_error_in_a_step_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    missing = tmp_path / "no-*.parquet"
    ran = twhin(
        "run", "configs/quickstart.yaml", "--run-root", tmp_path / "run",
        "--set", f"prepare={{sources: [{{path: {missing}, relation: follow}}]}}",
    )  # fmt: skip
    assert_refused(ran, str(missing), "no file matches")


def test_a_run_root_made_by_another_config_is_refused(first: subprocess.CompletedProcess[str], root: Path) -> None:
    assert_refused(twhin(*arguments(root, "training.seed=1")), "made with another config", "training.seed")


def test_only_a_steps_own_lines_pass() -> None:
    out = io.StringIO()
    stream = _StepOutput(out)
    for text in [
        "-" * 80 + "\n",
        "    ", "[KFP Executor 2026-01-01 00:00:00 INFO]: Got executor_input:\n",
        "    ", "{\n", "    ", '    "config": "x"\n', "    ", "}\n",
        "    ", "train: 50%\n",
        "    ", "    indented by the step\n",
        "    ", "[KFP Executor 2026-01-01 00:00:01 INFO]: Wrote executor output\n",
        "    ", "last\n", "    ", "\n\n",
    ]:  # fmt: skip
        stream.write(text)
    assert out.getvalue() == "train: 50%\n    indented by the step\nlast\n"
