"""Figures are kept with what is needed to compare them."""

import json
from pathlib import Path

import pytest

from benchmarks import results


def test_record__keeps_each_line_with_date_commit_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "benchmarks")

    results.record("fdk", seconds=1.5)
    results.record("fdk", seconds=1.4)

    kept = (tmp_path / "benchmarks" / "fdk.jsonl").read_text()
    assert kept == capsys.readouterr().out
    first, second = (json.loads(line) for line in kept.splitlines())
    assert (first["benchmark"], first["seconds"], second["seconds"]) == ("fdk", 1.5, 1.4)
    for name in ("date", "commit", "machine", "cores"):
        assert first[name]
