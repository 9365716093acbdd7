"""Zips that somebody made to hurt: each member is stored, or refused in one line."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pacspark.errors import DicomDecodeError
from pacspark.tables.catalog import Catalog
from pacspark.tables.reports import IngestReport
from pacspark.tables.sources import expand_sources, open_source
from pacspark.tables.storage import Storage
from tests.taking_in import ct_slice, take_in_here, zip_of

DIRECTORY = b"PK\x01\x02"
"""The beginning of a member's entry in the list of a zip; there, the size is at byte 24."""


def packed(path: Path, members: dict[str, bytes]) -> bytearray:
    """Write a zip; return its bytes, to be spoilt."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, data in members.items():
            writer.writestr(name, data)
    return bytearray(path.read_bytes())


def refused(report: IngestReport) -> dict[str, str]:
    """Give the reasons by member; each is one line."""
    assert all("\n" not in one.message for one in report.refused)
    return {one.source.rpartition("!")[2]: one.message for one in report.refused}


def test_zip__has_members_of_any_name_and_none_leads_anywhere(
    storage: Storage, tmp_path: Path
) -> None:
    names = ["/etc/passwd", "../../up.dcm", "C:\\x", "new\nline", "x" * 60_000, "-rf", "a%41?#*"]
    objects = {name: ct_slice(f"1.2.{number}", number) for number, name in enumerate(names)}
    packed(tmp_path / "in.zip", objects)
    with zipfile.ZipFile(tmp_path / "in.zip", "a") as writer:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        writer.writestr(link, "/etc/passwd")
        with writer.open("zip64", "w", force_zip64=True) as stream:
            stream.write(ct_slice("1.2.9", 9))
    before = set(tmp_path.iterdir())
    report = take_in_here(storage, tmp_path / "in.zip")
    assert (report.stored, report.rejected) == (len(names) + 1, 1)
    assert list(refused(report)) == ["link"]
    assert set(tmp_path.iterdir()) == before


def test_zip__within_a_zip_is_not_opened_and_said_to_be_one(
    storage: Storage, tmp_path: Path
) -> None:
    packed(tmp_path / "in.zip", {"inner.zip": zip_of(b"a"), "a": ct_slice("1.2.1", 1)})
    report = take_in_here(storage, tmp_path / "in.zip")
    assert (report.stored, report.rejected) == (1, 1)
    assert "found a zip that is damaged, in another one" in refused(report)["inner.zip"]


def _without_name(data: bytearray, entry: int) -> None:
    length = struct.unpack_from("<H", data, entry + 28)[0]
    struct.pack_into("<HH", data, entry + 28, 0, length)  # the name counts as extra field


def _of_no_charset(data: bytearray, entry: int) -> None:
    data[entry + 9] |= 8  # UTF-8, it says
    data[entry + 46] = 0xFF


def _many_in_one(data: bytearray, entry: int) -> None:
    end = data.index(b"PK\x05\x06")
    one = bytes(data[entry:end])
    many = 3000
    data[entry:] = one * many
    data += struct.pack(
        "<4sHHHHIIH", b"PK\x05\x06", 0, 0, 2 * many, 2 * many, len(one) * many, entry, 0
    )


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(_without_name, id="no name"),
        pytest.param(_of_no_charset, id="charset"),
        pytest.param(_many_in_one, id="overlapping"),
        pytest.param(lambda data, _: data.__delitem__(slice(-10, None)), id="cut"),
    ],
)
def test_zip__that_cannot_be_listed_is_one_refusal(
    storage: Storage, tmp_path: Path, spoil: Callable[[bytearray, int], None]
) -> None:
    path = tmp_path / "in.zip"
    data = packed(path, {"ab": bytes(1 << 20), "b": ct_slice("1.2.1", 1)})
    spoil(data, data.index(DIRECTORY))
    path.write_bytes(data)
    report = take_in_here(storage, path)
    assert (report.inputs, report.rejected, report.not_dicom) == (1, 1, 0)
    assert "found a zip that is damaged" in report.refused[0].message


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        pytest.param(24, 5, "expected a readable zip member, found Bad CRC-32", id="less"),
        pytest.param(24, 60_000_000, "60000000 bytes as listed, found 10000000", id="more"),
        pytest.param(24, 2_000_000_000, "inflates less than 1000-fold", id="much more"),
        pytest.param(8, 1 << 16 | 1, "found an encrypted one", id="encrypted"),
    ],
)
def test_zip__whose_list_lies_about_a_member_has_the_others(
    storage: Storage, tmp_path: Path, at: int, value: int, says: str
) -> None:
    path = tmp_path / "in.zip"
    data = packed(path, {"a": bytes(10_000_000), "b": ct_slice("1.2.1", 1)})
    struct.pack_into("<I", data, data.index(DIRECTORY) + at, value)
    path.write_bytes(data)
    report = take_in_here(storage, path)
    assert (report.stored, report.rejected) == (1, 1)
    assert says in refused(report)["a"]


def test_zip__that_changes_after_it_was_listed_is_refused(storage: Storage, tmp_path: Path) -> None:
    path = tmp_path / "in.zip"
    packed(path, {"a": bytes(1000), "b": ct_slice("1.2.1", 1)})
    _, second = expand_sources([path])
    packed(path, {"b": ct_slice("1.2.1", 1)})
    with (
        pytest.raises(DicomDecodeError, match="expected the zip member that was listed"),
        open_source(second),
    ):
        pass


def test_zip__is_listed_once_for_all_its_members(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a zip of 10^5 members takes days."""
    for name in ("a", "b"):
        packed(tmp_path / f"{name}.zip", {f"{n}": ct_slice(f"1.2.{n}", n) for n in range(5)})
    opened = []

    class Counting(zipfile.ZipFile):
        def __init__(self, file: io.BytesIO) -> None:
            opened.append(file)
            super().__init__(file)

    monkeypatch.setattr(zipfile, "ZipFile", Counting)
    report = take_in_here(storage, tmp_path / "a.zip", tmp_path / "b.zip")
    assert (report.stored, report.duplicate) == (5, 5)
    assert len(opened) == 4  # to list them, and to read them
    assert len(Catalog(storage).known([f"1.2.{n}" for n in range(5)])) == 5


def test_zip__whose_list_would_fill_the_memory_is_one_refusal(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacspark.tables.zips.MAX_DIRECTORY_BYTES", 1000)
    packed(tmp_path / "in.zip", {f"{number}": b"a" for number in range(100)})
    report = take_in_here(storage, tmp_path / "in.zip")
    assert (report.inputs, report.rejected) == (1, 1)
