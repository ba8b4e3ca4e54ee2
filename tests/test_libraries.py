"""The error if torchrec or fbgemm is missing or does not load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.command_line import ROOT, assert_refused, new_twhin
from tests.conftest import SmallConfig
from twhin_core import libraries
from twhin_core.config import file as config_file


@pytest.mark.parametrize(
    ("library", "code", "why"),
    [
        ("torchrec", "raise ModuleNotFoundError(\"No module named 'torchrec'\")", "No module named 'torchrec'"),
        ("fbgemm_gpu", "raise OSError('libcuda.so.1: cannot open')", "libcuda.so.1: cannot open"),
    ],
)
def test_training_names_the_command_that_installs_them(
    library: str, code: str, why: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(config_file.to_yaml(small_config()))
    assert new_twhin("prepare", config, "--run-root", tmp_path / "root").returncode == 0
    (tmp_path / f"hidden/{library}").mkdir(parents=True)
    (tmp_path / f"hidden/{library}/__init__.py").write_text(code)
    path = f"{tmp_path / 'hidden'}:{ROOT}"
    ran = new_twhin("train", config, "--run-root", tmp_path / "root", PYTHONPATH=path)
    assert_refused(ran, why, libraries.INSTALL["cpu"])


def test_the_commands_install_the_pinned_versions() -> None:
    pins = "".join(path.read_text() for path in (ROOT / "requirements").glob("*.txt"))
    for command in libraries.INSTALL.values():
        for package, release in re.findall(r"([a-z-]+)==([0-9.]+)", command):
            assert re.search(rf"^{package}=={re.escape(release)}\b", pins, re.MULTILINE), package
