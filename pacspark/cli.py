"""The command line: arguments and printing, nothing else.

Results go to standard output, progress and errors to standard error. Exit status 0 is done, 1
failed, 2 wrong usage, 130 interrupted. With ``--json`` the last thing on standard output is one
JSON value.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pacspark import __version__, cli_asking, cli_fixity, cli_retaining, cli_viewer
from pacspark.archive import create_archive, open_archive
from pacspark.cli_anonymize import anonymize
from pacspark.cli_describe import describe
from pacspark.cli_out import export, print_sheets, view
from pacspark.cli_serve import send, serve
from pacspark.ct.checks import require_positive
from pacspark.ct.filtering import FDKOptions
from pacspark.errors import GeometryError, PacsparkError, QueryError, UsageError
from pacspark.printing import readable, say, show_json, show_table
from pacspark.progress import counted_unit
from pacspark.spark.presets import SUBJECTS, plan_preset

app = typer.Typer(
    name="pacspark",
    help="A PACS on Spark that reconstructs inside the archive.",
    no_args_is_help=True,
    epilog="--debug, anywhere, shows the traceback of an error.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version."),
    ] = False,
) -> None:
    """Take what stands before a command; the help of the whole is that of `app`."""


Root = Annotated[
    str, typer.Argument(help="The archive: a folder, hdfs://..., s3a://... or s3://...")
]
SeriesUID = Annotated[str, typer.Argument(help="Series Instance UID.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
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


@app.command(epilog="Example: pacspark init archive")
def init(root: Root, as_json: AsJson = False) -> None:
    """Create the tables of an archive; safe to repeat."""
    archive = create_archive(root)
    if as_json:
        show_json({"root": archive.root, "tables": archive.table_names})
    else:
        print(f"{archive.root}: an archive that is ready to take objects in")


@app.command(
    epilog="Examples: pacspark ingest archive incoming/ study.zip; "
    "pacspark ingest archive incoming/ --watch --settle 10"
)
def ingest(
    root: Root,
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, zips, DICOMDIRs.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with what arrives in the folder, until Ctrl-C.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="With --watch: end when all that is there is taken.")
    ] = False,
    settle: Annotated[
        float | None,
        typer.Option("--settle", help="With --watch: seconds that a file has to be at rest; 5."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Store DICOM objects and count what became of them.

    Paths may be URLs, with globs, on HDFS or S3; a zip there has to be named .zip. Paths of this
    machine are read by the tasks: on a cluster, all its machines have to see them.
    """
    if not watch:
        unused = "--once" if once else "--settle"
        if once or settle is not None:
            message = f"ingest: expected {unused} together with --watch, found it alone"
            raise UsageError(message)
        report = open_archive(root).ingest(paths)
    elif len(paths) != 1:
        message = f"ingest: expected one folder with --watch, found {len(paths)}"
        raise UsageError(message)
    else:
        settle_s = 5.0 if settle is None else settle
        report = open_archive(root).watch(paths[0], settle_s=settle_s, once=once)
    for refused in report.refused:
        say(f"{refused.error_class}: {refused.source}: {refused.message}")
    hidden = report.conflict + report.rejected - len(report.refused)
    if hidden > 0:
        say(f"... and {hidden} more in the table `rejects`")
    if as_json:
        show_json(
            report.counts
            | {"bytes": report.bytes_stored, "seconds": report.seconds, "run_id": report.run_id}
            | {"steps": report.steps}
        )
    else:
        print(", ".join(f"{name} {count}" for name, count in report.counts.items()))
    if not report.clean:
        raise typer.Exit(1)


app.command(epilog="Example: pacspark serve archive --dimse-port 11112")(serve)
app.command(epilog="Example: pacspark send archive --to VIEWER@10.0.0.7:104 --study 1.2.3")(send)
app.command(epilog="Example: pacspark describe scan.xtekct --output scan/SCAN.toml")(describe)


@app.command(
    "import-scan", epilog="Example: pacspark import-scan archive examples/walnut/SCAN.toml"
)
def import_scan(
    root: Root,
    scan: Annotated[str, typer.Argument(help="The scan's description, SCAN.toml.")],
    as_json: AsJson = False,
) -> None:
    """Store the projections of a scan as DICOM.

    The last word printed is the series' UID.
    """
    imported = open_archive(root).import_scan(scan)
    if as_json:
        show_json(asdict(imported))
    else:
        print(
            f"stored {imported.stored}, duplicate {imported.duplicate}: "
            f"{imported.series_instance_uid}"
        )


cli_asking.register(app)
cli_fixity.register(app)


@app.command(epilog="Example: pacspark check archive 1.2.3 --picture check.png")
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


@app.command(
    epilog="Example: pacspark plan archive 1.2.3 --size 512 512 512 --cores 8 --memory 32G"
)
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


@app.command(epilog="Example: pacspark reconstruct archive 1.2.3 --size 256 256 256 --filter hann")
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


app.command(epilog="Example: pacspark export archive out --series 1.2.3 --format nifti")(export)
app.command(epilog="Example: pacspark anonymize archive research --study 1.2.3 --secret key.txt")(
    anonymize
)
app.command(epilog="Example: pacspark view archive 1.2.3 slice.png --plane z --slice 40")(view)
app.command("print", epilog="Example: pacspark print archive --series 1.2.3 --out film.pdf")(
    print_sheets
)


@app.command(epilog="Example: pacspark history archive")
def history(root: Root, as_json: AsJson = False) -> None:
    """Tell which run changed which table, and when in UTC."""
    versions = open_archive(root).versions()
    if as_json:
        show_json(versions.to_dict("records"))
    else:
        show_table(list(versions.columns), versions.to_numpy().tolist())


cli_retaining.register(app)
cli_viewer.register(app)


INTERRUPTED = 130
INTERRUPTED_LINE = "interrupted; the same command again finishes the work"


def _is_interrupt(error: BaseException | None) -> bool:
    """Tell whether an error came of Ctrl-C: Spark ends its jobs then, and raises that instead."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; every error is one line unless `--debug`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        app([argument for argument in given if argument != "--debug"])
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what click makes of Ctrl-C
            say(INTERRUPTED_LINE)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        if debug:
            raise
        if _is_interrupt(error):
            say(INTERRUPTED_LINE)
            return INTERRUPTED
        hint = "" if isinstance(error, PacsparkError) else " (--debug shows where)"
        say(f"{type(error).__name__}: {error}{hint}")
        return 2 if isinstance(error, UsageError | QueryError) else 1
    return 0
