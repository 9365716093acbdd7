"""Keeping an archive whole, as commands and as a notebook have it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pacspark
from pacspark.errors import StorageError
from pacspark.spark import verify as verify_module
from pacspark.tables import runs
from tests.ct_objects import archive_of
from tests.taking_in import ct_slice
from tests.test_cli import Shell

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def filled(root: Path) -> Path:
    """Make an archive of five small CT slices."""
    archive_of(root, [ct_slice(f"1.2.{number}", number) for number in range(1, 6)])
    return root


def flip(root: Path, uid: str) -> str:
    """Change one bit of a stored object; return the name of its data file."""
    row = pacspark.open(root).catalog.instance(uid)
    path = root / "objects" / row["object_file"]
    data = bytearray(path.read_bytes())
    data[row["object_offsets"][0] + 500] ^= 1
    path.write_bytes(data)
    return str(row["object_file"])


def test_verify__is_a_command(shell: Shell, tmp_path: Path) -> None:
    root = filled(tmp_path / "archive")
    status, out, _ = shell("verify", root)
    assert (status, out.split(" of ")[0]) == (0, "verified 5 objects")
    found = shell.json("verify", root, "--deep", "--sample", "50", "--seed", "a")
    assert (found["wrong"], found["seed"], found["found"]) == (0, "a", [])
    file = flip(root, "1.2.3")

    status, out, err = shell("verify", root)

    assert (status, out.split(": ")[-1]) == (1, "1 wrong")
    assert f"damaged: objects/{file}: 1.2.3: expected bytes of SHA-256" in err
    status, _, err = shell("verify", root, "--sample", "0")
    assert status == 2
    assert "expected per cent" in err
    for words, expected in (
        (("--study", "1.2.77"), (1, f"{root}: expected objects to verify, found no study 1.2.77")),
        (("--series", "x"), (2, "series: expected a UID")),
    ):
        status, out, err = shell("verify", root, *words)
        assert (status, out) == (expected[0], "")
        assert expected[1] in err


def test_verify__runs_in_spark(
    spark: "SparkSession", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_module, "TASK_FILES", 1)
    archive = pacspark.open(filled(tmp_path / "archive"), spark)
    assert archive.verify().clean
    file = flip(tmp_path / "archive", "1.2.4")
    report = archive.verify(deep=True)
    (row,) = report.table().query("kind == 'damaged'").to_dict("records")
    assert {name: row[name] for name in ("file", "name", "wrong")} == {
        "file": file,
        "name": "1.2.4",
        "wrong": True,
    }
    run: dict[str, Any] = archive.catalog.runs().to_pylist()[-1]
    assert run["run_id"] == report.run_id


def test_replicate__is_a_command(shell: Shell, tmp_path: Path) -> None:
    root, other = filled(tmp_path / "archive"), tmp_path / "other"
    file = flip(root, "1.2.3")
    status, out, err = shell("replicate", root, other)
    assert (status, out.split(": ")[0]) == (
        1,
        "stored 4, rejects 0, conflict 0, removed 0, left behind 1",
    )
    assert f"stays behind: damaged: objects/{file}: 1.2.3:" in err
    flip(root, "1.2.3")
    found = shell.json("replicate", root, other, "--mirror")
    assert (found["stored"], found["left_behind"]) == (1, 0)
    assert shell("verify", other, "--deep")[0] == 0
    assert shell("replicate", root, root)[0] == 2


def test_replicate__runs_in_spark(
    spark: "SparkSession", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pacspark.open(filled(tmp_path / "archive"), spark)
    assert archive.replicate(tmp_path / "other").stored == 5
    assert pacspark.open(tmp_path / "other", spark).verify(deep=True).clean


def test_repair__is_an_option_of_verify(shell: Shell, tmp_path: Path) -> None:
    root, other = filled(tmp_path / "archive"), tmp_path / "other"
    shell("replicate", root, other)
    assert "repaired" not in shell.json("verify", root, "--repair-from", other)
    flip(root, "1.2.3")
    status, out, err = shell("verify", root, "--repair-from", other)
    assert status == 0
    assert out.splitlines()[-1] == "repaired 1 object in 1 file: 0 left"
    assert "damaged: " in err
    assert shell("verify", root)[0] == 0
    file = flip(root, "1.2.3")
    flip(other, "1.2.3")
    status, _, err = shell("verify", root, "--repair-from", other)
    assert status == 1
    assert f"not repaired: objects/{file}: {other} does not have it whole either" in err
    assert shell("verify", root, "--repair-from", root)[0] == 2


def test_verify__tells_what_it_found_where_nobody_may_write(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = filled(tmp_path / "archive")
    flip(root, "1.2.3")

    def refused(*_: object) -> None:
        message = "the file system is read-only"
        raise StorageError(message)

    monkeypatch.setattr(runs, "_write", refused)
    status, out, err = shell("verify", root)
    assert (status, out.splitlines()[-1].split(": ")[-1]) == (1, "1 wrong")
    assert "damaged: " in err
    assert "this verify has no row in `runs`: the file system is read-only" in err
