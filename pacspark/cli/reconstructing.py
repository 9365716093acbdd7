"""The commands around a reconstruction."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from pacspark.archive import open_archive
from pacspark.cli.options import AsJson, Root, SeriesUID
from pacspark.ct.checks import require_positive
from pacspark.ct.filtering import FDKOptions
from pacspark.errors import GeometryError, UsageError
from pacspark.printing import readable, say, show_json
from pacspark.progress import counted_unit
from pacspark.spark.presets import SUBJECTS, plan_preset

Size = Annotated[
    tuple[int, int, int] | None,
    typer.Option("--size", help="Voxels along x, y, z.", metavar="NX NY NZ"),
]
VoxelMm = Annotated[float | None, typer.Option("--voxel-mm", help="Edge of a voxel, mm.")]
Center = Annotated[
    tuple[float, float, float] | None,
    typer.Option("--center", help="Centre of the grid, mm.", metavar="X Y Z"),
]
Filter = Annotated[
    str, typer.Option("--filter", help="ram-lak, shepp-logan, cosine, hamming or hann.")
]
Cutoff = Annotated[float, typer.Option("--cutoff", help="Cut-off, part of the Nyquist frequency.")]
Extrapolation = Annotated[
    float,
    typer.Option(
        "--extrapolation",
        help="For objects wider than the detector: how far rows go on, part of their length.",
    ),
]
EnergyBins = Annotated[
    str | None, typer.Option("--energy-bins", help="Indices like 0,2; all unless given.")
]
PRESETS = "; ".join(
    f"{name}, {' x '.join(map(str, subject.size_cm))} cm in {subject.n_angles} views"
    for name, subject in SUBJECTS.items()
)
Executors = Annotated[int | None, typer.Option("--executors", help="Executors of the cluster.")]
Cores = Annotated[int | None, typer.Option("--cores", help="Cores per executor.")]
Memory = Annotated[
    str | None,
    typer.Option("--memory", help="For Python workers of an executor: GiB, or 512M."),
]


def check(
    root: Root,
    series_uid: SeriesUID,
    picture: Annotated[Path, typer.Option("--picture", help="Where the picture goes.")] = Path(
        "check.png"
    ),
    correct: Annotated[
        Path | None,
        typer.Option("--correct", help="The scan's SCAN.toml; a corrected copy goes beside it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a scan's geometry and draw the candidates.

    Other axis offsets and both senses of rotation are compared; the picture has them side by side.
    """
    from pacspark.pictures import picture_path

    picture = picture_path(picture)
    result = open_archive(root).check(series_uid)
    result.picture.save(picture)
    written = {"picture": str(picture)}
    if correct is not None and not result.ok:
        written["corrected"] = str(result.correct(correct))
    if as_json:
        show_json(result.summary() | written)
    else:
        print(result.message)
        for what, path in written.items():
            print(f"{what}: {path}")


def plan(
    root: Annotated[str | None, typer.Argument(help="The archive.")] = None,
    series_uid: Annotated[str | None, typer.Argument(help="A projection series.")] = None,
    size: Size = None,
    voxel_mm: VoxelMm = None,
    center: Center = None,
    executors: Executors = None,
    cores: Cores = None,
    memory: Memory = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help=f"A subject instead of a scan: {PRESETS}."),
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price-per-core-hour", help="For the cost.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a reconstruction would run and cost; runs nothing."""
    if price is not None and not (math.isfinite(price) and price >= 0):
        message = f"--price-per-core-hour: expected a number from 0 on, found {price}"
        raise UsageError(message)
    if preset is not None:
        given = {"ROOT": root, "--size": size, "--voxel-mm": voxel_mm, "--center": center}
        unused = [name for name, value in given.items() if value is not None]
        if unused:
            message = f"plan: expected --preset or {unused[0]}, found both"
            raise UsageError(message)
        planned = plan_preset(preset, _cluster(executors, cores, memory))
    elif root is None or series_uid is None:
        found = "neither" if root is None else "ROOT alone"
        message = f"plan: expected ROOT SERIES_UID or --preset, found {found}"
        raise UsageError(message)
    else:
        cluster = _cluster(executors, cores, memory)
        archive = open_archive(root)
        grid = archive.grid(series_uid, size=size, voxel_mm=voxel_mm, center_mm=center)
        planned = archive.plan(series_uid, grid=grid, cluster=cluster)
    summary = dict(planned.summary())
    if price is not None:
        summary["cost"] = summary["core_hours"] * price
    if as_json:
        show_json(summary)
    else:
        human = {name: readable(name, value) for name, value in summary.items()}
        edges = " x ".join(f"{edge:.4g}" for edge in reversed(planned.grid.voxel_mm))
        print(
            "{n_x} x {n_y} x {n_z} voxels of {edges} mm in {tasks} tasks "
            "on {cores} cores: about {wall_seconds}, "
            "{bytes_per_task} of {memory_per_task_bytes} per task".format(edges=edges, **human)
        )
        for name, value in human.items():
            print(f"{name.removesuffix('_seconds').removesuffix('_bytes'):<22} {value}")


def _cluster(executors: int | None, cores: int | None, memory: str | None) -> Any:
    from pacspark.archive import cluster_of
    from pacspark.spark.cluster import parse_bytes

    return cluster_of(
        executors, cores, None if memory is None else parse_bytes(memory, "g", "--memory")
    )


def reconstruct(
    root: Root,
    series_uid: SeriesUID,
    size: Size = None,
    voxel_mm: VoxelMm = None,
    center: Center = None,
    filter_name: Filter = "ram-lak",
    cutoff: Cutoff = 1.0,
    extrapolation: Extrapolation = 0.0,
    energy_bins: EnergyBins = None,
    water_mu: Annotated[
        float | None, typer.Option("--water-mu-per-mm", help="Attenuation of water, for HU.")
    ] = None,
    executors: Executors = None,
    cores: Cores = None,
    memory: Memory = None,
    as_json: AsJson = False,
) -> None:
    """Reconstruct a scan with Spark into a CT series.

    The last word printed is the UID of the CT series in the archive.
    """
    try:
        options = FDKOptions(filter=filter_name, cutoff=cutoff, extrapolation=extrapolation)
        if water_mu is not None:
            require_positive("--water-mu-per-mm", water_mu)
    except GeometryError as error:
        raise UsageError(*error.args) from None
    archive = open_archive(root)
    reports = archive.reconstruct_series(
        series_uid,
        grid=archive.grid(series_uid, size=size, voxel_mm=voxel_mm, center_mm=center),
        options=options,
        energy_bins=None if energy_bins is None else _indices(energy_bins),
        water_mu_per_mm=water_mu,
        cluster=_cluster(executors, cores, memory),
    )
    if as_json:
        show_json([report.summary() for report in reports])
        return
    for report in reports:
        slices = f"{report.n_slices} {counted_unit(report.n_slices, 'slices')}"
        made = f"found {slices}, not made again" if report.found else f"made {slices}"
        if report.clamped_voxels:
            made += f", {report.clamped_voxels} voxels clamped to the range of 16 bits"
        print(f"{made}: {report.series_instance_uid}")


def _indices(text: str) -> list[int]:
    try:
        return [int(index) for index in text.split(",")]
    except ValueError as error:
        message = f"energy-bins: expected indices like 0,2, found {text!r}"
        raise UsageError(message) from error


def rerun(
    root: Root,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run_id, or the UID of the series it made.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make a reconstruction again and compare its bits.

    Everything comes from its row of `runs`, and the scan as it was then. Exit status 0 is: bit for
    bit the same. Nothing is stored.
    """
    report = open_archive(root).rerun(run)
    if as_json:
        show_json(report.summary())
    else:
        for note in report.notes:
            say(note)
        for other in report.differences:
            stored, made = other.stored_sha256 or "nothing", other.made_sha256 or "nothing"
            say(f"{other.sop_instance_uid}: expected {stored}, found {made}")
        if report.n_stored > report.n_objects:
            say(f"the series has {report.n_stored} objects, more than the run made")
        print(
            f"{report.n_same} of {report.n_objects} {counted_unit(report.n_objects, 'objects')} "
            f"bit for bit as stored: {report.series_instance_uid}"
        )
    if not report.identical:
        raise typer.Exit(1)
