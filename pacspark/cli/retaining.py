"""The commands about what leaves an archive, what has to stay, and how long."""

from dataclasses import asdict
from typing import Annotated

import typer

from pacspark.archive import open_archive
from pacspark.cli.options import AsJson, AsOf, Instance, Root, Series, Study
from pacspark.printing import readable, say, show_json
from pacspark.progress import counted_unit
from pacspark.tables.compaction import MIN_AGE_HOURS

Reason = Annotated[str, typer.Option("--reason", help="Why; kept with who and when.")]


def delete(
    root: Root,
    study: Study = None,
    series: Series = None,
    instance: Instance = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Delete a study, a series or an instance.

    Bytes stay until their retention ends; `undelete` brings it back meanwhile.
    """
    deleted = open_archive(root).delete(
        study=study, series=series, instance=instance, reason=reason
    )
    if as_json:
        show_json(asdict(deleted))
        return
    count, size = deleted.instances, readable("bytes", deleted.bytes_deleted)
    print(
        f"deleted {count} {counted_unit(count, 'instances')} of {size}; until their retention ends,"
        f" this brings them back: pacspark undelete {root} --{deleted.level} {deleted.uid}"
    )


def undelete(
    root: Root,
    study: Study = None,
    series: Series = None,
    instance: Instance = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> None:
    """Bring back what was deleted last.

    With --as-of: the rows of then. Without: what the newest commit took away of the study, the
    series or the instance and that is not there now. Repeat it to go further back.
    """
    restored = open_archive(root).undelete(
        study=study,
        series=series,
        instance=instance,
        as_of=as_of,
    )
    if as_json:
        show_json(asdict(restored))
    else:
        count = restored.restored
        print(
            f"restored {count} {counted_unit(count, 'instances')}, present {restored.present}, "
            f"conflict {restored.conflict}"
        )
    if restored.conflict:
        raise typer.Exit(1)


def hold(
    root: Root,
    study: Annotated[str, typer.Option("--study", help="Study Instance UID.")],
    release: Annotated[bool, typer.Option("--release", help="End the hold.")] = False,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Set a legal hold on a study, or release it.

    While the hold lasts, nothing of the study can be deleted.
    """
    held = open_archive(root).hold(study, release=release, reason=reason)
    if as_json:
        show_json(asdict(held))
    else:
        state = "on hold" if held.held else "released"
        count = held.instances
        print(f"{state}: study {study}, {count} {counted_unit(count, 'instances')}")


def compact(
    root: Root,
    retain_days: Annotated[
        float | None,
        typer.Option(
            "--retain-days",
            help="How long old versions stay whole; else what the table says, 30 days.",
        ),
    ] = None,
    min_age_hours: Annotated[
        float,
        typer.Option("--min-age-hours", help="Younger files may be those of a job that runs."),
    ] = MIN_AGE_HOURS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be done.")
    ] = False,
    spark: Annotated[
        bool, typer.Option("--spark", help="Work in Spark tasks, on all machines of a cluster.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Merge small files and delete what nobody needs.

    Readers and writers may go on. Deleted objects' bytes go when no version has them that is kept;
    what killed jobs left goes when it is older than a day.
    """
    archive = open_archive(root)
    if spark:
        archive = open_archive(root, spark=archive.spark)
    report = archive.compact(retain_days=retain_days, min_age_hours=min_age_hours, dry_run=dry_run)
    for why in report.left_alone:
        say(f"left alone: {why}")
    if as_json:
        show_json(asdict(report))
        return
    for table, count in report.merged_files.items():
        into = report.into_files[table]
        print(f"{table}: {count} {counted_unit(count, 'files')} into {into}")
    size, count = readable("bytes", report.deleted_bytes), report.deleted_files
    print(
        f"{'would delete' if dry_run else 'deleted'} {count} {counted_unit(count, 'files')} of "
        f"{size}, and {report.leftovers} {counted_unit(report.leftovers, 'folders')} of killed runs"
    )
    if retain_days == 0 and min_age_hours:
        say(
            f"files younger than {min_age_hours:g} hours stay, with what was deleted: with "
            "--min-age-hours 0 they go, where no job is writing"
        )
