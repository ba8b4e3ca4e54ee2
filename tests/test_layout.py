"""Dependencies go one way: pipelines → components → twhin_core, and within twhin_core along the data."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.command_line import ROOT

# A module or folder of twhin_core imports only from those before it here.
LAYERS = [
    "errors", "sizes", "progress", "object_store", "storage", "checksum", "parquet", "config", "schema", "lease",
    "run",
    "synthetic", "graph", "data", "model", "vectors", "distributed", "checkpoints", "training", "evaluation",
    "export", "embeddings", "report", "stages",
]  # fmt: skip


def modules(package: str) -> dict[str, Path]:
    """The files of a package, by the name that each is imported by."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / package).rglob("*.py"))
    }


CORE = modules("twhin_core")


def imported(path: Path, *, on_import_alone: bool = False) -> set[str]:
    """The full names that a file imports, inside functions and for the type checker too unless `on_import_alone`."""
    names: set[str] = set()
    for node in walk(ast.parse(path.read_text()), on_import_alone):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def walk(node: ast.AST, on_import_alone: bool) -> Iterator[ast.AST]:
    if on_import_alone and isinstance(node, ast.FunctionDef):
        return
    if on_import_alone and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from walk(child, on_import_alone)


def module_of(name: str) -> str:
    """The module of twhin_core that an imported name is, or is in."""
    return name if name in CORE else name.rpartition(".")[0]


def begins(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


@pytest.mark.parametrize(
    ("package", "banned"),
    [("twhin_core", ["kfp", "components", "pipelines"]), ("components", ["pipelines"])],
)
def test_a_package_imports_none_that_stands_on_it(package: str, banned: list[str]) -> None:
    files = modules(package).values()
    assert files
    wrong = [(path, name) for path in files for name in imported(path) if any(begins(name, other) for other in banned)]
    assert not wrong


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_from_those_before_it(layer: str) -> None:
    after = LAYERS[LAYERS.index(layer) + 1 :]
    files = {name: path for name, path in CORE.items() if begins(name, f"twhin_core.{layer}")}
    assert files
    wrong = {
        (module, name)
        for module, path in files.items()
        for name in imported(path)
        if any(begins(name, f"twhin_core.{other}") for other in after)
    }
    assert not wrong


def test_every_module_and_folder_of_the_library_is_a_layer() -> None:
    layers = {name.split(".")[1] for name in CORE if name != "twhin_core"}
    assert layers == set(LAYERS)
    assert len(LAYERS) == len(layers)


def test_no_module_comes_back_to_itself_through_its_imports() -> None:
    imports = {
        module: {module_of(name) for name in imported(path, on_import_alone=True) if begins(name, "twhin_core")}
        for module, path in CORE.items()
    }
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))
