"""Arguments and options that several commands take."""

from typing import Annotated

import typer

Root = Annotated[
    str, typer.Argument(help="The archive: a folder, hdfs://..., s3a://... or s3://...")
]
SeriesUID = Annotated[str, typer.Argument(help="Series Instance UID.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
Study = Annotated[str | None, typer.Option("--study", help="Study Instance UID.")]
Series = Annotated[str | None, typer.Option("--series", help="Series Instance UID.")]
Instance = Annotated[str | None, typer.Option("--instance", help="SOP Instance UID.")]
Part = Annotated[
    int | None,
    typer.Option("--part", help="Of a series with several volumes, which, from 0."),
]
ShownWindow = Annotated[
    tuple[float, float] | None,
    typer.Option("--window", help="Values shown.", metavar="CENTER WIDTH"),
]
