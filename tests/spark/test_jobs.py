"""Spark jobs: their marks are for progress alone."""

import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pacspark.progress import LineProgress
from pacspark.spark import jobs
from pacspark.spark.jobs import Marks, counted, run_tasks
from pacspark.tables.storage import open_storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def mark_and_double(marks: Marks, number: int) -> int:
    """Do a little work, and say so."""
    marks.set(f"{number}")
    return 2 * number


@pytest.mark.parametrize("lost", [False, True])
def test_run_tasks__gives_results_whether_marks_can_be_set_or_not(
    spark: "SparkSession", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, lost: bool
) -> None:
    monkeypatch.setattr(jobs, "SECONDS_BETWEEN_COUNTS", 0.01)
    marks = Marks(open_storage(tmp_path), "run")
    marks.begin()
    if lost:  # whatever is tried below the folder fails from now on
        (tmp_path / "_progress" / "run").rmdir()
        (tmp_path / "_progress" / "run").write_text("in the way")
    told = io.StringIO()
    with counted(marks, LineProgress(told), "double", 3, "numbers"):
        assert run_tasks(spark, [1, 2, 3], partial(mark_and_double, marks)) == [2, 4, 6]
    assert "double: 3 of 3 numbers" in told.getvalue()
    found = [path.name for path in (tmp_path / "_progress").rglob("*") if path.is_file()]
    assert sorted(found) == (["run"] if lost else ["1", "2", "3"])
