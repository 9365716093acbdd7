"""Where figures go: one JSON line each, on standard output and in ``docs/benchmarks/``.

A figure without its date, commit and machine cannot be compared with the next one.
"""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "benchmarks"


def record(benchmark: str, **figures: object) -> None:
    """Print a line of figures, and keep it in the results file of its benchmark."""
    line = json.dumps({"benchmark": benchmark, **figures, **_where()})
    print(line, flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{benchmark}.jsonl").open("a", encoding="utf-8") as results:
        results.write(f"{line}\n")


def _where() -> dict[str, object]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "machine": _processor(),
        "cores": os.cpu_count(),
    }


def _commit() -> str:
    """Return the commit that is checked out; with a plus where the code differs from it."""
    # figures and plots are what benchmarks write
    changes = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"]
    try:
        commit, changed = (
            subprocess.run(
                ["git", *asked], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout.strip()
            for asked in (["rev-parse", "--short", "HEAD"], changes)
        )
    except (OSError, subprocess.CalledProcessError):  # a copy without its history
        return "unknown"
    return f"{commit}+" if changed else commit


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
