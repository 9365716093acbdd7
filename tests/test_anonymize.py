"""From one archive into another that identifies nobody: the command, its tables, its refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pacspark.archive import Archive, create_archive, open_archive
from pacspark.cli import main
from pacspark.dicom.confidentiality import Profile
from pacspark.dicom.deidentify import Deidentifier
from pacspark.dicom.pseudonyms import Pseudonyms
from pacspark.errors import NotInArchiveError, UsageError
from pacspark.progress import SILENT
from pacspark.spark.anonymize import Stored, make_anonymous
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.schema import LOCATION_COLUMNS
from pacspark.tables.storage import open_storage
from tests.dicom.hostile import ct_object, text, uid
from tests.dicom.marked import marked_object
from tests.scan_files import write_phantom_scan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

STUDY = "1.2.3"  # of `hostile.header`
SECRET = bytes(range(32))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out.strip(), printed.err.strip()


def slices(folder: Path, count: int = 3, **changes: tuple[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        elements = {"x00080018": ("UI", uid(f"1.2.3.4.{number}"))} | changes
        data = ct_object(**elements)  # type: ignore[arg-type]
        (folder / f"{number}.dcm").write_bytes(data)
    return folder


def all_bytes(root: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


def all_values(root: Path) -> str:
    catalog = Catalog(open_storage(root))
    names = ["instances", "runs", "rejects", "audit"]
    return json.dumps([catalog.table(name).to_pylist() for name in names], default=str)


def test_anonymize__does_leave_nothing_in_the_target(
    capsys: pytest.CaptureFixture[str], spark: "SparkSession", tmp_path: Path
) -> None:
    data, marks = marked_object()
    stem = slices(tmp_path / "DOE_JANE", x00100010=("PN", text("Doe^Jane")))
    (stem / "marked.dcm").write_bytes(data)
    other = ct_object(x0020000D=("UI", uid("1.2.77")), x00080018=("UI", uid("1.2.77.1")))
    (stem / "other.dcm").write_bytes(other)
    source, target, key = tmp_path / "source", tmp_path / "target", tmp_path / "key"
    run(capsys, "init", source)
    assert run(capsys, "ingest", source, stem)[0] == 0
    asked = ("anonymize", source, target, "--study", STUDY, "--secret", key)

    status, out, told = run(capsys, *asked, "--create-secret")
    assert (status, out) == (0, "stored 3, duplicate 0, conflict 0, rejected 0"), told

    secret = key.read_bytes().strip()
    whole = all_bytes(target)
    for trace in (b"Doe", b"DOE", b"ID-1", b"1.2.3.4", str(source).encode(), secret):
        assert trace not in whole
        assert trace.decode() not in all_values(target)
    assert secret not in all_bytes(source)
    assert secret.decode() not in told

    # once more: the same bytes, so duplicates
    status, out, _ = run(capsys, *asked, "--json")
    counts = json.loads(out)
    assert (counts["stored"], counts["duplicate"]) == (0, 3)

    # all of it, the marked object included
    everything = ("anonymize", source, target, "--all", "--secret", key)
    status, out, _ = run(capsys, *everything)
    assert (status, out) == (0, "stored 2, duplicate 3, conflict 0, rejected 0")
    assert marks.survivors(all_bytes(target)) == []
    assert marks.survivors(all_values(target).encode()) == []

    run_rows = Catalog(open_storage(target)).runs().to_pylist()
    assert [row["operation"] for row in run_rows] == ["anonymize"] * 3
    assert json.loads(run_rows[0]["options"])["level"] == "study"
    audit = Catalog(open_storage(source)).table("audit").sort_by("occurred_at").to_pylist()
    assert [(row["action"], row["level"], row["uid"], row["outcome"]) for row in audit] == [
        ("anonymize", "study", STUDY, "done"),
        ("anonymize", "study", STUDY, "done"),
        ("anonymize", "all", "", "done"),
    ]
    assert json.loads(audit[0]["detail"])["stored"] == 3
    series = open_archive(target, spark, progress=SILENT).find(level="series")
    assert len(series) == 2


def test_anonymize__does_refuse_one_object_and_go_on(
    capsys: pytest.CaptureFixture[str], spark: "SparkSession", tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    archive = create_archive(source, spark, progress=SILENT)
    folder = slices(tmp_path / "in")
    burned = ct_object(
        x00080018=("UI", uid("1.2.3.4.99")),
        x00280301=("CS", text("YES")),
        x00100010=("PN", text("Doe^Jane")),
    )
    (folder / "burned.dcm").write_bytes(burned)
    archive.ingest(folder)
    key = tmp_path / "key"
    asked = ("anonymize", source, target, "--patient", "ID-1", "--secret", key)

    status, out, told = run(capsys, *asked, "--create-secret")
    assert (status, out) == (1, "stored 3, duplicate 0, conflict 0, rejected 1")
    assert "DeidentificationError: 1.2.3.4.99: BurnedInAnnotation: expected NO" in told
    (reject,) = Catalog(open_storage(target)).rejects().to_pylist()
    assert reject["error_class"] == "DeidentificationError"
    assert reject["source"].startswith("anonymize 2.25.")
    assert reject["object_file"] is None
    assert "1.2.3.4.99" not in all_values(target)
    assert b"Doe" not in all_bytes(target)
    (audit,) = Catalog(open_storage(source)).table("audit").to_pylist()
    assert json.loads(audit["detail"])["refused"] == ["1.2.3.4.99"]

    # refused again, told again, kept once
    status, out, _ = run(capsys, *asked)
    assert (status, out) == (1, "stored 0, duplicate 3, conflict 0, rejected 1")
    assert Catalog(open_storage(target)).rejects().num_rows == 1

    # with a rule, it goes through
    profile = tmp_path / "profile.toml"
    profile.write_text("[[pixels]]\nmatch = { Modality = 'CT' }\nblank = [[0, 0, 2, 1]]\n")
    other = tmp_path / "blanked"
    status, out, _ = run(
        capsys, "anonymize", source, other, "--all", "--secret", key, "--profile", profile
    )
    assert (status, out) == (0, "stored 4, duplicate 0, conflict 0, rejected 0")


def test_anonymize__does_take_a_lost_object_for_a_refused_one(
    spark: "SparkSession", tmp_path: Path
) -> None:
    archive = create_archive(tmp_path / "source", spark, progress=SILENT)
    archive.ingest(slices(tmp_path / "in"))
    (file,) = (tmp_path / "source" / "objects").glob("*.parquet")
    data = file.read_bytes()
    at = data.index(b"1.2.3.4.1")
    file.write_bytes(data[:at] + b"1.2.3.9.1" + data[at + 9 :])

    report = archive.anonymize(tmp_path / "target", everything=True, secret=SECRET)

    assert (report.stored, report.rejected) == (2, 1)
    assert report.refused[0].source == "1.2.3.4.1"
    assert "objects/" not in report.refused[0].message


def test_anonymize__does_leave_a_scan_that_can_be_reconstructed(
    spark: "SparkSession", tmp_path: Path
) -> None:
    path, _ = write_phantom_scan(tmp_path / "scan", patient_id="DOE-1")
    archive = create_archive(tmp_path / "source", spark, progress=SILENT)
    series = archive.import_scan(path).series_instance_uid

    report = archive.anonymize(
        tmp_path / "target", series=series, retain=["safe-private"], secret=SECRET
    )

    assert report.stored == 1
    target = Archive(open_storage(tmp_path / "target"), spark, None, SILENT)
    (made,) = target.find(level="series")["SeriesInstanceUID"]
    assert made == Pseudonyms(SECRET).uid(series)
    before, after = archive.sinogram(series), target.sinogram(made)
    np.testing.assert_array_equal(before.values, after.values)
    assert target.plan(made).grid == archive.plan(series).grid
    assert b"DOE-1" not in all_bytes(tmp_path / "target")


def test_anonymize__does_find_what_a_lost_run_wrote_to_be_nobodys(
    spark: "SparkSession", archive_root: str, tmp_path: Path
) -> None:
    archive = create_archive(tmp_path / "source", spark, progress=SILENT)
    archive.ingest(slices(tmp_path / "in", count=5))
    target = open_storage(archive_root)
    create_tables(target)
    by = Deidentifier(Profile(), Pseudonyms(SECRET))
    rows = archive.catalog.instances_of("1.2.3.1", ["sop_instance_uid", *LOCATION_COLUMNS])
    items = [Stored(row, row["size_bytes"]) for row in rows.to_pylist()]
    make_anonymous(archive.catalog, target, "lost", "", by, items)  # and never committed

    report = archive.anonymize(archive_root, series="1.2.3.1", secret=SECRET)

    assert report.stored == 5
    assert Catalog(target).table("instances", ["sop_instance_uid"]).num_rows == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "expected one of study, series, patient and everything, found 0"),
        (["--all", "--study", "1.2"], "found 2"),
        (["--study", "1.2.*"], "study: expected a UID"),
        (["--patient", ""], "patient: expected an ID"),
        (["--all", "--retain", "faces"], "retain: expected of uids"),
        (["--all", "--clean", "pixel-data"], "found no rule"),
        (["--all", "--secret", "SOURCE/key"], "outside of archives"),
        (["--all", "--secret", "none"], "expected a file with a secret"),
        (["--all", "--profile", "none"], "expected a profile"),
        (["--all", "--create-secret"], "create_secret: expected the name of a file as secret"),
        (["--all", "--secret", "SOURCE/new", "--create-secret"], "outside of archives"),
        (["--secret", "new", "--create-secret"], "found 0"),
        (["--all", "--bogus"], ""),
    ],
)
def test_anonymize__does_refuse_wrong_usage(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: list[str],
    said: str,
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    run(capsys, "init", source)
    monkeypatch.chdir(tmp_path)
    options = [option.replace("SOURCE", str(source)) for option in options]
    status, out, told = run(capsys, "anonymize", source, target, *options)
    assert (status, out) == (2, "")
    assert said in told
    assert not target.exists()
    assert not list(tmp_path.rglob("new"))  # no secret that nobody uses, none in an archive


def test_anonymize__does_refuse_its_own_root_and_what_is_not_there(
    spark: "SparkSession", tmp_path: Path
) -> None:
    archive = create_archive(tmp_path / "source", spark, progress=SILENT)
    (tmp_path / "link").symlink_to("source")
    for same in ("source/", "source/../source", "link"):
        with pytest.raises(UsageError, match="expected another archive"):
            archive.anonymize(f"{tmp_path}/{same}", everything=True)
        with pytest.raises(UsageError, match="expected two roots"):
            archive.replicate(f"{tmp_path}/{same}")
    for wanted in ({"study": "1.2"}, {"patient": "*"}):
        with pytest.raises(NotInArchiveError):
            archive.anonymize(
                tmp_path / "target",
                **wanted,  # type: ignore[arg-type]
                secret=tmp_path / "key.txt",
                create_secret=True,
            )
        assert not (tmp_path / "target").exists()
        assert not (tmp_path / "key.txt").exists()
    assert archive.anonymize(tmp_path / "target", everything=True).inputs == 0


@pytest.mark.slow
def test_anonymize__does_finish_after_a_kill(tmp_path: Path, spark: "SparkSession") -> None:
    archive = create_archive(tmp_path / "source", spark, progress=SILENT)
    archive.ingest(slices(tmp_path / "in", count=2000))
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef" * 2)
    key.chmod(0o600)
    asked = [sys.executable, "-m", "pacspark", "anonymize", str(tmp_path / "source"),
             str(tmp_path / "target"), "--all", "--secret", str(key)]  # fmt: skip
    environment: dict[str, Any] = {**os.environ}
    killed = subprocess.Popen(asked, env=environment, start_new_session=True)
    objects = tmp_path / "target" / "objects"
    while killed.poll() is None and not list(objects.glob("*.parquet")):
        time.sleep(0.05)  # until a task has begun to write
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    finished = subprocess.run(asked, env=environment, check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    rows = Catalog(open_storage(tmp_path / "target")).table("instances", ["sop_instance_uid"])
    assert rows.num_rows == len(set(rows["sop_instance_uid"].to_pylist())) == 2000
