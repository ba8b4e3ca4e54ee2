"""Figures of training as node-exporter and a Pushgateway get them, read by Prometheus's own parser."""

from __future__ import annotations

import base64
import logging
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import SmallConfig
from tests.loopback import Answers, serving
from twhin_core.checksum import unseal_lines
from twhin_core.config.tracking import Prometheus
from twhin_core.errors import UserError
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.tracking.prometheus import Exposition


def samples(text: str) -> dict[tuple[str, str], float]:
    """Values by name and relation (or "")."""
    return {
        (sample.name, sample.labels.get("relation", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@dataclass
class Gateway:
    pushed: list[tuple[str, str]] = field(default_factory=list)
    """Path and body."""
    status: int = 200


class Handler(Answers, BaseHTTPRequestHandler):
    state: Gateway

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.state.pushed.append((self.path, body))
        self.send(self.state.status, b"", "text/plain")


@pytest.mark.slow
def test_training_leaves_its_last_figures_in_the_textfile(small_config: SmallConfig, tmp_path: Path) -> None:
    file = tmp_path / "twhin.prom"
    root = tmp_path / "run"
    config = small_config(tracking={"prometheus": {"textfile": str(file)}})
    prepare(config, str(root))
    assert not file.exists()
    train(config, str(root))
    last: dict[str, float] = {}
    for line in unseal_lines((root / "training/metrics.jsonl").read_bytes(), ""):
        last |= line
    found = samples(file.read_text())
    for name in ("step", "epoch", "loss", "validation_loss", "edges_per_s", "data_wait"):
        assert found[f"twhin_training_{name}", ""] == last[name]
    assert found["twhin_training_peak_memory_bytes", ""] > 10**7
    assert 'run="run"' in file.read_text()


def test_a_weight_has_its_relation_as_a_label(tmp_path: Path) -> None:
    file = tmp_path / "a.prom"
    of = Exposition(Prometheus(textfile=str(file)), 'clicks/versions/3 "new"')
    of.add(7, {"epoch": 1, "weight/fav": 0.25, 'weight/a "b"\\c\n': 4.0})
    assert of.send()
    found = samples(file.read_text())
    assert found["twhin_training_step", ""] == 7
    assert found["twhin_training_weight", "fav"] == 0.25
    assert found["twhin_training_weight", 'a "b"\\c\n'] == 4.0


def test_nothing_new_is_not_written_again(tmp_path: Path) -> None:
    file = tmp_path / "a.prom"
    of = Exposition(Prometheus(textfile=str(file)), "run")
    assert of.send()
    assert not file.exists()
    of.add(1, {"loss": 2.0})
    assert of.send()
    file.unlink()
    assert of.send()
    assert not file.exists()


def test_a_reader_of_the_textfile_never_sees_a_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "a.prom"
    of = Exposition(Prometheus(textfile=str(file)), "run")
    ended = threading.Event()

    def write() -> None:
        for step in range(300):
            of.add(step, {f"figure{number}": float(step) for number in range(50)})
            of.send()
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not ended.is_set():
        if file.exists():
            found = samples(file.read_text())
            assert len(found) == 54  # step, 50 figures, info, updated and memory
    writer.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a.prom"]


def test_a_pushgateway_gets_the_figures_under_the_name_of_the_run() -> None:
    with serving(Handler, state := Gateway()) as url:
        of = Exposition(Prometheus(pushgateway=url), "clicks/versions/3")
        of.add(7, {"loss": 0.5})
        assert of.send()
    ((path, body),) = state.pushed
    name = base64.urlsafe_b64encode(b"clicks/versions/3").decode()
    assert path == f"/metrics/job/twhin/run@base64/{name}"
    assert samples(body)["twhin_training_loss", ""] == 0.5


def test_a_gateway_that_fails_costs_one_warning_and_gets_the_figures_later(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Handler, state := Gateway(status=500)) as url:
        of = Exposition(Prometheus(pushgateway=url), "run")
        of.add(7, {"loss": 0.5})
        assert not of.send()
        assert not of.send()
        state.status = 200
        assert of.send()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert samples(state.pushed[-1][1])["twhin_training_loss", ""] == 0.5


@pytest.mark.parametrize("goal", ["missing/a.prom", "file/a.prom"])
def test_a_textfile_without_a_folder_is_a_mistake_before_work(
    small_config: SmallConfig, tmp_path: Path, goal: str
) -> None:
    (tmp_path / "file").write_text("")
    config = small_config(tracking={"prometheus": {"textfile": str(tmp_path / goal)}})
    with pytest.raises(UserError, match=r"tracking\.prometheus\.textfile: .*there is no such folder"):
        prepare(config, str(tmp_path / "run"))
    assert not (tmp_path / "run/graph").exists()
