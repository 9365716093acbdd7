"""Character sets: from bytes to text, whatever the bytes are (PS3.3 C.12.1.1.2, PS3.5 6.1).

Never fails and never warns: an unknown character set counts as the default one, bytes that are no
character become U+FFFD. pydicom has the tables; its functions warn through global state, which
threads share.
"""

import re
from functools import lru_cache
from typing import Final

from pydicom.charset import CODES_TO_ENCODINGS, python_encoding

DEFAULT_ENCODING: Final = "latin_1"
"""For the default repertoire: ASCII, and what devices without (0008,0005) do send in practice."""

_ESCAPE: Final = b"\x1b"
_FRAGMENT: Final = re.compile(rb"\A[^\x1b]+|\x1b[^\x1b]*")
# these codecs need the escape sequence itself, the others must not see it
_STATEFUL_ENCODINGS: Final = frozenset({"iso2022_jp", "iso2022_jp_2"})
# a delimiter ends what an escape sequence began (PS3.5 6.1.2.5.3); ^ and = do in person names only
_DELIMITERS: Final = re.compile(rb"[\\\r\n\f\t]")
_PERSON_NAME_DELIMITERS: Final = re.compile(rb"[\\^=\r\n\f\t]")


@lru_cache(maxsize=256)
def encoding_of(specific_character_set: bytes) -> str:
    """Give the Python codec of the first value of (0008,0005): what text starts in.

    Parameters
    ----------
    specific_character_set
        the value field of (0008,0005), as received
    """
    first = specific_character_set.decode("latin_1").split("\\", maxsplit=1)[0]
    term = first.strip(" \0").upper()
    # "ISO-IR 100" and "ISO IR 100" are common misspellings
    term = re.sub(r"\AISO[ _-]+IR[ _-]*", "ISO_IR ", term)
    encoding = python_encoding.get(term, DEFAULT_ENCODING)
    # a multi-byte set of ISO 2022 takes over by escape sequences only: ASCII comes first
    return DEFAULT_ENCODING if encoding in _STATEFUL_ENCODINGS else encoding


def decode_text(value: bytes, encoding: str, *, person_name: bool = False) -> str:
    """Decode the bytes of a text value.

    Parameters
    ----------
    value
        the value field, or a part of it that ends between characters
    encoding
        of :func:`encoding_of`
    person_name
        whether the value is of VR PN, in which ``^`` and ``=`` are delimiters too

    Returns
    -------
    str
        the text; U+FFFD for what is no character of its set
    """
    if _ESCAPE not in value:
        return value.decode(encoding, "replace")
    delimiters = _PERSON_NAME_DELIMITERS if person_name else _DELIMITERS
    return "".join(
        _decode_fragment(fragment, encoding, delimiters) for fragment in _FRAGMENT.findall(value)
    )


def _decode_fragment(fragment: bytes, first_encoding: str, delimiters: re.Pattern[bytes]) -> str:
    if not fragment.startswith(_ESCAPE):
        return fragment.decode(first_encoding, "replace")
    code_length = 4 if fragment[1:3] in {b"$(", b"$)"} else 3
    encoding = CODES_TO_ENCODINGS.get(fragment[:code_length])
    if encoding is None:
        return fragment.decode(first_encoding, "replace")
    if encoding in _STATEFUL_ENCODINGS:
        return fragment.decode(encoding, "replace")
    text = fragment[code_length:]
    delimiter = delimiters.search(text)
    end = len(text) if delimiter is None else delimiter.start()
    return text[:end].decode(encoding, "replace") + text[end:].decode(first_encoding, "replace")
