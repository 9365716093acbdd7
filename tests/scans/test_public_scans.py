"""The descriptions in examples/ fit the public scans that they describe."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pacspark.ct.preprocess import line_integrals
from pacspark.scans.description import ScanDescription, read_scan_description
from pacspark.scans.readers import FrameSource, open_frames

ROOT = Path(__file__).parents[2]
PUBLIC = ROOT.parent / "shared" / "data" / "projections"


def described(name: str, data: str, tmp_path: Path) -> ScanDescription:
    """Read an example beside the files that it describes."""
    if not (PUBLIC / data).is_dir():
        pytest.skip(f"no public data at ../shared/data/projections/{data}")
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(ROOT / "examples" / name / "SCAN.toml", folder)
    for path in (PUBLIC / data).iterdir():
        (folder / path.name).symlink_to(path)
    return read_scan_description(folder)


def logged(source: FrameSource) -> NDArray[np.float32]:
    return line_integrals(
        source.read(0, source.n_angles),
        source.description.kind,
        flats=source.flats(),
        darks=source.darks(),
    )


def test_walnut__does_come_with_the_checkout() -> None:
    description = read_scan_description(ROOT / "examples" / "walnut")

    assert description.beam == "cone"
    assert description.geometry.n_angles == 120
    detector = description.geometry.detector
    assert (detector.n_rows, detector.n_columns) == (1, 328)
    with open_frames(description) as source:
        sinogram = source.read(0, 120)
    # air on both sides of the walnut, in every view
    edges = np.concatenate([sinogram[..., :10], sinogram[..., -10:]], axis=-1)
    assert edges.max() < 0.05 * sinogram.max()
    # a fan beam shows the same total attenuation in every view, up to the fan's distortion
    totals = sinogram.sum(axis=(1, 2))
    assert totals.std() / totals.mean() < 0.1


def test_tooth__does_mirror_at_its_axis_after_half_a_turn(tmp_path: Path) -> None:
    description = described("tooth", "tomopy-tooth-parallel", tmp_path)

    with open_frames(description) as source:
        assert (source.n_angles, source.n_rows, source.n_columns) == (181, 2, 640)
        assert source.dtype == np.float32
        projections = logged(source)
    u_mm = description.geometry.detector.u_mm
    assert best_mirror_mm(projections[0, 0], projections[-1, 0], u_mm) == pytest.approx(0, abs=1.0)


def test_savu__does_mirror_at_its_axis_after_half_a_turn(tmp_path: Path) -> None:
    description = described("savu", "savu-24737-parallel", tmp_path)

    with open_frames(description) as source:
        assert (source.n_angles, source.n_rows, source.n_columns) == (91, 135, 160)
        projections = logged(source)
    angles_deg = np.degrees(description.geometry.gantry_angles_rad)
    np.testing.assert_allclose(angles_deg, np.linspace(-88.2, 91.8, 91), atol=1e-3)
    u_mm = description.geometry.detector.u_mm
    found = best_mirror_mm(projections[0, 60], projections[-1, 60], u_mm)
    assert found == pytest.approx(0, abs=1.0)


def best_mirror_mm(
    there: NDArray[np.float32],
    back: NDArray[np.float32],
    u_mm: NDArray[np.float64],
) -> float:
    """Return where on the detector the mirror lies that turns one parallel view into the other."""
    candidates = np.arange(-8, 8.01, 0.25)
    inner = np.abs(u_mm) < 60  # what both views see

    def difference(mirror_mm: float) -> float:
        mirrored = np.interp(2 * mirror_mm - u_mm[inner], u_mm, back)
        return float(np.abs(there[inner] - mirrored).mean())

    return float(min(candidates, key=difference))
