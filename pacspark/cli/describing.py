"""The command that turns a scanner's own file into a ``SCAN.toml``."""

from dataclasses import asdict
from typing import Annotated

import typer

from pacspark.cli.options import AsJson
from pacspark.printing import say, show_json


def describe(
    file: Annotated[
        str, typer.Argument(help="RTK's XML, .xtekct, .txrm, SkyScan's .log, or a folder.")
    ],
    output: Annotated[
        str | None, typer.Option("--output", help="What to write; else SCAN.toml beside FILE.")
    ] = None,
    files: Annotated[
        str | None, typer.Option("--files", help="The frames, if FILE does not name them.")
    ] = None,
    angles: Annotated[
        str | None, typer.Option("--angles", help="A text of angles: of a folder, or of Nikon.")
    ] = None,
    column_spacing_mm: Annotated[
        float | None, typer.Option("--column-spacing-mm", help="Size of a pixel, for RTK's XML.")
    ] = None,
    row_spacing_mm: Annotated[
        float | None, typer.Option("--row-spacing-mm", help="The same along columns, if not alike.")
    ] = None,
    extract: Annotated[
        bool, typer.Option("--extract", help="Write the frames inside a .txrm as .npy.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a SCAN.toml from a scanner's own file.

    What was guessed is marked CHECK, what is missing FILL IN. The last word printed is the path.
    """
    from pacspark.scans.vendors.describe import describe_scan  # loads Numba's kernels

    made = describe_scan(
        file,
        output,
        files=files,
        angles=angles,
        column_spacing_mm=column_spacing_mm,
        row_spacing_mm=row_spacing_mm,
        extract=extract,
    )
    if as_json:
        show_json(asdict(made))
        return
    for key in made.to_check:
        say(f"check {key}")
    for key in made.to_fill_in:
        say(f"fill in {key}")
    for path in (*made.beside, made.path):
        print(path)
