"""The sdist and its wheel: what they install, beside a project with components and pipelines of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.command_line import ROOT
from tests.conftest import SmallConfig
from twhin_core import __version__
from twhin_core.config import file as config_file

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    ran = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info"))
    # As `python -m build` does: an sdist, and the wheel of that.
    hook = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", hook, folder, cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "--wheel-dir", folder, sdist, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """Of a fresh environment with the wheel, and beside it what this one has but for the project."""
    folder = wheel.parent / "venv"
    run(sys.executable, "-m", "venv", folder, cwd=wheel.parent)
    python = folder / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_all_that_is_installed_has_a_name_of_ours(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(f"twhin-{__version__}.dist-info/METADATA").decode()
    assert {name.split("/")[0] for name in names} == {"twhin", "twhin_core", f"twhin-{__version__}.dist-info"}
    assert {"twhin/components/train/component.yaml", "twhin/pipelines/cli.py", "twhin_core/stages/train.py"} <= set(
        names
    )
    assert f"Version: {__version__}\n" in metadata


def test_a_project_with_components_and_pipelines_of_its_own_runs_ours(
    python: Path, small_config: SmallConfig, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    for package in ("components", "pipelines"):
        (project / package).mkdir(parents=True)
        (project / package / "__init__.py").write_text("OWN = True\n")
    (project / "run.yaml").write_text(config_file.to_yaml(small_config(training={"num_epochs": 1})))
    run(python.parent / "twhin", "run", "run.yaml", "--run-root", "root", cwd=project)
    assert list((project / "root/embeddings/user").glob("*.parquet"))
    own = "import components, pipelines, twhin.components, twhin.pipelines; print(components.OWN, pipelines.OWN)"
    assert run(python, "-c", own, cwd=project) == "True True\n"
