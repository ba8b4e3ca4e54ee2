"""The pins, their hashes, and what is said of the packages that they bring."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.command_line import ROOT

FOLDER = ROOT / "requirements"
PIN = re.compile(r"^([A-Za-z0-9._-]+)===?([^\s;#]+)", re.MULTILINE)
FILES = ("cpu", "cuda", "no_deps", "dev", "dev_cpu", "audit", "common")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_a_package_that_several_files_pin_has_one_version() -> None:
    """The tools for audits are installed alone in the image, and beside everything else for developers."""
    versions: dict[str, dict[str, str]] = {}
    for name in FILES:
        for package, version in PIN.findall((FOLDER / f"{name}.txt").read_text()):
            versions.setdefault(normal(package), {})[name] = version
    assert not {package: found for package, found in versions.items() if len(set(found.values())) > 1}


@pytest.mark.parametrize("name", FILES)
def test_pins_are_exact_and_sorted(name: str) -> None:
    lines = [line for line in (FOLDER / f"{name}.txt").read_text().splitlines() if line[:1] not in ("", "#", "-")]
    assert all(PIN.match(line) for line in lines)
    if name in ("common", "audit"):
        packages = [line.partition("==")[0] for line in lines]
        assert packages == sorted(packages)


class Registry:
    """A folder of wheels, and a copy of requirements/ whose pins are of these."""

    def __init__(self, folder: Path) -> None:
        self.wheels, self.requirements = folder / "wheels", folder / "requirements"
        self.wheels.mkdir()
        self.requirements.mkdir()
        for name in ("install.sh", "hashed.py"):
            shutil.copy(FOLDER / name, self.requirements)
        self.pin("common", "one-a==1.0")
        self.pin("cpu", "-r common.txt\ntwo==2.0  # no local label")
        self.pin("no_deps", "three==3.0 # wants one==9")
        self.pin("dev", "four==4.0")
        self.pin("dev_cpu", "")
        self.pin("audit", "five==5.0")
        self.wheel("One.A", "1.0")
        self.wheel("two", "2.0+cpu")
        self.wheel("three", "3.0", requires="one-a==9")
        self.wheel("four", "4.0")
        self.wheel("five", "5.0")

    def pin(self, name: str, text: str) -> None:
        (self.requirements / f"{name}.txt").write_text(text + "\n")

    def wheel(self, name: str, version: str, requires: str = "", content: str = "") -> Path:
        stem = f"{re.sub(r'[-.]', '_', name)}-{version}"
        path = self.wheels / f"{stem}-py3-none-any.whl"
        info = f"{stem}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"{info}/METADATA", metadata + (f"Requires-Dist: {requires}\n" if requires else ""))
            file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr(f"{info}/RECORD", "")
            file.writestr(f"package_{stem.partition('-')[0].lower()}.py", content)
        return path

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        own = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_CONFIG_FILE": os.devnull}
        words = [str(word) for word in command]
        return subprocess.run(words, env={**os.environ, **own}, capture_output=True, text=True)

    def write(self, *of: str) -> None:
        ran = self.run(sys.executable, self.requirements / "hashed.py", "write", *of)
        assert ran.returncode == 0, ran.stderr


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def test_hashes_are_those_of_the_files_that_pip_would_install(registry: Registry) -> None:
    for of in (["cpu"], ["cpu", "dev"], ["audit"]):
        registry.write(*of)
    for name, expected in {
        "cpu": {"one-a": "1.0", "two": "2.0+cpu", "three": "3.0"}, "cpu-dev": {"four": "4.0", "five": "5.0"},
        "audit": {"five": "5.0"},
    }.items():  # fmt: skip
        lines = (registry.requirements / f"hashed/{name}.txt").read_text().splitlines()[1:]
        found = dict(re.findall(r"^(\S+) --hash=sha256:(\S+)$", "\n".join(lines), re.MULTILINE))
        assert lines == sorted(lines)
        assert found.keys() == {f"{package}=={version}" for package, version in expected.items()}
        for pin, sha in found.items():
            package, _, version = pin.partition("==")
            (wheel,) = [
                path for path in registry.wheels.iterdir()
                if normal(path.name.split("-")[0]) == package and path.name.split("-")[1] == version
            ]  # fmt: skip
            assert hashlib.sha256(wheel.read_bytes()).hexdigest() == sha


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("common", "one-a==1.1", "one-a is 1.1, there 1.0"),
        ("common", "one-a==1.0\nsix==6.0", "six is 6.0, there missing"),
        ("common", "", "one-a is not pinned, there 1.0"),
        ("cpu", "-r common.txt\ntwo==2.0.1", "two is 2.0.1, there 2.0"),
        ("cpu", "-r common.txt", "two is not pinned, there 2.0"),
        ("no_deps", "three==4.0", "three is 4.0, there 3.0"),
        ("common", "One_A==1.0", None),
        ("common", "# a comment\none.a==1.0", None),
        ("cpu", "-r common.txt\ntwo===2.0", None),
        ("dev", "four==4.4", None),
        ("audit", "five==5.5", None),
    ],
)
def test_hashes_that_are_older_than_the_pins_are_refused(
    name: str, text: str, said: str | None, registry: Registry
) -> None:
    registry.write("cpu")
    registry.pin(name, text)
    ran = registry.run(sys.executable, registry.requirements / "hashed.py", "check", "cpu")
    assert ran.returncode == (0 if said is None else 2)
    assert ran.stderr == (
        "" if said is None else f"error: cpu.txt: is older than the pins: {said}; run `make hashes`\n"
    )


@pytest.mark.slow
def test_installing_insists_on_the_hashes_that_there_are(registry: Registry, tmp_path: Path) -> None:
    def install(*of: str) -> tuple[int, str, set[str]]:
        subprocess.run([sys.executable, "-m", "venv", "--clear", tmp_path / "venv"], check=True)
        python = tmp_path / "venv/bin/python"
        ran = registry.run(registry.requirements / "install.sh", python, *of)
        listed = json.loads(registry.run(python, "-m", "pip", "list", "--format", "json").stdout)
        return ran.returncode, ran.stderr, {of["name"] for of in listed} - {"pip", "setuptools"}

    run, dev = {"One.A", "two", "three"}, {"four", "five"}
    assert install("cpu")[::2] == (0, run)
    assert install("cpu", "dev")[::2] == (0, run | dev)
    assert install("audit")[::2] == (0, {"five"})
    for of in (["cpu"], ["cpu", "dev"], ["audit"]):
        registry.write(*of)
    assert install("cpu", "dev")[::2] == (0, run | dev)
    assert install("audit")[::2] == (0, {"five"})
    registry.wheel("two", "2.0+cpu", content="stolen = True")
    code, said, found = install("cpu")
    assert code != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in said
    assert found == set()
    registry.pin("common", "one-a==1.1")
    code, said, found = install("cpu")
    assert (code, found) == (2, set())
    assert "run `make hashes`" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_bill_of_materials_names_every_package_with_its_version_and_license(tmp_path: Path) -> None:
    ran = subprocess.run(
        [FOLDER / "sbom.sh", Path(sys.executable).parent, sys.executable, tmp_path], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    installed = {normal(of.metadata["Name"]): of.version for of in importlib.metadata.distributions()}
    bill = json.loads((tmp_path / "sbom.cdx.json").read_text())
    found = {normal(of["name"]): of["version"] for of in bill["components"]}
    assert {name: version for name, version in installed.items() if name != "twhin"}.items() <= found.items()
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    with (tmp_path / "licenses.csv").open() as file:
        licenses = {normal(row["Name"]): row["License"] for row in csv.DictReader(file)}
    left_out = {"pip", "setuptools", "wheel", "pip-licenses", "prettytable", "wcwidth", "tomli", "twhin"}
    assert installed.keys() - licenses.keys() <= left_out
    assert "BSD-3-Clause" in licenses["torch"]


@pytest.mark.parametrize(
    ("probe", "audit", "code", "said"),
    [
        ("exit 1", "exit 1", 0, "skipped"), ("exit 0", "exit 0", 0, "looked"), ("exit 0", "exit 1", 1, "looked"),
    ],
)  # fmt: skip
def test_vulnerabilities_fail_where_their_database_is_reached(
    probe: str, audit: str, code: int, said: str, tmp_path: Path
) -> None:
    for name, text in {"python": probe, "pip-audit": f"echo looked\n{audit}"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    ran = subprocess.run([FOLDER / "audit.sh", tmp_path], capture_output=True, text=True)
    assert ran.returncode == code
    assert said in ran.stdout
    assert len(ran.stdout.splitlines()) == 1


def test_the_probe_gives_up_soon(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    nowhere = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    ran = subprocess.run(
        [FOLDER / "audit.sh", tmp_path], env={**os.environ, **nowhere}, capture_output=True, text=True, timeout=20
    )
    assert ran.stdout == "pip-audit: skipped, the database of vulnerabilities cannot be reached\n"
