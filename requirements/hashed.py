"""Pins with the hashes of their files: `hashed.py write|check cpu|cuda|audit [dev]`.

`write` asks pip which files it would install here, from the registries that it is configured for, and writes them to
`requirements/hashed/`. They are those of this machine's platform and Python. `check` ends with code 2 if the pins have
changed since. Needs nothing but pip.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
HASHED = FOLDER / "hashed"
PIN = re.compile(r"^([A-Za-z0-9._-]+)===?([^\s;#\\]+)", re.MULTILINE)
Pins = dict[str, str]


def inputs(device: str, dev: bool) -> list[Path]:
    """The files whose pins belong together."""
    if device == "audit":
        return [FOLDER / "audit.txt"]
    if not dev:
        return [FOLDER / f"{device}.txt", FOLDER / "no_deps.txt"]
    own = [FOLDER / "dev.txt", FOLDER / "audit.txt"]
    return [*own, FOLDER / "dev_cpu.txt"] if device == "cpu" else own


def output(device: str, dev: bool) -> Path:
    return HASHED / (f"{device}-dev.txt" if dev else f"{device}.txt")


def pins(path: Path) -> Pins:
    """The version of each package that a file pins, with those of the files that it includes."""
    text, found = path.read_text(), Pins()
    for name in re.findall(r"^-r (\S+)", text, re.MULTILINE):
        found |= pins(path.parent / name)
    return found | {normal(name): version for name, version in PIN.findall(text)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def public(version: str) -> str:
    """Without the label of a local build: 2.13.0+cpu is a build of 2.13.0."""
    return version.partition("+")[0]


def wanted(device: str, dev: bool) -> Pins:
    found = Pins()
    for path in inputs(device, dev):
        found |= pins(path)
    return found


def write(device: str, dev: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        given = [word for path in inputs(device, dev) for word in ("-r", str(path))]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
        subprocess.run([*pip, "--report", str(report), *given], check=True)
        found = json.loads(report.read_text())["install"]
    lines = sorted(_line(of) for of in found)
    HASHED.mkdir(exist_ok=True)
    head = f"# Written by `make hashes` for {sys.platform}, Python {sys.version_info[0]}.{sys.version_info[1]}.\n"
    output(device, dev).write_text(head + "".join(lines))
    check(device, dev)


def _line(of: dict[str, dict[str, object]]) -> str:
    name, version = normal(str(of["metadata"]["name"])), of["metadata"]["version"]
    archive = of["download_info"]["archive_info"]
    assert isinstance(archive, dict)
    return f"{name}=={version} --hash=sha256:{archive['hashes']['sha256']}\n"


def check(device: str, dev: bool) -> None:
    path = output(device, dev)
    there = {name: public(version) for name, version in pins(path).items()}
    here = wanted(device, dev)
    differ = sorted(name for name in {**there, **here} if there.get(name) != public(here.get(name, "")))
    if differ:
        what = f"{differ[0]} is {here.get(differ[0], 'not pinned')}, there {there.get(differ[0], 'missing')}"
        sys.stderr.write(f"error: {path.name}: is older than the pins: {what}; run `make hashes`\n")
        sys.exit(2)


if __name__ == "__main__":
    command, device, *more = sys.argv[1:]
    {"write": write, "check": check}[command](device, more == ["dev"])
