"""OHIF shows a reconstructed series as planes and as a volume: what is where, by its pixels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pacspark.ct.grid import VolumeGrid
from pacspark.dicom.encode import CTSeries, ValueMap
from pacspark.dicom.scan import encode_scan, scan_from_headers
from pacspark.gateway.server import Gateway
from tests.dicom.scans import Memory, cone, described, rows_of
from tests.gateway.browser import watched
from tests.gateway.http import client_of, stow

WATER = 0.02
GRID = VolumeGrid((80, 96, 112), voxel_mm=(1.75, 1.0, 1.25), center_mm=(5.0, -2.0, 10.0))
BLOCK_MM = (50.0, 35.0, 60.0)
"""Half the edges of a block of water in the middle of the grid, along x, y, z."""
BALLS: dict[str, tuple[float, float, float, float]] = {
    "axial": (25, -15, 0, 12), "sagittal": (0, -17, 30, 11), "coronal": (28, 0, 32, 10),
}  # fmt: skip
"""Centers from the middle of the grid and radii, mm: each is cut by its own middle plane alone."""
RIGHT_AND_DOWN = {
    "axial": np.array([[1, 0, 0], [0, 1, 0]]),
    "sagittal": np.array([[0, 1, 0], [0, 0, -1]]),
    "coronal": np.array([[1, 0, 0], [0, 0, -1]]),
}
"""Directions along x, y, z: to the patient's left, to the back, to the head."""
LAYOUTS = {
    "mpr": ["axial", "sagittal", "coronal"],
    "mprAnd3DVolumeViewport": ["axial", "volume", "coronal", "sagittal"],
}


def phantom() -> NDArray[np.float32]:
    """A block of 0 HU with three balls of 1000 HU, in 1/mm."""
    z, y, x = np.meshgrid(
        *(places - middle for places, middle in zip((GRID.z_mm, GRID.y_mm, GRID.x_mm),
                                                   GRID.center_mm, strict=True)),
        indexing="ij", sparse=True,
    )  # fmt: skip
    values = np.zeros(GRID.shape, np.float32)
    values[(abs(x) < BLOCK_MM[0]) & (abs(y) < BLOCK_MM[1]) & (abs(z) < BLOCK_MM[2])] = WATER
    for a, b, c, radius in BALLS.values():
        values[(x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 < radius**2] = 2 * WATER
    return values


def reconstructed(values: ValueMap) -> list[bytes]:
    """The phantom as a reconstruction is written."""
    instances = list(encode_scan(described(cone()), Memory(np.ones((1, 7, 4, 6)))))
    scan = scan_from_headers(rows_of(instances))
    series = CTSeries.of_scan(scan, "run", GRID, values, energy_bin=0, how="ram-lak")
    return list(series.encode_slab(phantom(), 0))


def middles(shown: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Give the centers (right, down) of what hangs together, largest first; letters are none."""
    labels, n = ndimage.label(shown)
    sizes = ndimage.sum_labels(shown, labels, range(1, n + 1))
    order = [one + 1 for one in np.argsort(-sizes, kind="stable") if sizes[one] > 300]
    return [np.array(place[::-1]) for place in ndimage.center_of_mass(shown, labels, order)]


def from_block(
    places: list[NDArray[np.float64]], block: NDArray[np.bool_], plane: str
) -> NDArray[np.float64]:
    """Measure places in a picture in mm from the middle of the block that it shows."""
    rows, columns = np.nonzero(block)
    edges = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]])
    scale = abs(RIGHT_AND_DOWN[plane]) @ BLOCK_MM * 2 / (edges[1] - edges[0])
    assert scale[0] == pytest.approx(scale[1], rel=0.03)  # a millimetre is one, whatever the voxels
    found: NDArray[np.float64] = (np.array(places) + 0.5 - edges.mean(0)) * scale
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "layouts"),
    [
        (ValueMap.hounsfield(WATER), ["mpr", "mprAnd3DVolumeViewport"]),
        (ValueMap.linear(0, 2 * WATER, 0.5), ["mpr"]),  # volumes are coloured by HU
    ],
    ids=["HU", "1/m"],
)
def test_ohif__shows_planes_and_a_volume_as_they_lie_in_the_patient(
    values: ValueMap, layouts: list[str], start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = start_gateway()
    with client_of(gateway) as client:
        assert stow(client, *reconstructed(values)).status_code == 200
        (study,) = client.get("/dicom-web/studies").json()
    uid = study["0020000D"]["Value"][0]
    told = (uid, str(GRID.shape[0]), str(tmp_path), *layouts)
    seen = watched(gateway, "watch_volumes.mjs", *told)
    for layout in layouts:
        page = np.asarray(Image.open(tmp_path / f"{layout}.png").convert("RGB")).astype(int)
        for name, (left, top, right, bottom) in zip(
            LAYOUTS[layout], seen["layouts"][layout], strict=True
        ):
            picture = page[top + 2 : bottom - 2, left + 2 : right - 2]
            is_shown(name, picture)


def is_shown(name: str, picture: NDArray[np.int_]) -> None:
    if name == "volume":
        # bone as the viewer colours it, from the front; water is all but transparent
        balls = middles(picture[..., 0] - picture[..., 2] > 25)
        block = ndimage.binary_opening(picture[..., 0] > 8, iterations=5)
        found = from_block(balls, block, "coronal")
        expected = [RIGHT_AND_DOWN["coronal"] @ center for *center, _ in BALLS.values()]
        assert len(found) == len(expected)
        np.testing.assert_allclose(found, expected, atol=3)
        return
    is_grey = np.ptp(picture, axis=2) < 3
    water = is_grey & (abs(picture[..., 0] - 127.5) < 4)  # the middle of the window
    assert water.sum() > 10_000
    block = ndimage.binary_opening(is_grey & (picture[..., 0] > 100), iterations=5)
    inside = block & (picture[..., 0] > 250)
    (found,) = from_block(middles(inside), block, name)
    np.testing.assert_allclose(found, RIGHT_AND_DOWN[name] @ BALLS[name][:3], atol=1.5)
