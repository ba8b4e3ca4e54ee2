"""Dependencies go one way: pipelines → components → twhin_core, and within twhin_core along the data."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.command_line import ROOT

# A folder of twhin_core imports only from those before it here, and from the modules beside them.
FOLDERS = ["graph", "data", "model", "training", "vectors", "evaluation", "export", "embeddings"]


def imported(path: Path) -> set[str]:
    """The full names of the modules that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def below(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def begins(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


@pytest.mark.parametrize(
    ("package", "banned"),
    [("twhin_core", ["kfp", "components", "pipelines"]), ("components", ["pipelines"])],
)
def test_a_package_imports_none_that_stands_on_it(package: str, banned: list[str]) -> None:
    files = below(package)
    assert files
    wrong = [(path, name) for path in files for name in imported(path) if any(begins(name, other) for other in banned)]
    assert not wrong


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_from_those_before_it(folder: str) -> None:
    after = FOLDERS[FOLDERS.index(folder) + 1 :]
    files = below(f"twhin_core/{folder}")
    assert files
    wrong = [
        (path, name)
        for path in files
        for name in imported(path)
        if any(begins(name, f"twhin_core.{other}") for other in after)
    ]
    assert not wrong


def test_the_modules_beside_the_folders_import_from_none_of_them() -> None:
    wrong = [
        (path, name)
        for path in (ROOT / "twhin_core").glob("*.py")
        for name in imported(path)
        if any(begins(name, f"twhin_core.{folder}") for folder in FOLDERS)
    ]
    assert not wrong


def test_every_folder_of_the_library_has_its_place_in_the_order() -> None:
    folders = {path.name for path in (ROOT / "twhin_core").iterdir() if (path / "__init__.py").exists()}
    assert folders == set(FOLDERS)
