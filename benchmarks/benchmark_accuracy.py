"""How right a reconstruction is: one JSON line per figure, also in
``docs/benchmarks/accuracy.jsonl``; plots in ``docs/images/accuracy-*.png``.

``python -m benchmarks.benchmark_accuracy [PART ...]``

Parts are gates, resolution, disks, water, arithmetic and noise; without, all. Differences and
errors ``of_peak`` are the largest of any voxel, as part of the largest value of what is compared
with. ``docs/accuracy.md`` says what each part measures.
"""

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.results import ROOT, record
from pacspark.ct.fdk import SlabReconstruction, reconstruct_fdk
from pacspark.ct.filtering import WINDOWS, FDKOptions
from pacspark.ct.geometry import ConeBeamGeometry, VolumeGrid
from pacspark.ct.kernels.variants import available_variants
from pacspark.ct.phantom import project
from tests import oracles
from tests.ct import disks, edges, peers, rtk, water

IMAGES = ROOT / "docs" / "images"

Volume = NDArray[np.float32]
tell = partial(record, "accuracy")


def digits(value: float, count: int = 3) -> float:
    """Round to what is worth reading."""
    return float(f"{value:.{count}g}")


def of_peak(
    volume: NDArray[Any], reference: NDArray[Any], seen: NDArray[np.bool_] | None = None
) -> float:
    """Give the largest difference (`seen`: there), as part of the reference's largest value."""
    difference = np.abs(volume.astype(np.float64) - reference)
    largest = difference.max() if seen is None else difference[seen].max()
    return digits(float(largest / np.abs(reference).max()), 2)


@contextmanager
def apart() -> Iterator[Executor]:
    """Give a process for itk-rtk: its wrappers crash as a big interpreter ends."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield process


@contextmanager
def drawing(name: str, width_inch: float, height_inch: float) -> Iterator[Figure]:
    """Give a figure; it is then kept under a name."""
    figure = Figure((width_inch, height_inch), dpi=110, layout="constrained")
    yield figure
    figure.savefig(IMAGES / f"accuracy-{name}.png")


def gates() -> None:
    """RTK's own cases and measures, its own phantom; itk-rtk on the same projections."""
    with apart() as process:
        for name, (_, _, most_error, least_psnr_db) in peers.GATES.items():
            geometry, grid = peers.gate_geometry(name), peers.GATE_GRID
            projections, phantom = process.submit(rtk.shepp_logan, geometry, grid).result()
            seen = peers.field_of_view(geometry, grid)
            ours = reconstruct_fdk(projections, geometry, grid)
            theirs = process.submit(rtk.fdk, projections, geometry, grid).result()
            error, psnr_db = peers.quality(ours, phantom, seen)
            their_error, their_psnr_db = peers.quality(theirs, phantom, seen)
            tell(
                case=f"gate of RTK, {name}",
                mean_absolute_error=digits(error, 4),
                rtk_mean_absolute_error=digits(their_error, 4),
                gate_mean_absolute_error=most_error,
                psnr_db=digits(psnr_db, 4),
                rtk_psnr_db=digits(their_psnr_db, 4),
                gate_psnr_db=least_psnr_db,
                difference_to_rtk_of_peak=of_peak(ours, theirs, seen),
                difference_to_rtk_of_peak_beyond=of_peak(ours, theirs, ~seen),
            )


def resolution() -> None:
    """MTF of each window, from the edge of a cylinder, beside theory."""
    edge = edges.edge_scan()
    below = edges.FREQUENCIES <= 0.5
    with drawing("mtf", 7.5, 4.2) as figure:
        axes = figure.subplots()
        for number, name in enumerate(WINDOWS):
            options = FDKOptions(name)
            found, expected = edges.measured_mtf(edge, options), edges.theoretical_mtf(options)
            tell(
                case=f"MTF, {name}",
                ten_percent_per_column=digits(edges.ten_percent(found)),
                theory_ten_percent_per_column=digits(edges.ten_percent(expected)),
                deviation_below_nyquist=digits(float(np.abs(found - expected)[below].max()), 2),
            )
            axes.plot(edges.FREQUENCIES, expected, color=f"C{number}", linewidth=1)
            marks: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 3.5}
            axes.plot(edges.FREQUENCIES[::5], found[::5], color=f"C{number}", label=name, **marks)
        axes.axhline(0.1, color="grey", linewidth=0.7, linestyle=":")
        axes.axvline(0.5, color="grey", linewidth=0.7, linestyle=":")
        axes.set(xlim=(0, 0.8), ylim=(0, 1.02))
        axes.set(xlabel="cycles per column at the axis", ylabel="MTF")
        axes.legend(title="dots: measured; lines: theory", frameon=False)


def cone() -> None:
    """Disks along the axis, from ever nearer sources; itk-rtk on the same projections."""
    with apart() as process, drawing("disks", 8.8, 4.0) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
        for number, source_mm in enumerate(disks.SOURCES_MM):
            geometry = disks.disk_scan(source_mm)
            projections = project(disks.DISKS, geometry)
            ours = reconstruct_fdk(projections, geometry, disks.GRID)
            theirs = process.submit(rtk.fdk, projections, geometry, disks.GRID).result()
            exact = oracles.fdk(projections, geometry, disks.GRID)
            found, their_found = disks.contrasts(ours), disks.contrasts(theirs)
            cone_deg = digits(disks.cone_deg(source_mm))
            tell(
                case=f"disks, source at {source_mm:g} mm",
                cone_deg=cone_deg,
                places_mm=disks.PLACES_MM.tolist(),
                contrasts=[digits(contrast) for contrast in found],
                rtk_contrasts=[digits(contrast) for contrast in their_found],
                difference_to_rtk_of_peak=of_peak(ours, theirs),
                error_of_peak=of_peak(ours, exact),
                rtk_error_of_peak=of_peak(theirs, exact),
            )
            label = f"{source_mm:g} mm, up to {cone_deg:.1f}°"
            color = f"C{number}"
            left.plot(disks.PLACES_MM, found, color=color, linewidth=1, label=label)
            marks: dict[str, Any] = {"linestyle": "", "marker": "x", "color": color}
            left.plot(disks.PLACES_MM, their_found, **marks)
        left.axhline(0, color="grey", linewidth=0.7, linestyle=":")
        left.set(xlabel="z, mm", ylabel="contrast of disk and gaps", ylim=(-0.3, 1.45))
        title = "source to axis, cone angle (crosses: itk-rtk)"
        left.legend(title=title, frameon=False, loc="upper center", ncols=2)
        grid = disks.GRID
        right.imshow(
            ours[:, 1] / disks.DENSITY_PER_MM,
            cmap="gray",
            vmin=0,
            vmax=1,
            origin="lower",
            extent=(grid.x_mm[0], grid.x_mm[-1], grid.z_mm[0], grid.z_mm[-1]),
        )
        right.set(xlabel="x, mm", ylabel="z, mm", title=f"source at {source_mm:g} mm")


def in_hounsfield() -> None:
    """Water and air in every kind of scan, and in what an archive exports."""

    def report(name: str, values: NDArray[np.float64], grid: VolumeGrid) -> None:
        found = water.measured(values, grid)
        tell(
            case=f"water, {name}",
            water_hu=round(found.water, 2),
            air_hu=round(found.air, 2),
            water_worst_ring_hu=round(found.water_ring, 2),
            air_worst_ring_hu=round(found.air_ring, 2),
        )

    for name, (geometry, grid) in water.SCANS.items():
        volume = reconstruct_fdk(water.projections(geometry), geometry, grid)
        report(name, water.hounsfield(volume), grid)
    with TemporaryDirectory(prefix="pacspark-bench-") as folder:
        report("exported CT images", *water.through_the_archive(Path(folder)))


def in_parts(
    scan: tuple[Volume, ConeBeamGeometry, VolumeGrid],
    variant: str,
    slices: tuple[int, ...] = (),
    views: tuple[slice, ...] = (slice(None),),
) -> Volume:
    """Reconstruct slabs, cut before some slices, from blocks of views in an order."""
    projections, geometry, grid = scan
    slabs = []
    for start, stop in zip((0, *slices), (*slices, grid.shape[0]), strict=True):
        slab = SlabReconstruction(geometry, grid.slab(start, stop), variant=variant)
        for block in views:
            slab.add(projections[block, slice(*slab.row_band)], block.start or 0)
        slabs.append(slab.result())
    return np.concatenate(slabs)


def arithmetic() -> None:
    """Single precision against double, and a volume in parts against the whole."""
    with apart() as process:
        for case in peers.CASES:
            scan = peers.same_case(case)
            exact = oracles.fdk(*scan)
            errors = {
                f"{variant}_error_of_peak": of_peak(in_parts(scan, variant), exact)
                for variant in available_variants()
            }
            theirs = process.submit(rtk.fdk, *scan).result()
            tell(case=f"oracle, {case}", **errors, rtk_error_of_peak=of_peak(theirs, exact))
    scan = peers.same_case("plain")
    backwards = tuple(slice(start, start + 12) for start in range(48, -1, -12))
    for variant in available_variants():
        whole = in_parts(scan, variant)
        tell(
            case=f"parts, {variant}",
            slabs_difference_of_peak=of_peak(in_parts(scan, variant, (1, 7, 20)), whole),
            blocks_difference_of_peak=of_peak(in_parts(scan, variant, (), backwards[::-1]), whole),
            blocks_backwards_difference_of_peak=of_peak(
                in_parts(scan, variant, (), backwards), whole
            ),
        )


def noise() -> None:
    """Noise of counted photons through each window, beside theory."""
    measured_hu, theory_hu = [], []
    for name in WINDOWS:
        options = FDKOptions(name)
        measured_hu.append(1000 * edges.measured_noise(options) / edges.WATER_PER_MM)
        theory_hu.append(1000 * edges.theoretical_noise(options) / edges.WATER_PER_MM)
        tell(
            case=f"noise, {name}",
            deviation_hu=digits(measured_hu[-1], 4),
            theory_deviation_hu=digits(theory_hu[-1], 4),
            ratio=digits(measured_hu[-1] / theory_hu[-1], 4),
        )
    with drawing("noise", 6.5, 3.2) as figure:
        axes = figure.subplots()
        axes.bar(list(WINDOWS), measured_hu, color="lightgrey", label="measured")
        marks: dict[str, Any] = {"linestyle": "", "marker": "_", "markersize": 40, "color": "C3"}
        axes.plot(list(WINDOWS), theory_hu, label="theory", **marks)
        axes.set(ylabel="standard deviation, HU")
        axes.legend(frameon=False, markerscale=0.4)


PARTS: dict[str, Callable[[], None]] = {
    "gates": gates,
    "resolution": resolution,
    "disks": cone,
    "water": in_hounsfield,
    "arithmetic": arithmetic,
    "noise": noise,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parts = parser.parse_args().parts
    if unknown := set(parts) - set(PARTS):
        parser.error(f"expected some of {', '.join(PARTS)}; found {', '.join(sorted(unknown))}")
    for part in parts or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main()
