"""Options of commands that call peers over TLS."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacspark.errors import UsageError

if TYPE_CHECKING:
    import ssl

Tls = Annotated[
    bool, typer.Option("--tls", help="Speak TLS; the host has to be in its certificate.")
]
TlsCa = Annotated[
    Path | None, typer.Option("--tls-ca", help="PEM: whose certificates are believed.")
]
TlsCertificate = Annotated[
    Path | None, typer.Option("--tls-certificate", help="PEM: our own, for peers that want one.")
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="PEM: its key.")]


def tls_context(
    tls: bool, ca: Path | None, certificate: Path | None, key: Path | None
) -> "ssl.SSLContext | None":
    """Make what the options for TLS say; None without ``--tls``."""
    from pacspark.gateway.dimse.sending import client_context

    files = {"--tls-ca": ca, "--tls-certificate": certificate, "--tls-key": key}
    given = [name for name, path in files.items() if path is not None]
    if given and not tls:
        message = f"expected {given[0]} together with --tls, found it alone"
        raise UsageError(message)
    if key is not None and certificate is None:
        message = "expected --tls-key together with --tls-certificate, found it alone"
        raise UsageError(message)
    return client_context(ca, certificate, key) if tls else None
