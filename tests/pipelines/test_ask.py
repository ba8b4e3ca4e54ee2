"""`twhin neighbors` and `twhin score`, as a user calls them, against brute force over the exported files."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.command_line import COMMAND, ROOT, assert_refused, twhin
from tests.conftest import SmallConfig
from tests.embeddings.test_embeddings import cosine, read, relation
from tests.export.exporting import changed
from twhin.pipelines.cli import main
from twhin_core.checkpoints.checkpoint import newest
from twhin_core.config import Config
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

ODD = ["[red]x[/red]", "tab\tnew\nline", "\x1b[31mescape", ":smile: 😀", "-5", "u 1", "\u202eright", "b\\n", "ü" * 150]


@pytest.fixture
def exported(trained: tuple[Config, str]) -> str:
    config, root = trained
    export(config, root)
    return root


Ask = Callable[..., tuple[str, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """`twhin` in this process, for a process of its own takes a second and a half: what it prints, and its errors."""

    def run(*arguments: str) -> tuple[str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["twhin", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert end.value.code in (0, 2)
        assert (end.value.code == 2) == err.startswith("error: ")
        return out, err

    yield run
    gc.unfreeze()  # in a process that goes on, garbage is to be looked for again


def lines(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


TERMINAL = {"TTY_COMPATIBLE": "1", "NO_COLOR": "1", "TERM": "xterm"}


def test_neighbors_into_a_pipe_are_plain_lines(exported: str, ask: Ask) -> None:
    ids, vectors = read(exported, "user")
    scores = cosine(vectors[ids.index("u17")], vectors)
    order = np.argsort(-scores)[1:]
    ran = twhin("neighbors", exported, "user", "u17", "-k", "39")
    assert ran.returncode == 0, ran.stderr
    assert [name for name, _ in lines(ran.stdout)] == [ids[at] for at in order]
    assert [float(score) for _, score in lines(ran.stdout)] == pytest.approx(scores[order].tolist(), abs=1e-5)
    assert ran.stderr == f"near user u17: the best 39 by cosine, step {newest(exported).step}\n"
    assert lines(ask("neighbors", exported, "user", "u17")[0]) == lines(ran.stdout)[:10]


def test_a_relation_is_asked_at_either_end(exported: str, ask: Ask) -> None:
    (users, of_users), (tweets, of_tweets) = read(exported, "user"), read(exported, "tweet")
    scores = (of_users + relation(exported, "fav")) @ of_tweets.T
    row, column = users.index("u3"), tweets.index("t4")
    found, title = ask("neighbors", exported, "user", "u3", "--relation", "fav", "-k", "4")
    assert [name for name, _ in lines(found)] == [tweets[at] for at in np.argsort(-scores[row])[:4]]
    assert title.startswith("(user u3, fav, ?): the best 4 by the model's score (dot), step ")
    found, title = ask("neighbors", exported, "tweet", "t4", "--relation", "fav", "--side", "lhs", "-k", "4")
    assert [name for name, _ in lines(found)] == [users[at] for at in np.argsort(-scores[:, column])[:4]]
    assert title.startswith("(?, fav, tweet t4): the best 4 by the model's score (dot), step ")
    found, title = ask("score", exported, "fav", "u3", "t4")
    own = scores[row, column]
    ranks = [1 + (others > own).sum() for others in (scores[row], scores[:, column])]
    by_side = lines(found)
    assert [float(score) for _, _, score, *_ in by_side] == pytest.approx([own, own], abs=1e-5)
    assert [[end, name, *places] for end, name, _, *places in by_side] == [
        ["rhs tweet", "t4", str(ranks[0]), "30"],
        ["lhs user", "u3", str(ranks[1]), "40"],
    ]
    assert title.startswith("(user u3, fav, tweet t4) by the model's score (dot), step ")


def test_an_index_is_asked_instead(trained: tuple[Config, str], ask: Ask) -> None:
    config, root = trained
    arguments = ["neighbors", root, "user", "u3", "--relation", "fav"]
    assert "nothing has been exported, so there is no index" in ask(*arguments, "--index")[1]
    export(changed(config, "export", formats=["parquet", "faiss"]), root)
    found, title = ask(*arguments, "--index")
    assert [name for name, _ in lines(found)] == [name for name, _ in lines(ask(*arguments)[0])]
    expected = "(user u3, fav, ?): the best 10 by the model's score (dot), through the flat index (recall@10 1), step "
    assert title.startswith(expected)


def test_a_terminal_gets_a_table(exported: str, ask: Ask) -> None:
    ran = twhin("neighbors", exported, "user", "u17", "-k", "2", **TERMINAL)
    assert (ran.returncode, ran.stderr) == (0, "")
    plain, title = ask("neighbors", exported, "user", "u17", "-k", "2")
    shown = re.sub(r"\x1b\[[\d;]*m", "", ran.stdout).splitlines()
    assert shown[0] == title.strip()
    headings, rule, *cells = [line.split() for line in shown[1:] if line.strip()]
    assert headings == ["user", "score"]
    assert set("".join(rule)) == {"─"}
    assert cells == lines(plain)


def test_ids_of_odd_characters_are_shown_on_one_line(
    small_config: SmallConfig, tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = small_config(training={"num_epochs": 1}), str(tmp_path / "run")
    pairs = [(one, other) for one in ODD for other in ODD if one != other]
    ends = {"lhs": [one for one, _ in pairs] * 2, "rhs": [other for _, other in pairs] * 2}
    relations = [name for name in ("follow", "fav") for _ in pairs]
    pq.write_table(pa.table({**ends, "relation": relations}), tmp_path / "raw.parquet")
    for stage in (prepare, train, export):
        stage(config, root)
    escaped = ["[red]x[/red]", r"tab\tnew\nline", r"\x1b[31mescape", ":smile: 😀", "u 1", r"\u202eright", r"b\n"]
    others = [*escaped, "ü" * 150]
    assert sorted(name for name, _ in lines(ask("neighbors", root, "user", "--", "-5")[0])) == sorted(others)
    for name, shown in zip(ODD[:3], escaped, strict=False):  # and each is understood as it is
        found, title = ask("neighbors", root, "user", name)
        assert title.startswith(f"near user {shown}: the best 8")
        assert sorted(other for other, _ in lines(found)) == sorted({*others, "-5"} - {shown})
    for name, value in TERMINAL.items():
        monkeypatch.setenv(name, value)
    table = re.sub(r"\x1b\[[\d;]*m", "", ask("neighbors", root, "user", "--", "-5")[0])
    assert all(name in table for name in escaped)
    assert table.count("ü") == 150  # over several lines, but whole
    assert (
        r"user: no node has the id 'tab\tnew\n'; near it: 'tab\tnew" in ask("neighbors", root, "user", "tab\tnew\n")[1]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["neighbors", "ROOT", "user", "u171"], "user: no node has the id 'u171'; near it: 'u11', 'u17', 'u1'"),
        (["neighbors", "ROOT", "usr", "u17"], "no table named 'usr'; did you mean user?"),
        (["neighbors", "ROOT", "user", "u17", "--relation", "favs"], "no relation named 'favs'; did you mean fav?"),
        (
            ["neighbors", "ROOT", "tweet", "t1", "--relation", "fav"],
            "relation fav does not start at table tweet: it leads from user to tweet; side lhs asks for its other end",
        ),
        (["neighbors", "ROOT", "user", "u17", "-k", "0"], "k: 0 is less than 1"),
        (["neighbors", "ROOT", "user", "u17", "--side", "lhs"], "side lhs selects an end of a relation"),
        (["neighbors", "ROOT/none", "user", "u17"], "there is no run here"),
        (["score", "ROOT", "fav", "u17", "u17"], "tweet: no node has the id 'u17'"),
        (["score", "ROOT", "likes", "u17", "t1"], "no relation named 'likes'; there are follow, fav"),
        (["score", "ROOT/none", "fav", "u17", "t1"], "there is no run here"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str, exported: str, ask: Ask) -> None:
    out, error = ask(*(argument.replace("ROOT", exported) for argument in arguments))
    assert out == ""
    assert message in error
    assert error.count("\n") == 1


def test_bytes_that_are_no_text_are_no_id(exported: str) -> None:
    assert_refused(twhin("neighbors", exported, "user", "\udcff17"), "user: no node has the id '\\udcff17'; near it: '")


def test_before_anything_is_trained(small_config: SmallConfig, tmp_path: Path, ask: Ask) -> None:
    root = str(tmp_path / "run")
    prepare(small_config(), root)
    error = ask("neighbors", root, "user", "u17")[1]
    assert error == f"error: {root}: there is no complete checkpoint; run `twhin train` first\n"


def test_an_answer_does_not_wait_for_what_it_does_not_need(exported: str) -> None:
    """A second goes for torch; torchrec, the checkpoint writer's half of torch and DuckDB would take three more."""
    code = f"""
import sys
from twhin.pipelines.cli import main
sys.argv = ["twhin", "neighbors", {exported!r}, "user", "u3", "--relation", "fav"]
try:
    main()
finally:
    print("modules", *(name for name in {HEAVY} if name in sys.modules))
"""
    ran = subprocess.run([COMMAND[0], "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.splitlines()[-1] == "modules"


HEAVY = [
    "torchrec", "torch.distributed.checkpoint", "torch.distributed.tensor", "sympy", "duckdb", "ibis", "pandas", "kfp",
    "gcsfs", "faiss", "pyarrow.dataset", "torch._dynamo", "scipy",
]  # fmt: skip
