"""A folder of frames and a text of angles; and what no reader knows."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pacspark.cli import main
from pacspark.errors import ScanDescriptionError, StorageError, UsageError
from pacspark.scans.description import read_scan_description
from pacspark.scans.vendors.describe import describe_scan
from tests.scans.vendors.samples import write_tiffs

FILLED_IN = """kind = "counts"
unattenuated_counts = 900
[geometry]
beam = "cone"
source_to_isocenter_mm = 100.0
source_to_detector_mm = 200.0
column_spacing_mm = 0.5
"""


def write_folder(folder: Path, angles: str = "0 30 60\n90, 120 # and on\n150") -> Path:
    write_tiffs(folder, "frame{}.tif", np.ones((6, 4, 5), np.uint16))
    (folder / "angles.txt").write_text(angles)
    return folder


def test_describe__begins_what_people_fill_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "scan")
    monkeypatch.chdir(tmp_path)
    assert main(["describe", "scan", "--angles", "scan/angles.txt"]) == 0
    out, told = capsys.readouterr()
    assert out.split() == ["scan/SCAN.toml"]
    assert "fill in geometry.beam: cone or parallel" in told
    scan = folder / "SCAN.toml"
    with pytest.raises(ScanDescriptionError, match=r"projections.kind: expected one of"):
        read_scan_description(scan)
    begun = scan.read_text()
    head, _, tail = begun.partition("# FILL IN kind")
    scan.write_text(f"{head}{FILLED_IN}{tail[tail.index('[angles]') :]}")
    description = read_scan_description(scan)
    np.testing.assert_allclose(
        np.degrees(description.geometry.gantry_angles_rad), np.arange(0, 180, 30)
    )

    scan.unlink()
    asked = ["describe", "scan", "--angles", "scan/angles.txt", "--output", "scan/A.toml", "--json"]
    assert main(asked) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["path"] == "scan/A.toml"
    assert len(shown["to_fill_in"]) == 6
    assert shown["to_check"] == shown["beside"] == []


@pytest.mark.parametrize(
    ("angles", "told"),
    [
        ("0 30", "expected 6 angles, as many as views, found 2"),
        ("", "found none"),
        ("zero\n30", "found others"),
        ("0 nan 3 4 5 6", "found none"),
    ],
)
def test_describe__checks_the_angles(tmp_path: Path, angles: str, told: str) -> None:
    folder = write_folder(tmp_path / "scan", angles)
    with pytest.raises(ScanDescriptionError, match=told):
        describe_scan(folder, angles=folder / "angles.txt")
    assert not (folder / "SCAN.toml").exists()


def test_describe__wants_images_of_one_kind(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "scan")
    with pytest.raises(UsageError, match="--angles: expected it with a folder, found none"):
        describe_scan(folder)
    (folder / "other.png").write_bytes(b"")
    with pytest.raises(ScanDescriptionError, match="images of one kind"):
        describe_scan(folder, angles=folder / "angles.txt")
    files = str(folder / "frame*.tif")
    assert describe_scan(folder, angles=folder / "angles.txt", files=files).path.is_file()
    files = str(folder / "none*.tif")
    with pytest.raises(ScanDescriptionError, match=r"projections.files: expected a file none"):
        describe_scan(folder, folder / "B.toml", angles=folder / "angles.txt", files=files)


def test_describe__refuses_what_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "scan.log"
    for content in (b"", b"\0" * 5000, "[Systém]".encode("cp1252")):
        path.write_bytes(content)
        with pytest.raises(ScanDescriptionError, match=r"expected one of a .txrm of Zeiss"):
            describe_scan(path)
    with pytest.raises(ScanDescriptionError, match="found no such file"):
        describe_scan(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ScanDescriptionError, match="found no regular file"):
        describe_scan(tmp_path / "pipe")
    with pytest.raises(UsageError, match="found an empty text"):
        describe_scan("")
    path.write_bytes(b"[acquisition]\n" + b"a" * (2 << 20))
    with pytest.raises(ScanDescriptionError, match="found more than 1 MiB"):
        describe_scan(path)


def test_describe__leaves_nothing_half_written(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "scan")
    with pytest.raises(UsageError, match="--output: expected a file in a folder that is there"):
        describe_scan(folder, tmp_path / "none" / "SCAN.toml", angles=folder / "angles.txt")
    with pytest.raises(StorageError, match="expected to write it, found File name too long"):
        describe_scan(folder, folder / f"{'a' * 300}.toml", angles=folder / "angles.txt")
    assert len(list(folder.iterdir())) == 7
