"""Geometry that itk-rtk writes, read back and held against itk-rtk itself."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.geometry import FlatPanel, ParallelBeamGeometry, VolumeGrid
from pacspark.ct.views import ConeBeamViews, Rectification
from pacspark.errors import ScanDescriptionError, UsageError
from pacspark.scans.description import read_scan_description
from pacspark.scans.readers import open_frames
from pacspark.scans.toml import read_toml
from pacspark.scans.vendors.describe import describe_scan
from tests.conftest import missing
from tests.ct.rtk import scanned, written

SHAPE = (60, 96, 112)
GRID = VolumeGrid((40, 44, 48), (4.6, 4.4, 4.2), (6.0, -5.0, 4.0))
CIRCLE: list[tuple[float, ...]] = [
    (600.0, 1200.0, 6.0 * view + 11, 8.0, -6.0) for view in range(60)
]
"""Distances of the source to the isocenter and the detector, angle, offsets of the detector, ..."""
TILTED = [(*view, 3.0, -4.0, 1.5, -2.5) for view in CIRCLE]
"""... angles out of the plane and in it, and offsets of the source."""
WOBBLING = [
    (600.0 + math.sin(at), 1200.0 + math.cos(at), angle, u + math.cos(3 * at), v, math.sin(at))
    for at, (*_, angle, u, v) in enumerate(CIRCLE)
]
XML = """<?xml version="1.0"?><!DOCTYPE RTKGEOMETRY>
<RTKThreeDCircularGeometry version="3">{}</RTKThreeDCircularGeometry>"""
VIEW = """<Projection><SourceToIsocenterDistance>600</SourceToIsocenterDistance>
<SourceToDetectorDistance>1200</SourceToDetectorDistance><GantryAngle>{}</GantryAngle>
<Matrix>-1200 0 0 0 0 -1200 0 0 0 0 1 -600</Matrix></Projection>"""


@pytest.fixture(scope="module")
def rtk() -> Iterator[Executor]:
    """Give the process in which itk-rtk runs."""
    if find_spec("itk") is None:
        missing("itk")
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield process


def described(folder: Path, frames: NDArray[np.generic]) -> Path:
    """Describe the geometry in a folder and its frames."""
    np.save(folder / "frames.npy", frames)
    files = str(folder / "frames.npy")
    made = describe_scan(folder / "rtk.xml", files=files, column_spacing_mm=4.0)
    assert any("origin" in key for key in made.to_check)
    return made.path


@pytest.mark.parametrize("views", [TILTED, WOBBLING], ids=["tilted", "wobbling"])
def test_describe__of_tilts_projects_onto_the_pixels_of_rtk(
    rtk: Executor, tmp_path: Path, views: Sequence[tuple[float, ...]]
) -> None:
    theirs = rtk.submit(written, str(tmp_path / "rtk.xml"), views).result()
    projections, phantom = rtk.submit(scanned, views, SHAPE, GRID).result()
    scan = described(tmp_path, projections)

    geometry = read_toml(scan, {"format_version": "", "projections": "", "geometry": ""})
    table = geometry.table("geometry")
    assert table.text("projection_matrices") == "SCAN.matrices.npy"
    assert table.text("row_order") == "bottom_up"
    assert "source_to_isocenter_mm" not in table
    matrices = np.load(tmp_path / "SCAN.matrices.npy")
    points = np.random.default_rng(0).uniform(-80, 80, (50, 3))
    x, y, z = points.T
    in_rtk = np.einsum("nij,pj->npi", theirs, np.stack([y, z, x, np.ones(50)], axis=1))
    in_mm = in_rtk[..., :2] / in_rtk[..., 2:]
    expected = in_mm / 4.0 + np.array([SHAPE[2] - 1, SHAPE[1] - 1]) / 2
    panel = FlatPanel(SHAPE[1], SHAPE[2], 4.0, 4.0, row_order="bottom_up")
    measured = ConeBeamViews.from_matrices(matrices, panel)
    for found in (matrices, measured.matrices()):
        places = np.einsum("nij,pj->npi", found, np.c_[points, np.ones(50)])
        np.testing.assert_allclose(places[..., :2] / places[..., 2:], expected, atol=1e-9)

    rectification = Rectification(measured)
    volume = reconstruct_fdk(rectification.apply(projections), rectification.geometry, GRID)
    require_phantom(volume, phantom)


@pytest.mark.parametrize("turn", [1.0, -1.0])
def test_describe__of_a_circle_is_that_circle(rtk: Executor, tmp_path: Path, turn: float) -> None:
    views = [(*view[:2], turn * view[2], *view[3:]) for view in CIRCLE]
    rtk.submit(written, str(tmp_path / "rtk.xml"), views).result()
    projections, phantom = rtk.submit(scanned, views, SHAPE, GRID).result()

    description = read_scan_description(described(tmp_path, projections))
    panel = description.geometry.detector
    assert (panel.offset_u_mm, panel.offset_v_mm, panel.row_order) == (8.0, -6.0, "bottom_up")
    assert not (tmp_path / "SCAN.matrices.npy").exists()
    with open_frames(description) as frames:
        stack = np.asarray(frames.read(0, frames.n_angles), np.float32)
    require_phantom(reconstruct_fdk(stack, description.geometry, GRID), phantom)


def require_phantom(volume: NDArray[np.float32], phantom: NDArray[np.float32]) -> None:
    """Hold a volume against the phantom: nearer than any mirror image or shift of it is."""
    error = float(np.abs(volume - phantom).mean())
    assert error < 0.1 * phantom.max()
    others = [np.flip(phantom, axis) for axis in range(3)]
    others += [np.roll(phantom, 1, axis) for axis in range(3)]
    assert all(float(np.abs(volume - other).mean()) > 1.02 * error for other in others)


def test_describe__takes_parallel_rays(rtk: Executor, tmp_path: Path) -> None:
    views = [(600.0, 0.0, 6.0 * view, 8.0, -6.0) for view in range(60)]
    rtk.submit(written, str(tmp_path / "rtk.xml"), views).result()
    frames = np.zeros(SHAPE, np.float32)
    geometry = read_scan_description(described(tmp_path, frames)).geometry
    assert isinstance(geometry, ParallelBeamGeometry)
    assert geometry.detector.offset_u_mm == 8.0
    np.testing.assert_allclose(geometry.gantry_angles_rad[1], math.radians(6.0))

    tilted = tmp_path / "tilted"
    tilted.mkdir()
    rtk.submit(written, str(tilted / "rtk.xml"), [(*view, 2.0) for view in views]).result()
    with pytest.raises(ScanDescriptionError, match="parallel rays without tilts"):
        described(tilted, frames)


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]>'
HOSTILE = {
    "cut": (XML.format(VIEW.format(0))[:-30], "expected XML without entities"),
    "entities": (BOMB + XML.format("&c;")[60:], "expected XML without entities"),
    "other root": ("<a>RTKThreeDCircularGeometry</a>", "found <a> of version 'none'"),
    "old version": (XML.format("").replace('"3"', '"2"'), "of version '2'"),
    "no view": (XML.format(""), "expected a <Projection> for each view"),
    "word": (XML.format(VIEW.format("north")), "expected numbers in <GantryAngle>"),
    "infinite": (XML.format(VIEW.format("1e999")), "finite numbers in <GantryAngle>"),
    "short matrix": (
        XML.format(VIEW.format(0) + VIEW.format(9).replace(" -600", "")),
        "found 11 in view 2",
    ),
    "long": (XML.format(VIEW.format("1 " * 1000)), "at most 1024 letters in <GantryAngle>"),
    "deep": (XML.format("<a>" * 100_000), "each a <Projection> of numbers, found <a>"),
    "fewer views": (XML.format(VIEW.format(0)), "expected 2 views, as many as"),
    "distance": (
        XML.format((VIEW.format(0) + VIEW.format(9)).replace("1200</So", "-1</So")),
        "expected a scanner that can be",
    ),
    "cylinder": (
        XML.format(
            "<RadiusCylindricalDetector>9</RadiusCylindricalDetector>"
            + VIEW.format(0)
            + VIEW.format(9)
        ),
        "expected a flat detector",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_describe__refuses_in_one_line(tmp_path: Path, name: str) -> None:
    text, told = HOSTILE[name]
    (tmp_path / "rtk.xml").write_text(text)
    np.save(tmp_path / "frames.npy", np.zeros((2, 8, 8), np.float32))
    with pytest.raises(ScanDescriptionError, match=told) as caught:
        describe_scan(
            tmp_path / "rtk.xml", files=str(tmp_path / "frames.npy"), column_spacing_mm=1.0
        )
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames.npy", "rtk.xml"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "--files: expected it with geometry of RTK, found none"),
        ({"files": "*.npy"}, "--column-spacing-mm: expected it with"),
        ({"files": "x", "column_spacing_mm": 0.0}, "--column-spacing-mm: expected a number > 0"),
        (
            {"files": "x", "column_spacing_mm": 1.0, "extract": True},
            "--extract: expected it with a .txrm of Zeiss, found geometry of RTK",
        ),
    ],
)
def test_describe__names_the_option(tmp_path: Path, options: dict[str, object], told: str) -> None:
    (tmp_path / "rtk.xml").write_text(XML.format(VIEW.format(0)))
    with pytest.raises(UsageError, match=told):
        describe_scan(tmp_path / "rtk.xml", **options)  # type: ignore[arg-type]
