"""Tests and measures training on a GPU in one unattended run. Each part is a process with a time limit.

    python -m benchmarks.bench_gpu [--device cpu] [--minutes 8] [--out FILE] [--only PART ...]

Each part prints JSON lines, which are collected in FILE. If a part fails or times out, the next one still runs.
`--device cpu` runs all parts at a small size. If TWHIN_DATA is set, the quality part also trains on the real graphs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

PARTS: dict[str, tuple[list[str], float]] = {
    "kernels": (["benchmarks.gpu.correctness", "--only", "kernels"], 60),
    "fused": (["benchmarks.gpu.fused"], 60),
    "step": (["benchmarks.gpu.step"], 80),
    "larger": (["benchmarks.gpu.larger"], 90),
    "others": (["benchmarks.gpu.others"], 40),
    "quality": (["benchmarks.gpu.quality"], 150),
    "ranking": (["benchmarks.gpu.ranking"], 45),
    "tests": (["benchmarks.gpu.correctness", "--only", "tests"], 150),
}
"""The module and arguments of each part, and its time limit in seconds."""


def run(name: str, device: str, seconds: float, out: Path) -> bool:
    """Runs a part and returns whether it succeeded."""
    (module, *arguments), box = PARTS[name]
    command = [sys.executable, "-m", module, "--device", device, *arguments]
    started = time.monotonic()
    with out.open("a") as lines, Path(f"{out}.{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            shown, _ = process.communicate(timeout=min(box, seconds))
            outcome = f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            shown, _ = process.communicate()
            outcome = "out of time"
        for line in shown.splitlines():
            if line.startswith("{"):
                print(line, flush=True)
                lines.write(line + "\n")
        ended = {"part": name, "ended": outcome, "seconds": round(time.monotonic() - started, 1)}
        print(json.dumps(ended), flush=True)
        lines.write(json.dumps(ended) + "\n")
    if outcome != "exit code 0":
        print("\n".join(Path(f"{out}.{name}.log").read_text().splitlines()[-15:]), file=sys.stderr, flush=True)
    return outcome == "exit code 0"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("bench_gpu.jsonl"))
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    options.out.write_text("")
    end = time.monotonic() + 60 * options.minutes
    passed = [run(name, options.device, max(end - time.monotonic(), 1), options.out) for name in options.only]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
