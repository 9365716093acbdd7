"""The command line: arguments and printing, nothing else.

Results go to standard output, progress and errors to standard error. Exit status 0 is done, 1
failed, 2 wrong usage, 130 interrupted. With ``--json`` the last thing on standard output is one
JSON value.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pacspark.archive import create_archive, open_archive
from pacspark.ct.checks import require_positive
from pacspark.ct.filtering import FDKOptions
from pacspark.errors import GeometryError, PacsparkError, QueryError, UsageError

app = typer.Typer(
    name="pacspark",
    help="A PACS on Spark that reconstructs inside the archive.",
    no_args_is_help=True,
    epilog="--debug, anywhere, shows the traceback of an error.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

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
EnergyBins = Annotated[
    str | None, typer.Option("--energy-bins", help="Indices like 0,2; all unless given.")
]
Executors = Annotated[int | None, typer.Option("--executors", help="Executors of the cluster.")]
Cores = Annotated[int | None, typer.Option("--cores", help="Cores per executor.")]
Memory = Annotated[
    str | None,
    typer.Option("--memory", help="For Python workers of an executor: GiB, or 512M."),
]


def say(text: str) -> None:
    """Print a line for people on standard error."""
    print(_printable(text), file=sys.stderr)


def _printable(text: str) -> str:
    """Replace what is no letter: what others wrote must not steer a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def show_json(value: object) -> None:
    """Print one JSON value as the last thing on standard output."""
    print(json.dumps(value, default=str))


@app.command(epilog="Example: pacspark init archive")
def init(root: Root, as_json: AsJson = False) -> None:
    """Create the tables of an archive; safe to repeat."""
    archive = create_archive(root)
    if as_json:
        show_json({"root": archive.root, "tables": archive.table_names})
    else:
        print(f"{archive.root}: {len(archive.table_names)} tables")


@app.command(epilog="Example: pacspark ingest archive incoming/ study.zip")
def ingest(
    root: Root,
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, zips, DICOMDIRs.")],
    as_json: AsJson = False,
) -> None:
    """Store DICOM objects: counts stored, duplicate, conflicting and rejected ones.

    Paths may be URLs, with globs, on HDFS or S3; a zip there has to be named .zip. Paths of this
    machine are read by the tasks: on a cluster, all its machines have to see them.
    """
    report = open_archive(root).ingest(paths)
    counts = {
        "stored": report.stored,
        "duplicate": report.duplicate,
        "conflict": report.conflict,
        "rejected": report.rejected,
    }
    for refused in report.refused:
        say(f"{refused.error_class}: {refused.source}: {refused.message}")
    hidden = report.conflict + report.rejected - len(report.refused)
    if hidden > 0:
        say(f"... and {hidden} more in the table `rejects`")
    if as_json:
        show_json(
            counts
            | {"bytes": report.bytes_stored, "seconds": report.seconds, "run_id": report.run_id}
        )
    else:
        print(", ".join(f"{name} {count}" for name, count in counts.items()))
    if not report.clean:
        raise typer.Exit(1)


@app.command(
    "import-scan", epilog="Example: pacspark import-scan archive examples/walnut/SCAN.toml"
)
def import_scan(
    root: Root,
    scan: Annotated[Path, typer.Argument(help="The scan's description, SCAN.toml.")],
    as_json: AsJson = False,
) -> None:
    """Store projections as DICOM; the last word is the series' UID."""
    imported = open_archive(root).import_scan(scan)
    if as_json:
        show_json(asdict(imported))
    else:
        print(
            f"stored {imported.stored}, duplicate {imported.duplicate}: "
            f"{imported.series_instance_uid}"
        )


@app.command(epilog="Example: pacspark find archive --level series Modality=CT 'PatientName=WAL*'")
def find(
    root: Root,
    query: Annotated[
        list[str] | None, typer.Argument(help="KEYWORD=VALUE: *, ?, ranges, UID lists.")
    ] = None,
    level: Annotated[
        str, typer.Option("--level", help="patient, study, series or instance.")
    ] = "study",
    as_json: AsJson = False,
) -> None:
    """Find by PS3.4 matching."""
    found = open_archive(root).find_table(level, _query(query or []))
    records = [
        {key: value for key, value in record.items() if value not in (None, "", [])}
        for record in found.to_pylist()
    ]
    if as_json:
        show_json(records)
        return
    columns = FIND_COLUMNS[level]
    show_table(columns, [[record.get(name) for name in columns] for record in records])


FIND_COLUMNS: Mapping[str, Sequence[str]] = {
    "patient": ["PatientID", "PatientName", "NumberOfPatientRelatedStudies"],
    "study": ["PatientID", "StudyDate", "StudyDescription", "ModalitiesInStudy",
              "NumberOfStudyRelatedInstances", "StudyInstanceUID"],
    "series": ["PatientID", "StudyDate", "Modality", "SeriesNumber", "SeriesDescription",
               "NumberOfSeriesRelatedInstances", "SeriesInstanceUID"],
    "instance": ["Modality", "InstanceNumber", "Rows", "Columns", "NumberOfFrames",
                 "SOPInstanceUID"],
}  # fmt: skip
"""What a person sees of each level; ``--json`` has everything."""


def _query(items: Sequence[str]) -> dict[str, str]:
    query = {}
    for item in items:
        keyword, equals, value = item.partition("=")
        if not equals:
            message = f"query: expected KEYWORD=VALUE, found {item!r}"
            raise UsageError(message)
        if keyword in query:
            message = f"query: expected each keyword once, found {keyword} twice"
            raise UsageError(message)
        query[keyword] = value
    return query


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with its header: aligned for a person, tab-separated for a pipe."""
    if not rows:
        say("no match")
        return
    cells = [[_cell(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in [columns, *cells]:
            print("\t".join(line))
        return
    table = Table(*columns)
    for line in cells:
        table.add_row(*map(Text, line))
    Console().print(table)


def _cell(value: object) -> str:
    """Write a value on one line; ``-`` is no value, so that no cell is blank."""
    if isinstance(value, datetime):
        value = value.replace(tzinfo=None, microsecond=0)
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "-" if value is None or not text.strip() else _printable(text)


@app.command(
    epilog="Example: pacspark sql archive 'SELECT KVP, count(*) FROM instances GROUP BY ALL'"
)
def sql(
    root: Root,
    statement: Annotated[str, typer.Argument(help="A query; any DICOM keyword is a column.")],
    as_json: AsJson = False,
) -> None:
    """Ask the tables in SQL; any DICOM attribute is a column of `instances`."""
    from pacspark.spark.query import collect

    frame = open_archive(root).sql(statement)
    rows = collect(frame)
    if as_json:
        show_json([row.asDict(recursive=True) for row in rows])
    else:
        show_table(frame.columns, rows)


@app.command(epilog="Example: pacspark check archive 1.2.3 --picture check.png")
def check(
    root: Root,
    series_uid: SeriesUID,
    picture: Annotated[Path, typer.Option("--picture", help="Where the picture goes.")] = Path(
        "check.png"
    ),
    as_json: AsJson = False,
) -> None:
    """Check a scan's geometry: candidate axis shifts and both rotation senses, as one picture."""
    result = open_archive(root).check(series_uid)
    result.picture.save(picture)
    if as_json:
        show_json(result.summary() | {"picture": str(picture)})
    else:
        print(result.message)
        print(f"picture: {picture}")


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
        typer.Option("--preset", help="stone, arteria, thorax, thorax-720 or full-body."),
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price-per-core-hour", help="For the cost.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a reconstruction would run and cost; runs nothing."""
    from pacspark.spark.partition import plan_preset

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
        for name, value in summary.items():
            print(f"{name:<22} {_human(name, value)}")


def _human(name: str, value: float) -> str:
    if name.endswith("bytes") or name == "bytes_per_task":
        units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
        power = min(len(units) - 1, max(0, (int(value).bit_length() - 1) // 10))
        return f"{value / 1024**power:.1f} {units[power]}"
    return f"{value:.2f}" if isinstance(value, float) else f"{value}"


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
    energy_bins: EnergyBins = None,
    water_mu: Annotated[
        float | None, typer.Option("--water-mu-per-mm", help="Attenuation of water, for HU.")
    ] = None,
    executors: Executors = None,
    cores: Cores = None,
    memory: Memory = None,
    as_json: AsJson = False,
) -> None:
    """Reconstruct a scan with Spark; the last word is the UID of the CT series in the archive."""
    try:
        options = FDKOptions(filter=filter_name, cutoff=cutoff)
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
        made = f"{'found' if report.found else 'made'} {report.n_slices} slices"
        if report.clamped_voxels:
            made += f", {report.clamped_voxels} voxels clamped to the range of 16 bits"
        print(f"{made}: {report.series_instance_uid}")


def _indices(text: str) -> list[int]:
    try:
        return [int(index) for index in text.split(",")]
    except ValueError as error:
        message = f"energy-bins: expected indices like 0,2, found {text!r}"
        raise UsageError(message) from error


@app.command(epilog="Example: pacspark export archive out --series 1.2.3 --format nifti")
def export(
    root: Root,
    directory: Annotated[Path, typer.Argument(help="Where the files go.")],
    study: Annotated[str | None, typer.Option("--study", help="Study Instance UID.")] = None,
    series: Annotated[str | None, typer.Option("--series", help="Series Instance UID.")] = None,
    instance: Annotated[str | None, typer.Option("--instance", help="SOP Instance UID.")] = None,
    file_format: Annotated[str, typer.Option("--format", help="dicom or nifti.")] = "dicom",
    as_json: AsJson = False,
) -> None:
    """Write a study, a series or an instance as files."""
    files = open_archive(root).export(
        directory,
        study=study,
        series=series,
        instance=instance,
        format=file_format,
    )
    if as_json:
        show_json([str(file) for file in files])
    else:
        print(f"{len(files)} files in {directory}")


@app.command(epilog="Example: pacspark view archive 1.2.3 slice.png")
def view(
    root: Root,
    series_uid: SeriesUID,
    picture: Annotated[Path, typer.Argument(help="The PNG to write.")] = Path("view.png"),
    as_json: AsJson = False,
) -> None:
    """Draw a CT series as orthogonal views into a PNG."""
    open_archive(root).volume(series_uid).view().save(picture)
    if as_json:
        show_json({"picture": str(picture)})
    else:
        print(picture)


@app.command(epilog="Example: pacspark history archive")
def history(root: Root, as_json: AsJson = False) -> None:
    """Tell which run changed which table, and when in UTC."""
    versions = open_archive(root).versions()
    if as_json:
        show_json(versions.to_dict("records"))
    else:
        show_table(list(versions.columns), versions.to_numpy().tolist())


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
