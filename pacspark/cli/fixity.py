"""The commands that keep an archive whole."""

from dataclasses import asdict
from typing import Annotated

import typer

from pacspark.archive import open_archive
from pacspark.cli.options import AsJson, Root, Series, Study
from pacspark.printing import readable, say, show_json
from pacspark.progress import counted_unit

FINDINGS_SHOWN = 200


def verify(
    root: Root,
    sample: Annotated[
        float | None,
        typer.Option("--sample", help="Per cent of the objects; else all.", metavar="PERCENT"),
    ] = None,
    seed: Annotated[
        str | None, typer.Option("--seed", help="Any word: draws the same sample again.")
    ] = None,
    study: Study = None,
    series: Series = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Index every object again; compare its row too.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the same verify that was killed.")
    ] = False,
    repair_from: Annotated[
        str | None,
        typer.Option(
            "--repair-from", help="A replica: mend from it what is wrong.", metavar="ROOT"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every object and compare its SHA-256.

    Each finding is a line. What is damaged, lost, twice or contradictory makes the exit status 1.
    Data files that no table lists, and bytes that no row refers to, are told alone: killed and
    running jobs leave them. With --repair-from, exit status 1 means that something is left wrong.
    """
    archive = open_archive(root, broken=True)
    report = archive.verify(
        sample=sample, seed=seed, study=study, series=series, deep=deep, resume=resume
    )
    findings = sorted(report.findings, key=lambda one: (not one.wrong, one.line))
    for finding in findings[:FINDINGS_SHOWN]:
        say(finding.line)
    if len(findings) > FINDINGS_SHOWN:
        say(f"... and {len(findings) - FINDINGS_SHOWN} more")
    if report.unrecorded:
        say(f"this verify has no row in `runs`: {report.unrecorded}")
    repaired = None
    if repair_from is not None and not report.clean:
        repaired = archive.repair(report, repair_from)
        for line in repaired.left:
            say(f"not repaired: {line}")
    if as_json:
        done = {} if repaired is None else {"repaired": asdict(repaired)}
        show_json(report.summary() | {"found": report.table().to_dict("records")} | done)
    else:
        objects = f"{report.objects} {counted_unit(report.objects, 'objects')}"
        amount = f"{objects} of {readable('bytes', report.bytes)} in {report.files} files"
        drawn = "" if report.seed is None else f", drawn by --seed {report.seed}"
        before = f", {report.kept} of the files before" if report.kept else ""
        print(f"verified {amount}{drawn}{before}: {report.wrong} wrong")
        if repaired is not None:
            mended = f"{repaired.objects} {counted_unit(repaired.objects, 'objects')}"
            files = f"{repaired.files} {counted_unit(repaired.files, 'files')}"
            print(f"repaired {mended} in {files}: {len(repaired.left)} left")
    if repaired is None and not report.clean:
        say(f"`pacspark verify {root} --repair-from REPLICA` mends what a replica has")
    if not (report.clean if repaired is None else repaired.clean):
        raise typer.Exit(1)


def replicate(
    root: Root,
    other: Annotated[str, typer.Argument(help="The replica; made where it is missing.")],
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Also remove there what is no longer here.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring to another root what it does not have yet.

    Data files come over byte for byte and are read there: each object's SHA-256 is compared before
    its row is committed. Repeating the command brings what is new, or goes on after a kill. What is
    deleted here stays there, unless --mirror is given; objects that only the replica has stay.
    """
    report = open_archive(root).replicate(other, mirror=mirror)
    for finding in report.findings[:FINDINGS_SHOWN]:
        say(f"stays behind: {finding.line}")
    if len(report.findings) > FINDINGS_SHOWN:
        say(f"... and {len(report.findings) - FINDINGS_SHOWN} more")
    if as_json:
        show_json(report.summary())
    else:
        print(
            f"stored {report.stored}, rejects {report.rejects}, conflict {report.conflict}, "
            f"removed {report.removed}, left behind {len(report.findings)}: "
            f"{readable('bytes', report.bytes_copied)} in {report.files} files"
        )
    if not report.complete:
        raise typer.Exit(1)
