"""An operator and an export format from another installed package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import SmallConfig
from tests.export.exporting import export_as, vocabulary, weights
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config, Relation
from twhin_core.errors import UserError
from twhin_core.model.relation_operators import RelationOperators
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

CODE = '''
import json

from twhin_core import storage
from twhin_core.export.manifest import FOLDER, FormatExport
from twhin_core.model.operators import Operator
from twhin_core.parquet import FileEntry


class Scale(Operator):
    """θ_rel · x, with one number per relation."""

    def initial(self, relations, dim):
        import torch

        return torch.ones(relations, 1)

    def apply(self, parameters, index, vectors):
        return parameters[index] * vectors

    adjoint = apply


def write(vector_set, progress):
    rows = [row for block in vector_set.blocks(progress) for row in block.vectors.tolist()]
    path = f"{FOLDER}/json-rows/{vector_set.name}.json"
    storage.write_json(storage.join(vector_set.run.root, path), rows)
    files = [FileEntry(path=path, rows=vector_set.size, sha256="")]
    return FormatExport(table=vector_set.table, rows=vector_set.size, files=files)
'''
ENTRY_POINTS = """
[twhin.operators]
scale = somebodys_plugin:Scale
gone = somebodys_plugin:Gone

[twhin.export_formats]
json-rows = somebodys_plugin:write
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs the package, as pip would."""
    site = tmp_path / "site"
    information = site / "somebodys_plugin-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "somebodys_plugin.py").write_text(CODE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(site))


def relations(operator: str) -> list[dict[str, str]]:
    return [
        {"name": "follow", "lhs": "user", "rhs": "user", "operator": operator},
        {"name": "fav", "lhs": "user", "rhs": "tweet"},
    ]


@pytest.mark.usefixtures("plugin")
def test_an_operator_of_another_package_is_trained(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = small_config(model={"relations": relations("scale")}), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    assert newest(root).step > 0
    made = RelationOperators([Relation(name="r", lhs="user", rhs="user", operator="scale")], 4)
    made.get_parameter("scale").data[0] = 3.0
    assert made(torch.tensor(0), torch.tensor([1.0, 2, 3, 4])).tolist() == [3, 6, 9, 12]


@pytest.mark.usefixtures("plugin")
def test_an_export_format_of_another_package_is_written(trained: tuple[Config, str]) -> None:
    _, root = trained
    manifest = export_as(trained, "parquet", "json-rows")
    for table in ("user", "tweet"):
        (file,) = manifest.formats["json-rows"][table].files
        rows = json.loads(Path(root, file.path).read_text())
        assert len(rows) == len(vocabulary(root, table))
        assert torch.equal(torch.tensor(rows), torch.from_numpy(weights(root, table)))


@pytest.mark.usefixtures("plugin")
def test_an_entry_point_that_does_not_load_is_named_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^gone: the entry point somebodys_plugin:Gone of twhin.operators does not"):
        RelationOperators([Relation(name="r", lhs="a", rhs="a", operator="gone")], 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"relations": relations("scale")}},
            r"model.relations.0.operator: input should be 'identity', .*; no package provides 'scale'",
        ),
        (
            {"export": {"formats": ["json-rows"]}},
            r"export.formats.0: input should be 'parquet', .*; no package provides 'json-rows'",
        ),
    ],
)
def test_an_unknown_name_is_refused(small_config: SmallConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_config(**changes)
