"""Mutated configs, and what becomes of each in a process of its own: a run, one line of refusal, or a fault."""

from __future__ import annotations

import copy
import math
import multiprocessing
import os
import resource
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import yaml

from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import GateFailed, TwhinError, UserError

MEMORY = 12 << 30
"""Bytes of address space of a run. Its graph needs a fraction."""
PARSE_S, RUN_S = 20, 90
"""Seconds after which a config hangs."""

Place = tuple[str | int, ...]

NUMBERS = [
    "0", "-1", "1", "2", "3", "7", "4096", "1000000", "2147483647", "2147483648", "4294967296", "9223372036854775807",
    "9223372036854775808", "1000000000000000000", "1" + "0" * 400, "-1" + "0" * 400, "9" * 5000, "0x" + "f" * 4000,
    "1e18", "1e400", "1e-300", "1e-46", "-0.0", "0.5", "1.0", ".inf", "-.inf", ".nan", "1:2:3", "0x_", "0b", "1_0",
]  # fmt: skip
OTHERS = [
    "null", "[]", "{}", '""', "true", "2024-02-30", "2024-13-01 25:61:61", "2024-01-01", '"a\\0b"', '"\\ud800"',
    '"a\\nb"', "x" * 5000, "/" + "y" * 300, "!!int abc", "!!timestamp x", "!!binary x", "!!python/name:os.system",
    "[[[[[[[[[[]]]]]]]]]]", "[" * 3000, "{a: " * 3000, "&a [*a]", "&a {b: *a}", "*nothing", "{<<: 3}", "{? [a] : b}",
    "${NO_SUCH_VARIABLE}", "'/no/such/place'", "/", "*", "all", "degrees", "%", "\\", "../..", "{a: 1, a: 2}", "@", "`",
    "1KB", "0GB", "999999999999999999999TB", "1e30GB",
]  # fmt: skip
BOMB = "&a [x, x, x, x, x, x, x, x, x]"
for _letter, _next in zip("abcdefgh", "bcdefghi", strict=True):
    BOMB = f"{BOMB}, &{_next} [{', '.join([f'*{_letter}'] * 9)}]"
OTHERS.append(f"[{BOMB}]")


@dataclass(frozen=True)
class Mutation:
    """A config with one or two changes."""

    what: str
    text: str


def draw(base: dict[str, Any], rng: Random) -> Mutation:
    """A mutation of `base`: of one value or two, of keys, or of the text itself."""
    tree = copy.deepcopy(base)
    marks: dict[str, str] = {}
    changes = []
    for _ in range(1 if rng.random() < 0.8 else 2):
        place = rng.choice([place for place in places(tree) if place])
        parent = _at(tree, place[:-1])
        kind = rng.choice(["number", "number", "number", "other", "other", "delete", "unknown", "swap"])
        if kind == "delete":
            del parent[place[-1]]
        elif kind == "unknown" and isinstance(parent, dict):
            parent[rng.choice(["x", "a\nb", "lr", "0", "", "name"])] = 1
        elif kind == "swap":
            parent[place[-1]] = copy.deepcopy(_at(tree, rng.choice(list(places(tree)))))
        else:
            is_number = kind != "other" and not isinstance(parent[place[-1]], dict | list | str)
            mark = f"MARK{len(marks)}"
            marks[mark] = rng.choice(NUMBERS if is_number else [*OTHERS, *NUMBERS])
            parent[place[-1]] = mark
        changes.append(f"{kind} {'.'.join(map(str, place))}={[marks[m][:40] for m in list(marks)[-1:]]}")
    text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=1 << 20)
    for mark, value in marks.items():
        text = text.replace(mark, value)
    if rng.random() < 0.05:
        at = rng.randrange(len(text))
        piece = rng.choice(["\0", "\t", "\x85", "\u2028", "\ufeff", ":", "- ", "---\n", "%YAML 9.9\n", "}", "\\", "'"])
        text = text[:at] + piece + text[at + rng.choice([0, 1, 100]) :]
        changes.append(f"insert {piece!r} at {at}")
    return Mutation("; ".join(changes), text)


def places(tree: Any, place: Place = ()) -> Iterator[Place]:
    """The place of every value in a tree."""
    yield place
    items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*place, key))


def _at(tree: Any, place: Place) -> Any:
    for key in place:
        tree = tree[key]
    return tree


@dataclass(frozen=True)
class Outcome:
    """What became of a config: `refused` in one line, `ran`, `same` as the base, or a fault."""

    kind: str
    detail: str

    @property
    def is_fault(self) -> bool:
        return self.kind not in ("refused", "ran", "same")


def parsed(text: str) -> Config | Outcome:
    """The config, or what became of it."""
    signal.signal(signal.SIGALRM, _interrupt)
    signal.alarm(PARSE_S)
    try:
        return config_file.parse(text)
    except BaseException as error:  # noqa: BLE001 -- to be reported as a fault
        return _of_error(error)
    finally:
        signal.alarm(0)


def outcome(text: str, base: Config, folder: Path) -> Outcome:
    """Parses a config and, unless it is refused or equals `base`, runs all stages under `folder`."""
    config = parsed(text)
    if isinstance(config, Outcome):
        return config
    return Outcome("same", "") if config == base else _in_child(_run, (config, str(folder)), RUN_S)


def _in_child(work: Any, arguments: tuple[Any, ...], seconds: float) -> Outcome:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_report, args=(work, arguments, sender))
    child.start()
    sender.close()
    found = Outcome("hang", f"after {seconds} s")
    if receiver.poll(seconds):
        try:
            found = receiver.recv()
        except EOFError:
            child.join()
            found = Outcome("crash", f"exit code {child.exitcode}")
    child.kill()
    child.join()
    return found


def _report(work: Any, arguments: tuple[Any, ...], sender: Connection) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        found = work(*arguments)
    except BaseException as error:  # noqa: BLE001 -- to be reported as a fault
        found = _of_error(error)
    sender.send(found)
    os._exit(0)


def _interrupt(*_: object) -> None:
    raise TimeoutError("parsing hangs")


def _of_error(error: BaseException) -> Outcome:
    if isinstance(error, GateFailed):
        return Outcome("ran", str(error))
    if not isinstance(error, TwhinError):
        return Outcome("traceback", "".join(traceback.format_exception(error))[-1500:])
    is_one_line = len(str(error).splitlines()) == 1 and len(str(error)) < 6000 and isinstance(error, UserError)
    return Outcome("refused" if is_one_line else "bad line", f"{type(error).__name__}: {error}")


def _run(config: Config, root: str) -> Outcome:
    """All stages and a query, as `twhin run` does."""
    from twhin_core.embeddings import Embeddings
    from twhin_core.evaluation.checks import check_pipeline
    from twhin_core.export.formats import check_installed
    from twhin_core.stages.evaluate import evaluate
    from twhin_core.stages.export import export
    from twhin_core.stages.prepare import prepare
    from twhin_core.stages.train import train

    check_pipeline(config)
    check_installed(config.export)
    prepare(config, root)
    train(config, root)
    metrics = evaluate(config, root)
    figures = [value for figures in metrics[config.evaluation.split].values() for value in figures.values()]
    assert all(math.isfinite(value) for value in figures), figures
    export(config, root)
    embeddings = Embeddings.load(root)
    table = config.model.embeddings.tables[0].name
    embeddings[table].neighbors(next(iter(embeddings[table])), k=10**30)
    return Outcome("ran", "")
