"""The building itself: what an import loads, what `make` says, what the locks hold."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import pacspark
import pacspark.ct

REPOSITORY = Path(__file__).resolve().parents[1]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
LOCKS = ("requirements.lock", "requirements-dev.lock")


def run(*command: str) -> str:
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def locked(name: str) -> dict[str, str]:
    rows = (REPOSITORY / name).read_text().splitlines()
    pins = [row.split("==") for row in rows if row and not row.startswith((" ", "#"))]
    return {package: pinned.split(" ")[0] for package, pinned in pins}


def test_import__loads_no_spark_numba_or_arrow() -> None:
    heavy = "{'pyspark', 'numba', 'pyarrow', 'numpy', 'pydicom', 'deltalake', 'matplotlib'}"
    code = f"import sys, pacspark; print(sorted({heavy} & set(sys.modules)))"
    assert run(sys.executable, "-c", code).strip() == "[]"


@pytest.mark.parametrize("module", ["pacspark.ct", "pacspark.tables", "pacspark.dicom"])
def test_import__of_a_lower_floor_loads_no_spark(module: str) -> None:
    code = f"import sys, {module}; print('pyspark' in sys.modules)"
    assert run(sys.executable, "-c", code).strip() == "False"


@pytest.mark.parametrize("name", pacspark.__all__)
def test_public_name__resolves_and_is_told_by_the_package(name: str) -> None:
    assert getattr(pacspark, name) is not None


@pytest.mark.parametrize("name", pacspark.ct.__all__)
def test_public_name_of_the_physics__is_never_a_module(name: str) -> None:
    # a module of a function's name would take its place once it is imported
    first, second = getattr(pacspark.ct, name), getattr(pacspark.ct, name)
    assert first is second
    assert not isinstance(first, ModuleType)


def test_unknown_name__is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_this_name'"):
        _ = pacspark.nothing_of_this_name


def test_version__is_that_of_the_installed_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert pacspark.__version__ == version("pacspark") == project["version"]


def test_entry_point__is_a_script_that_works_from_any_folder(tmp_path: Path) -> None:
    script = run(sys.executable, "-m", "pacspark", "--entry-point").strip()
    done = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "reconstruct" in done.stdout


def test_make__lists_every_target_that_is_meant_for_people() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    inner = {"java", "peers"}
    listed = set(re.findall(r"^  make ([a-z-]+) ", run("make", "help"), re.MULTILINE))
    assert listed == set(phony[1].split()) - inner
    assert {"demo", "test", "test-slow", "bench", "lint", "lock", "clean", "notebooks"} <= listed


def test_make__says_in_one_line_that_python_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 || exit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "--no-print-directory", "demo", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not re.match(r"make(\[\d+\])?:", line)]
    assert said == ["Python: expected 3.11 or newer, found Python 3.9.2; set PYTHON=..."]


@pytest.mark.parametrize(
    "script", [*sorted((REPOSITORY / "scripts").glob("*.sh")), REPOSITORY / ".ci" / "run"]
)
def test_script__is_correct_bash(script: Path) -> None:
    run("bash", "-n", str(script))


@pytest.mark.parametrize("name", LOCKS)
def test_lock__pins_every_package_and_names_no_host(name: str) -> None:
    text = (REPOSITORY / name).read_text()
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host", text)
    assert len(locked(name)) > 30
    assert all(re.fullmatch(r"[0-9][0-9a-z.!+]*", pinned) for pinned in locked(name).values())


def test_locks__agree() -> None:
    run_time, development = (locked(name) for name in LOCKS)
    assert run_time.items() <= development.items()


def test_locks__hold_everything_that_the_project_asks_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = dict(project["optional-dependencies"])
    development = extras.pop("dev")
    asked = [*project["dependencies"], *(row for rows in extras.values() for row in rows)]

    def names(rows: list[str]) -> set[str]:
        found = {re.split(r"[\[<>=!~; ]", row)[0].lower() for row in rows}
        return {re.sub(r"[-_.]+", "-", name) for name in found} - {"pacspark"}

    assert names(asked) <= set(locked("requirements.lock"))
    assert names(development) <= set(locked("requirements-dev.lock"))


def test_pre_commit__runs_the_same_programs_as_lint() -> None:
    config = (REPOSITORY / ".pre-commit-config.yaml").read_text()
    programs = set(re.findall(r"^ +entry: \.venv/bin/([a-z-]+)", config, re.MULTILINE))
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert programs == set(re.findall(r"\$\(BIN\)/([a-z-]+)", recipe))


def test_repository__has_no_module_without_a_subject() -> None:
    banned = {"utils.py", "helpers.py", "common.py", "misc.py", "base.py"}
    folders = ("pacspark", "tests", "examples", "benchmarks", "scripts")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    assert not [path for path in files if path.name in banned]
    package = [path for path in files if (REPOSITORY / "pacspark") in path.parents]
    assert not [path for path in package if len(path.read_text().splitlines()) > 500]


def test_java__that_java_home_names_and_is_too_old_is_told_in_one_line(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\n")
    java.chmod(0o755)
    done = subprocess.run(
        [str(REPOSITORY / "scripts" / "java.sh")],
        env=os.environ | {"JAVA_HOME": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"java: expected 17 or newer in JAVA_HOME={tmp_path}; set it to one, or unset it"
    ]
