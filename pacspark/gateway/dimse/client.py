"""`pacspark send`: a study, a series or an instance of an archive to a DICOM peer."""

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pacspark.dicom.matching import parse_query
from pacspark.errors import NotInArchiveError, UsageError
from pacspark.gateway.config import Destination, Limits, require_ae_title
from pacspark.gateway.dimse.sending import Outgoing, send_to
from pacspark.progress import SILENT, Progress
from pacspark.tables.catalog import Catalog
from pacspark.tables.schema import LOCATION_COLUMNS

_ADDRESS: Final = re.compile(
    r"(?P<ae_title>[^@]+)@(?P<host>\[[0-9A-Fa-f:]+\]|[^:\s]+):(?P<port>\d+)"
)
_KEYWORDS: Final = {
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "instance": "SOPInstanceUID",
}
_ROW_COLUMNS: Final = ("sop_class_uid", "transfer_syntax_uid", *LOCATION_COLUMNS)


@dataclass(frozen=True, slots=True)
class SendReport:
    """What became of the objects that were sent."""

    sent: int
    warnings: int
    failed: int
    reasons: tuple[str, ...] = ()


def parse_destination(text: str, *, tls: bool = False) -> Destination:
    """Read ``AE@HOST:PORT``.

    Raises
    ------
    UsageError
        where it is something else
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match["port"][:6]) <= 65535:
        message = f"--to: expected AE@HOST:PORT, found {text[:80]!r}"
        raise UsageError(message)
    host = match["host"].strip("[]")
    return Destination(require_ae_title("--to", match["ae_title"]), host, int(match["port"]), tls)


def send(
    catalog: Catalog,
    destination: Destination,
    level: str,
    uid: str,
    *,
    calling_ae_title: str = "PACSPARK",
    tls: ssl.SSLContext | None = None,
    progress: Progress = SILENT,
) -> SendReport:
    """Send what one UID names; each object in its own transfer syntax where the peer takes it.

    Parameters
    ----------
    catalog
        of the archive
    destination
        where to
    level, uid
        study, series or instance, and its UID
    calling_ae_title
        what to be called
    tls
        for a destination that wants it
    progress
        told of each object

    Raises
    ------
    NotInArchiveError
        where the archive does not hold it
    """
    objects = list(_objects(catalog, level, uid))
    if not objects:
        message = f"{catalog.storage.root}: no {level} {uid[:64]!r}"
        raise NotInArchiveError(message)
    told = 0
    with progress.stage("send", len(objects), "objects") as stage:
        for sent in send_to(destination, calling_ae_title, objects, Limits(), tls):
            done = len(objects) - sent.remaining
            stage.advance(done - told)
            told = done
    return SendReport(sent.completed, sent.warned, len(sent.failed), tuple(sent.reasons))


def _objects(catalog: Catalog, level: str, uid: str) -> Iterator[Outgoing]:
    wanted = {"SeriesInstanceUID": "", "SOPInstanceUID": "", _KEYWORDS[level]: uid}
    found = catalog.find(parse_query(wanted, "instance"))
    series = list(dict.fromkeys(found["SeriesInstanceUID"].to_pylist()))
    uids = set(found["SOPInstanceUID"].to_pylist())
    for one in series:
        rows = catalog.instances_of(one, ["sop_instance_uid", *_ROW_COLUMNS])
        yield from (
            _object(catalog, row) for row in rows.to_pylist() if row["sop_instance_uid"] in uids
        )


def _object(catalog: Catalog, row: dict[str, Any]) -> Outgoing:
    return Outgoing(
        row["sop_instance_uid"],
        row["sop_class_uid"],
        row["transfer_syntax_uid"],
        row["size_bytes"],
        partial(catalog.stream_object, row),
    )
