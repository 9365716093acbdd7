"""The command line: arguments and printing, nothing else.

Results go to standard output, progress and errors to standard error. Exit status 0 is done, 1
failed, 2 wrong usage, 130 interrupted. With ``--json`` the last thing on standard output is one
JSON value.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pacspark import __version__
from pacspark.cli import (
    anonymizing,
    asking,
    describing,
    fixity,
    giving,
    reconstructing,
    retaining,
    serving,
    storing,
    viewing,
)
from pacspark.errors import PacsparkError, QueryError, UsageError
from pacspark.printing import say

COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Bring in": {
        "init archive": storing.init,
        "ingest archive incoming/ study.zip": storing.ingest,
        "describe scan.xtekct --output scan/SCAN.toml": describing.describe,
        "import-scan archive examples/walnut/SCAN.toml": storing.import_scan,
    },
    "Reconstruct": {
        "check archive 1.2.3 --picture check.png": reconstructing.check,
        "plan archive 1.2.3 --size 512 512 512 --cores 8 --memory 32G": reconstructing.plan,
        "reconstruct archive 1.2.3 --size 256 256 256 --filter hann": reconstructing.reconstruct,
        "rerun archive 0e9a2c51d7f34c0b8a6f2d9c1b3e5a70": reconstructing.rerun,
    },
    "Ask": {
        "find archive --level series Modality=CT 'PatientName=WAL*'": asking.find,
        "sql archive 'SELECT KVP, count(*) FROM instances GROUP BY ALL'": asking.sql,
        "headers archive headers.parquet --attributes KVP,AnatomicRegionSequence": asking.headers,
        "history archive": asking.history,
        "audit archive --patient P1 --since 2026-11-01": asking.audit,
        "changes archive --since 12 --follow --json": asking.changes,
    },
    "Give out": {
        "view archive 1.2.3 slice.png --plane z --slice 40": giving.view,
        "export archive out --series 1.2.3 --format nifti": giving.export,
        "print archive --series 1.2.3 --out film.pdf": giving.print_sheets,
        "anonymize archive research --study 1.2.3 --secret key.txt": anonymizing.anonymize,
        "send archive --to VIEWER@10.0.0.7:104 --study 1.2.3": serving.send,
    },
    "Serve": {
        "serve archive --dimse-port 11112": serving.serve,
        "credential radiology": viewing.credential,
        "viewer install": viewing.install,
        "viewer path": viewing.path,
    },
    "Keep": {
        "verify archive --sample 5": fixity.verify,
        "replicate archive s3://backup/archive": fixity.replicate,
        "compact archive --dry-run": retaining.compact,
        "delete archive --study 1.2.3 --reason 'wrong patient'": retaining.delete,
        "undelete archive --study 1.2.3": retaining.undelete,
        "hold archive --study 1.2.3 --reason 'case 4711'": retaining.hold,
    },
}
"""What for, an example whose first word is the name, and the command; in this order in the help."""


class InGroups(TyperGroup):
    """Commands under what they are for."""

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        """Write a section of the help for each group."""
        for title, commands in COMMANDS.items():
            names = dict.fromkeys(example.split()[0] for example in commands)
            with formatter.section(title):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(limit=200)) for name in names]
                )


app = typer.Typer(
    cls=InGroups,
    name="pacspark",
    help="A PACS on Spark that reconstructs inside the archive.",
    no_args_is_help=True,
    epilog="--debug, anywhere, shows the traceback of an error.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_viewer = typer.Typer(help="The viewer that the gateway serves, OHIF from npm.")
app.add_typer(_viewer, name="viewer")
for _commands in COMMANDS.values():
    for _example, _command in _commands.items():
        _first, _second = _example.split()[:2]
        _of, _name = (_viewer, _second) if _first == "viewer" else (app, _first)
        _of.command(_name, epilog=f"Example: pacspark {_example}")(_command)


def _show_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version."),
    ] = False,
) -> None:
    """Take what stands before a command; the help of the whole is that of `app`."""


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
