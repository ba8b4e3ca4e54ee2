"""The stage, on real graphs and checkpoints: read back by pyarrow and DuckDB."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.export.exporting import changed, export_as, vocabulary
from twhin_core.checkpoints.checkpoint import newest, remove
from twhin_core.config import Config
from twhin_core.errors import GateFailed, UserError
from twhin_core.export import formats, vector_set, write
from twhin_core.export.manifest import FormatExport, read_export_manifest
from twhin_core.export.vector_set import VectorSet
from twhin_core.progress import Progress
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train


@pytest.mark.parametrize("rows_per_file", [7, 1_000_000])
def test_each_row_has_its_id_and_the_vector_of_the_checkpoint(
    trained: tuple[Config, str], rows_per_file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_set, "BLOCK_BYTES", 11 * 4 * 8)  # 11 rows: neither files nor tables are multiples
    config, root = trained
    manifest = export(changed(config, "export", rows_per_file=rows_per_file), root)
    for table, rows in (("user", 40), ("tweet", 30)):
        entry = next(entry for entry in manifest.tables if entry.name == table)
        assert (entry.rows, entry.unnamed_rows) == (rows, 0)
        assert [file.rows for file in entry.files] == [rows_per_file] * (rows // rows_per_file) + [rows % rows_per_file]
        found = pa.concat_tables([pq.read_table(Path(root, file.path)) for file in entry.files])
        assert found.schema.types == [pa.int64(), pa.string(), pa.list_(pa.float32(), 8)]
        assert found.column_names == ["index", "id", "embedding"]
        assert found["index"].to_pylist() == list(range(rows))
        assert found["id"].to_pylist() == vocabulary(root, table)
        vectors = np.array(found["embedding"].to_pylist(), np.float32)
        np.testing.assert_array_equal(vectors, newest(root).rows(table).read(0, rows).numpy())
        assert np.abs(vectors).sum(1).min() > 0


def test_duckdb_reads_it_and_finds_a_node_by_its_id(trained: tuple[Config, str]) -> None:
    config, root = trained
    export(changed(config, "export", rows_per_file=7), root)
    index, vector = duckdb.execute(
        "SELECT index, embedding FROM read_parquet($files) WHERE id = 'u7'",
        {"files": f"{root}/embeddings/user/*.parquet"},
    ).fetchone()
    assert vocabulary(root, "user")[index] == "u7"
    np.testing.assert_array_equal(vector, newest(root).rows("user").read(index, index + 1)[0].numpy())


@pytest.mark.parametrize("reciprocal", [False, True])
def test_relations_have_their_vectors(small_config: SmallConfig, tmp_path: Path, reciprocal: bool) -> None:
    config, root = small_config(model={"reciprocal": reciprocal}), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    manifest = export(config, root)
    found = pq.read_table(Path(root, manifest.relations.path))
    scorer = newest(root).scorer(config.model, config.model.relations)
    assert found.select(["rel", "name", "operator"]).to_pylist() == [
        {"rel": 0, "name": "follow", "operator": "translation"},
        {"rel": 1, "name": "fav", "operator": "translation"},
    ]
    assert found.schema.field("rel").type == pa.int32()
    assert found.schema.field("embedding").type == pa.list_(pa.float32())
    translation = scorer.operator.translation.detach().numpy()
    np.testing.assert_array_equal(np.array(found["embedding"].to_pylist(), np.float32), translation)
    assert np.abs(translation).max() > 0
    assert ("inverse" in found.column_names) == reciprocal == manifest.reciprocal
    if scorer.inverse is not None:
        inverse = scorer.inverse.translation.detach().numpy()
        np.testing.assert_array_equal(np.array(found["inverse"].to_pylist(), np.float32), inverse)


def test_the_manifest_lists_every_file_with_its_checksum(trained: tuple[Config, str]) -> None:
    config, root = trained
    manifest = export(changed(config, "export", rows_per_file=7), root)
    assert read_export_manifest(root) == manifest
    assert (manifest.checkpoint, manifest.dim, manifest.comparator) == (newest(root).step, 8, "dot")
    listed = [file for table in manifest.tables for file in table.files] + [manifest.relations]
    for file in listed:
        assert hashlib.sha256(Path(root, file.path).read_bytes()).hexdigest() == file.sha256
        assert pq.read_metadata(Path(root, file.path)).num_rows == file.rows
    records = {f"embeddings/.finished/parquet/{table.name}.json" for table in manifest.tables}
    on_disk = {str(path.relative_to(root)) for path in Path(root, "embeddings").rglob("*") if path.is_file()}
    assert on_disk == {file.path for file in listed} | {"embeddings/manifest.json"} | records


def test_only_the_tables_asked_for_are_there(trained: tuple[Config, str]) -> None:
    config, root = trained
    export(config, root)
    manifest = export(changed(config, "export", tables=["tweet"]), root)
    assert [table.name for table in manifest.tables] == ["tweet"]
    visible = {path.name for path in Path(root, "embeddings").iterdir()} - {".finished"}
    assert visible == {"tweet", "relations.parquet", "manifest.json"}


def test_rows_that_the_vocabulary_does_not_name_are_left_out_and_counted(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    tables = [
        {"name": name, "num_embeddings": rows, "embedding_dim": 4, "optimizer": {"sgd": {"lr": 0.1}}}
        for name, rows in (("user", 64), ("tweet", 30))
    ]
    config, root = small_config(model={"embeddings": {"tables": tables}}), str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    manifest = export(config, root)
    assert [(table.rows, table.unnamed_rows) for table in manifest.tables] == [(40, 24), (30, 0)]
    assert pq.read_table(Path(root, "embeddings/user"))["index"].to_pylist() == list(range(40))


def test_exported_again_it_finds_its_files(trained: tuple[Config, str], caplog: pytest.LogCaptureFixture) -> None:
    config, root = trained
    first = export(config, root)
    times = {path: path.stat().st_mtime_ns for path in Path(root, "embeddings").rglob("*.parquet")}
    with caplog.at_level(logging.INFO, "twhin"):
        assert export(config, root) == first
    assert "export: up to date: " in caplog.text
    assert {path: path.stat().st_mtime_ns for path in Path(root, "embeddings").rglob("*.parquet")} == times


def test_another_checkpoint_is_exported_anew(trained: tuple[Config, str]) -> None:
    config, root = trained
    last = export(config, root)
    remove(newest(root))
    before = export(config, root)
    assert before.checkpoint < last.checkpoint
    vectors = np.array(pq.read_table(Path(root, "embeddings/user"))["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, newest(root).rows("user").read(0, 40).numpy())


def test_an_export_that_was_killed_is_not_taken_for_whole(
    trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = trained
    whole = export(config, root)
    again = changed(config, "export", rows_per_file=7)

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write, "_write_relations", die)
        with pytest.raises(KeyboardInterrupt):
            export(again, root)
    assert read_export_manifest(root) is None
    assert export(config, root) == whole


# --- what is finished, and whose it is ---------------------------------------------------------------------------


def files_of(root: str) -> dict[str, int]:
    """When each file of the export was written."""
    found = [path for path in Path(root, "embeddings").rglob("*") if path.is_file()]
    return {str(path.relative_to(Path(root, "embeddings"))): path.stat().st_mtime_ns for path in found}


def test_another_format_is_added_without_writing_the_others_again(trained: tuple[Config, str]) -> None:
    _, root = trained
    export_as(trained, "parquet")
    before = files_of(root)
    export_as(trained, "parquet", "npy")
    after = files_of(root)
    kept = [name for name in before if name.endswith(".parquet") and not name.startswith("relations")]
    assert len(kept) == 2
    assert [after[name] for name in kept] == [before[name] for name in kept]
    assert {name for name in after if name.startswith("npy/")} == {
        f"npy/{table}{end}" for table in ("user", "tweet") for end in (".npy", ".ids.parquet")
    }
    manifest = export_as(trained, "npy")
    assert list(manifest.formats) == ["npy"]
    assert [table.files for table in manifest.tables] == [[], []]
    assert {name.partition("/")[0] for name in files_of(root)} == {
        "npy",
        ".finished",
        "relations.parquet",
        "manifest.json",
    }


def test_an_interrupted_export_goes_on_with_what_is_not_finished(
    trained: tuple[Config, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, root = trained
    write, written = formats.FORMATS["parquet"].write, []

    def die_at_the_second(vector_set: VectorSet, progress: Progress) -> FormatExport:
        written.append(vector_set.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        return write(vector_set, progress)

    monkeypatch.setitem(formats.FORMATS, "parquet", formats.BuiltIn(die_at_the_second, {"rows_per_file"}))
    with pytest.raises(KeyboardInterrupt):
        export_as(trained, "parquet", "npy")
    assert read_export_manifest(root) is None
    before = files_of(root)
    manifest = export_as(trained, "parquet", "npy")
    assert written == ["user", "tweet", "tweet"]
    assert {name: files_of(root)[name] for name in before} == before
    assert list(manifest.formats) == ["parquet", "npy"]


def test_what_is_finished_of_other_settings_or_another_checkpoint_is_written_anew(trained: tuple[Config, str]) -> None:
    _, root = trained
    export_as(trained, "npy", "parquet")
    Path(root, "embeddings/manifest.json").unlink()
    export_as(trained, "npy", "parquet", normalize=True)
    lengths = np.linalg.norm(np.load(f"{root}/embeddings/npy/user.npy"), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)
    Path(root, "embeddings/manifest.json").unlink()
    remove(newest(root))
    export_as(trained, "npy", "parquet", normalize=True)
    vectors = newest(root).rows("user").read(0, 40).numpy()
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(f"{root}/embeddings/npy/user.npy"), units, rtol=1e-6)


def test_files_that_are_gone_are_written_again(trained: tuple[Config, str]) -> None:
    _, root = trained
    whole = export_as(trained, "npy")
    Path(root, "embeddings/manifest.json").unlink()
    Path(root, "embeddings/npy/user.npy").unlink()
    assert export_as(trained, "npy") == whole
    assert np.load(f"{root}/embeddings/npy/user.npy").shape == (40, 8)


def test_embeddings_of_another_run_are_refused(
    trained: tuple[Config, str], small_config: SmallConfig, tmp_path: Path
) -> None:
    config, root = small_config(training={"seed": 5}), str(tmp_path / "other")
    prepare(config, root)
    train(config, root)
    export(config, root)
    _, here = trained
    shutil.copytree(Path(root, "embeddings"), Path(here, "embeddings"))
    with pytest.raises(
        UserError, match=r"run/embeddings/manifest\.json belongs to another run; remove these embeddings"
    ):
        export_as(trained, "parquet")
    assert files_of(here).keys() == files_of(root).keys()
    # Without its manifest it is a half-finished export, whose files are nobody's.
    Path(here, "embeddings/manifest.json").unlink()
    export_as(trained, "parquet")
    vectors = np.array(pq.read_table(Path(here, "embeddings/user"))["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, newest(here).rows("user").read(0, 40).numpy())


# --- gates -------------------------------------------------------------------------------------------------------


def test_a_missed_gate_stops_the_export(trained: tuple[Config, str]) -> None:
    config, root = trained
    gated = changed(config, "evaluation", gates={"test.all.mrr": {"min": 0.99}, "test.all.hits@10": {"min": 0}})
    mrr = evaluate(gated, root)["test"]["all"]["mrr"]
    with pytest.raises(GateFailed) as error:
        export(gated, root)
    assert str(error.value) == (
        f"nothing was exported: test.all.mrr is {mrr:.6g}, {0.99 - mrr:.3g} below its gate of at least 0.99"
    )
    assert not Path(root, "embeddings").exists()
    assert export(changed(config, "evaluation", gates={"test.all.mrr": {"max": 0.99}}), root).checkpoint


def test_a_missed_gate_leaves_the_export_before_it(trained: tuple[Config, str]) -> None:
    config, root = trained
    before = export(config, root)
    gated = changed(config, "evaluation", gates={"test.all.mrr": {"min": 0.99}})
    evaluate(gated, root)
    with pytest.raises(GateFailed):
        export(gated, root)
    assert read_export_manifest(root) == before


def test_gates_need_metrics_of_this_checkpoint_and_measure(trained: tuple[Config, str]) -> None:
    config, root = trained
    gated = changed(config, "evaluation", gates={"test.all.mrr": {"min": 0}})
    with pytest.raises(UserError, match=r"evaluation\.gates needs .*/evaluation/metrics\.json, which does not exist"):
        export(gated, root)
    evaluate(gated, root)
    with pytest.raises(UserError, match="or from other evaluation settings; run `twhin evaluate` again"):
        export(changed(gated, "evaluation", hits_at=[7]), root)
    remove(newest(root))
    with pytest.raises(UserError, match=r"is not from the newest checkpoint \(step \d+\)"):
        export(gated, root)


def test_a_gate_naming_no_metric_stops_the_export(trained: tuple[Config, str]) -> None:
    config, root = trained
    with pytest.raises(UserError, match="names no metric"):
        export(changed(config, "evaluation", gates={"test.all.mmr": {"min": 0}}), root)


def test_without_a_checkpoint_it_says_to_train(small_config: SmallConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete checkpoint; run `twhin train` first"):
        export(small_config(), str(tmp_path / "run"))


def test_a_model_without_relation_parameters_is_evaluated_and_exported(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    """Unit rows compared as they are: recommended for graphs of a single relation."""
    unit = {"spherical_adagrad": {"lr": 1.0}}
    tables = [{"name": name, "embedding_dim": 8, "optimizer": unit} for name in ("user", "tweet")]
    relations = [
        {"name": name, "lhs": "user", "rhs": rhs, "operator": "identity"}
        for name, rhs in (("follow", "user"), ("fav", "tweet"))
    ]
    config = small_config(model={"embeddings": {"tables": tables}, "relations": relations})
    root = str(tmp_path / "run")
    prepare(config, root)
    train(config, root)
    evaluate(config, root)
    export(config, root)
    for table in ("user", "tweet"):
        vectors = np.array(pq.read_table(f"{root}/embeddings/{table}")["embedding"].to_pylist())
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
