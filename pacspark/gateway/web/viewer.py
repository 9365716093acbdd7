"""The viewer: OHIF's own files out of a folder, or one plain page where they are not installed.

OHIF is a single-page application: paths without a file and without an extension are its own, and
get its ``index.html``. No path is built from what the peer sends: the files are listed once.
"""

import hashlib
import json
import mimetypes
import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

from starlette.responses import FileResponse, Response

from pacspark.errors import InstanceNotFoundError
from pacspark.gateway.web.call import ROOT, Call, not_modified

VERSION: Final = "3.13.2"
_TYPES: Final = {
    ".js": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".webapp": "application/manifest+json",
    ".woff2": "font/woff2",
}
_PLAIN: Final = "simple"


def viewer_folder() -> Path:
    """Give the folder that the viewer is installed in."""
    cache_folder = os.environ.get("PACSPARK_CACHE") or Path.home() / ".cache" / "pacspark"
    return Path(cache_folder) / "viewer" / f"ohif-{VERSION}"


class Viewer:
    """What is answered outside DICOMweb.

    Parameters
    ----------
    folder
        of OHIF's files; the plain page is served where it is not there
    """

    def __init__(self, folder: Path) -> None:
        files = (path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else ()
        self._files = {path.relative_to(folder).as_posix(): path for path in files}
        self._etags: dict[str, str] = {}

    @property
    def is_installed(self) -> bool:
        """Whether OHIF is served."""
        return "index.html" in self._files

    def answer(self, call: Call) -> Response:
        """Answer with a file, the page of the application, or the plain page."""
        name = str(call.request.path_params["path"])
        if name == "app-config.js":
            return _text(call, app_config(), "text/javascript")
        if name == _PLAIN or (not self.is_installed and not name):
            return _text(call, plain_page(), "text/html")
        if not self.is_installed:
            message = "no such page; OHIF is not installed (pacspark viewer install)"
            raise InstanceNotFoundError(f"{message}, /{_PLAIN} shows images")
        if name not in self._files:
            is_file = "." in name.rpartition("/")[2]
            if is_file or name.startswith(ROOT.strip("/")) or not _takes_a_page(call):
                message = f"no such page; DICOMweb is below {ROOT}"
                raise InstanceNotFoundError(message)
            name = "index.html"
        return self._file(call, name)

    def _file(self, call: Call, name: str) -> Response:
        path = self._files[name]
        etag = self._etags.get(name)
        if etag is None:
            with path.open("rb") as file:
                etag = f'"{hashlib.file_digest(file, "sha256").hexdigest()[:32]}"'
            self._etags[name] = etag
        if call.has(etag):
            return not_modified(etag)
        suffix = path.suffix.lower()
        media_type = _TYPES.get(suffix) or mimetypes.guess_type(path.name)[0]
        headers = {"ETag": etag, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        return FileResponse(path, media_type=media_type or "application/octet-stream",
                            headers=headers)  # fmt: skip


def _takes_a_page(call: Call) -> bool:
    """Tell whether this may be a browser; a DICOMweb client with a wrong address is none."""
    accept = call.request.headers.get("accept", "*/*")
    return "text/html" in accept or "*/*" in accept


def app_config() -> str:
    """Write the configuration of OHIF: this gateway and nobody else."""
    source = {
        "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
        "sourceName": "pacspark",
        "configuration": {
            "friendlyName": "pacspark",
            "name": "pacspark",
            "qidoRoot": ROOT,
            "wadoRoot": ROOT,
            "wadoUriRoot": "/wado",
            "qidoSupportsIncludeField": False,
            "imageRendering": "wadors",
            "thumbnailRendering": "wadors",
            "enableStudyLazyLoad": True,
            "supportsFuzzyMatching": True,
            "supportsWildcard": True,
            "dicomUploadEnabled": True,
            "omitQuotationForMultipartRequest": True,
            "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
        },
    }
    config = {
        "name": "pacspark",
        "routerBasename": "/",
        "showStudyList": True,
        "extensions": [],
        "modes": [],
        "customizationService": {"ohif.tours": {"$set": []}},
        "showWarningMessageForCrossOrigin": True,
        "showCPUFallbackMessage": True,
        "showLoadingIndicator": True,
        "investigationalUseDialog": {"option": "never"},
        "defaultDataSourceName": "pacspark",
        "dataSources": [source],
    }
    return f"window.config = {json.dumps(config, indent=2)};\n"


@cache
def plain_page() -> str:
    """Give the page that lists studies and shows slices."""
    return resources.files("pacspark.gateway").joinpath("viewer.html").read_text("utf-8")


def _text(call: Call, text: str, media_type: str) -> Response:
    etag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
    if call.has(etag):
        return not_modified(etag)
    headers = {"ETag": etag, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return Response(text, media_type=media_type, headers=headers)
