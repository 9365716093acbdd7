"""The commands of the gateway: serve, and send."""

import logging
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pacspark.cli.options import AsJson, Instance, Root, Series, Study
from pacspark.cli.tls import Tls, TlsCa, TlsCertificate, TlsKey, tls_context
from pacspark.printing import say, show_json

_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class OneLine(logging.Formatter):
    """Shows what a peer wrote as one line, so that it neither makes up lines nor moves a cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        """Give the line of a record; a traceback follows it as it is."""
        text = super().formatMessage(record)
        return "".join(
            one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
        )


def serve(
    root: Root,
    ae_title: Annotated[
        str | None, typer.Option("--ae-title", help="AE title; PACSPARK unless given.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; 127.0.0.1 unless given.")
    ] = None,
    dimse_port: Annotated[
        int | None,
        typer.Option("--dimse-port", help="Port for DIMSE, 0 for any; 11112 unless given."),
    ] = None,
    http_port: Annotated[
        int | None, typer.Option("--http-port", help="Port for HTTP, 0 for any; 8042 unless given.")
    ] = None,
    landing: Annotated[
        Path | None, typer.Option("--landing", help="Local folder where objects land first.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML: destinations, callers, tls, web and all else."),
    ] = None,
    allow_unencrypted: Annotated[
        bool, typer.Option("--allow-unencrypted", help="Serve other machines without TLS.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the addresses as one JSON value.")
    ] = False,
) -> None:
    """Serve an archive to DICOM peers until interrupted.

    One line says where it listens; one line per association follows on standard error.
    """
    from pacspark.gateway.config import GatewayConfig, read_config
    from pacspark.gateway.server import Gateway
    from pacspark.gateway.server import serve as run
    from pacspark.tables.storage import open_storage

    given: dict[str, Any] = {
        "ae_title": ae_title,
        "host": host,
        "dimse_port": dimse_port,
        "http_port": http_port,
        "landing": landing,
        "allow_unencrypted": allow_unencrypted or None,
    }
    told = GatewayConfig() if config is None else read_config(config)
    told = replace(told, **{name: value for name, value in given.items() if value is not None})
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(_LOG_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # pynetdicom has a line for each PDU, pydicom several for each value of a stranger that is none
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")

    def ready(gateway: Gateway) -> None:
        if as_json:
            show_json(gateway.addresses())
        else:
            print(gateway.describe(), flush=True)

    run(open_storage(root), told, ready)
    say("ended")


def send(
    root: Root,
    to: Annotated[str, typer.Option("--to", help="The peer: AE@HOST:PORT.")],
    study: Study = None,
    series: Series = None,
    instance: Instance = None,
    ae_title: Annotated[str, typer.Option("--ae-title", help="What to be called.")] = "PACSPARK",
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    as_json: AsJson = False,
) -> None:
    """Send a study, a series or an instance to a DICOM peer.

    Objects go as they are stored where the peer takes their transfer syntax, else decoded.
    """
    from pacspark.archive import open_archive
    from pacspark.archive.opened import one_of
    from pacspark.gateway.config import require_ae_title
    from pacspark.gateway.dimse.client import parse_destination
    from pacspark.gateway.dimse.client import send as run

    level, uid = one_of("send", study=study, series=series, instance=instance)
    destination = parse_destination(to, tls=tls)
    context = tls_context(tls, tls_ca, tls_certificate, tls_key)
    archive = open_archive(root)
    report = run(
        archive.catalog,
        destination,
        level,
        uid,
        calling_ae_title=require_ae_title("--ae-title", ae_title),
        tls=context,
        progress=archive.progress,
    )
    for reason in report.reasons:
        say(reason)
    if as_json:
        show_json(asdict(report))
    else:
        print(f"sent {report.sent}, with warnings {report.warnings}, failed {report.failed}")
    if report.failed:
        raise typer.Exit(1)
