"""What a path means, on a disk and on an object store, compared with a brute force over all names."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fault_proxy import FaultProxy
from tests.object_store import STORES, reach, serve_bucket
from twhin_core import storage
from twhin_core.errors import NotFound, UserError
from twhin_core.paths import find_files


def names(path: Path | str) -> list[str]:
    """The files that a path stands for, relative to its fixed part `tree`."""
    return [file.url.partition("/tree/")[2] for file in find_files(str(path))]


def make(folder: Path, *files: str) -> Path:
    """`folder`/tree with files, each of which contains its name."""
    for name in files:
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder / "tree"


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    tree = make(tmp_path, "b.csv", "a.csv", "c.tsv", ".hidden.csv", "_SUCCESS", "deep/d.csv")
    assert names(tree / "*.csv") == ["a.csv", "b.csv"]
    assert names(tree) == ["a.csv", "b.csv", "c.tsv", "deep/d.csv"]
    assert names(f"{tree}/") == ["a.csv", "b.csv", "c.tsv", "deep/d.csv"]
    assert names(tree / "**/*.csv") == ["a.csv", "b.csv", "deep/d.csv"]
    assert names(tree / "a.csv") == ["a.csv"]
    assert names(tree / "_SUCCESS") == ["_SUCCESS"]  # as the path says so itself
    for nothing in ("*.parquet", "gone/", "gone.csv", "gone/*.csv", "a.csv/*"):
        with pytest.raises(UserError, match="no file matches"):
            names(tree / nothing)


def test_size_and_version(tmp_path: Path) -> None:
    tree = make(tmp_path, "a.csv")
    (before,) = find_files(str(tree))
    assert before.size == 5
    (tree / "a.csv").write_text("12345")
    os.utime(tree / "a.csv", ns=(0, before.version + 1))
    assert find_files(str(tree))[0].version == before.version + 1


def test_a_working_folder_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "runs[1]", "a.csv")
    make(tmp_path / "runs1", "other.csv")
    monkeypatch.chdir(tmp_path / "runs[1]")
    assert names("tree/*.csv") == names("tree") == names("./tree/a.csv") == names("../runs[[]1]/tree/*") == ["a.csv"]
    assert names("../runs1/tree/*") == ["other.csv"]
    monkeypatch.setenv("HOME", str(tmp_path / "runs[1]"))
    assert names("~/tree/*.csv") == ["a.csv"]
    assert names(f"file://{tmp_path}/runs[[]1]/tree/a.csv") == ["a.csv"]
    (file,) = find_files(f"{tmp_path}/runs[1]/tree", is_pattern=False)
    assert file.url == f"{tmp_path}/runs[1]/tree/a.csv"
    assert names("../runs1/tree") == ["other.csv"]


def test_a_name_that_is_a_pattern_too(tmp_path: Path) -> None:
    tree = make(tmp_path, "p[1].csv", "a*.csv", "ab.csv", "d[1]/x.csv")
    assert names(tree / "p[1].csv") == ["p[1].csv"]  # as the pattern matches nothing else
    assert names(tree / "d[1]/*.csv") == ["d[1]/x.csv"]
    assert names(tree / "a*.csv") == ["a*.csv", "ab.csv"]
    make(tmp_path, "p1.csv", "d1/x.csv")
    for path, name in (("p[1].csv", "p[1].csv"), ("d[1]/*.csv", "d[1]")):
        with pytest.raises(UserError) as raised:
            find_files(f"{tree}/{path}")
        assert str(raised.value).startswith(f"{tree}/{name}: is a name, and a pattern of others")
    assert names(tree / "p[[]1].csv") == ["p[1].csv"]
    assert names(tree / "p[1-1].csv") == ["p1.csv"]


# --- links -------------------------------------------------------------------------------------------------------


def test_links_are_followed_and_each_file_is_found_once(tmp_path: Path) -> None:
    tree = make(tmp_path, "a.csv", "day=1/b.csv")
    elsewhere = make(tmp_path / "elsewhere", "c.csv", "more/d.csv")
    (tree / "c.csv").symlink_to(elsewhere / "c.csv")
    (tree / "same.csv").symlink_to(elsewhere / "c.csv")  # another name of what is not in the folder
    (tree / "relative.csv").symlink_to("../elsewhere/tree/c.csv")
    (tree / "linked").symlink_to(elsewhere / "more")
    (tree / "latest.csv").symlink_to("a.csv")
    (tree / "latest").symlink_to("day=1")
    (tree / "day=1/loop").symlink_to(tree)
    expected = ["a.csv", "c.csv", "day=1/b.csv", "linked/d.csv", "relative.csv", "same.csv"]
    assert names(tree) == names(tree / "**") == names(tree / "**/*.csv") == names(tree / "*") == expected
    assert names(tree / "l*/*.csv") == ["latest/b.csv", "linked/d.csv"]
    assert names(tree / "latest.csv") == ["latest.csv"]
    (tmp_path / "base").mkdir()
    (tmp_path / "base/tree").symlink_to(tree)
    assert names(tmp_path / "base/tree") == expected


@pytest.mark.parametrize(
    ("link", "path"),
    [
        ("a.csv", ""), ("a.csv", "*.csv"), ("a.csv", "a.csv"), ("a.csv", "**"), ("deep/a.csv", ""),
        ("deep/a.csv", "*/a.csv"), ("deep/a.csv", "d*"), ("folder", ""), ("folder", "*/x.csv"), ("folder", "**/x.csv"),
    ],
)  # fmt: skip
def test_a_broken_link_is_named(tmp_path: Path, link: str, path: str) -> None:
    tree = make(tmp_path, "x.csv", "deep/x.csv")
    (tree / link).symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=f"^{tree / link}: links to {tmp_path}/gone, which does not exist$"):
        find_files(f"{tree}/{path}")


def test_a_broken_link_that_does_not_match_is_no_mistake(tmp_path: Path) -> None:
    tree = make(tmp_path, "x.csv")
    (tree / ".lock").symlink_to("gone")
    (tree / "y.tsv").symlink_to("gone")
    assert names(tree / "*.csv") == ["x.csv"]


@pytest.mark.parametrize("path", ["", "*", "a.csv"])
def test_neither_file_nor_folder(tmp_path: Path, path: str) -> None:
    tree = make(tmp_path, "x.csv")
    os.mkfifo(tree / "a.csv")
    with pytest.raises(UserError, match=f"^{tree}/a.csv: is neither a file nor a folder$"):
        find_files(f"{tree}/{path}")


def test_a_link_to_itself_and_a_name_that_is_not_text(tmp_path: Path) -> None:
    tree = make(tmp_path, "x.csv")
    (tree / "self.csv").symlink_to("self.csv")
    with pytest.raises(UserError, match=f"^{tree}/self.csv: cannot be read: "):
        find_files(str(tree))
    (tree / "self.csv").unlink()
    (tree / os.fsdecode(b"\xff.csv")).touch()
    with pytest.raises(UserError, match="this name is not UTF-8"):
        find_files(str(tree))


# --- drawn trees and patterns ------------------------------------------------------------------------------------

FILES = ["p1.csv", "p[1].csv", "a*.csv", "ab.csv", "q?.csv", "qx.csv", "_x.csv", ".x.csv", "[[]", "!.csv", "é b.csv"]
FOLDERS = ["d", "d[1]", "d1", "*", "_temporary", ".hidden", "day=1", "_day=1", "x.csv"]
PARTS = [
    "*",
    "**",
    "*.csv",
    "p*",
    "p[[]1].csv",
    "[!p]*",
    "?",
    "d[[]1]",
    "d*",
    "_*",
    ".*",
    "x.csv",
    "*=1",
    "a*.csv",
    "[*]",
]
trees = st.sets(
    st.tuples(st.lists(st.sampled_from(FOLDERS), max_size=2).map("/".join), st.sampled_from(FILES)).map(
        lambda pair: "/".join(filter(None, pair))
    ),
    min_size=1,
    max_size=12,
)
patterns = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3)


def expected(files: set[str], parts: list[str]) -> list[str]:
    """By hand: each file whose first names match the pattern as a regex."""
    regex = ""
    for position, part in enumerate(parts):
        letters = re.sub(r"\[(!?)(.)\]|[*?.]", _letter, part)
        hidden = "" if part[0] in "._" else r"(?!\.|_[^/=]*/)"
        times = "+" if position == len(parts) - 1 else "*"
        regex += f"(?:{VISIBLE}){times}" if part == "**" else f"{hidden}{letters}/"
    return sorted(name for name in files if re.fullmatch(f"{regex}(?:{VISIBLE})*", f"{name}/"))


VISIBLE = r"(?!\.|_[^/=]*/)[^/]+/"


def _letter(match: re.Match[str]) -> str:
    if match[0][0] == "[":
        return f"(?:[^/{re.escape(match[2])}])" if match[1] else re.escape(match[2])
    return {"*": "[^/]*", "?": "[^/]", ".": r"\."}[match[0]]


@given(trees, patterns)
@example({"day=1/_temporary/p1.csv", "day=1/p1.csv"}, ["**", "*.csv"])
@example({"_temporary/p1.csv"}, ["**", "_*"])
@settings(max_examples=400, suppress_health_check=[HealthCheck.filter_too_much])
def test_drawn_trees_on_a_disk(files: set[str], parts: list[str]) -> None:
    files = without_clashes(files)
    with tempfile.TemporaryDirectory() as folder:
        tree = make(Path(folder), *files)
        assert found(f"{tree}/{'/'.join(parts)}") == expected(files, parts)


def without_clashes(files: set[str]) -> set[str]:
    """Leaves out files whose name is that of a folder, and the other way around."""
    folders = {str(parent) for name in files for parent in Path(name).parents}
    return files - folders


def found(path: str) -> list[str]:
    try:
        return names(path)
    except NotFound:
        return []


@pytest.fixture(scope="module", params=STORES)
def server(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    with serve_bucket(store=request.param) as proxy:
        yield proxy


@pytest.fixture
def bucket(server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    return reach(server, monkeypatch)


@pytest.mark.parametrize(
    "parts", [[one] for one in PARTS] + [["**", "*.csv"], ["d[[]1]", "*"], ["*", "**", "p*"]], ids=str
)
def test_every_pattern_on_an_object_store(bucket: str, parts: list[str]) -> None:
    files = {*FILES, *(f"{folder}/{name}" for folder in FOLDERS for name in FILES[:4]), "d/_temporary/0/p1.csv"}
    if not storage.exists(f"{bucket}/tree/p1.csv"):
        for name in files:
            storage.write_text(f"{bucket}/tree/{name}", name)
    assert found(f"{bucket}/tree/{'/'.join(parts)}") == expected(files, parts)


def test_an_object_has_a_size_and_a_generation(bucket: str) -> None:
    storage.write_text(f"{bucket}/one/a.csv", "123")
    versions = set()
    for path in ("one", "one/*", "one/**", "one/a.csv"):
        (file,) = find_files(f"{bucket}/{path}")
        assert (file.url, file.size) == (f"{bucket}/one/a.csv", 3)
        if bucket.startswith("gs"):
            assert file.version == storage.read_generation(f"{bucket}/one/a.csv")[1]
        versions.add(file.version)
    storage.write_text(f"{bucket}/one/a.csv", "124")
    versions.update(file.version for file in find_files(f"{bucket}/one"))
    assert len(versions) == 2


def test_removing_a_folder_with_a_bracket_leaves_the_others(bucket: str) -> None:
    for name in ("run[1]/a", "run1/a", "run*/a"):
        storage.write_text(f"{bucket}/removal/{name}", name)
    storage.remove(f"{bucket}/removal/run[1]")
    storage.remove(f"{bucket}/removal/run*")
    assert storage.list_folders(f"{bucket}/removal") == ["run1"]
    assert storage.read_text(f"{bucket}/removal/run1/a") == "run1/a"
