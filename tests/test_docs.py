"""The docs match the repository."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format

from docs import generate_configuration
from tests.command_line import ROOT
from twhin_core import __version__
from twhin_core.config import file as config_file

PAGES = sorted(
    [ROOT / "README.md", ROOT / "deploy/README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("components/*/README.md")]
)


def test_the_generated_pages_are_current() -> None:
    for page, text in generate_configuration.pages().items():
        assert page.read_text() == text, "run `make docs`"


def test_the_default_config_changes_no_default() -> None:
    smallest = config_file.parse(json.dumps(generate_configuration.EXAMPLE))
    assert config_file.load(str(ROOT / "configs/default.yaml")) == smallest


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(
        r"`((?:twhin_core|components|pipelines|configs|docs|tests|requirements)/[\w./-]+)`", page.read_text()
    )
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_architecture_page_lists_every_entry_of_the_repository() -> None:
    tree = (ROOT / "docs/architecture.md").read_text()
    entries = {path.name for path in ROOT.iterdir() if not path.name.startswith(".") and path.is_dir()}
    ours = entries & {"configs", "twhin_core", "components", "pipelines", "tests", "docs", "requirements", "deploy"}
    assert len(ours) == 8
    assert not [name for name in ours if not re.search(rf"^{name}/", tree, re.MULTILINE)]


def test_the_validation_on_the_ci_page_accepts_valid_pipelines_and_refuses_unknown_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/ci.md").read_text(), re.MULTILINE | re.DOTALL)
    goldens = sorted((ROOT / "tests/golden").glob("gpu-1.*.yaml"))
    assert len(goldens) == 2
    monkeypatch.setattr(sys, "argv", ["validate.py", *map(str, goldens)])
    exec(program, {})
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text(goldens[0].read_text().replace("taskInfo:", "taskinfos:"))
    monkeypatch.setattr(sys, "argv", ["validate.py", str(misspelt)])
    with pytest.raises(json_format.ParseError, match="taskinfos"):
        exec(program, {})


IMAGES = ["docs/deploy.md", "docs/ci.md", "README.md", "Dockerfile", "deploy/training-runtime.yaml"]
IMAGES += ["deploy/serve.yaml", "deploy/inference-service.yaml"]
IMAGES += [f"components/{stage}/README.md" for stage in ("prepare", "train", "evaluate", "export")]


@pytest.mark.parametrize("path", IMAGES)
def test_the_image_carries_the_version(path: str) -> None:
    tags = re.findall(r"twhin/twhin:(\d[\w.]*)", (ROOT / path).read_text())
    assert tags
    assert set(tags) == {__version__}
