"""An offline run of Weights & Biases, read from the file that `wandb sync` would send."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SmallConfig
from twhin_core.checksum import unseal_lines
from twhin_core.errors import UserError
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

wandb = pytest.importorskip("wandb")

BLOCK = 2**15
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: a log of LevelDB's format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:  # too short for a header: padding
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        if kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        part = content[at + 7 : at + 7 + length]
        at += 7 + length
        parts = part if kind in (FULL, FIRST) else parts + part
        if kind in (FULL, LAST):
            yield Record.FromString(parts)


def name_of(item: Any) -> str:
    return str(item.key or ".".join(item.nested_key))


class Read:
    """What the offline runs of a folder hold, in the order in which they were made."""

    def __init__(self, folder: Path) -> None:
        self.ids: list[str] = []
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.exits: list[int] = []
        self.files = {file.name for file in folder.glob("offline-run-*/files/*")}
        for path in sorted(folder.glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
            for record in records(path):
                self._take(record)

    def _take(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            self.ids.append(record.run.run_id)
            self._update(self.config, record.run.config.update)
        elif kind == "config":
            self._update(self.config, record.config.update)
        elif kind == "summary":
            self._update(self.summary, record.summary.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            self._update(row, record.history.item)
            self.history.append({"_step": record.history.step.num} | row)
        elif kind == "exit":
            self.exits.append(record.exit.exit_code)

    def _update(self, values: dict[str, Any], items: Any) -> None:
        values.update({name_of(item): json.loads(item.value_json) for item in items})


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DIR", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
def test_the_stages_of_an_offline_run_share_an_id_and_hold_every_figure_once(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    config = small_config(tracking={"wandb": "my-team/clicks"}, evaluation={"bootstrap": 20})
    root = tmp_path / "run"
    for stage in (prepare, train, evaluate):
        stage(config, str(root))  # type: ignore[operator]
    wandb.teardown()  # the client's own process writes to the end, as when this one ends
    read = Read(root / "tracking/wandb")
    assert len(set(read.ids)) == 1
    assert read.exits == [0, 0, 0]
    assert read.config["model.loss"] == "softmax"
    assert read.config["training.num_epochs"] == 2
    assert read.config["twhin.run_root"] == str(root)

    lines = unseal_lines((root / "training/metrics.jsonl").read_bytes(), "")
    for name in ("loss", "validation_loss", "edges_per_s"):
        expected = [(line["step"], line[name]) for line in lines if name in line]
        assert expected
        of = f"training.{name}"
        assert [(row["_step"], row[of]) for row in read.history if of in row] == expected

    metrics = json.loads((root / "evaluation/metrics.json").read_text())
    assert read.summary["test.all.mrr"] == metrics["test"]["all"]["mrr"]
    assert read.summary["test.fav.recall@20"] == metrics["test"]["fav"]["recall@20"]
    assert read.summary["evaluated_step"] == metrics["checkpoint"]
    assert {"report.html", "config.yaml", "graph-manifest.json", "metrics.json"} <= read.files


def test_a_run_online_needs_a_key(small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"tracking\.wandb: there is no key; set WANDB_API_KEY"):
        prepare(small_config(tracking={"wandb": "clicks"}), str(tmp_path / "run"))
    assert not (tmp_path / "run/graph").exists()


def test_an_offline_run_of_a_remote_root_needs_a_folder() -> None:
    from twhin_core.tracking.wandb import Wandb

    with pytest.raises(UserError, match=r"tracking\.wandb: an offline run needs a local folder"):
        Wandb("clicks", "gs://bucket/run")
