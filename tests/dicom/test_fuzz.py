"""Nearly sound objects end as an index or as a refusal, in bounded time and memory.

A process of its own, so that its memory is that of the fuzzer alone.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def fuzz(folder: str, root: Path, rounds: int, *more: str) -> dict[str, float]:
    """Run the fuzzer, and give how its mutants ended."""
    command = [sys.executable, "-m", "tests.dicom.fuzz", folder, str(root)]
    done = subprocess.run(
        [*command, "--rounds", str(rounds), *more], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, float] = json.loads(done.stdout)
    return outcomes


def check(outcomes: dict[str, float], rounds: int) -> None:
    assert outcomes["indexed"] + outcomes["refused"] == rounds
    assert min(outcomes["indexed"], outcomes["refused"]) > rounds // 20
    ends = [count for name, count in outcomes.items() if name.startswith("intake: ")]
    assert sum(ends) == outcomes["taken in"] > 0
    assert outcomes["intake: stored"] > 0
    assert outcomes["grown"] < 512 << 20


def test_intake__answers_mutants_of_generated_objects(tmp_path: Path) -> None:
    check(fuzz("-", tmp_path / "archive", 2000, "--taken-in", "4"), 2000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_intake__answers_mutants_of_public_objects(
    tmp_path: Path, shared_data: Path, seed: int
) -> None:
    folder = str(shared_data / "dicom")
    check(fuzz(folder, tmp_path / "archive", 20_000, "--seed", str(seed)), 20_000)


@pytest.mark.slow
def test_intake__answers_many_mutants_of_generated_objects(tmp_path: Path) -> None:
    check(fuzz("-", tmp_path / "archive", 40_000, "--seed", "3", "--taken-in", "20"), 40_000)
