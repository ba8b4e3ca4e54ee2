"""Dependencies go one way: pipelines → components → twhin_core, and within twhin_core along the data."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.command_line import ROOT

# A module or folder of twhin_core imports only from those before it here.
LAYERS = [
    "errors", "limits", "plugins", "sizes", "conditions", "progress", "output", "checksum", "stores", "storage",
    "records", "scratch", "paths", "parquet", "config", "schema", "lease", "activity", "heartbeat", "run", "removed",
    "published", "dependents", "durations", "libraries", "vertex_ai", "tracking", "synthetic", "graph", "data", "model",
    "vectors", "distributed", "checkpoints", "ranking", "training", "evaluation", "export", "registry", "series",
    "inductive", "embeddings", "recommend", "serving", "report", "stages", "tuning",
]  # fmt: skip

# Where torch may be imported with a module; elsewhere functions import it, and the type checker.
ROOMS_OF_TORCH = [
    "model",
    "vectors",
    "distributed",
    "checkpoints",
    "ranking",
    "training",
    "inductive",
    "recommend",
    "serving",
]
TORCH = ["torch", "torchrec", "fbgemm_gpu"]
WITHOUT_TORCH = [
    "twhin.pipelines.cli", "twhin.pipelines.submit", "twhin.components.train.component",
    "twhin_core.config", "twhin_core.schema", "twhin_core.synthetic.generate",
    *(f"twhin_core.graph.{name}" for name in ("build", "manifest")),
    *(f"twhin_core.stages.{name}" for name in ("prepare", "train", "evaluate", "follow")),
    *(f"twhin_core.stages.{name}" for name in ("export", "report", "readers")),
    *(f"twhin_core.evaluation.{name}" for name in ("gates", "measure")),
]  # fmt: skip
SLOW_TO_IMPORT = [
    *TORCH, "kfp", "kfp_kubernetes", "google.cloud.storage", "gcsfs", "obstore", "duckdb", "ibis", "pandas", "scipy",
    "pyspark", "faiss", "pyarrow.flight", "pyarrow.parquet", "tensorboard",
]  # fmt: skip
LINES = 300
"""The maximum length of a file of the library."""


def modules(package: str) -> dict[str, Path]:
    """The files of a package by module name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / package).rglob("*.py"))
    }


CORE = modules("twhin_core")


def imported(path: Path, *, on_import_alone: bool = False) -> set[str]:
    """The full names that a file imports; those in functions and for type checking unless `on_import_alone`."""
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
    """The module of twhin_core that an imported name belongs to."""
    return name if name in CORE else name.rpartition(".")[0]


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


@pytest.mark.parametrize(
    ("package", "banned"),
    [("twhin_core", ["kfp", "twhin"]), ("components", ["twhin.pipelines"])],
)
def test_a_package_does_not_import_those_above_it(package: str, banned: list[str]) -> None:
    files = modules(package).values()
    assert files
    wrong = [
        (path, name) for path in files for name in imported(path) if any(is_within(name, other) for other in banned)
    ]
    assert not wrong


@pytest.mark.parametrize("folder", ["twhin_core", "components", "pipelines", "tests", "benchmarks"])
def test_imports_do_not_use_ambiguous_top_level_names(folder: str) -> None:
    """They are installed as twhin.components and twhin.pipelines."""
    paths = (ROOT / folder).rglob("*.py")
    wrong = [
        (path, name) for path in paths for name in imported(path) if name.split(".")[0] in ("components", "pipelines")
    ]
    assert not wrong


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_from_those_before_it(layer: str) -> None:
    after = LAYERS[LAYERS.index(layer) + 1 :]
    files = {name: path for name, path in CORE.items() if is_within(name, f"twhin_core.{layer}")}
    assert files
    wrong = {
        (module, name)
        for module, path in files.items()
        for name in imported(path)
        if any(is_within(name, f"twhin_core.{other}") for other in after)
    }
    assert not wrong


def test_every_module_and_folder_of_the_library_is_a_layer() -> None:
    layers = {name.split(".")[1] for name in CORE if name != "twhin_core"}
    assert layers == set(LAYERS)
    assert len(LAYERS) == len(layers)


def test_imports_have_no_cycles() -> None:
    """Including imports inside functions."""
    imports = {
        module: {module_of(name) for name in imported(path) if is_within(name, "twhin_core")}
        for module, path in CORE.items()
    }
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))


def test_only_the_rooms_of_torch_import_it_with_a_module() -> None:
    rooms = tuple(f"twhin_core.{room}" for room in ROOMS_OF_TORCH)
    wrong = {
        (module, name)
        for package in ("twhin_core", "components", "pipelines")
        for module, path in modules(package).items()
        if not any(is_within(module, room) for room in rooms)
        for name in imported(path, on_import_alone=True)
        if any(is_within(name, library) for library in TORCH)
    }
    assert not wrong


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_a_module_is_imported_without_torch(module: str) -> None:
    loaded = f"import sys, {module}; sys.exit(bool({{'torch', 'torchrec'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", loaded], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("twhin.pipelines.cli", [*SLOW_TO_IMPORT, "numpy", "pyarrow", "pydantic"]),
        ("twhin.pipelines.submit", SLOW_TO_IMPORT),
        ("twhin_core.evaluation.measure", ["torchrec"]),
    ],
)
def test_a_command_starts_without_slow_libraries(module: str, unneeded: list[str]) -> None:
    """`twhin --help` and `twhin submit` start in under half a second each, as long as they import none of these.

    torchrec takes more than a second to import, and evaluation does not need it.
    """
    loaded = f"import sys, {module}; print(*sorted({set(unneeded)} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_a_file_of_the_library_is_short() -> None:
    lengths = {module: path.read_text().count("\n") for module, path in CORE.items()}
    assert not {module for module, length in lengths.items() if length > LINES}
