"""Sources: what is listed, what is never waited for, and zips of any kind."""

import io
import os
import socket
import warnings
import zipfile
from pathlib import Path

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.uid import MediaStorageDirectoryStorage

from pacspark.archive import create_archive
from pacspark.dicom.enhanced_xa import file_meta
from pacspark.errors import UsageError
from pacspark.tables.catalog import Catalog
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.sources import expand_sources, open_source
from pacspark.tables.storage import Storage, open_storage
from tests.taking_in import ct_slice, stored, take_in_here, upload, zip_of


def test_expand_sources__names_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "real").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    found = [Path(source.path).name for source in expand_sources([tmp_path])]
    assert found == ["dangling", "pipe", "real"]


def test_expand_sources__follows_links_to_folders_once(tmp_path: Path) -> None:
    """Scans lie on other disks, and links lead back."""
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "disk" / "a.dcm").write_bytes(b"a")
    (tmp_path / "disk" / "deep" / "b.dcm").write_bytes(b"b")
    (tmp_path / "disk" / "deep" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "one").symlink_to(tmp_path / "disk")
    (tmp_path / "in" / "two").symlink_to(tmp_path / "disk" / "deep")
    found = [source.path for source in expand_sources([tmp_path / "in"])]
    assert found == [f"{tmp_path}/in/one/{name}" for name in ("a.dcm", "deep/b.dcm")]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_intake__refuses_what_is_no_regular_file(tmp_path: Path, scheme: str) -> None:
    archive = create_archive(tmp_path / "archive")
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe")
    (tmp_path / "in" / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "in" / "socket"))  # of short names only
    intake = Intake(archive._storage, "run")
    for source in expand_sources([f"{scheme}{tmp_path}/in"]):
        intake.add_source(source)
    report = commit_intake(archive._storage, [intake.finish()], "run", "ingest")
    assert (report.inputs, report.rejected) == (3, 3)
    refused = {Path(one.source).name: one.message for one in report.refused}
    assert refused == {
        "pipe": "expected a readable file, found a pipe",
        "socket": "expected a readable file, found a socket",
        "zero": "expected a readable file, found a device",
    }
    (source,) = expand_sources([tmp_path / "in" / "pipe"])
    assert source.size_bytes == 0


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/proc/version", "found no bytes"),
        ("/proc/kmsg", "found no bytes"),  # whoever reads it waits for the kernel
        ("/sys/kernel/mm/transparent_hugepage/enabled", "expected 4096 bytes as listed"),
    ],
)
def test_intake__never_waits_for_files_of_the_kernel(
    storage: Storage, path: str, says: str
) -> None:
    if not os.access(path, os.R_OK):
        pytest.skip(f"no {path} here")
    report = take_in_here(storage, Path(path))
    assert (report.inputs, report.rejected) == (1, 1)
    assert says in report.refused[0].message


def test_intake__reads_nothing_of_what_says_that_it_is_larger_than_any_object(
    storage: Storage, tmp_path: Path
) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(8 << 40)
    report = take_in_here(storage, tmp_path / "sparse")
    assert report.refused[0].message == (
        f"expected an object of at most 64 GiB, found {8 << 40} bytes"
    )


@pytest.mark.parametrize(
    "name",
    [
        b"new\nline", b"\xff\xfe", b"a" * 255, b"-rf", b"%41%2e", b"trailing ", b"~", b"a\\b",
        "\u00e9".encode(), "e\u0301".encode(), b"a#b?c*d[1]", b"\x1b[2J", b"a:b!c", b"$(x)",
    ],
)  # fmt: skip
def test_intake__takes_files_of_any_name_from_folders_paths_and_urls(
    storage: Storage, tmp_path: Path, name: bytes
) -> None:
    (tmp_path / "in").mkdir()
    path = Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name))
    path.write_bytes(ct_slice("1.2.1", 1))
    assert take_in_here(storage, tmp_path / "in").stored == 1
    assert take_in_here(storage, path).duplicate == 1
    if name != b"\xff\xfe":  # URLs are text
        (source,) = expand_sources([path.as_uri()])
        with open_source(source) as stream:
            assert stream.read() == path.read_bytes()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("x" * 300, "found File name too long"),
        ("a\0b", "found embedded null byte"),
        ("/dev/null/a", "found nothing there"),
    ],
)
def test_expand_sources__refuses_names_that_no_file_can_have(path: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        list(expand_sources([path]))


def test_expand_sources__goes_on_when_a_folder_goes_meanwhile(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x")
    found = expand_sources([tmp_path])
    assert next(found).path == str(tmp_path / "a" / "file")
    (tmp_path / "b" / "file").unlink()
    (tmp_path / "b").rmdir()
    assert [source.path for source in found] == [
        str(tmp_path / "c" / "file"), str(tmp_path / "b"),
    ]  # fmt: skip


DIRECTORY_NEST = b"\x04\x00\x20\x12SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4


"""The beginning of a Directory Record Sequence and of its first item, both without a length."""


def dicomdir(*files: str) -> bytes:
    """Give a DICOMDIR that lists files."""
    directory = Dataset()
    directory.DirectoryRecordSequence = []
    for file in files:
        record = Dataset()
        record.ReferencedFileID = file.split("/")
        directory.DirectoryRecordSequence.append(record)
    buffer = io.BytesIO()
    directory.file_meta = file_meta(MediaStorageDirectoryStorage, "1.2.9")
    dcmwrite(buffer, directory, enforce_file_format=True)
    return buffer.getvalue()


def test_urls__have_zips_globs_and_dicomdirs_as_paths_do(archive_root: str) -> None:
    objects = [ct_slice(f"1.2.{number}", number) for number in range(6)]
    url = upload(
        archive_root,
        {
            "in/a.dcm": objects[0],
            "in/b.dcm": objects[1],
            "in/b.txt": b"notes",
            "in/deep/c.dcm": objects[2],
            "in/deep/packed.zip": zip_of(*objects[3:5]),
            "disc/DICOMDIR": dicomdir("IMAGES/I1", "IMAGES/I2"),
            "disc/IMAGES/I1": objects[5],
        },
    )

    def names(pattern: str) -> list[str]:
        return [str(source).removeprefix(url) for source in expand_sources([url + pattern])]

    zipped = [f"/in/deep/packed.zip!folder/{number}.dcm" for number in (0, 1)]
    assert names("/in/*.dcm") == ["/in/a.dcm", "/in/b.dcm"]
    assert names("/in/b.???") == ["/in/b.dcm", "/in/b.txt"]
    assert names("/in/**/*.dcm") == ["/in/a.dcm", "/in/b.dcm", "/in/deep/c.dcm"]
    assert names("/i*/deep") == names("/in/deep") == ["/in/deep/c.dcm", *zipped]
    assert names("/in/deep/packed.zip") == zipped
    assert names("/disc/DICOMDIR") == ["/disc/IMAGES/I1", "/disc/IMAGES/I2"]
    for nothing in ("/in/*.zip", "/nowhere/*", "/in/c.dcm"):
        with pytest.raises(UsageError, match="found no"):
            names(nothing)
    read = []
    for source in expand_sources([f"{url}/in/deep", f"{url}/disc/DICOMDIR"]):
        if source.size_bytes:
            with open_source(source) as stream:
                read.append(stream.read())
    assert read == objects[2:]


def test_dicomdir__is_followed_unless_it_is_an_image_of_that_name(tmp_path: Path) -> None:
    archive = create_archive(tmp_path / "archive")
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "DICOMDIR").write_bytes(ct_slice("1.2.1", 1))
    (tmp_path / "disc").mkdir()
    (tmp_path / "disc" / "DICOMDIR").write_bytes(dicomdir("I1", "I2"))
    (tmp_path / "disc" / "I1").write_bytes(ct_slice("1.2.2", 2))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "DICOMDIR").write_text("no DICOM")
    intake = Intake(archive._storage, "run")
    for source in expand_sources(
        tmp_path / name / "DICOMDIR" for name in ("image", "disc", "text")
    ):
        intake.add_source(source)
    report = commit_intake(archive._storage, [intake.finish()], "run", "ingest")
    assert sorted(stored(archive)) == ["1.2.1", "1.2.2"]
    refused = {Path(one.source).name: one.message for one in report.refused}
    assert "every machine of the cluster" in refused.pop("I2")
    assert list(refused) == ["DICOMDIR"]


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(DIRECTORY_NEST * 5000, id="nested"),
        pytest.param(DIRECTORY_NEST[:8] + b"\xff\xff\xff\x7f" + DIRECTORY_NEST[12:], id="length"),
        pytest.param(b"\x04\x00\x20\x12UL\x04\x00abcd", id="wrong VR"),
        pytest.param(b"\x04\x00\x20\x12SQ\x00\x00\x14\x00\x00\x00\xfe\xff\x00\xe0\x0c\x00\x00\x00"
                     b"\x04\x00\x00\x15UL\x04\x00abcd", id="numbers for names"),
    ],
)  # fmt: skip
def test_dicomdir__that_lists_nothing_readable_is_a_refusal(tmp_path: Path, records: bytes) -> None:
    path = tmp_path / "DICOMDIR"
    path.write_bytes(dicomdir()[:-12] + records)  # without its empty sequence
    assert [source.path for source in expand_sources([path])] == [str(path)]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # what it writes is wrong
@pytest.mark.parametrize("name", ["../A", "A/B\0C", "A/.", "/etc"])
def test_dicomdir__that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "DICOMDIR").write_bytes(dicomdir(name))
    with pytest.raises(UsageError, match="expected file names below its folder"):
        list(expand_sources([tmp_path / "DICOMDIR"]))


def test_expand_sources__gives_tasks_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "A").write_bytes(b"a")
    (tmp_path / "in" / "DICOMDIR").write_bytes(dicomdir("A"))
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path / "in" / "A")
    for given in ("in/A", "in/A*", "in/DICOMDIR"):
        assert [source.path for source in expand_sources([given])] == [expected]
    assert expected in [source.path for source in expand_sources(["in"])]


def test_intake__takes_zip_members_of_one_name_and_any_file_name(tmp_path: Path) -> None:
    archive = create_archive(tmp_path / "archive")
    packed = tmp_path / "twice.zip"
    with zipfile.ZipFile(packed, "w") as members, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the doubled name
        for number in (1, 2, 3):
            members.writestr("same.dcm", ct_slice(f"1.2.{number}", number))
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.dcm"))
    strange.write_bytes(ct_slice("1.2.4", 4))
    intake = Intake(open_storage(str(tmp_path / "archive")), "run")
    for source in expand_sources([packed, strange]):
        intake.add_source(source)
    report = commit_intake(archive._storage, [intake.finish()], "run", "ingest")
    assert (report.stored, report.inputs) == (4, 4)
    assert len(stored(archive)) == 4


def test_intake__refuses_a_damaged_member_of_a_zip_and_takes_the_others(
    storage: Storage, tmp_path: Path
) -> None:
    packed = tmp_path / "lzma.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as members:
        for number in (1, 2, 3):
            members.writestr(f"{number}.dcm", ct_slice(f"1.2.{number}", number, size=64))
        first, second = members.infolist()[1:]
        middle = (first.header_offset + second.header_offset) // 2
    data = bytearray(packed.read_bytes())
    data[middle - 20 : middle + 20] = b"\xff" * 40
    packed.write_bytes(data)
    report = take_in_here(storage, packed)
    assert (report.stored, report.rejected) == (2, 1)
    assert report.refused[0].source == f"{packed}!2.dcm"
    assert report.refused[0].message.startswith("expected a readable zip member, found")
    assert set(Catalog(storage).known(["1.2.1", "1.2.2", "1.2.3"])) == {"1.2.1", "1.2.3"}
