"""Headers as Parquet columns, read back by other tools, and tables that they read as they are."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pydicom.dataset import Dataset

from pacspark.archive import Archive, create_archive
from pacspark.cli import main
from pacspark.errors import QueryError, UsageError
from pacspark.progress import SILENT
from pacspark.tables import headers as module
from pacspark.tables.intake import Intake, commit_intake
from tests.ct_objects import ct_image, encoded

LARGE = (1 << 64) - 1


def region(code: str, *modifiers: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodeMeaning = code, f"region {code}"
    if modifiers:
        inner = [region(modifier) for modifier in modifiers]
        item.AnatomicRegionModifierSequence = inner
    return item


def image(number: int) -> Dataset:
    dataset = ct_image(np.zeros((4, 4), np.int16), number, (0, 0, number))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Yamada^Tarou=山田^太郎"
    dataset.KVP = 80 + number / 4
    regions = [region("A"), region("B", "left", "upper")]
    dataset.AnatomicRegionSequence = regions[:number]
    dataset.add_new(0x00720083, "UV", [LARGE])
    block = dataset.private_block(0x0029, "PACSPARK TEST", create=True)
    block.add_new(0x01, "OB", bytes([number, 0]))
    if number == 1:
        dataset.add_new(0x60000010, "US", 4)
        dataset.add_new(0x60020010, "US", 5)
    return dataset


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    archive = create_archive(tmp_path_factory.mktemp("headers") / "archive", progress=SILENT)
    storage = archive.catalog.storage
    for numbers in ((0, 1), (2,)):
        with Intake(storage, "run") as intake:
            for number in numbers:
                intake.add(f"{number}", encoded(image(number)))
            taken = intake.finish()
        assert commit_intake(storage, [taken], "run").stored == len(numbers)
    return archive


def test_headers__are_nested_columns_for_duckdb_and_polars(
    archive: Archive, tmp_path: Path
) -> None:
    path = tmp_path / "headers.parquet"
    schema = archive.headers(path)
    assert schema == pq.read_schema(path)
    assert [file.name for file in tmp_path.iterdir()] == ["headers.parquet"]
    found = duckdb.execute(
        'SELECT InstanceNumber, KVP, PatientName, PixelSpacing, SelectorUVValue[1], "00291001", '
        '"60000010", "60020010", list_transform(AnatomicRegionSequence, lambda r: r.CodeValue), '
        "AnatomicRegionSequence[2].AnatomicRegionModifierSequence[1].CodeValue "
        "FROM read_parquet(?) ORDER BY InstanceNumber",
        [str(path)],
    ).fetchall()
    name = "Yamada^Tarou=山田^太郎"
    same: list[Any] = [name, [0.5, 0.25], LARGE]
    assert found == [
        (0, 80.0, *same, b"\0\0", None, None, [], None),
        (1, 80.25, *same, b"\1\0", 4, 5, ["A"], None),
        (2, 80.5, *same, b"\2\0", None, None, ["A", "B"], "left"),
    ]
    frame = pl.read_parquet(path).sort("InstanceNumber")
    assert frame["KVP"].to_list() == [80.0, 80.25, 80.5]
    regions = frame["AnatomicRegionSequence"].to_list()[2]
    modifiers = regions[1]["AnatomicRegionModifierSequence"]
    assert [item["CodeValue"] for item in modifiers] == ["left", "upper"]
    by_pandas = pd.read_parquet(path).sort_values("InstanceNumber")
    assert by_pandas["KVP"].tolist() == frame["KVP"].to_list()
    assert by_pandas["AnatomicRegionSequence"].iloc[2][1]["CodeValue"] == "B"


def test_headers__are_those_that_are_asked_for(archive: Archive, tmp_path: Path) -> None:
    path = tmp_path / "some.parquet"
    series_uid = archive.find(level="series")["SeriesInstanceUID"][0]
    asked = ["headers", archive.root, str(path), "--attributes", "KVP,00100020,SOPInstanceUID"]
    assert main([*asked, "--series", series_uid]) == 0
    table = pq.read_table(path)
    assert table.column_names == ["SOPInstanceUID", "PatientID", "KVP"]
    assert table.num_rows == 3
    with pytest.raises(UsageError, match="not there yet"):
        archive.headers(path)
    with pytest.raises(QueryError, match="did you mean KVP"):
        archive.headers(tmp_path / "other", attributes=["kvp"])
    with pytest.raises(UsageError, match="expected instances to write, found none"):
        archive.headers(tmp_path / "other", study="1.2.3")
    assert not (tmp_path / "other").exists()


def test_headers__refuse_columns_without_end(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_COLUMNS", 10)
    with pytest.raises(UsageError, match="expected at most 10 different attributes"):
        archive.headers(tmp_path / "headers.parquet")
    assert not list(tmp_path.iterdir())


def test_headers__go_nowhere_into_the_archive(archive: Archive) -> None:
    path = Path(archive.root) / "objects" / "headers.parquet"
    with pytest.raises(UsageError, match="expected a file outside the archive"):
        archive.headers(path)
    assert not path.exists()


def test_tables__are_read_by_other_tools_as_they_are(archive: Archive) -> None:
    uri = archive.catalog.storage.table_uri("instances")
    table = DeltaTable(uri)
    expected = [(n, 80 + n / 4) for n in range(3)]
    query = "SELECT instance_number, kvp FROM read_parquet(?) ORDER BY 1"
    assert duckdb.execute(query, [table.file_uris()]).fetchall() == expected
    frame = pl.read_delta(uri).sort("instance_number")
    assert list(frame.select("instance_number", "kvp").iter_rows()) == expected
    pandas = table.to_pandas(columns=["instance_number", "kvp"]).sort_values("instance_number")
    assert list(pandas.itertuples(index=False, name=None)) == expected


def test_page__asks_with_other_tools_as_it_says(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "asking.md"
    (tmp_path / "archive").symlink_to(archive.root)
    archive.headers(tmp_path / "headers.parquet")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(import duckdb.*?)```", page.read_text(), re.DOTALL)
    said = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=True)
    assert said.stderr == ""
    (query,) = re.findall(r'duckdb -c "(SELECT .*?)"', page.read_text())
    assert sorted(duckdb.execute(query).fetchall())[1:] == [(80.25, "region A"), (80.5, "region A")]
