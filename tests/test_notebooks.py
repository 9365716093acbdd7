"""What is shown to people runs as it stands: notebooks, the README, the demonstration."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import tifffile
from nbclient import NotebookClient

from pacspark.scans.description import read_scan_description

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXPECTED = {
    "01-from-projections-to-picture": (3, "looks wrong: +0.2"),
    "02-ask-the-archive": (2, "1 of 1 bit for bit: True"),
}
"""At least so many pictures, and what is printed."""
INLINE = "module://matplotlib_inline.backend_inline"


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def kinds(cell: Any) -> tuple[set[str], list[set[str]]]:
    """Give the streams that a cell writes to, and what else it shows.

    Into how many pieces a stream falls depends on how fast the machine is.
    """
    shown = cell.get("outputs", [])
    streams = {output.name for output in shown if output.output_type == "stream"}
    return streams, [set(output.data) for output in shown if "data" in output]


def printed(notebook: Any) -> str:
    return "".join(output.text for output in outputs(notebook) if output.get("name") == "stdout")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook__runs_and_shows_its_pictures(tmp_path: Path, path: Path) -> None:
    if shutil.which("java") is None and os.environ.get("CI") != "true":
        pytest.skip("Java 17 or newer is missing: apt-get install openjdk-17-jre-headless")
    committed = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    # figures are shown as in a notebook that somebody opens, whatever pytest itself runs with
    environment = dict(os.environ, TMPDIR=str(tmp_path), MPLBACKEND=INLINE)
    client = NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute(env=environment)
    pictures = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    least, said = EXPECTED[path.stem]
    assert len(pictures) >= least
    assert said in printed(notebook)
    assert [kinds(cell) for cell in notebook.cells] == [kinds(cell) for cell in committed.cells]
    assert not list(tmp_path.glob("*/archive")), "the notebook leaves its archive behind"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook__is_committed_executed_and_small(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert path.stat().st_size < 1_250_000


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


@pytest.mark.slow
def test_readme__runs_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    run_blocks(ROOT / "README.md", tmp_path)
    assert (tmp_path / "walnut.png").read_bytes().startswith(b"\x89PNG")
    assert {path.suffix for path in (tmp_path / "walnut").iterdir()} == {".dcm", ".zarr"}


def test_geometry_page__runs_as_it_stands(tmp_path: Path) -> None:
    assert run_blocks(ROOT / "docs" / "geometry.md", tmp_path) == 1


def run_blocks(page: Path, folder: Path) -> int:
    """Run the Python of a page, one process per block in one folder; return how many there are."""
    blocks = python_blocks(page)
    for number, block in enumerate(blocks):
        script = folder / f"block{number}.py"
        script.write_text(block)
        done = subprocess.run(
            [sys.executable, script.name], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return len(blocks)


@pytest.mark.parametrize("page", ["README.md", "docs/scan-description.md"])
def test_page__describes_a_scan_as_the_reader_wants_it(tmp_path: Path, page: str) -> None:
    (description,) = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (tmp_path / "SCAN.toml").write_text(description)
    (tmp_path / "frames").mkdir()
    for number in range(120):
        frame = np.full((2, 8), 100 + number, np.uint16)
        tifffile.imwrite(tmp_path / "frames" / f"{number}.tif", frame)
    for name in ("flat", "dark"):
        tifffile.imwrite(tmp_path / f"{name}1.tif", np.full((2, 8), 1, np.uint16))
    scan = read_scan_description(tmp_path / "SCAN.toml")
    assert (scan.kind, scan.beam, scan.water_mu_per_mm) == ("counts", "cone", 0.02)


@pytest.mark.slow
def test_demo__runs_twice_and_ends_with_a_command_that_shows_the_result(tmp_path: Path) -> None:
    script = ROOT / "examples" / "demo.py"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path / "demo")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        command = done.stdout.splitlines()[-1].split()
        assert command[0].endswith("pacspark")
        assert len(list((tmp_path / "demo" / "dicom" / "phantom").glob("*.dcm"))) == 128
        assert len(list((tmp_path / "demo" / "dicom" / "walnut").glob("*.dcm"))) == 1
        picture = (tmp_path / "demo" / "reconstruction.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "demo" / "phantom.png").read_bytes().startswith(b"\x89PNG")
