"""QIDO-RS: queries for studies, series and instances (PS3.18 10.6)."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from pacspark.dicom.attributes import BY_KEYWORD, COUNTS, LEVELS, PROMOTED, STUDY_LISTS, Level
from pacspark.dicom.conditions import Query, QueryKey
from pacspark.dicom.matching import parse_query
from pacspark.dicom.paths import find_tag
from pacspark.dicom.values import person_name_groups
from pacspark.errors import QueryError
from pacspark.gateway.searching import Match, answers, fuzzy_keys, search
from pacspark.gateway.web.call import Call, data_sets_answer
from pacspark.gateway.web.retrieve import with_bulk_urls

_STUDY: Final = (
    "StudyDate StudyTime AccessionNumber ModalitiesInStudy ReferringPhysicianName "
    "TimezoneOffsetFromUTC PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID "
    "StudyID StudyDescription NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances"
).split()
_SERIES: Final = (
    "Modality TimezoneOffsetFromUTC SeriesDescription StudyInstanceUID SeriesInstanceUID "
    "SeriesNumber SeriesDate SeriesTime NumberOfSeriesRelatedInstances "
    "PerformedProcedureStepStartDate PerformedProcedureStepStartTime"
).split()
_INSTANCE: Final = (
    "SOPClassUID SOPInstanceUID TimezoneOffsetFromUTC StudyInstanceUID SeriesInstanceUID "
    "InstanceNumber Rows Columns BitsAllocated NumberOfFrames"
).split()
DEFAULTS: Final[Mapping[Level, Sequence[str]]] = {
    "study": _STUDY,
    "series": _SERIES,
    "instance": _INSTANCE,
}
"""What an answer tells unasked at each level (PS3.18 10.6.3.3)."""
_NO_KEYS: Final = frozenset({"accept", "charset", "emptyvaluematching", "multiplevaluematching"})
_ANSWERED_ANYWAY: Final = frozenset({"RetrieveURL", "InstanceAvailability"})
_READ_AT_ONCE: Final = 128
_NOBODY: Final = "0"
"""A UID that nothing has."""
_MOST_PARAMETERS: Final = 256
_FLAGS: Final = {"true": True, "false": False}


def query(call: Call, level: Level) -> Response:
    """Answer a search for what a level has, below what the path names."""
    media_type = call.data_set_type()
    asked = _Asked(call, level)
    matches = search(call.store.index, asked.query)
    most = call.door.config.limits.answers
    wanted = most if asked.limit is None else min(asked.limit, most)
    end = asked.offset + wanted
    left = max(len(matches) - end, 0) if asked.limit is None or asked.limit > most else 0
    shown = matches[asked.offset : end]
    call.door.audit.record(
        call.user, call.address, "find", "success", level=level,
        detail={"matches": len(shown), "keys": len(asked.query.conditions)},
    )  # fmt: skip
    headers = {}
    if left:
        headers["Warning"] = (
            f'299 pacspark "There are {left} additional results that can be requested"'
        )
    if not shown:
        return Response(status_code=204, headers=headers)
    return data_sets_answer(call, asked.answers(shown), media_type, headers=headers)


class _Asked:
    """What a query asks, and how its answers are told."""

    def __init__(self, call: Call, level: Level) -> None:
        self._call, self._level = call, level
        keys: dict[str, str] = {}
        includes: list[str] = []
        self.limit: int | None = None
        self.offset = 0
        fuzzy = False
        parameters = call.request.query_params.multi_items()
        if len(parameters) > _MOST_PARAMETERS:
            message = f"query: expected at most {_MOST_PARAMETERS} parameters, found more"
            raise QueryError(message)
        for name, value in parameters:
            if name == "includefield":
                includes += [part.strip() for part in value.split(",") if part.strip()]
            elif name == "limit":
                self.limit = _count(name, value)
            elif name == "offset":
                self.offset = _count(name, value)
            elif name == "fuzzymatching":
                fuzzy = _flag(name, value)
            elif name not in _NO_KEYS:
                if name in keys:
                    message = f"{name[:64]}: expected each attribute once, found it twice"
                    raise QueryError(message)
                keys[name] = value
        self._of_path(keys)
        if fuzzy:
            keys = fuzzy_keys(keys)
        self.everything = "all" in includes
        self.query: Query = parse_query(self._with_fields(keys, includes), level, ignore_case=True)

    def _of_path(self, keys: dict[str, str]) -> None:
        """Add the UIDs that the path names."""
        for name, keyword in (("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID")):
            uid = self._call.uid(name)
            if uid is None:
                continue
            for given in [one for one in keys if find_tag(one) == BY_KEYWORD[keyword].tag]:
                value = keys.pop(given)
                if value and uid not in re.split(r"[\\,]", value):
                    keys[keyword] = _NOBODY
            keys.setdefault(keyword, uid)

    def _with_fields(self, keys: Mapping[str, str], includes: Sequence[str]) -> dict[str, str]:
        fields = list(DEFAULTS[self._level])
        at = LEVELS.index(self._level)
        if self._level != "study" and "study" not in self._call.request.path_params:
            fields += _STUDY  # a relational query tells of the levels above too
        if self._level == "instance" and "series" not in self._call.request.path_params:
            fields += [keyword for keyword in _SERIES if keyword not in fields]
        if self._level == "series" and "study" in self._call.request.path_params:
            fields.append("RequestAttributesSequence")
        if self.everything:
            above = LEVELS[:at] if self._level == "instance" else LEVELS[: at + 1]
            fields += [a.keyword for a in PROMOTED if a.level in above]
            fields += [keyword for level in above for keyword in COUNTS[level]
                       if level != "patient"]  # fmt: skip
            fields += list(STUDY_LISTS)
        fields += [name for name in includes if name != "all"]
        asked = dict(keys)
        known = {find_tag(name) or name for name in keys}
        for name in fields:
            tag = find_tag(name) or name
            if tag not in known:
                known.add(tag)
                asked[name] = ""
        return asked

    def answers(self, matches: Sequence[Match]) -> Iterator[str]:
        """Tell of each match in DICOM JSON."""
        index, url = self._call.store.index, self._call.url
        keys = [key for key in self.query.requested if key.keyword not in _ANSWERED_ANYWAY
                and not key.sequences]  # fmt: skip
        keys += self._sequences()
        optional = self._optional()
        found = answers(index, matches, keys)
        for match, told, document in zip(matches, found, self._documents(matches), strict=True):
            elements = {
                key.json_tag: element
                for key in keys
                for element in [_element(key, told[key.keyword])]
                if len(element) > 1 or key.keyword not in optional
            }
            elements |= document
            elements["00080056"] = {"vr": "CS", "Value": ["ONLINE"]}
            elements["00081190"] = {"vr": "UR", "Value": [url + _path(match)]}
            yield json.dumps(dict(sorted(elements.items())), ensure_ascii=False,
                             separators=(",", ":"))  # fmt: skip

    def _documents(self, matches: Sequence[Match]) -> Iterator[dict[str, Any]]:
        """Give all that instances have, where all is asked for; else nothing of each match."""
        index = self._call.store.index
        for start in range(0, len(matches), _READ_AT_ONCE):
            some = matches[start : start + _READ_AT_ONCE]
            rows: Mapping[str, Mapping[str, Any]] = {}
            if self.everything and self._level == "instance":
                rows = index.rows([one.instance for one in some if one.instance], ["dicom_json"])
            for one in some:
                document = rows.get(one.key or "", {}).get("dicom_json") or "{}"
                yield json.loads(self._with_urls(document, one))

    def _with_urls(self, document: str, match: Match) -> str:
        return with_bulk_urls(document, self._call.url + _path(match))

    def _sequences(self) -> list[QueryKey]:
        """Give the sequences that keys lie in: an answer has them whole."""
        found = {}
        for key in self.query.requested:
            if key.sequences:
                name = key.keyword.split(".", maxsplit=1)[0]
                found[key.sequences[0]] = QueryKey(name, key.sequences[0], "SQ", None, None, True)
        return list(found.values())

    def _optional(self) -> frozenset[str]:
        """Give what is left out where there is no value."""
        asked = {key.keyword for key in self.query.requested}
        return frozenset(asked - set(DEFAULTS[self._level])) if self.everything else frozenset(
            {"TimezoneOffsetFromUTC", "RequestAttributesSequence", "NumberOfFrames"}
        )  # fmt: skip


def _count(name: str, value: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", value):
        message = f"{name}: expected a number from 0 on, found {value[:64]!r}"
        raise QueryError(message)
    return int(value)


def _flag(name: str, value: str) -> bool:
    if value.lower() not in _FLAGS:
        message = f"{name}: expected true or false, found {value[:64]!r}"
        raise QueryError(message)
    return _FLAGS[value.lower()]


def _path(match: Match) -> str:
    group = match.group
    path = f"/studies/{group['study_instance_uid']}"
    if match.level != "study":
        path += f"/series/{group['series_instance_uid']}"
    if match.level == "instance":
        path += f"/instances/{match.key}"
    return path


def _element(key: QueryKey, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    vr = key.vr
    values = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    if vr == "PN":
        values = [person_name_groups(str(one)) for one in values]
    if all(one in (None, "", {}) for one in values):
        return {"vr": vr}
    return {"vr": vr, "Value": [None if one == "" else one for one in values]}
