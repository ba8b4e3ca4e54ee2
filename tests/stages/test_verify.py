"""`twhin verify` against damage that the test made itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import assert_refused, twhin
from tests.conftest import SmallConfig
from tests.export.exporting import changed
from tests.graph.test_labels import labeled
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.recommend import recommend
from twhin_core.stages.verify import verify

Trained = tuple[Config, str]


@pytest.fixture
def finished(trained: Trained) -> Trained:
    config, root = trained
    evaluate(config, root)
    config = changed(config, "export", formats=["parquet", "npy"])
    export(config, root)
    recommend(changed(config, "recommend", fav={"k": 3}), root)
    return config, root


def test_a_finished_run_is_whole(finished: Trained) -> None:
    parts = {part.name: part for part in verify(finished[1])}
    assert {part.state for part in parts.values()} == {"whole"}
    files = {name: part.files for name, part in parts.items()}
    assert files["graph/vocab/user"] == files["graph/edges/train"] == files["evaluation/metrics.json"] == 1
    assert files["checkpoints/16"] == 3  # the marker, the index and the shard of one rank
    assert files["embeddings as npy"] == 4  # two tables, each with its ids


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("config.yaml", "config.yaml"),
        ("graph/manifest.json", "graph/manifest.json"),
        ("graph/vocab/user/part-00000.parquet", "graph/vocab/user"),
        ("graph/edges/test/part-00000.parquet", "graph/edges/test"),
        ("graph/rejected/part-00000.parquet", "graph/rejected"),
        ("checkpoints/16/complete.json", "checkpoints/16"),
        ("checkpoints/16/.metadata", "checkpoints/16"),
        ("checkpoints/16/__0_0.distcp", "checkpoints/16"),
        ("checkpoints/16/__0_0.distcp.crc32c", "checkpoints/16"),
        ("training/plan.json", "training/plan.json"),
        ("training/finished.json", "training/finished.json"),
        ("training/metrics.jsonl", "training/metrics.jsonl"),
        ("evaluation/metrics.json", "evaluation/metrics.json"),
        ("evaluation/gates.json", "evaluation/gates.json"),
        ("embeddings/manifest.json", "embeddings/manifest.json"),
        ("embeddings/user/part-00000.parquet", "embeddings as parquet"),
        ("embeddings/npy/tweet.npy", "embeddings as npy"),
        ("recommendations/fav/manifest.json", "recommendations/fav/manifest.json"),
        ("recommendations/fav/part-00000.parquet", "recommendations/fav"),
        ("embeddings/relations.parquet", "embeddings/relations.parquet"),
    ],
)
def test_a_changed_file_is_named(finished: Trained, path: str, part: str) -> None:
    file = Path(finished[1], path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    faulty = {found.name: found.faults for found in verify(finished[1]) if found.faults}
    assert faulty.keys() == {part}
    (fault,) = faulty[part]
    assert str(file).removesuffix(".crc32c") in fault
    assert "\n" not in fault


def test_a_damaged_file_of_labels_is_named(small_config: SmallConfig, tmp_path: Path) -> None:
    root = tmp_path / "run"
    prepare(labeled(small_config, tmp_path), str(root))
    assert {part.name: part.state for part in verify(str(root))}["graph/labels/tweet"] == "whole"
    file = root / "graph/labels/tweet/part-00000.parquet"
    whole = file.read_bytes()
    damaged: list[bytes | None] = [whole[:-1], whole + b"\0", b"", whole[:9] + bytes(40) + whole[49:], None]
    for eighth in range(8):  # a bit, from the first byte to the last
        at = (len(whole) - 1) * eighth // 7
        damaged.append(whole[:at] + bytes([whole[at] ^ 1 << eighth]) + whole[at + 1 :])
    for content in damaged:
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        (part,) = (found for found in verify(str(root)) if found.faults)
        assert part.name == "graph/labels/tweet"
        (fault,) = part.faults
        assert fault.startswith(f"{file}: ")
        assert "\n" not in fault
    file.write_bytes(whole)
    assert not [part for part in verify(str(root)) if part.faults]


def test_a_missing_file_is_named(finished: Trained) -> None:
    Path(finished[1], "graph/edges/train/part-00000.parquet").unlink()
    (part,) = (found for found in verify(finished[1]) if found.faults)
    assert part.faults[0].startswith(f"{finished[1]}/graph/edges/train/part-00000.parquet: is missing")


def test_the_command_exits_with_2(finished: Trained) -> None:
    ran = twhin("verify", finished[1])
    assert ran.returncode == 0, ran.stderr
    assert "graph/edges/train" in ran.stdout
    Path(finished[1], "embeddings/npy/user.npy").write_bytes(b"")
    assert_refused(twhin("verify", finished[1]), "1 file is not whole", "embeddings/npy/user.npy")


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run here"):
        verify(str(tmp_path))
