"""The command that makes an archive that identifies nobody."""

from pathlib import Path
from typing import Annotated

import typer

from pacspark.archive import open_archive
from pacspark.cli.options import AsJson, Root
from pacspark.printing import say, show_json

RETAIN = (
    "uids, device, institution, patient-characteristics, longitudinal-full, "
    "longitudinal-modified, safe-private."
)
CLEAN = "descriptors, structured-content, graphics, pixel-data."


def anonymize(
    root: Root,
    target: Annotated[str, typer.Argument(help="Another archive; made where there is none.")],
    study: Annotated[str | None, typer.Option("--study", help="Study Instance UID.")] = None,
    series: Annotated[str | None, typer.Option("--series", help="Series Instance UID.")] = None,
    patient: Annotated[str | None, typer.Option("--patient", help="Patient ID.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is stored.")] = False,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", help="TOML: options, own rules, rectangles to blank."),
    ] = None,
    retain: Annotated[
        list[str] | None, typer.Option("--retain", help=f"What stays, by commas: {RETAIN}")
    ] = None,
    clean: Annotated[
        list[str] | None,
        typer.Option("--clean", help=f"What is cleaned, not removed: {CLEAN}"),
    ] = None,
    secret: Annotated[
        Path | None,
        typer.Option("--secret", help="File that pseudonyms are made from; keep it, or lose it."),
    ] = None,
    create_secret: Annotated[
        bool, typer.Option("--create-secret", help="Make the file of --secret, mode 600.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """De-identify what is stored into another archive.

    PS3.15 Annex E, Basic Profile with options. The same secret makes the same UIDs, IDs and shifts
    of dates in every run; without --secret they are new each time. docs/deidentification.md says
    what happens to what, and what is not done.
    """
    report = open_archive(root).anonymize(
        target,
        study=study,
        series=series,
        patient=patient,
        everything=everything,
        profile=profile,
        retain=_words(retain),
        clean=_words(clean),
        secret=secret,
        create_secret=create_secret,
    )
    if secret is None:
        say("no --secret: another run will make other UIDs of the same objects")
    for line in report.told:
        say(line)
    counts = {
        "stored": report.stored,
        "duplicate": report.duplicate,
        "conflict": report.conflict,
        "rejected": report.rejected,
    }
    if as_json:
        more = {"bytes": report.bytes_stored, "seconds": report.seconds, "run_id": report.run_id}
        show_json(counts | more)
    else:
        print(", ".join(f"{name} {count}" for name, count in counts.items()))
    if not report.clean:
        raise typer.Exit(1)


def _words(given: list[str] | None) -> list[str]:
    return [word.strip() for text in given or () for word in text.split(",") if word.strip()]
