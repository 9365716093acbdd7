"""The commands that ask an archive: what there is, what changed."""

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

from pacspark.archive import open_archive
from pacspark.cli.options import AsJson, AsOf, Root, Series, Study
from pacspark.dicom.matching import parse_query
from pacspark.errors import UsageError
from pacspark.printing import show_json, show_table
from pacspark.progress import counted_unit

SECONDS_BETWEEN_LOOKS = 1.0


def find(
    root: Root,
    query: Annotated[
        list[str] | None, typer.Argument(help="KEYWORD=VALUE: *, ?, ranges, UID lists.")
    ] = None,
    level: Annotated[
        str, typer.Option("--level", help="patient, study, series or instance.")
    ] = "study",
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> None:
    """Find patients, studies, series or images.

    A query is KEYWORD=VALUE as in PS3.4: wildcards * and ?, ranges like 20260101-, lists of UIDs.
    """
    from pacspark.tables.search import columns_to_show

    asked = parse_query(_query(query or []), level)
    found = open_archive(root, as_of=as_of).catalog.find(asked)
    if as_json:
        show_json(
            [
                {key: value for key, value in record.items() if value not in (None, "", [])}
                for record in found.to_pylist()
            ]
        )
        return
    columns = columns_to_show(found, asked, all_telling=False)
    show_table(columns, [list(row.values()) for row in found.select(columns).to_pylist()])


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


def sql(
    root: Root,
    statement: Annotated[str, typer.Argument(help="A query; any DICOM keyword is a column.")],
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> None:
    """Ask the tables in SQL.

    Every table is a view of its name; any DICOM keyword is a column of `instances`.
    """
    from pacspark.spark.query import collect

    frame = open_archive(root, as_of=as_of).sql(statement)
    rows = collect(frame)
    if as_json:
        show_json([row.asDict(recursive=True) for row in rows])
    else:
        show_table(frame.columns, rows)


def changes(
    root: Root,
    since: Annotated[
        int, typer.Option("--since", help="A version of `instances`; 0 for all that came.", min=0)
    ],
    until: Annotated[
        int | None, typer.Option("--until", help="A later version; else the newest.", min=0)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on as changes come, until interrupted.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON list; with --follow, an object per line.")
    ] = False,
) -> None:
    """List the instances that came and went since a version.

    Each line ends in the version up to which it tells: the next --since. `pacspark history` lists
    versions; files that compaction rewrote are no change.
    """
    archive = open_archive(root)
    if not follow:
        found = archive.catalog.changes(since, until).to_table()
        if as_json:
            show_json(found.to_pylist())
        else:
            names = [*(name for name in found.column_names if name != "version"), "version"]
            show_table(names, [list(row.values()) for row in found.select(names).to_pylist()])
        return
    if until is not None:
        message = "changes: expected --until or --follow, found both"
        raise UsageError(message)
    for step in archive.follow(since):
        for row in step.to_table().to_pylist():
            if as_json:
                show_json(row)
            else:
                version = row.pop("version")
                print("\t".join(map(str, [*row.values(), version])))
        sys.stdout.flush()
        time.sleep(SECONDS_BETWEEN_LOOKS)


def headers(
    root: Root,
    path: Annotated[str, typer.Argument(metavar="OUT", help="The Parquet file to write.")],
    study: Study = None,
    series: Series = None,
    attributes: Annotated[
        str | None, typer.Option("--attributes", help="Keywords or tags, with commas; else all.")
    ] = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> None:
    """Write headers into a Parquet file, for other tools.

    A row per instance, a typed column per attribute; sequences are lists of structs.
    """
    schema = open_archive(root, as_of=as_of).headers(
        path,
        study=study,
        series=series,
        attributes=None if attributes is None else attributes.split(","),
    )
    if as_json:
        show_json({"path": path, "columns": {field.name: str(field.type) for field in schema}})
    else:
        print(f"{len(schema)} {counted_unit(len(schema), 'columns')} in {path}")


def history(root: Root, as_of: AsOf = None, as_json: AsJson = False) -> None:
    """Tell which run changed which table, and when in UTC."""
    versions = open_archive(root, as_of=as_of).versions()
    if as_json:
        show_json(versions.to_dict("records"))
    else:
        show_table(list(versions.columns), versions.to_numpy().tolist())


def audit(
    root: Root,
    patient: Annotated[
        str | None, typer.Option("--patient", help="PatientID: what was done to their objects.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="An AE title or a user.")] = None,
    action: Annotated[
        str | None, typer.Option("--action", help="find, get, store, retrieve, delete, ...")
    ] = None,
    since: Annotated[datetime | None, typer.Option("--since", help="Not before; UTC.")] = None,
    most: Annotated[int, typer.Option("--most", help="Rows, the latest first.", min=1)] = 100,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> None:
    """Tell who did what, the latest first, by DICOM, HTTP and commands; times are UTC.

    A gateway writes what its peers do about once a minute.
    """
    archive = open_archive(root, as_of=as_of)
    rows = archive.audit(patient=patient, user=user, action=action, since=since, most=most)
    if as_json:
        show_json(rows.to_dict("records"))
        return
    names = ["occurred_at", "actor", "address", "action", "level", "uid", "outcome"]
    rows["occurred_at"] = rows["occurred_at"].dt.strftime("%Y-%m-%d %H:%M:%S")
    show_table(names, rows[names].to_numpy().tolist())
