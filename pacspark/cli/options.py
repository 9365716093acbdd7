"""Arguments and options that several commands take."""

from datetime import datetime
from typing import Annotated, Any

import typer


def moment(text: str) -> int | datetime:
    """Read a version, or a time in ISO 8601; UTC where it names no zone."""
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        message = f"expected a version or a time like 2026-11-28T12:00, found {text!r:.80}"
        raise typer.BadParameter(message) from None


Root = Annotated[
    str, typer.Argument(help="The archive: a folder, hdfs://..., s3a://... or s3://...")
]
SeriesUID = Annotated[str, typer.Argument(help="Series Instance UID.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
Study = Annotated[str | None, typer.Option("--study", help="Study Instance UID.")]
Series = Annotated[str | None, typer.Option("--series", help="Series Instance UID.")]
Instance = Annotated[str | None, typer.Option("--instance", help="SOP Instance UID.")]
AsOf = Annotated[
    Any,
    typer.Option(
        "--as-of",
        help="As it was: a version of `instances`, or a time, UTC.",
        metavar="VERSION|TIME",
        parser=moment,
    ),
]
Part = Annotated[
    int | None,
    typer.Option("--part", help="Of a series with several volumes, which, from 0."),
]
ShownWindow = Annotated[
    tuple[float, float] | None,
    typer.Option("--window", help="Values shown.", metavar="CENTER WIDTH"),
]
