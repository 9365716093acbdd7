"""The command line: answers on standard output, one line per error, the documented exit status."""

import getpass
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pacspark.archive import create_archive
from pacspark.cli import COMMANDS, main
from pacspark.progress import SILENT
from tests.ct_objects import SERIES_UID, archive_of, ct_image, encoded
from tests.scan_files import write_phantom_scan
from tests.tables.compacting import ingest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SIZE = ["--size", "20", "20", "6", "--voxel-mm", "1"]


class Shell:
    """Runs commands in this process and keeps what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self._capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        printed = self._capsys.readouterr()
        return status, printed.out.strip(), printed.err.strip()

    def json(self, *arguments: object) -> Any:
        """Run a command with ``--json`` and give the value it prints last."""
        status, out, err = self(*arguments, "--json")
        assert status == 0, err
        return json.loads(out.splitlines()[-1])


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_reconstruct__tells_of_what_cannot_be_shown(
    shell: Shell, spark: "SparkSession", tmp_path: Path
) -> None:
    scan, _ = write_phantom_scan(tmp_path / "scan")
    shell("init", tmp_path / "archive")
    series_uid = shell("import-scan", tmp_path / "archive", scan)[1].split()[-1]
    asked = ("reconstruct", tmp_path / "archive", series_uid, *SIZE)

    status, out, told = shell(*asked, "--center", "500", "0", "0")
    assert (status, out) == (1, "")
    assert "grid: expected voxels within the field of view" in told
    status, out, told = shell(*asked, "--water-mu-per-mm", "1e-9")
    assert (status, out) == (2, "")
    assert "water_mu_per_mm: expected the attenuation of water in 1/mm, found 1e-09" in told
    _, out, _ = shell(*asked, "--water-mu-per-mm", "2e-4")
    assert re.fullmatch("made 6 slices, [1-9][0-9]* voxels clamped to the range .*: [0-9.]+", out)


def test_commands__refuse_an_empty_path(shell: Shell, tmp_path: Path) -> None:
    """A shell's variable that is not set is not the working directory."""
    root = tmp_path / "archive"
    shell("init", root)
    for asked in (
        ("ingest", root, ""),
        ("import-scan", root, ""),
        ("export", root, "", "--series", "1"),
    ):
        status, out, told = shell(*asked)
        assert (status, out) == (2, "")
        assert "found an empty text; give . for this folder" in told


def test_commands__lead_from_a_scan_to_files(
    shell: Shell, spark: "SparkSession", tmp_path: Path
) -> None:
    scan, _ = write_phantom_scan(tmp_path / "scan")
    root = tmp_path / "archive"
    assert shell.json("init", root)["tables"][:2] == ["instances", "objects"]
    status, out, _ = shell("import-scan", root, scan)
    assert status == 0
    series_uid = out.split()[-1]
    again = shell.json("import-scan", root, scan)
    assert (again["series_instance_uid"], again["duplicate"]) == (series_uid, 1)

    plan = shell.json("plan", root, series_uid, *SIZE, "--cores", 2, "--memory", "2G")
    assert plan["voxel_updates"] == 20 * 20 * 6 * 40
    status, out, _ = shell("reconstruct", root, series_uid, *SIZE)
    assert status == 0
    ct_uid = out.split()[-1]
    _, out, _ = shell("reconstruct", root, series_uid, *SIZE)
    assert out == f"found 6 slices, not made again: {ct_uid}"
    (report,) = shell.json("reconstruct", root, series_uid, *SIZE)
    assert report["found"] is True
    assert report["series_instance_uid"] == ct_uid

    (found,) = shell.json("find", root, "--level", "series", "Modality=CT")
    assert found["SeriesInstanceUID"] == ct_uid
    assert found["NumberOfSeriesRelatedInstances"] == 6
    assert shell.json("find", root, "PatientID=NOBODY*") == []
    (study,) = shell.json("find", root)
    assert sorted(study["ModalitiesInStudy"]) == ["CT", "XA"]
    assert len(shell.json("find", root, "--level", "instance")) == 7
    _, out, _ = shell("find", root)
    header, line = (line.split("\t") for line in out.splitlines())
    told = dict(zip(header, line, strict=True))
    assert told["ModalitiesInStudy"] == "CT, XA"
    assert told["StudyDescription"] == "-"
    assert shell("find", root, "PatientID=NOBODY*") == (0, "", "no match")
    _, out, _ = shell("sql", root, "SELECT Modality, count(*) AS images FROM instances GROUP BY 1")
    assert sorted(out.splitlines()) == ["CT\t6", "Modality\timages", "XA\t1"]
    _, out, _ = shell("history", root)
    assert re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}", out.splitlines()[1].split("\t")[2])
    (row,) = shell.json("sql", root, "SELECT count(*) AS n FROM instances WHERE Modality = 'CT'")
    assert row == {"n": 6}
    files = shell.json("export", root, tmp_path / "out", "--series", ct_uid)
    assert len(files) == 6
    assert shell.json("export", root, tmp_path / "nii", "--series", ct_uid, "--format", "nifti")
    picture = shell.json("check", root, series_uid, "--picture", tmp_path / "check.png")
    assert Path(picture["picture"]).stat().st_size > 1000
    assert "corrected" not in picture
    views = {}
    for options in ("", "--plane y", "--slice 2", "--plane y --window 0 9", "--slice 2 --plane y"):
        assert shell("view", root, ct_uid, tmp_path / "view.png", *options.split())[0] == 0
        views[(tmp_path / "view.png").read_bytes()] = options
    assert len(views) == 5
    status, _, err = shell("view", root, ct_uid, "--slice", "6")
    assert (status, err) == (2, "UsageError: slice: expected z from 0 to 5, found 6")
    _, out, _ = shell("plan", root, series_uid, *SIZE)
    voxels = "20 x 20 x 6 voxels of 1 x 1 x 1 mm"
    assert re.match(f"{voxels} in [0-9]+ tasks on [0-9]+ cores?: about [0-9]+ s, ", out)
    assert {version["table"] for version in shell.json("history", root)} >= {"instances", "runs"}

    counts = shell.json("ingest", root, tmp_path / "out")
    assert (counts["stored"], counts["duplicate"], counts["rejected"]) == (0, 6, 0)
    (tmp_path / "out" / "notes.txt").write_text("no DICOM")
    status, out, err = shell("ingest", root, tmp_path / "out")
    assert status == 1
    assert out == "stored 0, duplicate 6, conflict 0, rejected 1"
    assert "notes.txt" in err


@pytest.fixture(scope="module")
def words(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What stands in the arguments of wrong commands: an archive with a scan, and beside it."""
    folder = tmp_path_factory.mktemp("wrong")
    scan, _ = write_phantom_scan(folder / "scan")
    imported = create_archive(folder / "archive", spark).import_scan(scan)
    (folder / "empty").mkdir()
    return {
        "ROOT": str(folder / "archive"),
        "SCAN": imported.series_instance_uid,
        "FILE": str(scan),
        "FOLDER": str(folder / "empty"),
    }


def test_extrapolation__is_an_option_of_the_run(shell: Shell, words: dict[str, str]) -> None:
    asked = ("reconstruct", words["ROOT"], words["SCAN"], *SIZE)

    (report,) = shell.json(*asked, "--extrapolation", "0.5")

    statement = f"SELECT options FROM runs WHERE run_id = '{report['run_id']}'"
    (run,) = shell.json("sql", words["ROOT"], statement)
    assert json.loads(run["options"])["options"]["extrapolation"] == 0.5


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        # wrong usage: what was given cannot be
        ("find ROOT PatientID", 2, "expected KEYWORD=VALUE, found 'PatientID'"),
        ("find ROOT --level shelf", 2, "expected one of patient, study"),
        ("find ROOT NoSuchThing=1", 2, "NoSuchThing"),
        ("find ROOT StudyDate=yesterday", 2, "yesterday"),
        ("find ROOT PatientID=A PatientID=B", 2, "found PatientID twice"),
        ("sql ROOT DELETE|FROM|rejects", 2, "expected a query, found DeleteFromTable"),
        ("sql ROOT INSERT|OVERWRITE|DIRECTORY|'x'|USING|csv|SELECT|1", 2, "expected a query"),
        ("sql ROOT WITH|a|AS|(SELECT|1)|INSERT|INTO|runs|SELECT|*|FROM|a", 2, "a query"),
        ("sql ROOT FROM|runs|INSERT|INTO|runs|SELECT|*", 2, "expected a query"),
        ("sql ROOT SELECT|nothing_there|FROM|runs", 2, "nothing_there"),
        ("export ROOT out", 2, "expected one of study, series, instance, found 0"),
        ("export ROOT out --series SCAN --study 1.2", 2, "study, series, instance, found 2"),
        ("export ROOT out --study *", 2, "study: expected a UID"),
        ("export ROOT out --study=", 2, "study: expected a UID"),
        ("export ROOT out --instance 1.2,1.3", 2, "instance: expected a UID"),
        ("reconstruct ROOT *", 2, "series: expected a UID"),
        ("check ROOT *", 2, "series: expected a UID"),
        ("plan ROOT *", 2, "series: expected a UID"),
        ("view ROOT *", 2, "series: expected a UID"),
        ("export ROOT out --study 1.2.3", 1, "no study '1.2.3'"),
        ("export ROOT out --series SCAN --format mp3", 2, "found 'mp3'"),
        ("export ROOT FILE --series SCAN", 2, "expected a folder, found the file"),
        ("check ROOT SCAN --picture FOLDER", 2, "expected a file's name, found the folder"),
        ("check ROOT SCAN --picture a.jpg", 2, "expected a name that ends in .png"),
        ("reconstruct ROOT SCAN --size 0 8 8", 2, "size along x: expected a whole number >= 1"),
        ("reconstruct ROOT SCAN --size 8 8 -1", 2, "size along z: expected a whole number >= 1"),
        ("reconstruct ROOT SCAN --voxel-mm 0", 2, "voxel_mm: expected a number > 0, found 0.0"),
        ("reconstruct ROOT SCAN --voxel-mm -1", 2, "voxel_mm: expected a number > 0"),
        ("reconstruct ROOT SCAN --voxel-mm nan", 2, "voxel_mm: expected a finite number"),
        ("reconstruct ROOT SCAN --center 0 0 inf", 2, "expected a finite number, found inf"),
        ("reconstruct ROOT SCAN --filter sharp", 2, "found 'sharp'"),
        ("reconstruct ROOT SCAN --cutoff 2", 2, "options.cutoff: expected a number in (0, 1]"),
        ("reconstruct ROOT SCAN --extrapolation 2", 2, "options.extrapolation: expected a number"),
        ("reconstruct ROOT SCAN --energy-bins one", 2, "expected indices like 0,2, found 'one'"),
        ("reconstruct ROOT SCAN --energy-bins 0,1", 2, "energy bin: expected 0 to 0, found 1"),
        ("reconstruct ROOT SCAN --energy-bins -1", 2, "energy bin: expected 0 to 0, found -1"),
        ("reconstruct ROOT SCAN --water-mu-per-mm 0", 2, "--water-mu-per-mm: expected a number"),
        ("reconstruct ROOT SCAN --water-mu-per-mm nan", 2, "--water-mu-per-mm: expected a finite"),
        ("reconstruct ROOT SCAN --memory lots", 2, "--memory: expected a size like 8G"),
        ("plan ROOT SCAN --size 8 0 8", 2, "size along y: expected a whole number >= 1"),
        ("plan ROOT SCAN --size 1000000000 1000000000 1000000000", 2, "at most 1048576 voxels"),
        ("plan ROOT SCAN --voxel-mm 1e-6", 2, "at most 1048576 voxels along an axis"),
        ("plan ROOT SCAN --voxel-mm 1e-300", 2, "voxel_mm: expected 1e-12 to 1e+07 mm"),
        ("plan ROOT SCAN --voxel-mm 1e300", 2, "voxel_mm: expected 1e-12 to 1e+07 mm"),
        ("plan", 2, "expected ROOT SERIES_UID or --preset, found neither"),
        ("plan ROOT", 2, "expected ROOT SERIES_UID or --preset, found ROOT alone"),
        ("plan --preset whale", 2, "found 'whale'"),
        ("plan --preset stone --size 8 8 8", 2, "--preset or --size"),
        ("plan --preset stone --voxel-mm 1", 2, "--preset or --voxel-mm"),
        ("plan --preset stone --center 0 0 0", 2, "--preset or --center"),
        ("plan ROOT --preset stone", 2, "expected --preset or ROOT, found both"),
        ("plan --preset stone --price-per-core-hour nan", 2, "found nan"),
        ("plan --preset stone --price-per-core-hour -1", 2, "found -1.0"),
        ("plan --preset stone --memory much", 2, "--memory: expected a size"),
        ("plan --preset stone --cores 0", 2, "cores_per_executor: expected a whole number >= 1"),
        ("ingest ROOT missing", 2, "missing: expected a file, a folder or a glob"),
        ("ingest ROOT *.none", 2, "*.none: expected files that match, found none"),
        ("view ROOT SCAN", 2, "expected"),
        ("no-such-command", 2, "No such command"),
        # failures of the work
        ("sql ROOT SELECT|raise_error('broken')", 1, "broken"),
        ("find nowhere-at-all", 1, "no archive here; look at the name, or `pacspark init"),
        ("ingest FOLDER FILE", 1, "no archive here; look at the name, or `pacspark init"),
        ("import-scan FOLDER FILE", 1, "no archive here; look at the name, or `pacspark init"),
        ("plan FILE SCAN", 1, "expected the folder of an archive, found a file"),
        ("plan FOLDER SCAN", 1, "no archive here; look at the name, or `pacspark init"),
        ("init FILE", 1, "a file stands where a folder should be"),
        ("export ROOT out --series 1.2.3", 1, "1.2.3"),
        ("reconstruct ROOT 1.2.3", 1, "no series '1.2.3'"),
        ("reconstruct ROOT SCAN --memory 1M --cores 1", 1, "memory: expected at least"),
        ("check ROOT SCAN --picture FILE/a.png", 1, "a.png: cannot write"),
        ("import-scan ROOT missing.toml", 1, "missing.toml: expected a scan description"),
    ],
)
def test_errors__are_one_line_and_an_exit_status(
    shell: Shell,
    words: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    status: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [word.replace("|", " ") for word in command.split()]
    for word, meant in words.items():
        arguments = [argument.replace(word, meant) for argument in arguments]
    found, out, err = shell(*arguments)
    assert found == status, err
    assert says in err
    assert "Traceback" not in err
    assert out == ""
    # what cannot be known before the work is told after it; the parser shows how a command is used
    told = [line for line in err.splitlines() if not line.startswith("check: ")]
    assert len(told) == 1 or says == "No such command"


def test_table_on_a_terminal__has_a_header_and_whole_uids(tmp_path: Path) -> None:
    scan, _ = write_phantom_scan(tmp_path / "scan")
    series_uid = create_archive(tmp_path / "archive").import_scan(scan).series_instance_uid
    ours, theirs = pty.openpty()
    asked = [
        sys.executable,
        "-m",
        "pacspark",
        "find",
        str(tmp_path / "archive"),
        "--level",
        "series",
    ]
    environment = os.environ | {"COLUMNS": "40", "TERM": "dumb"}
    subprocess.run(asked, stdout=theirs, check=True, env=environment)
    os.close(theirs)
    header, line = os.read(ours, 4096).decode().splitlines()
    os.close(ours)
    assert header.split()[0] == "PatientID"
    assert line.split()[-1] == series_uid


@pytest.mark.parametrize("bad", ["\x1b[2J", "\x07", "\r", "\u202e"])
def test_what_is_printed__does_not_steer_a_terminal(
    shell: Shell, spark: "SparkSession", tmp_path: Path, bad: str
) -> None:
    archive = create_archive(tmp_path / "archive", spark)
    image = ct_image(np.zeros((4, 4), np.int16), 1, (0, 0, 0), StudyDescription=f"A{bad}B")
    image.SpecificCharacterSet = "ISO_IR 192"
    (tmp_path / "image").write_bytes(encoded(image))
    (tmp_path / f"notes{bad}").write_text("no DICOM")
    report = archive.ingest([tmp_path / "image", tmp_path / f"notes{bad}"])
    assert (report.stored, report.rejected) == (1, 1)
    _, out, _ = shell("find", archive.root)
    assert "B" in out
    header, line = out.split("\n")
    assert (header + line).replace("\t", "").isprintable()
    _, _, err = shell("ingest", archive.root, tmp_path / f"notes{bad}")
    assert "notes\ufffd" in err
    assert err.replace("\n", "").isprintable()


def test_export__counts_slices_of_all_levels_and_folders(shell: Shell, tmp_path: Path) -> None:
    archive_of(
        tmp_path / "archive", [encoded(ct_image(np.zeros((2, 300), np.int16), 1, (0, 0, 0)))]
    )
    asked = ("export", tmp_path / "archive", tmp_path / "out", "--series", SERIES_UID)
    _, out, err = shell(*asked, "--format", "zarr")
    assert out == f"1 folder in {tmp_path}/out"
    assert "export: 3 of 3 slices of 3 levels" in err
    assert shell(*asked, "--format", "dicom")[1] == f"1 file in {tmp_path}/out"


def test_interrupt__ends_with_one_line_and_130(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    create_archive(root)
    (tmp_path / "in").mkdir()
    for number in range(1500):
        image = ct_image(np.zeros((64, 64), np.int16), number, (0, 0, number))
        image.SOPInstanceUID = f"1.2.{number}"
        (tmp_path / "in" / f"{number}.dcm").write_bytes(encoded(image))
    with subprocess.Popen(
        [sys.executable, "-m", "pacspark", "ingest", str(root), str(tmp_path / "in")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        while not list((root / "objects").glob("*.parquet")):
            assert process.poll() is None, "the command ended before it could be interrupted"
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == "interrupted; the same command again finishes the work"
    told = {line.partition(":")[0] for line in err.splitlines()[:-1]}
    assert told <= {"starting Spark (about 10 s)", "ingest"}


def test_every_command__has_help_with_an_example(shell: Shell) -> None:
    assert shell("--version") == (0, version("pacspark"), "")
    _, listed, _ = shell("--help")
    assert "..." not in listed.partition("Bring in:")[2]  # no line is cut
    examples = [example for group in COMMANDS.values() for example in group]
    assert len(examples) > 20
    for example in examples:
        names = example.split()[: 2 if example.startswith("viewer") else 1]
        assert f"  {names[0]} " in listed
        status, out, _ = shell(*names, "--help")
        assert (status, out) == shell(*names, "-h")[:2]
        assert status == 0
        assert f"Example: pacspark {example}" in " ".join(out.split())
        assert "--json" in out


def test_changes__are_listed_from_a_version_on(shell: Shell, tmp_path: Path) -> None:
    scan, _ = write_phantom_scan(tmp_path / "scan")
    root = tmp_path / "archive"
    shell("init", root)
    assert shell("changes", root, "--since", 0) == (0, "", "no match")
    series_uid = shell("import-scan", root, scan)[1].split()[-1]
    (row,) = shell.json("changes", root, "--since", 0)
    assert (row["change"], row["version"], row["series_instance_uid"]) == ("added", 1, series_uid)
    _, out, _ = shell("changes", root, "--since", 0)
    assert out.splitlines()[0].split("\t")[:2] == ["change", "sop_instance_uid"]
    assert out.split("\t")[-1] == "1"
    assert shell.json("changes", root, "--since", 1) == []
    status, _, told = shell("changes", root, "--since", 0, "--until", 1, "--follow")
    assert (status, told.endswith("expected --until or --follow, found both")) == (2, True)


def test_changes__are_followed_line_by_line(tmp_path: Path) -> None:
    scan, _ = write_phantom_scan(tmp_path / "scan")
    archive = create_archive(tmp_path / "archive", progress=SILENT)
    command = [sys.executable, "-m", "pacspark", "changes", archive.root, "--since", "0"]
    with subprocess.Popen([*command, "--follow", "--json"], stdout=subprocess.PIPE) as process:
        try:
            archive.import_scan(scan)
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["change"] == "added"
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130


def test_delete__is_undone_and_refused_for_what_is_on_hold(shell: Shell, tmp_path: Path) -> None:
    scan, _ = write_phantom_scan(tmp_path / "scan")
    root = tmp_path / "archive"
    shell("init", root)
    series_uid = shell("import-scan", root, scan)[1].split()[-1]
    study_uid = shell.json("find", root)[0]["StudyInstanceUID"]
    status, out, _ = shell("delete", root, "--series", series_uid, "--reason", "a test")
    assert status == 0
    assert re.fullmatch(
        rf"deleted 1 instance of [0-9.]+ [KM]iB; until .*: pacspark undelete {root} "
        rf"--series {series_uid}",
        out,
    )
    assert shell.json("find", root) == []
    message = f"NotInArchiveError: {root}: no series {series_uid} to delete"
    assert shell("delete", root, "--series", series_uid) == (1, "", message)
    expected = "restored 1 instance, present 0, conflict 0"
    assert shell("undelete", root, "--study", study_uid) == (0, expected, "")
    assert shell.json("undelete", root, "--study", study_uid, "--as-of", "1")["present"] == 1
    held = shell.json("hold", root, "--study", study_uid, "--reason", "case 4711")
    assert (held["held"], held["instances"]) == (True, 1)
    status, out, err = shell("delete", root, "--study", study_uid)
    assert (status, out) == (1, "")
    assert err.startswith(f"HeldError: {root}: study {study_uid} is on legal hold since ")
    assert shell("hold", root, "--study", study_uid, "--release")[0] == 0
    assert shell.json("delete", root, "--study", study_uid)["instances"] == 1
    (deleted,) = [row for row in shell.json("history", root) if row["operation"] == "delete"][-1:]
    assert deleted["user"] == getpass.getuser()
    for words, message in [
        ([], "delete: expected one of study, series, instance, found 0"),
        (["--study", "1.2", "--series", "1"],
         "delete: expected one of study, series, instance, found 2"),
        (["--study", "../1"], "study: expected a UID, at most 64 digits and dots, found '../1'"),
    ]:  # fmt: skip
        assert shell("delete", root, *words) == (2, "", f"UsageError: {message}")
    status, _, err = shell("undelete", root, "--study", "1.2", "--as-of", "yesterday")
    assert status == 2
    assert "'--as-of': expected a version or a time like 2026-11-28T12:00, found 'yesterday'" in err


def test_as_of__shows_the_archive_as_it_was(shell: Shell, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    storage = create_archive(root)._storage
    for number in range(2):
        ingest(storage, {f"1.2.1.1.{number}": b"bytes"})
    for then, count in (("0", 0), ("1", 1), ("2", 2), ("2000-01-01", 0), ("2100-01-01T00:00", 2)):
        found = shell.json("find", root, "--level", "instance", "--as-of", then)
        assert len(found) == count, then
        if then.isdigit():
            listed = [row for row in shell.json("history", root, "--as-of", then)
                      if row["table"] == "instances"]  # fmt: skip
            assert [row["version"] for row in listed] == list(range(count + 1))
    files = shell.json("export", root, tmp_path / "out", "--series", "1.2.1.1", "--as-of", "1")
    assert len(files) == 1
    assert shell("find", root, "--as-of", "3") == (
        2, "", "UsageError: as_of: expected a version from 0 to 2, found 3"
    )  # fmt: skip


def test_compact__tells_what_it_would_do_and_what_it_did(shell: Shell, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    storage = create_archive(root)._storage
    for number in range(4):
        ingest(storage, {f"1.2.1.1.{number}": b"bytes"})
    (root / "objects" / "part-killed.parquet").write_bytes(bytes(2048))
    status, out, _ = shell("compact", root, "--min-age-hours", "0", "--dry-run")
    assert (status, out.splitlines()) == (
        0,
        ["instances: 4 files into 1", "objects: 4 files into 1",
         "would delete 1 file of 2.0 KiB, and 0 folders of killed runs"],
    )  # fmt: skip
    assert shell.json("compact", root)["deleted_files"] == 0  # it is young
    report = shell.json("compact", root, "--min-age-hours", "0", "--retain-days", "0")
    assert report["merged_files"]["objects"] == 4
    assert report["deleted_files"] == 5  # with the files of instances that were merged before
    assert {row["operation"] for row in shell.json("history", root)} >= {"ingest", "compact"}
    status, _, err = shell("compact", root, "--retain-days", "-1")
    assert (status, err) == (2, "UsageError: retain-days: expected a number from 0 on, found -1.0")
