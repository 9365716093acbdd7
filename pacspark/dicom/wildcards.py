"""Wildcards of queries as regular expressions (PS3.4 C.2.2.2.4), for Python and for RE2.

``*`` is any run of characters, ``?`` exactly one, everything else itself. Two dialects are written:
Arrow's RE2 takes linear time whatever the pattern; Python's ``re`` does so only with atomic groups,
which RE2 does not have.
"""

import re
from functools import lru_cache
from typing import Final

MAX_PATTERN_CHARACTERS: Final = 1024
"""Longer patterns are refused; no attribute with wildcards but LT, ST and UT is ever as long."""

_STARS: Final = re.compile(r"\*+")
# an end that is carets and stars only may stand for components that the stored name left out
_OPEN_COMPONENTS: Final = re.compile(r"(?:\^|\*)*\Z")


def has_wildcard(text: str) -> bool:
    """Tell whether a text holds ``*`` or ``?``."""
    return "*" in text or "?" in text


def re2_pattern(values: tuple[str, ...], *, ignore_case: bool, person_name: bool) -> str:
    """Write the regular expression, anchored, that finds texts which match one of some patterns.

    Parameters
    ----------
    values
        patterns, of which one has to match
    ignore_case
        whether upper and lower case are the same
    person_name
        whether texts are whole person names, with component groups

    Examples
    --------
    >>> re2_pattern(("CT*", "M?"), ignore_case=False, person_name=False)
    '(?s)^(?:CT.*|M.)$'
    """
    bodies = [_body(value, person_name=person_name, atomic=False) for value in values]
    return f"(?{'i' if ignore_case else ''}s)^(?:{'|'.join(bodies)})$"


def text_matches(
    text: str, values: tuple[str, ...], *, ignore_case: bool, person_name: bool
) -> bool:
    """Tell whether a text matches one of some patterns, as :func:`re2_pattern` says."""
    return _compiled(values, ignore_case, person_name).fullmatch(text) is not None


@lru_cache(maxsize=256)
def _compiled(values: tuple[str, ...], ignore_case: bool, person_name: bool) -> re.Pattern[str]:
    bodies = [_body(value, person_name=person_name, atomic=True) for value in values]
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else re.NOFLAG)
    return re.compile("|".join(f"(?:{body})" for body in bodies), flags)


def _body(value: str, *, person_name: bool, atomic: bool) -> str:
    if not person_name:
        return _glob(value, any_run=".", any_one=".", atomic=atomic)
    texts = value.rstrip("=").split("=")
    if len(texts) == 1:
        # no word on which component group is meant: any will do
        return f"(?:[^=]*=){{0,2}}{_person_name_group(texts[0], atomic=atomic)}(?:=.*)?"
    body, optional = "", True
    for text in reversed(texts):
        # a group that may be empty may be absent, if all that follow may
        optional = optional and not text.strip("*^")
        group = f"={_person_name_group(text, atomic=atomic)}{body}"
        body = f"(?:{group})?" if optional else group
    return f"{body.removeprefix('=')}(?:=.*)?"


def _person_name_group(text: str, *, atomic: bool) -> str:
    if not text.strip("^"):
        return "[^=]*"  # an empty group asks for nothing
    end = _OPEN_COMPONENTS.search(text)
    start = len(text) if end is None else end.start()
    tail = text[start:]
    body = _glob(text[:start], any_run="[^=]", any_one="[^=^]", atomic=atomic)
    carets, star, _ = tail.partition("*")
    if not star:
        return body + r"\^*"
    # what follows a star may all be absent, and would only try each caret of a name in each place
    count = len(carets)
    return body + (rf"(?:\^{{0,{count - 1}}}|\^{{{count}}}[^=]*)" if count else "[^=]*")


def _glob(value: str, *, any_run: str, any_one: str, atomic: bool) -> str:
    segments = [
        "".join(any_one if character == "?" else re.escape(character) for character in segment)
        for segment in _STARS.split(value)
    ]
    if len(segments) == 1:
        return segments[0]
    first, *inner, last = segments
    run = f"{any_run}*"
    # the first place where an inner segment fits is as good as any later one
    middle = [f"(?>{run}?{segment})" if atomic else f"{run}{segment}" for segment in inner]
    return f"{first}{''.join(middle)}{run}{last}"
