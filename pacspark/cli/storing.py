"""The commands that bring something into an archive."""

import shlex
from dataclasses import asdict
from typing import Annotated

import typer

from pacspark.archive import create_archive, open_archive
from pacspark.cli.options import AsJson, Root
from pacspark.errors import UsageError
from pacspark.printing import say, show_json

ALL_REJECTS = "SELECT error_class, source, message FROM rejects ORDER BY received_at DESC"


def init(root: Root, as_json: AsJson = False) -> None:
    """Create the tables of an archive; safe to repeat."""
    archive = create_archive(root)
    if as_json:
        show_json({"root": archive.root, "tables": archive.table_names})
    else:
        print(f"{archive.root}: an archive that is ready to take objects in")


def ingest(
    root: Root,
    paths: Annotated[
        list[str], typer.Argument(help="Files, folders, globs, zips, DICOMDIRs, landings.")
    ],
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

    With --watch it takes one folder, and goes on with what arrives there: incoming/ --watch.
    Paths may be URLs, with globs, on HDFS or S3; a zip there has to be named .zip. Paths of this
    machine are read by the tasks: on a cluster, all its machines have to see them. The landing of a
    gateway that will not start again is taken over; that of a living one is left to it.
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
    for line in report.told:
        say(line)
    if not report.clean:
        say(f'all of them: pacspark sql {shlex.quote(root)} "{ALL_REJECTS}"')
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
