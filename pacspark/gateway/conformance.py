"""The conformance statement (PS3.2), written from what the gateway goes by."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, Final

from pydicom._uid_dict import UID_dictionary

from pacspark.dicom.attributes import COUNTS, LEVELS, PROMOTED, STUDY_LISTS, UNIQUE_KEYS
from pacspark.dicom.enhanced_xa import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacspark.gateway import statuses
from pacspark.gateway.config import Limits
from pacspark.gateway.dimse.film_printing import GRAYSCALE_PRINT
from pacspark.gateway.dimse.services import (
    LEVELS_OF_MODEL,
    PLAIN_SYNTAXES,
    SERVICE_OF_CLASS,
    STORAGE_CLASSES,
)
from pacspark.gateway.dimse.worklist_table import STEP_KEYWORDS
from pacspark.gateway.transcoding import TARGETS
from pacspark.gateway.web.app import DICOMWEB, OTHERS
from pacspark.gateway.web.call import ROOT
from pacspark.gateway.web.frames import ENCODED_TARGETS
from pacspark.gateway.web_config import WebLimits

_HEAD: Final = """# Conformance statement

Written from the code by `pacspark.gateway.conformance`; a test fails when it is out of date. What
each service promises, and how it is configured, is in [gateway.md](gateway.md) and
[dicomweb.md](dicomweb.md).
"""
_LEVEL_NAMES: Final = {
    "patient": "PATIENT", "study": "STUDY", "series": "SERIES", "instance": "IMAGE",
}  # fmt: skip
_COMMANDS: Final = {
    "echo": "C-ECHO", "store": "C-STORE", "find": "C-FIND", "move": "C-MOVE", "get": "C-GET",
    "commit": "N-ACTION, N-EVENT-REPORT", "worklist": "C-FIND",
}  # fmt: skip


def describe_conformance() -> str:
    """Write the conformance statement as Markdown."""
    parts = [_HEAD, *_dimse(), *_web(), *_rest()]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _dimse() -> Iterator[str]:
    yield "## Implementation"
    yield _table(
        ("", ""),
        [
            ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
            ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME),
            ("Largest PDU that is taken", f"{Limits().pdu_bytes} bytes"),
            ("Associations at once", str(Limits().associations)),
            ("Asynchronous operations, user identity", "not negotiated"),
            ("Called AE title", "any is answered"),
            ("Priority", "not processed; sub-operations have that of their C-MOVE or C-GET"),
        ],
    )
    yield "## DIMSE services as SCP"
    rows = [
        (_name(uid), uid, service, _COMMANDS[service]) for uid, service in SERVICE_OF_CLASS.items()
    ]
    rows.append((f"{len(STORAGE_CLASSES)} storage classes, [below](#storage-classes)", "", "store",
                 "C-STORE"))  # fmt: skip
    yield _table(("SOP class", "UID", "service, for `callers`", "operations"), rows)
    yield (
        "Transfer syntaxes of storage: any that has a UID; of several in one context the first. "
        "All others: " + ", ".join(map(_name, PLAIN_SYNTAXES)) + "."
    )
    yield (
        "Extended negotiation of queries: relational queries, combined date-time matching, fuzzy "
        "matching of person names, empty value matching, multiple value matching; of retrieval: "
        "relational; of worklists: fuzzy matching of person names; of storage: level 2, digital "
        "signatures of level 3, no element coerced. Roles: C-GET peers are SCP of the storage "
        "classes that they propose."
    )
    yield "## DIMSE services as SCU"
    yield _table(
        ("SOP class", "UID", "for"),
        [
            ("the storage classes of what is sent", "", "C-MOVE, C-GET, `pacspark send`"),
            (_name(GRAYSCALE_PRINT), GRAYSCALE_PRINT, "`pacspark print --to`"),
        ],
    )
    yield (
        "An object is proposed in its stored transfer syntax, and decoded for peers that take "
        + " or ".join(map(_name, TARGETS)) + " alone."
    )  # fmt: skip
    yield "## Query keys"
    models = [
        (_name(f"{uid}.1").partition(" Query")[0], ", ".join(_LEVEL_NAMES[one] for one in levels))
        for uid, levels in LEVELS_OF_MODEL.items()
    ]
    yield _table(("information model", "levels"), models)
    yield (
        "Matched and returned at a level: the attributes of it and of all levels above. Single "
        "value, list of UIDs, wildcard, range, sequence, universal, empty value and multiple value "
        "matching (PS3.4 C.2.2.2). Any other attribute is matched and returned from the objects' "
        "DICOM JSON, inside sequences too. Fuzzy matching of a person name finds names with every "
        "word of the value, in any order, each at the start of a part of the name. Keys with a "
        "value that nothing is held against, such as counts, are answered with FF01."
    )
    for level in LEVELS:
        keywords = [one.keyword for one in PROMOTED if one.level == level]
        unique = UNIQUE_KEYS[level].keyword
        counted, lists = COUNTS[level], STUDY_LISTS if level == "study" else ()
        told = ", ".join([f"**{unique}**", *(one for one in keywords if one != unique), *lists])
        yield f"**{_LEVEL_NAMES[level]}**: {told}" + (
            f"; returned alone: {', '.join(counted)}" if counted else ""
        )
    yield (
        "**Worklist**: all attributes of its files or columns; of a table, these in the Scheduled "
        "Procedure Step Sequence: " + ", ".join(sorted(STEP_KEYWORDS)) + "."
    )
    yield "## DIMSE statuses"
    yield _table(
        ("status", "meaning"),
        [
            (f"{number:04X}", name.lower().replace("_", " "))
            for name, number in vars(statuses).items()
            if isinstance(number, int)
        ],
    )


def _web() -> Iterator[str]:
    yield "## DICOMweb and other resources"
    rows = [
        (method, f"`{prefix}{path}`", scope or "none")
        for prefix, resources in ((ROOT, DICOMWEB), ("", OTHERS))
        for path, _, *methods in resources
        for method, _, scope in methods
    ]
    yield _table(("method", "path", "scope"), rows)
    yield (
        "`/metrics` and `/openapi.json` need the scope read; all other paths are the viewer's, and "
        "need none."
    )
    yield (
        f"Transfer syntaxes that frames are given in: the stored one, {_name(TARGETS[0])}; whole "
        "objects also in "
        + ", ".join(_name(uid) for uid in (*TARGETS[1:], *sorted(ENCODED_TARGETS))) + "."
    )  # fmt: skip
    yield (
        "STOW-RS takes `application/dicom` in any transfer syntax, and `application/dicom+json` "
        "with bulk data. WADO-RS gives `application/dicom`, `application/dicom+json`, "
        "`application/dicom+xml` (QIDO-RS too), "
        "`application/octet-stream`, the stored frames' own media type, JPEG, PNG and GIF."
    )


def _rest() -> Iterator[str]:
    yield "## Limits"
    yield "Unless configured otherwise, `[limits]` and `[web.limits]`:"
    rows = [
        (f"`{prefix}{one.name}`", str(one.default))
        for prefix, kind in (("limits.", Limits), ("web.limits.", WebLimits))
        for one in fields(kind)
    ]
    yield _table(("limit", "value"), rows)
    yield "## Character sets"
    yield (
        "Objects are kept as they are. Queries are read in every character set of PS3.3 "
        "C.12.1.1.2; answers that are not ASCII are in ISO_IR 192."
    )
    yield "## Security"
    yield (
        "TLS 1.2 or newer on both ports, with client certificates where `tls.client_ca` is given; "
        "basic authentication and bearer tokens over HTTP, with scopes; callers by AE title, "
        "address and service over DIMSE. Without TLS, this machine alone unless told otherwise."
    )
    yield "## Storage classes"
    yield (
        "Others below 1.2.840.10008.5.1.4.1.1, which later editions may add, are taken too, and "
        "private ones by `private_sop_classes`."
    )
    yield _table(("SOP class", "UID"), sorted((_name(uid), uid) for uid in STORAGE_CLASSES))


def _name(uid: str) -> str:
    """Give the name of a UID, as PS3.6 has it."""
    name, _, _, retired, *_ = UID_dictionary[uid]
    return f"{name.partition(' [')[0].partition(':')[0]}{' (retired)' if retired else ''}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
