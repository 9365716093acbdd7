"""The commands that bring something out of the archive: files and pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pacspark.archive import open_archive
from pacspark.cli.options import (
    AsJson,
    AsOf,
    Instance,
    Part,
    Root,
    Series,
    SeriesUID,
    ShownWindow,
    Study,
)
from pacspark.cli.tls import Tls, TlsCa, TlsCertificate, TlsKey, tls_context
from pacspark.errors import UsageError
from pacspark.pictures import Window
from pacspark.printing import say, show_json
from pacspark.progress import counted_unit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pacspark.gateway.dimse.film_printing import FilmSession
    from pacspark.pictures import Picture


def export(
    root: Root,
    directory: Annotated[str, typer.Argument(help="Where the files go.")],
    study: Study = None,
    series: Series = None,
    instance: Instance = None,
    file_format: Annotated[
        str, typer.Option("--format", help="dicom, nifti, zarr, tiff or parquet.")
    ] = "dicom",
    dicomdir: Annotated[
        bool, typer.Option("--dicomdir", help="Of dicom: a file-set with a DICOMDIR.")
    ] = False,
    part: Part = None,
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Interpolate uneven or tilted slices onto an even grid."),
    ] = False,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> None:
    """Write a study, a series or an instance as files.

    A file has its name when it is whole; what is there already is never overwritten.
    """
    files = open_archive(root, as_of=as_of).export(
        directory,
        study=study,
        series=series,
        instance=instance,
        format=file_format,
        dicomdir=dicomdir,
        part=part,
        resample=resample,
    )
    if as_json:
        show_json([str(file) for file in files])
    else:
        unit = "folders" if all(file.is_dir() for file in files) else "files"
        print(f"{len(files)} {counted_unit(len(files), unit)} in {directory}")


def view(
    root: Root,
    series_uid: SeriesUID,
    picture: Annotated[Path, typer.Argument(help="The PNG to write.")] = Path("view.png"),
    plane: Annotated[
        Literal["z", "y", "x"] | None,
        typer.Option("--plane", help="One plane; without it, all three through the middle."),
    ] = None,
    index: Annotated[
        int | None,
        typer.Option("--slice", help="Its index, from 0; negative from the end; else the middle."),
    ] = None,
    window: ShownWindow = None,
    part: Part = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> None:
    """Draw a CT or MR series into a PNG."""
    shown = Window.given(window)
    volume = open_archive(root, as_of=as_of).volume(series_uid, part)
    if plane is None and index is None:
        volume.view(window=shown).save(picture)
    else:
        axis = plane or "z"
        middle = volume.shape["zyx".index(axis)] // 2
        volume.slice(**{axis: middle if index is None else index}, window=shown).save(picture)
    if as_json:
        show_json({"picture": str(picture)})
    else:
        print(picture)


def print_sheets(
    root: Root,
    series: Annotated[str, typer.Option("--series", help="Series Instance UID.")],
    out: Annotated[str | None, typer.Option("--out", help="The film, .pdf or .png.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="A DICOM printer: AE@HOST:PORT.")] = None,
    grid: Annotated[
        tuple[int, int], typer.Option("--grid", help="Slices on a sheet.", metavar="ROWS COLUMNS")
    ] = (5, 4),
    every: Annotated[int, typer.Option("--every", help="Print every n-th slice.")] = 1,
    window: ShownWindow = None,
    part: Part = None,
    no_patient: Annotated[
        bool, typer.Option("--no-patient", help="Leave out who it is and where.")
    ] = False,
    copies: Annotated[
        int | None, typer.Option("--copies", help="Of each sheet; a printer.")
    ] = None,
    medium: Annotated[
        Literal["BLUE FILM", "CLEAR FILM", "PAPER"] | None,
        typer.Option("--medium", help="Of a printer; BLUE FILM unless given."),
    ] = None,
    ae_title: Annotated[str, typer.Option("--ae-title", help="What to be called.")] = "PACSPARK",
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> None:
    """Print a series onto film sheets: a file, or a DICOM printer.

    Slices lie in a grid, in one window, each with its place, its directions and a scale bar.
    """
    if (out is None) == (to is None):
        message = f"print: expected --out or --to, found {'neither' if out is None else 'both'}"
        raise UsageError(message)
    archive = open_archive(root, as_of=as_of)
    how: dict[str, Any] = {
        "grid": grid, "every": every, "window": window, "part": part,
        "with_patient": not no_patient,
    }  # fmt: skip
    if out is not None:
        if copies is not None or medium is not None:
            message = "print: expected --copies and --medium together with --to, found --out"
            raise UsageError(message)
        files = archive.film(out, series, **how)
        if as_json:
            show_json([str(file) for file in files])
        else:
            for file in files:
                print(file)
        return
    from pacspark.gateway.config import require_ae_title
    from pacspark.gateway.dimse.client import parse_destination
    from pacspark.gateway.dimse.film_printing import FilmJob, printing

    destination = parse_destination(str(to), tls=tls)
    context = tls_context(tls, tls_ca, tls_certificate, tls_key)
    calling = require_ae_title("--ae-title", ae_title)
    job = FilmJob(1 if copies is None else copies, medium or "BLUE FILM")
    sheets = archive.film_sheets(series, **how)
    with printing(destination, job, calling_ae_title=calling, tls=context) as session:
        _print_at(session, sheets, as_json=as_json)


def _print_at(session: "FilmSession", sheets: "Iterable[Picture]", *, as_json: bool) -> None:
    from pacspark.film import grey_of

    printed = 0
    for sheet in sheets:
        session.print_sheet(grey_of(sheet))
        printed += 1
    for warning in session.warnings:
        say(warning)
    if as_json:
        show_json({"printed": printed, "warnings": session.warnings})
    else:
        print(f"printed {printed} {counted_unit(printed, 'sheets')}")
