"""The profile of `pacspark anonymize` as a TOML file.

All that it may say::

format_version = 1
retain = ["longitudinal-modified", "safe-private"]
clean = ["descriptors"]
allowed_words = ["hippocampus"]        # besides the plain ones, in cleaned descriptors
burned_in = "refuse"                   # refuse | keep: pixels that say they identify somebody

[actions]                              # own rules: keyword or tag -> X, Z, D, U, K or C
StationName = "K"
"0018,1030" = "X"

[[pixels]]                             # which rectangles to blank: left, top, width, height
match = { Modality = "US", Manufacturer = ["ACME*", "Acme*"], Columns = 640 }
blank = [[0, 0, 640, 40]]
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag, tag_for_keyword

from pacspark.dicom.confidentiality import BURNED_IN, CLEAN, FIXED, RETAIN, Action, Profile
from pacspark.dicom.pixel_rules import PixelRule, Rectangle
from pacspark.errors import ScanDescriptionError, UsageError
from pacspark.scans.toml import TomlTable, one_line, read_text

_KEYS: Final = dict.fromkeys(
    ("format_version", "retain", "clean", "allowed_words", "burned_in", "actions", "pixels"), ""
)
_ACTIONS: Final = ("X", "Z", "D", "U", "K", "C")
_TAG: Final = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")
_MOST_RULES: Final = 10_000
_EDGE: Final = 1 << 32


def read_profile(path: Path) -> Profile:
    """Read a profile.

    Raises
    ------
    UsageError
        where it is missing, no TOML, or has a key or a value that it cannot have; one line
    """
    try:
        values = tomllib.loads(read_text(path))
    except OSError as error:
        message = f"{path}: expected a profile, found: {error.strerror}"
        raise UsageError(message) from None
    except (ValueError, RecursionError) as error:
        message = f"{path}: expected TOML, found {one_line(error)}"
        raise UsageError(message) from None
    try:
        profile = _profile(TomlTable(path, "", values, _KEYS), values)
    except ScanDescriptionError as error:  # of the tables of TOML that descriptions share
        raise UsageError(*error.args) from None
    except UsageError as error:
        message = f"{path}: {error}"
        raise UsageError(message) from None
    return profile


def _profile(top: TomlTable, values: Mapping[str, Any]) -> Profile:
    version = top.count("format_version", 1)
    if version != 1:
        raise top.error("format_version", "1", version)
    rules = values.get("pixels", [])
    if not isinstance(rules, list) or len(rules) > _MOST_RULES:
        raise top.error("pixels", "tables [[pixels]]", f"a {type(rules).__name__}")
    clean = _choices(top, "clean", CLEAN)
    return Profile(
        retain=_choices(top, "retain", RETAIN),
        # rules about pixels are there to be followed
        clean=clean | {"pixel-data"} if rules else clean,
        actions=_actions(top.table("actions")),
        allowed_words=frozenset(word.lower() for word in _texts(top, "allowed_words")),
        burned_in=top.choice("burned_in", BURNED_IN, "refuse"),
        pixel_rules=tuple(_rule(top.path, place, rule) for place, rule in enumerate(rules)),
    )


def _texts(table: TomlTable, key: str) -> list[str]:
    return table.texts(key) if key in table else []


def _choices(table: TomlTable, key: str, known: tuple[str, ...]) -> frozenset[str]:
    chosen = _texts(table, key)
    for choice in chosen:
        if choice not in known:
            raise table.error(key, f"of {', '.join(known)}", repr(choice)[:80])
    return frozenset(chosen)


def _actions(table: TomlTable) -> dict[int, Action]:
    actions = {}
    for key, value in table.plain().items():
        tag = _tag(table, key)
        if value not in _ACTIONS:
            raise table.error(key, f"one of {', '.join(_ACTIONS)}", repr(value)[:80])
        action = Action(str(value))
        if action is Action.MAP and dictionary_VR(tag) != "UI":
            raise table.error(key, "U for a UID only", f"one of {dictionary_VR(tag)}")
        actions[tag] = action
    return actions


def _tag(table: TomlTable, key: str) -> int:
    matched = _TAG.fullmatch(key)
    tag = int(matched[1] + matched[2], 16) if matched else tag_for_keyword(key)
    if tag is None or not dictionary_has_tag(tag):
        raise table.error(key, "a DICOM keyword, or a tag like 0018,1030", "an unknown one")
    if tag < 0x00080000 or keyword_for_tag(tag) in FIXED:
        raise table.error(key, "an attribute that an own rule may change", "a fixed one")
    return tag


def _rule(path: Path, place: int, value: object) -> PixelRule:
    name = f"pixels[{place}]"
    if not isinstance(value, dict):
        message = f"{path}: {name}: expected a table, found {type(value).__name__}"
        raise UsageError(message)
    table = TomlTable(path, name, value, {"match": "", "blank": ""})
    match = {}
    for key, wanted in _table_of(table, value, "match").items():
        if tag_for_keyword(key) is None:
            raise table.error(f"match.{key}", "a DICOM keyword", "an unknown one")
        texts = wanted if isinstance(wanted, list) else [wanted]
        if not texts or any(
            isinstance(text, bool) or not isinstance(text, str | int | float) for text in texts
        ):
            raise table.error(f"match.{key}", "a text, a number or a list of them", type(wanted))
        match[key] = tuple(_text(table, key, text) for text in texts)
    if not match:
        raise table.error("match", "what objects the rule speaks of", "nothing")
    rectangles = value.get("blank")
    if not isinstance(rectangles, list):
        raise table.error("blank", "a list of [left, top, width, height]", type(rectangles))
    return PixelRule(match, tuple(_rectangle(table, rectangle) for rectangle in rectangles))


def _table_of(table: TomlTable, values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key, {})
    if not isinstance(found, dict):
        raise table.error(key, "a table of keywords", type(found))
    return found


def _text(table: TomlTable, key: str, value: object) -> str:
    try:
        return str(value)
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        raise table.error(f"match.{key}", "a text or a number", "one beyond all bounds") from None


def _rectangle(table: TomlTable, value: object) -> Rectangle:
    numbers = value if isinstance(value, list) else []
    whole = all(type(number) is int and 0 <= number < _EDGE for number in numbers)
    if len(numbers) != 4 or not whole or not numbers[2] or not numbers[3]:
        expected = "[left, top, width, height] in pixels, width and height from 1 on"
        raise table.error("blank", expected, _shown(value))
    return Rectangle(*numbers)


def _shown(value: object) -> str:
    try:
        return repr(value)[:80]
    except ValueError:
        return "numbers beyond all bounds"
