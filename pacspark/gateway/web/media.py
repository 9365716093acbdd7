"""Which form of a resource a client takes: the Accept header (RFC 9110 12.5.1, PS3.18 8.7)."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pacspark.dicom.uids import is_uid
from pacspark.errors import QueryError

MOST_RANGES: Final = 64
MULTIPART: Final = "multipart/related"
OCTETS: Final = "application/octet-stream"
DICOM: Final = "application/dicom"
DICOM_JSON: Final = "application/dicom+json"
DICOM_XML: Final = "application/dicom+xml"
JSON: Final = "application/json"

_MEDIA_OF_SYNTAX: Final[Mapping[str, str]] = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70)), "image/jpeg"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)), "image/jls"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (90, 91)), "image/jp2"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (92, 93)), "image/jpx"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)), "image/jphc"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112)), "image/jxl"),
}
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z/:-]*"
_RANGE: Final = re.compile(r"\s*([\w.+*-]+/[\w.+*-]+)\s*")
_PARAMETER: Final = re.compile(rf'\s*;\s*([\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|{_WORD})\s*')


@dataclass(frozen=True, slots=True)
class Form:
    """One form that a client takes.

    Attributes
    ----------
    media_type
        of the resource, ``*/*`` for any
    multipart
        whether in parts; None where it does not matter
    transfer_syntax
        a UID; ``*`` for whatever is stored; None where it is not said
    weight
        0 to 1, the more the better
    refused
        media types that a wildcard does not mean, since the client says that it takes none of them
    """

    media_type: str
    multipart: bool | None = None
    transfer_syntax: str | None = None
    weight: float = 1.0
    refused: frozenset[str] = field(default=frozenset(), repr=False)

    def takes(self, media_type: str) -> bool:
        """Tell whether a media type is meant."""
        if media_type in self.refused:
            return False
        if self.media_type == "*/*":
            return True
        kind, _, name = self.media_type.partition("/")
        return media_type == self.media_type or (name == "*" and media_type.startswith(f"{kind}/"))


def media_type_of(transfer_syntax_uid: str) -> str:
    """Give the media type of a frame in a transfer syntax (PS3.18 8.7.3)."""
    return _MEDIA_OF_SYNTAX.get(transfer_syntax_uid, OCTETS)


def read_accept(text: str) -> list[Form]:
    """Read an Accept header; the best form first.

    Parameters
    ----------
    text
        the header; empty for none

    Raises
    ------
    QueryError
        where it is none

    Examples
    --------
    >>> read_accept("multipart/related; type=application/octet-stream; transfer-syntax=*")
    [Form(media_type='application/octet-stream', multipart=True, transfer_syntax='*', weight=1.0)]
    """
    if not text.strip():
        return [Form("*/*")]
    forms = list(_forms(text))
    refused = frozenset(form.media_type for form in forms if form.weight == 0)
    taken = (
        replace(form, refused=refused) if "*" in form.media_type else form
        for form in forms
        if form.weight > 0
    )
    return sorted(taken, key=lambda form: -form.weight)


def _forms(text: str) -> Iterator[Form]:
    position, count = 0, 0
    while position < len(text):
        media = _RANGE.match(text, position)
        count += 1
        if media is None or count > MOST_RANGES:
            message = f"Accept: expected at most {MOST_RANGES} media types, found {text[:64]!r}"
            raise QueryError(message)
        position = media.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(text, position):
            value = parameter[2]
            if value.startswith('"'):
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            parameters.setdefault(parameter[1].lower(), value)
            position = parameter.end()
        if position < len(text):
            if text[position] != ",":
                message = f"Accept: expected media types and parameters, found {text[:64]!r}"
                raise QueryError(message)
            position += 1
        yield _form(media[1].lower(), parameters)


def _form(media_type: str, parameters: Mapping[str, str]) -> Form:
    try:
        weight = min(max(float(parameters.get("q", "1")), 0.0), 1.0)
    except ValueError:
        weight = 0.0
    multipart: bool | None = False
    inner, syntax = media_type, parameters.get("transfer-syntax")
    if media_type == MULTIPART:
        multipart = True
        # some clients put the parameters of the part into its type
        inner, _, rest = parameters.get("type", "*/*").partition(";")
        inner = inner.strip().lower() or "*/*"
        match = re.search(r"transfer-syntax=\"?([0-9.*]+)", rest)
        syntax = syntax or (match[1] if match else None)
    elif media_type in {"*/*", "multipart/*"}:
        inner, multipart = "*/*", None if media_type == "*/*" else True
    if syntax is not None and syntax != "*" and not is_uid(syntax):
        message = f"Accept: expected a transfer syntax UID or *, found {syntax[:64]!r}"
        raise QueryError(message)
    return Form(inner, multipart, syntax, weight)
