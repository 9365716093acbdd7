"""DCMTK's programs as peers; on loopback, ended by their process ids."""

import os
import re
import subprocess
from pathlib import Path

from tests.conftest import missing

BIN = Path("/usr/bin")
TIMEOUT_S = 120


def dcmtk(program: str, *arguments: str | Path | int, fails: bool = False) -> str:
    """Run one of DCMTK's programs and give what it says."""
    path = BIN / program
    if not path.exists():
        missing("dcmtk")
    done = subprocess.run(
        [str(path), *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
        env=os.environ | {"TCP_NODELAY": "1"},
    )
    said = (done.stdout + done.stderr).decode("utf-8", "backslashreplace")
    assert (done.returncode != 0) == fails, said
    return said


def responses(said: str) -> list[dict[str, str]]:
    """Read the responses that findscu prints with ``-v``: value by tag."""
    found: list[dict[str, str]] = []
    for line in said.splitlines():
        if re.search(r"Find Response: \d+", line):
            found.append({})
        match = re.search(r"\(([0-9a-f]{4},[0-9a-f]{4})\) [A-Z]{2} (?:\[(.*?)\]|(\S+))", line)
        if match and found:
            found[-1][match[1]] = (match[2] if match[2] is not None else match[3]).strip(" \0")
    return [one for one in found if one]
