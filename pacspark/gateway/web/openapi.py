"""The OpenAPI description of the web door, made of its routes: for clients, and for fuzzers."""

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final

from starlette.routing import BaseRoute, Mount, Route

from pacspark.gateway.web.media import DICOM, DICOM_JSON, JSON, MULTIPART

Json = dict[str, Any]

_UID: Final[Json] = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)*$", "maxLength": 64}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_TEXT: Final[Json] = {"type": "string"}
_OF_PATH: Final[Mapping[str, Json]] = {
    "study": _UID,
    "series": _UID,
    "instance": _UID,
    "frames": {"type": "string", "pattern": "^[1-9][0-9]{0,5}(,[1-9][0-9]{0,5}){0,20}$"},
    "place": {"type": "string", "pattern": "^[0-9]{1,15}-[0-9]{1,15}$"},
}
_PICTURE: Final[Mapping[str, Json]] = {"window": _TEXT, "viewport": _TEXT, "quality": _COUNT}
_SEARCH: Final[Mapping[str, Json]] = {
    "limit": _COUNT, "offset": _COUNT, "fuzzymatching": {"type": "boolean"},
    **dict.fromkeys(
        ("includefield", "PatientName", "PatientID", "StudyDate", "StudyTime", "ModalitiesInStudy",
         "AccessionNumber", "Modality", "SeriesNumber", "InstanceNumber"), _TEXT,
    ),
    **dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), _UID),
}  # fmt: skip
_QUERIES: Final[Mapping[str, Mapping[str, Json]]] = {
    **dict.fromkeys(("studies", "series", "instances"), _SEARCH),
    **dict.fromkeys(("rendered", "thumbnail"), _PICTURE),
    "wado-uri": {
        "requestType": {"type": "string", "enum": ["WADO"]},
        **dict.fromkeys(("studyUID", "seriesUID", "objectUID"), _UID),
        "contentType": _TEXT,
        "frameNumber": _COUNT,
        "transferSyntax": _TEXT,
        "windowCenter": _TEXT,
        "windowWidth": _TEXT,
        "rows": _COUNT,
        "columns": _COUNT,
        "region": _TEXT,
        "imageQuality": _COUNT,
    },
}
"""Parameters of queries, by the name of a route."""
_BINARY: Final[Json] = {"schema": {"type": "string", "format": "binary"}}
_OBJECTS: Final[Json] = {
    f'{MULTIPART}; type="{DICOM}"': _BINARY, f'{MULTIPART}; type="{DICOM_JSON}"': _BINARY,
    DICOM: _BINARY,
}  # fmt: skip
_BODIES: Final[Mapping[str, Json]] = {
    "studies": _OBJECTS,
    "study": _OBJECTS,
    "reconstructions": {JSON: {"schema": {
        "type": "object", "required": ["SeriesInstanceUID"],
        "properties": {"SeriesInstanceUID": _UID},
    }}},
}  # fmt: skip
"""Bodies of POST, by the name of a route."""
_REFUSED: Final[Json] = {
    "description": "refused, or impossible now: one line says why",
    "content": {JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_DONE: Final[Json] = {"description": "done, or here it is"}
_EACH: Final[Json] = {DICOM_JSON: {"schema": {"type": "object"}}}
"""What became of each object that was to be stored."""


def description(routes: Iterable[BaseRoute]) -> Json:
    """Describe the routes that have a meaning of their own: not the viewer's files."""
    paths: dict[str, Json] = {}
    for path, route in _flat(routes, ""):
        if "{path:path}" not in path:
            operations = {
                method.lower(): _operation(route, method)
                for method in sorted(route.methods or ())
                if method not in {"HEAD", "OPTIONS"}
            }
            paths.setdefault(path, {}).update(operations)
    return {
        "openapi": "3.1.0",
        "info": {"title": "pacspark: DICOMweb and more", "version": version("pacspark")},
        "paths": paths,
        "components": {"schemas": {"Problem": {
            "type": "object", "required": ["status", "error"],
            "properties": {"status": {"type": "integer"}, "error": _TEXT},
        }}},
    }  # fmt: skip


def _flat(routes: Iterable[BaseRoute], before: str) -> Iterator[tuple[str, Route]]:
    for route in routes:
        if isinstance(route, Mount):
            yield from _flat(route.routes, before + route.path)
        elif isinstance(route, Route):
            yield before + route.path, route


def _operation(route: Route, method: str) -> Json:
    of_path = [
        {"name": name, "in": "path", "required": True, "schema": _OF_PATH.get(name, _TEXT)}
        for name in route.param_convertors
    ]
    of_query = [
        {"name": name, "in": "query", "schema": schema}
        for name, schema in (_QUERIES.get(route.name, {}) if method == "GET" else {}).items()
    ]
    told: Json = {
        "summary": f"{method.lower()} {route.name}",
        "parameters": of_path + of_query,
        "responses": {
            "2XX": _DONE,
            "304": {"description": "not modified"},
            **dict.fromkeys(("4XX", "501", "503", "507"), _REFUSED),
        },
    }
    if method == "POST" and route.name in _BODIES:
        told["requestBody"] = {"required": True, "content": _BODIES[route.name]}
        if _BODIES[route.name] is _OBJECTS:
            refused = _REFUSED | {"content": _REFUSED["content"] | _EACH}
            told["responses"] |= {"2XX": _DONE | {"content": _EACH}, "4XX": refused, "507": refused}
    return told
