"""JSON that says when it has changed."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_storage import bitwise_crc32c
from twhin_core import storage
from twhin_core.checksum import seal_line, unseal_lines
from twhin_core.errors import Damaged

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
TREES = st.dictionaries(st.text(max_size=3).filter(lambda key: key != "crc32c"), VALUES, min_size=1, max_size=4)


def encodable(tree: Any) -> bool:
    try:
        json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@settings(max_examples=50)
@given(TREES.filter(encodable))
def test_what_was_written_is_read(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage.write_json(f"{folder}/one.json", tree)
        storage.write_json(f"{folder}/list.json", [tree, tree])
        assert storage.read_json(f"{folder}/one.json") == tree
        assert storage.read_json(f"{folder}/list.json") == [tree, tree]
        written = json.loads(Path(folder, "one.json").read_text())
    checksum = written.pop("crc32c")
    assert written == tree
    assert checksum == f"{bitwise_crc32c(json.dumps(tree, ensure_ascii=False).encode()):08x}"


@given(TREES.filter(encodable), st.data())
def test_a_changed_bit_is_refused_or_changes_nothing(tree: dict[str, Any], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.json")
        storage.write_json(str(path), tree)
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        with contextlib.suppress(Damaged):
            found = storage.read_json(str(path))
            assert {**found, **tree} == found
            assert len(found) <= len(tree) + 1  # where the name of the checksum is what changed


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\0" * 40, b"\xff\xfe", b'{"a": 1', b"[1, 2", b"nul", b'"', b"{]", b"1e"]
)
def test_what_is_not_json_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=f"^{path}: cannot be read as JSON: [^\n]+$"):
        storage.read_json(str(path))


def test_json_without_a_checksum_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert storage.read_json(str(tmp_path / "a.json")) == {"a": 1}


@pytest.mark.parametrize("at", range(0, 60, 5))
def test_lines_that_are_not_whole_are_left_out(at: int, caplog: pytest.LogCaptureFixture) -> None:
    values = [{"step": step, "loss": step / 3} for step in range(4)]
    lines = [seal_line(value).encode() for value in values]
    at = min(at, len(lines[2]) - 1)
    changed = bytearray(lines[2])
    changed[at] ^= 2
    for broken in (bytes(changed), lines[2][:at]):
        found = unseal_lines(b"\n".join([*lines[:2], broken or b"{", lines[3]]), "log")
        assert found in ([*values[:2], values[3]], values) or found[2].keys() - {"step", "loss"}
        assert [line for line in found if line not in values] == [] or found[2]["loss"] == values[2]["loss"]
