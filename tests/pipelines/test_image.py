"""Every stage inside the built image, against the same stages outside it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.command_line import ROOT, twhin
from twhin_core import __version__

IMAGE = f"twhin/twhin:{__version__}-test"
STAGES = ("prepare", "train", "evaluate", "export")
SMALL = ("--set", "prepare.generate.users=600", "--set", "training.num_epochs=2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(shutil.which("buildah") is None, reason="needs Debian's buildah and mmdebstrap"),
]


def buildah(*arguments: str | Path) -> str:
    ran = subprocess.run(["buildah", *map(str, arguments)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """A container of the image that `make image` builds."""
    empty = 'c=$(buildah from scratch) && buildah mount "$c" && buildah rm "$c"'
    tried = subprocess.run(["sh", "-c", empty], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"buildah may not mount anything here: {tried.stderr}")
    made = subprocess.run(["make", "image", f"IMAGE={IMAGE}"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-5000:]
    name = buildah("from", "--pull-never", IMAGE).strip()
    yield name
    buildah("rm", name)


def inside(container: str, *command: str | Path, mounts: tuple[Path, ...] = ()) -> str:
    volumes = [flag for path in mounts for flag in ("--volume", f"{path}:{path}")]
    return buildah("run", "--isolation", "chroot", *volumes, container, "--", *command)


def test_every_stage_does_inside_what_it_does_outside(container: str, tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    inner.mkdir(mode=0o777)
    inner.chmod(0o777)  # the image's user is no one's here
    for stage in STAGES:
        ran = twhin(stage, "configs/quickstart.yaml", "--run-root", outer, *SMALL)
        assert ran.returncode == 0, ran.stderr
        inside(container, "twhin", stage, "configs/quickstart.yaml", "--run-root", inner, *SMALL, mounts=(inner,))
    figures = [json.loads((root / "evaluation/metrics.json").read_text()) for root in (outer, inner)]
    assert figures[0] == figures[1]
    for table in ("user", "tweet"):
        tables = [pq.read_table(root / "embeddings" / table) for root in (outer, inner)]
        assert tables[0].equals(tables[1])


def test_it_is_small_unprivileged_and_holds_no_tools_to_build_with(container: str) -> None:
    assert inside(container, "id", "-u").strip() == "1000"
    assert inside(container, "twhin", "--version").strip() == f"twhin {__version__}"
    assert "FAILED" not in inside(container, "twhin", "doctor", "/home/twhin")
    assert inside(container, "sh", "-c", "command -v gcc cc pip make; true") == ""
    mounted = Path(buildah("mount", container).strip())
    assert [file for home in ("root", "home/twhin") for file in (mounted / home).glob(".cache/**/*")] == []
    size = int(subprocess.run(["du", "-sb", mounted], capture_output=True, text=True, check=True).stdout.split()[0])
    assert size < 2.5e9
    labels = json.loads(buildah("inspect", container))["Docker"]["config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert len(labels["org.opencontainers.image.revision"]) == 40


def test_the_loader_finds_a_gpus_driver_where_gke_mounts_it(container: str, tmp_path: Path) -> None:
    mounted = Path(buildah("mount", container).strip())
    (found,) = (path for path in mounted.glob("usr/lib/*/libz.so.1"))
    shutil.copy(found, tmp_path / "libdriver.so.1")
    tmp_path.chmod(0o755)  # the image's user is no one's here
    load = "import ctypes; ctypes.CDLL('libdriver.so.1')"
    mount = f"{tmp_path}:/usr/local/nvidia/lib64"
    buildah("run", "--isolation", "chroot", "--volume", mount, container, "--", "python3", "-c", load)


def test_the_steps_of_kfp_find_what_they_need(container: str) -> None:
    inside(container, "sh", "-c", "test -d $(mktemp -d) && python3 -c 'import kfp.dsl.executor_main'")
