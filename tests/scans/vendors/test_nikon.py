"""Nikon's header: a scan as CIL's reader understands it, and the two public headers."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel
from pacspark.ct.phantom import project
from pacspark.ct.views import ConeBeamViews, Rectification
from pacspark.errors import ScanDescriptionError, UsageError
from pacspark.scans.description import read_scan_description
from pacspark.scans.toml import read_toml
from pacspark.scans.vendors.describe import describe_scan
from tests.scans.vendors.samples import (
    GRID,
    N_COLUMNS,
    N_ROWS,
    PIXEL_MM,
    TO_AXIS_MM,
    TO_DETECTOR_MM,
    WHITE,
    body,
    counts,
    reconstructed,
    require_body,
    write_tiffs,
)

N_VIEWS, INITIAL_DEG, STEP_DEG = 90, 33.0, 4.0
TABLES = dict.fromkeys(("format_version", "projections", "geometry", "angles"), "")
HEADER = f"""[XTekCT]
Name=Phantom
InputSeparator=_
InputFolderName=
SrcToObject={TO_AXIS_MM}
SrcToDetector={TO_DETECTOR_MM}
DetectorPixelsX={N_COLUMNS}
DetectorPixelsY={N_ROWS}
DetectorPixelSizeX={PIXEL_MM}
DetectorPixelSizeY={PIXEL_MM}
DetectorOffsetX=0.0
CentreOfRotationTop={{top}}
CentreOfRotationBottom={{bottom}}
WhiteLevel={WHITE}
Projections={N_VIEWS}
InitialAngle={INITIAL_DEG}
AngularStep={STEP_DEG}
Units=mm
[Xrays]
XraykV=160
"""


def turned_over(x: float, y: float, z: float) -> tuple[float, float, float]:
    """Of a place in CIL's axes, where the description has it: z down."""
    return (y, x, -z)


def as_cil_has_it(top_mm: float, bottom_mm: float) -> ConeBeamViews:
    """Give the views of CIL's geometry, with the origin on the rotation axis and z along it.

    There the source is at x = y = 0, the detector at y = SrcToDetector, column 0 at +x, row 0 at
    +z; the axis crosses the detector at x = -top and -bottom, and source and detector turn about
    it, counterclockwise, by AngularStep n + InitialAngle - 180 degrees.
    """
    shadow_mm = (top_mm + bottom_mm) / 2
    beside_mm = shadow_mm * TO_AXIS_MM / TO_DETECTOR_MM
    lean = math.atan2(bottom_mm - top_mm, N_ROWS * PIXEL_MM)
    up_axis = np.array([math.sin(lean), 0.0, math.cos(lean)])
    across = np.array([math.cos(lean), 0.0, -math.sin(lean)])
    frame = np.stack([across, [0.0, 1.0, 0.0], up_axis])  # of the axis, in CIL's coordinates
    turns = np.radians(STEP_DEG * np.arange(N_VIEWS) + INITIAL_DEG - 180)
    rotations = np.array(
        [[[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]] for t in turns]
    )

    def turning(x: float, y: float, z: float) -> NDArray[np.float64]:
        turned: NDArray[np.float64] = rotations @ (frame @ np.array([x, y, z]))
        return turned

    return ConeBeamViews(
        turning(beside_mm, -TO_AXIS_MM, 0),
        turning(beside_mm, TO_DETECTOR_MM - TO_AXIS_MM, 0),
        turning(-1, 0, 0),
        turning(0, 0, 1),
        FlatPanel(N_ROWS, N_COLUMNS, PIXEL_MM, PIXEL_MM),
    )


def write_scan(folder: Path, top_mm: float = 0.0, bottom_mm: float = 0.0) -> Path:
    """Write header and frames."""
    frames = counts(project(body(), as_cil_has_it(top_mm, bottom_mm)))
    write_tiffs(folder, "Phantom_{:04d}.tif", frames)
    path = folder / "Phantom.xtekct"
    path.write_text(HEADER.format(top=top_mm, bottom=bottom_mm))
    return path


@pytest.mark.parametrize("shadow_mm", [0.0, 1.8, -2.7])
def test_describe__has_the_body_where_cil_has_it(tmp_path: Path, shadow_mm: float) -> None:
    made = describe_scan(write_scan(tmp_path, shadow_mm, shadow_mm))
    assert made.path == tmp_path / "SCAN.toml"
    assert not made.to_fill_in
    assert any(key.startswith("geometry.rotation") for key in made.to_check)
    require_body(reconstructed(made.path), body(turned_over))


def test_describe__says_how_the_axis_leans(tmp_path: Path) -> None:
    """Held against the same scan with a panel turned by as much."""
    made = describe_scan(write_scan(tmp_path, 3.2, -3.2))
    geometry = read_toml(made.path, TABLES).table("geometry")
    lean_deg = geometry.number("detector_in_plane_deg")
    circle = ConeBeamGeometry(
        TO_AXIS_MM,
        TO_DETECTOR_MM,
        -np.radians(INITIAL_DEG + STEP_DEG * np.arange(N_VIEWS)),
        FlatPanel(N_ROWS, N_COLUMNS, PIXEL_MM, PIXEL_MM, row_order="bottom_up"),
    )
    leaning = ConeBeamViews.of_circle(circle, in_plane_rad=math.radians(lean_deg))
    rectification = Rectification(leaning)
    frames = project(body(), as_cil_has_it(3.2, -3.2))
    np.testing.assert_allclose(project(body(turned_over), leaning), frames, atol=1e-5)
    volume = reconstruct_fdk(rectification.apply(frames), rectification.geometry, GRID)
    require_body(volume, body(turned_over))


def test_describe__looks_for_frames_where_the_header_says(tmp_path: Path) -> None:
    frames = np.ones((3, 4, 5), np.uint16)
    write_tiffs(tmp_path / "in [a]", "Phantom_{:03d}.TIF", frames)
    write_tiffs(tmp_path / "in [a]", "Phantom_{:03d}_dark.TIF", frames)
    path = tmp_path / "scan.xtekct"
    text = HEADER.format(top=0, bottom=0).replace("FolderName=", "FolderName=in [a]")
    path.write_text(text, encoding="cp1252")
    (tmp_path / "out").mkdir()
    made = describe_scan(path, tmp_path / "out" / "MINE.toml")
    images = read_toml(made.path, TABLES).table("projections")
    assert images.text("files") == "../in [[]a]/Phantom_[0-9][0-9][0-9].TIF"
    # the header tells of others
    assert any("90 x 60 x 72, not 3 x 4 x 5" in key for key in made.to_check)
    with pytest.raises(ScanDescriptionError, match=r"angles.count: expected 3 angles"):
        read_scan_description(made.path)


def test_describe__takes_angles_only_when_told(tmp_path: Path) -> None:
    write_tiffs(tmp_path, "Phantom_{:04d}.tif", np.ones((N_VIEWS, 4, 5), np.uint16))
    path = tmp_path / "Phantom.xtekct"
    path.write_text(HEADER.format(top=0, bottom=0))
    lines = [f"{at}\t{at * 3.9:.3f}\t{at * 100}" for at in range(1, N_VIEWS + 1)]
    listed = tmp_path / "_ctdata.txt"
    listed.write_text(
        "\n".join(
            ["Projs Frames Exposure(ms)", "90\t4\t500", "Projection\tAngle(deg)\tTime(s)", *lines]
        )
    )
    made = describe_scan(path)
    assert any("_ctdata.txt lists angles too" in key for key in made.to_check)
    assert read_toml(made.path, TABLES).table("angles").number("step_deg") == STEP_DEG
    made = describe_scan(path, tmp_path / "listed.toml", angles=listed)
    angles = read_toml(made.path, TABLES).table("angles").numbers("values_deg")
    np.testing.assert_allclose(angles, 3.9 * np.arange(1, N_VIEWS + 1))


def test_describe__reads_the_public_headers(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "projections" / "axitom-nikon-xtekct-metadata"
    for name, start_deg in (("radiogram", 3.365), ("settings", 5.8475)):
        made = describe_scan(folder / f"{name}.xtekct", tmp_path / f"{name}.toml")
        whole = read_toml(made.path, TABLES)
        angles = whole.table("angles")
        assert angles.number("start_deg") == pytest.approx(start_deg, abs=1e-6)
        assert angles.number("step_deg") * angles.count("count") == pytest.approx(360.0)
        assert whole.table("geometry").number("source_to_detector_mm") == 1127.464
        assert whole.table("projections").number("unattenuated_counts") == 60000.0
        assert any("no such files" in key for key in made.to_check)


HOSTILE = {
    "no sections": ("Name=a\n[XTekCT]", "expected lines of key=value"),
    "nothing": ("[XTekCT]", "xtekct.projections: expected a whole number >= 1, found nothing"),
    "word": (HEADER.replace(f"={WHITE}", "=white"), "xtekct.whitelevel: expected a number"),
    "infinite": (HEADER.replace(f"={WHITE}", "=1e999"), "xtekct.whitelevel: expected a number"),
    "zero": (HEADER.replace(f"SrcToObject={TO_AXIS_MM}", "SrcToObject=0"), "srctoobject: expected"),
    "unit": (HEADER.replace("Units=mm", "Units=inch"), "expected Units=mm, found inch"),
    "name": (HEADER.replace("Name=Ph", "Name=../Ph"), "something beside it in Name"),
    "folder": (HEADER.replace("FolderName=", r"FolderName=C:\x"), "beside it in InputFolderName"),
    "digits": (HEADER.replace(f"={N_VIEWS}", "=" + "9" * 5000), "xtekct.projections: expected"),
    "bytes": ("[XTekCT]\n\udc81\udcff\0=\udc90", "xtekct.projections: expected a whole number"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_describe__refuses_in_one_line(tmp_path: Path, name: str) -> None:
    text, told = HOSTILE[name]
    path = tmp_path / "scan.xtekct"
    path.write_bytes(text.format(top=0, bottom=0).encode("utf-8", "surrogateescape"))
    with pytest.raises(ScanDescriptionError, match=told) as caught:
        describe_scan(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert [found.name for found in tmp_path.iterdir()] == ["scan.xtekct"]


def test_describe__overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "scan.xtekct"
    path.write_text(HEADER.format(top=0, bottom=0))
    (tmp_path / "SCAN.toml").write_text("mine")
    with pytest.raises(UsageError, match="expected no such file yet, found one; name another"):
        describe_scan(path)
    assert (tmp_path / "SCAN.toml").read_text() == "mine"


def test_describe__ends_no_comment_early(tmp_path: Path) -> None:
    """Names become texts and comments of TOML, whatever is in them."""
    path = tmp_path / 'a"\\\x7f\x1b[2J\nscan.xtekct'
    path.write_text(HEADER.format(top=0, bottom=0).replace("Name=Phantom", 'Name="é\x7f\tx'))
    made = describe_scan(path)
    images = read_toml(made.path, TABLES).table("projections")
    assert images.text("files") == '"é\x7f\tx_*.tif'
