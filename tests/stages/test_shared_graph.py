"""Runs that use the graph of another run instead of building their own."""

from __future__ import annotations

import filecmp
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig, write_raw
from tests.object_store import GS_FIRST, reach, serve_bucket
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.embeddings import Embeddings
from twhin_core.errors import UserError
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.stages.verify import verify

TRAININGS: dict[str, dict[str, Any]] = {
    "as the first": {},
    "another seed, rate and temperature": {
        "training": {"seed": 5},
        "model": {"temperature": 0.5, "translation_optimizer": {"adagrad": {"lr": 0.02}}},
    },
    "other operators and weights": {
        "model": {
            "relations": [
                {"name": "follow", "lhs": "user", "rhs": "user", "operator": "diagonal", "weight": 0.25},
                {"name": "fav", "lhs": "user", "rhs": "tweet", "operator": "linear"},
            ]
        }
    },
    "another dimension, and rows to spare": {
        "model": {
            "embeddings": {
                "tables": [
                    {"name": "user", "embedding_dim": 4, "num_embeddings": 50, "optimizer": {"adam": {"lr": 0.01}}},
                    {"name": "tweet", "embedding_dim": 4, "optimizer": {"sgd": {"lr": 0.1}}},
                ]
            }
        }
    },
}


def run_through(config: Config, root: Path) -> None:
    prepare(config, str(root))
    train(config, str(root))
    evaluate(config, str(root))
    export(config, str(root))


def results(root: Path) -> list[str]:
    """The files that training, evaluation and export wrote, without those that hold times."""
    kept = ("checkpoints/", "evaluation/", "embeddings/", "training/plan.json", "training/finished.json")
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(path for path in paths if path.startswith(kept) and not path.endswith(".html"))


@pytest.fixture
def base(small_config: SmallConfig, tmp_path: Path) -> Path:
    """The root of a run that has prepared its graph and nothing else."""
    prepare(small_config(), str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.fixture(scope="module")
def prepared_once() -> list[Path]:
    """The root that is `unchanged`."""
    return []


@pytest.fixture
def unchanged(prepared_once: list[Path], small_config: SmallConfig, tmp_path: Path) -> Path:
    """As `base`, for tests that only read it; its raw file is beside it."""
    if not prepared_once:
        prepare(small_config(), str(tmp_path / "unchanged"))
        prepared_once.append(tmp_path / "unchanged")
    return prepared_once[0]


@pytest.mark.parametrize("sections", TRAININGS.values(), ids=TRAININGS)
def test_a_run_on_a_shared_graph_equals_a_run_on_its_own(
    sections: dict[str, Any], base: Path, small_config: SmallConfig, tmp_path: Path
) -> None:
    run_through(small_config(**sections), tmp_path / "own")
    sharing = small_config(**sections, prepare={"graph": str(base)})
    run_through(sharing, tmp_path / "sharing")
    assert [path.name for path in (tmp_path / "sharing/graph").iterdir()] == ["manifest.json"]
    assert (tmp_path / "sharing/graph/manifest.json").stat().st_size < 1000
    files = results(tmp_path / "own")
    assert results(tmp_path / "sharing") == files
    assert {path.split("/")[0] for path in files} == {"checkpoints", "training", "evaluation", "embeddings"}
    _, differing, broken = filecmp.cmpfiles(tmp_path / "own", tmp_path / "sharing", files, shallow=False)
    assert (differing, broken) == ([], [])
    page = (tmp_path / "sharing/evaluation/report.html").read_text()
    for relation in sharing.model.relations:
        assert relation.operator in page
    run_through(sharing, tmp_path / "sharing")  # finds everything done


@pytest.mark.slow
def test_every_command_finds_the_graph(base: Path, small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = small_config(prepare={"graph": str(base)}), tmp_path / "run"
    (tmp_path / "shared.yaml").write_text(config_file.to_yaml(config))
    ran = twhin("run", tmp_path / "shared.yaml", "--run-root", root)
    assert ran.returncode == 0, ran.stderr
    assert f"prepare: uses the graph of {base}" in ran.stderr
    artifact = next((root / "kfp").rglob("prepare/graph"))
    assert artifact.read_text() == (base / "graph/manifest.json").read_text()
    described = twhin("describe", root)
    assert described.stdout == twhin("describe", base).stdout
    near = twhin("neighbors", root, "user", "u1", "--relation", "fav")
    assert near.returncode == 0, near.stderr
    again = twhin("evaluate", "--run-root", root)  # its saved config
    assert again.returncode == 0, again.stderr
    parts = {part.name: part.state for part in verify(str(root))}
    assert {"graph/manifest.json", "graph/vocab/user", "graph/edges/train"} <= parts.keys()
    assert set(parts.values()) == {"whole"}


def test_a_relative_root_is_found_from_any_folder(
    base: Path, small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = small_config(prepare={"graph": "base"})
    prepare(config, "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(config, str(tmp_path / "run"))


def test_a_graph_that_is_shared_already_is_that_of_the_run_that_built_it(
    base: Path, small_config: SmallConfig, tmp_path: Path
) -> None:
    prepare(small_config(prepare={"graph": str(base)}), str(tmp_path / "first"))
    prepare(small_config(prepare={"graph": str(tmp_path / "first")}), str(tmp_path / "second"))
    shutil.rmtree(tmp_path / "first")
    train(small_config(prepare={"graph": str(tmp_path / "first")}), str(tmp_path / "second"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other repeats": ({"prepare": {"repeats": "count"}}, "prepare.repeats was 'first' and is 'count'"),
    "another split": ({"prepare": {"split": {"test": 0.2}}}, "prepare.split.test was 0.1 and is 0.2"),
    "another seed of the split": ({"prepare": {"split": {"seed": 1}}}, "prepare.split.seed was 0 and is 1"),
    "a filter": ({"prepare": {"min_degree": {"user": 2}}}, "prepare.min_degree.user was None and is 2"),
    "generated": (
        {"prepare": {"sources": [], "generate": {}, "split": None}},
        "prepare.sources.0 was {'path': ",
    ),
    "an end in another table": (
        {
            "model": {
                "relations": [
                    {"name": "follow", "lhs": "user", "rhs": "tweet"},
                    {"name": "fav", "lhs": "user", "rhs": "tweet"},
                ]
            }
        },
        "model.relations.0.rhs was 'user' and is 'tweet'",
    ),
    "a symmetric relation": (
        {
            "model": {
                "relations": [
                    {"name": "follow", "lhs": "user", "rhs": "user", "symmetric": True},
                    {"name": "fav", "lhs": "user", "rhs": "tweet"},
                ]
            }
        },
        "model.relations.0.symmetric was False and is True",
    ),
    "another order of relations": (
        {
            "model": {
                "relations": [
                    {"name": "fav", "lhs": "user", "rhs": "tweet"},
                    {"name": "follow", "lhs": "user", "rhs": "user"},
                ]
            }
        },
        "model.relations.0.name was 'follow' and is 'fav'",
    ),
    "another order of tables": (
        {
            "model": {
                "embeddings": {
                    "tables": [
                        {"name": name, "embedding_dim": 8, "optimizer": {"sgd": {"lr": 0.1}}}
                        for name in ("tweet", "user")
                    ]
                }
            }
        },
        "model.embeddings.tables.0.name was 'user' and is 'tweet'",
    ),
    "a table too many": (
        {
            "model": {
                "embeddings": {
                    "tables": [
                        {"name": name, "embedding_dim": 8, "optimizer": {"sgd": {"lr": 0.1}}}
                        for name in ("user", "tweet", "topic")
                    ]
                }
            }
        },
        "model.embeddings.tables.2 was None and is {'name': 'topic'",
    ),
}


@pytest.mark.parametrize(("sections", "message"), REFUSED.values(), ids=REFUSED)
def test_a_config_that_would_make_another_graph_is_refused(
    sections: dict[str, Any], message: str, unchanged: Path, small_config: SmallConfig, tmp_path: Path
) -> None:
    raw = unchanged.parent / "raw.parquet"
    same = {"sources": [{"path": str(raw), "relation_column": "relation"}], "graph": str(unchanged)}
    with pytest.raises(UserError) as refused:
        prepare(small_config(**{**sections, "prepare": {**same, **sections.get("prepare", {})}}), str(tmp_path / "run"))
    start = f"prepare.graph: the graph of {unchanged} was made with another config: {message}"
    assert str(refused.value).startswith(start)
    assert len(str(refused.value).splitlines()) == 1
    prepare(small_config(prepare=same), str(tmp_path / "run"))  # the root was not claimed


def test_what_a_later_stage_would_refuse_of_a_shared_graph_is_refused(
    base: Path, small_config: SmallConfig, tmp_path: Path
) -> None:
    shared = {"prepare": {"graph": str(base)}}
    with pytest.raises(UserError, match="31 are more than the 30 nodes of table tweet"):
        prepare(small_config(**shared, evaluation={"candidates": 31}), str(tmp_path / "run"))
    tables = [
        {"name": name, "embedding_dim": 8, "num_embeddings": 39, "optimizer": {"sgd": {"lr": 0.1}}}
        for name in ("user", "tweet")
    ]
    with pytest.raises(UserError, match="user has num_embeddings 39 but its vocabulary has 40"):
        prepare(small_config(**shared, model={"embeddings": {"tables": tables}}), str(tmp_path / "run"))
    write_raw(tmp_path / "raw.parquet", edges=700)
    with pytest.raises(UserError, match=r"raw\.parquet: changed since prepare read it"):
        prepare(small_config(**shared), str(tmp_path / "run"))
    assert not (tmp_path / "run/graph").exists()
    prepare(small_config(prepare={"graph": str(base), "changed_files": "keep"}), str(tmp_path / "run"))


def test_a_run_without_a_graph_cannot_share_one(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(prepare={"graph": str(tmp_path / "none")})
    with pytest.raises(UserError, match=r"^prepare\.graph: .*none: there is no finished graph here"):
        prepare(config, str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"^prepare\.graph: .*run: there is no finished graph here"):
        prepare(small_config(prepare={"graph": str(tmp_path / "run")}), str(tmp_path / "run"))


def test_a_run_keeps_the_graph_that_it_has(base: Path, small_config: SmallConfig, tmp_path: Path) -> None:
    prepare(small_config(), str(tmp_path / "own"))
    with pytest.raises(UserError, match=r"own: this run root was made with another config: prepare\.graph was None"):
        prepare(small_config(prepare={"graph": str(base)}), str(tmp_path / "own"))
    prepare(small_config(prepare={"graph": str(base)}), str(tmp_path / "sharing"))
    with pytest.raises(UserError, match=r"sharing: this run root was made with another config: prepare\.graph was"):
        train(small_config(), str(tmp_path / "sharing"))


def remove_all(base: Path, config: Config) -> str:
    shutil.rmtree(base)
    return f"uses the graph of {base}, which has been removed"


def remove_graph(base: Path, config: Config) -> str:
    shutil.rmtree(base / "graph")
    return f"uses the graph of {base}, which has been removed"


def remove_edges(base: Path, config: Config) -> str:
    shutil.rmtree(base / "graph/edges")
    return f"{base}/graph/edges/train/part-00000.parquet"


def prepare_anew(base: Path, config: Config) -> str:
    """The same relations and tables, of other edges."""
    shutil.rmtree(base)
    write_raw(base.parent / "raw.parquet", edges=700)
    prepare(config, str(base))
    return f"uses the graph of {base}, which has been prepared anew since"


CHANGES = [remove_all, remove_graph, remove_edges, prepare_anew]


@pytest.mark.parametrize("change", CHANGES)
def test_a_shared_graph_that_is_gone_or_another_is_refused_in_one_line(
    change: Callable[[Path, Config], str], base: Path, small_config: SmallConfig, tmp_path: Path
) -> None:
    config, root = small_config(prepare={"graph": str(base), "changed_files": "keep"}), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    message = change(base, small_config())
    for stage in (train, evaluate):
        with pytest.raises(UserError) as refused:
            stage(config, root)
        assert message in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
    assert_refused(twhin("verify", root), message)
    if change is not remove_edges:  # which these do not read
        with pytest.raises(UserError, match="uses the graph of"):
            prepare(config, root)
        assert_refused(twhin("describe", root), message)


def test_a_graph_made_again_from_the_same_rows_is_the_same(
    base: Path, small_config: SmallConfig, tmp_path: Path
) -> None:
    config = small_config(prepare={"graph": str(base)})
    prepare(config, str(tmp_path / "run"))
    shutil.rmtree(base)
    prepare(small_config(), str(base))
    train(config, str(tmp_path / "run"))


@pytest.mark.parametrize("store", GS_FIRST)
def test_on_an_object_store(
    store: str,
    small_config: SmallConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serve_bucket(store=store) as proxy:
        bucket = reach(proxy, monkeypatch)
        prepare(small_config(), f"{bucket}/base")
        config = small_config(prepare={"graph": f"{bucket}/base/"}, training={"num_epochs": 1})
        for root in (f"{bucket}/run", str(tmp_path / "run")):
            prepare(config, root)
            train(config, root)
            evaluate(config, root)
            with caplog.at_level(logging.INFO):
                export(config, root)
            assert len(Embeddings.load(root)["user"]) == 40
            assert {part.state for part in verify(root)} == {"whole"}
    shared = json.loads((tmp_path / "run/graph/manifest.json").read_text())
    assert shared["shared_by"].rstrip("/") == f"{bucket}/base"
    assert pq.read_table(tmp_path / "run/embeddings/user").num_rows == 40
