"""The description of a scan, ``SCAN.toml``: parsed, checked, and turned into geometry.

``docs/scan-description.md`` explains every key to people; this module is where each is read. What
cannot be followed is one line that names the key, what was expected and what was found.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, Geometry
from pacspark.ct.preprocess import KINDS, Kind
from pacspark.ct.redundancy import require_rays
from pacspark.ct.views import ConeBeamViews
from pacspark.errors import GeometryError
from pacspark.scans.arrays import AXES, ArraySource, AxedStack, read_array_source
from pacspark.scans.geometry import ANGLE_KEYS, GEOMETRY_KEYS, read_angles, read_geometry
from pacspark.scans.toml import TomlTable, read_toml

FORMAT_VERSION = 1
_TABLES = dict.fromkeys(
    ("format_version", "projections", "geometry", "angles", "energy_bins", "calibration",
     "subject"), ""
)  # fmt: skip
# keys of each table, and what each is used with only
_PROJECTION_KEYS = dict.fromkeys(("files", "kind", "axes"), "") | {
    "scale": 'kind = "line_integrals" or "transmission"',
    "dataset": "files in HDF5",
    "shape": "raw files",
    "dtype": "raw files",
    "byte_order": "raw files",
    "offset_bytes": "raw files",
    "flat": 'kind = "counts"',
    "flat_dataset": 'kind = "counts" and flats in HDF5',
    "flat_shape": 'kind = "counts" and raw flats',
    "dark": 'kind = "counts"',
    "dark_dataset": 'kind = "counts" and darks in HDF5',
    "dark_shape": 'kind = "counts" and raw darks',
    "unattenuated_counts": 'kind = "counts" and no flat',
}
_ENERGY_KEYS = {"edges_kev": ""}
_CALIBRATION_KEYS = {"water_mu_per_mm": ""}


@dataclass(frozen=True, slots=True)
class ScanDescription:
    """A scan: what its files hold and how it was made.

    Attributes
    ----------
    path
        The ``SCAN.toml``.
    kind
        What a pixel is.
    geometry
        Scanner and detector; angles of clockwise scans are negated. Of panels that did not stand
        upright, that of the rectified frames.
    projections, flat, dark
        Where the frames are.
    energy_bin_edges_kev
        One more than there are bins; empty for a scan without.
    unattenuated_counts
        The flat where there are no flats.
    water_mu_per_mm
        Attenuation of water, for Hounsfield units.
    scale
        What a value in the files is multiplied by: line integrals are often stored as integers.
    subject
        DICOM keywords and their values.
    views
        Source and panel of each view as they were, where panels did not stand upright; else None.
    """

    path: Path
    kind: Kind
    geometry: Geometry
    projections: ArraySource
    flat: ArraySource | None
    dark: ArraySource | None
    energy_bin_edges_kev: tuple[float, ...]
    unattenuated_counts: float | None
    water_mu_per_mm: float | None
    scale: float = 1.0
    subject: Mapping[str, str | int | float] = field(default_factory=dict)
    views: ConeBeamViews | None = None

    @property
    def detector(self) -> FlatPanel:
        """The panel that measured the frames."""
        return self.geometry.detector if self.views is None else self.views.detector

    @property
    def beam(self) -> str:
        """``cone`` or ``parallel``."""
        return "cone" if isinstance(self.geometry, ConeBeamGeometry) else "parallel"

    @property
    def n_energy_bins(self) -> int:
        """Number of energy bins, one for a scan without."""
        return max(1, len(self.energy_bin_edges_kev) - 1)


def read_scan_description(path: str | Path) -> ScanDescription:
    """Read and check a ``SCAN.toml``; the projection files are opened for their shape.

    Raises
    ------
    ScanDescriptionError
        Naming the key, what was expected and what was found.
    """
    path = Path(path)
    if path.is_dir():
        path /= "SCAN.toml"
    whole = read_toml(path, _TABLES)
    if whole.count("format_version", 1) != FORMAT_VERSION:
        raise whole.error("format_version", str(FORMAT_VERSION), whole.count("format_version"))
    images = whole.table("projections", _PROJECTION_KEYS, required=True)
    kind: Kind = images.choice("kind", KINDS)  # type: ignore[assignment]
    axes = _axes(images)
    folder = path.resolve().parent
    projections = read_array_source(images, "files", axes, folder)
    flat = dark = unattenuated = None
    scale = 1.0
    if kind == "counts":
        flat = _optional_frames(images, "flat", axes, folder, projections)
        dark = _optional_frames(images, "dark", axes, folder, projections)
        if flat is None:
            unattenuated = images.optional_number("unattenuated_counts", positive=True)
    else:
        scale = images.number("scale", scale, positive=True)
    images.require_used()
    if kind == "counts" and flat is None and unattenuated is None:
        raise images.error("flat", "flats, or unattenuated_counts, for counts", "neither")

    stack = projections.open()
    try:
        _require_axes(images, stack)
        edges = _edges(whole.table("energy_bins", _ENERGY_KEYS), stack)
        places = whole.table("geometry", GEOMETRY_KEYS, required=True)
        angles = None
        if "projection_matrices" not in places:
            listed = whole.table("angles", ANGLE_KEYS, required=True)
            angles = read_angles(listed, folder, stack.length("angle"))
        elif "angles" in whole:
            expected = "none beside geometry.projection_matrices, which say the directions"
            raise whole.error("angles", expected, "a table [angles]")
        geometry, views = read_geometry(places, angles, folder, stack)
    finally:
        stack.close()
    calibration = whole.table("calibration", _CALIBRATION_KEYS)
    water = calibration.optional_number("water_mu_per_mm", positive=True)
    subject = whole.table("subject").plain()
    _warn_of_gaps(path, geometry)
    return ScanDescription(
        path=path,
        kind=kind,
        geometry=geometry,
        views=views,
        projections=projections,
        flat=flat,
        dark=dark,
        energy_bin_edges_kev=edges,
        unattenuated_counts=unattenuated,
        water_mu_per_mm=water,
        scale=scale,
        subject=subject,
    )


def _axes(images: TomlTable) -> tuple[str, ...]:
    axes = images.texts("axes") if "axes" in images else ["angle", "row", "column"]
    wrong = [axis for axis in axes if axis not in AXES]
    if wrong or len(set(axes)) != len(axes) or not {"angle", "column"} <= set(axes):
        raise images.error(
            "axes", f"angle and column, and row and energy_bin, each once, of {AXES}", axes
        )
    return tuple(axes)


def _require_axes(images: TomlTable, stack: AxedStack) -> None:
    """Refuse one array of two axes that nobody named: a sinogram, more likely than one view."""
    if "axes" not in images and stack.is_one_frame:
        expected = 'their names for an array of two, like ["angle", "column"] of a sinogram'
        raise images.error("axes", expected, "none")


def _warn_of_gaps(path: Path, geometry: Geometry) -> None:
    """Tell of a scan that can be stored, but not reconstructed: its views leave out rays."""
    try:
        require_rays(geometry)
    except GeometryError as error:
        logging.getLogger(__name__).warning(
            "%s: can be stored, but not reconstructed: %s", path, error
        )


def _optional_frames(
    images: TomlTable, key: str, axes: tuple[str, ...], folder: Path, projections: ArraySource
) -> ArraySource | None:
    if key not in images and f"{key}_dataset" not in images:
        return None
    return read_array_source(images, key, axes, folder, like=projections)


def _edges(table: TomlTable, stack: AxedStack) -> tuple[float, ...]:
    n_bins = stack.length("energy_bin")
    if "edges_kev" not in table:
        if n_bins > 1:
            raise table.error("edges_kev", f"{n_bins + 1} edges for {n_bins} energy bins", "none")
        return ()
    edges = table.numbers("edges_kev")
    if len(edges) != n_bins + 1 or edges != sorted(set(edges)) or edges[0] < 0:
        raise table.error("edges_kev", f"{n_bins + 1} rising edges for {n_bins} energy bins", edges)
    return tuple(edges)
