"""The notebooks run, from the first cell to the last, as they are committed."""

import os
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


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
    environment = dict(os.environ, TMPDIR=str(tmp_path), MPLBACKEND="agg")
    client = NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute(env=environment)
    pictures = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
    assert printed(notebook) == printed(committed)
    assert not list(tmp_path.glob("*/archive")), "the notebook leaves its archive behind"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook__is_committed_executed_and_small(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert path.stat().st_size < 1_250_000
