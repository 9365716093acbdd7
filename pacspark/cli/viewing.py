"""The commands around the gateway's web door: its viewer, and the credentials of its users."""

import json
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from pacspark.cli.options import AsJson
from pacspark.errors import UsageError
from pacspark.printing import readable, say, show_json


def install(
    tarball: Annotated[
        Path | None, typer.Option("--from", help="The package's tarball, where npm is not here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the viewer's files and check their digest; again changes nothing."""
    from pacspark.gateway.web import viewer_install
    from pacspark.gateway.web.viewer import VERSION, viewer_folder

    folder = viewer_folder()
    if (folder / "index.html").is_file():
        say(f"OHIF {VERSION} is installed already")
        size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    else:
        size_bytes = viewer_install.install(folder, tarball, say)
    if as_json:
        show_json({"version": VERSION, "folder": str(folder), "bytes": size_bytes})
    else:
        print(f"OHIF {VERSION}, {readable('bytes', size_bytes)}: {folder}")


def path(as_json: AsJson = False) -> None:
    """Print the folder of the viewer; it may be copied to machines without a network."""
    from pacspark.gateway.web.viewer import viewer_folder

    if as_json:
        show_json(str(viewer_folder()))
    else:
        print(viewer_folder())


def credential(
    name: Annotated[str, typer.Argument(help="Of the user, as the table audit will have it.")],
    token: Annotated[
        bool, typer.Option("--token", help="Make a bearer token instead of asking a password.")
    ] = False,
    scopes: Annotated[
        list[str],
        typer.Option("--scope", help="What it may do: read, write, delete, reconstruct."),
    ] = ["read"],  # noqa: B006 -- typer reads it
    as_json: AsJson = False,
) -> None:
    """Write the lines of a user for the gateway's configuration.

    A password is asked for, or read from standard input; of a token, which is printed once on
    standard error, the configuration has a digest only.
    """
    from pacspark.gateway.web.access import hashed_password, hashed_token
    from pacspark.gateway.web_config import SCOPES

    for scope in scopes:
        if scope not in SCOPES:
            message = f"--scope: expected some of {', '.join(SCOPES)}, found {scope!r:.80}"
            raise UsageError(message)
    if token:
        made = secrets.token_urlsafe(32)
        kept = {"name": name, "token": hashed_token(made), "scopes": scopes}
        say(f"the token, shown only now: {made}")
    else:
        password = _password()
        kept = {"name": name, "password": hashed_password(password), "scopes": scopes}
    if as_json:
        show_json(kept)
        return
    print("[[web.users]]")
    for key, value in kept.items():
        print(f"{key} = {json.dumps(value)}")


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return str(typer.prompt("password", hide_input=True, confirmation_prompt=True, err=True))
