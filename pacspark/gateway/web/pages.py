"""The page that says how the gateway is: what it holds, what waits, what it is made of."""

import html
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from time import monotonic
from typing import Any, Final

from starlette.responses import Response

from pacspark import __version__
from pacspark.gateway.web.call import Call
from pacspark.gateway.web.media import JSON

_STARTED_S: Final = monotonic()
_PACKAGES: Final = ("deltalake", "pyarrow", "pydicom", "starlette", "uvicorn", "numpy")
_MOST_JOBS: Final = 20
_HEAD: Final = ("scan", "asked by", "state", "done", "since", "")
_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8">
<title>pacspark status</title>
<meta http-equiv="refresh" content="5">
<style>body{{font:15px system-ui;margin:2rem;background:#111;color:#ddd}}
td,th{{padding:.2rem 1rem .2rem 0;text-align:left;vertical-align:top}}
a{{color:#8bf}}</style><h1>pacspark</h1><table>{rows}</table>
<h2>reconstructions</h2><table>{jobs}</table>
<p><a href="/">viewer</a> ·
<a href="/simple">plain viewer</a> · <a href="/metrics">metrics</a></p></html>
"""


def status_page(call: Call) -> Response:
    """Answer how the gateway is, as a page or as JSON."""
    told, reconstructions = _told(call), call.door.reconstructions
    jobs = [reconstructions.told(job) for job in reconstructions.jobs()[:_MOST_JOBS]]
    forms = call.accepted()
    if forms and forms[0].media_type == JSON:
        return Response(json.dumps(told | {"reconstructions": jobs}), media_type=JSON)
    rows = "".join(map(_row, told.items()))
    shown = "".join(map(_row, [_HEAD, *map(_cells, jobs)])) if jobs else "<tr><td>none</tr>"
    return Response(_PAGE.format(rows=rows, jobs=shown), media_type="text/html")


def _row(cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<td>{html.escape(str(cell))}' for cell in cells)}</tr>"


def _cells(job: Mapping[str, Any]) -> tuple[object, ...]:
    part = "" if job["fraction"] is None else f"{job['fraction']:.0%}"
    made = " ".join(result["SeriesInstanceUID"] for result in job["results"])
    said = made or job["error"] or job["line"]
    at = job["ended_at"] or job["started_at"] or job["submitted_at"]
    return job["SeriesInstanceUID"], job["user"], job["state"], part, at, said


def _told(call: Call) -> dict[str, object]:
    store, config = call.store, call.door.config
    told: dict[str, object] = {
        "AE title": config.ae_title,
        "instances": len(store.index),
        "version of the tables": store.index.version,
        "objects that wait for the tables": store.pending,
        "bytes in the landing": store.landing.held_bytes,
        "bytes that its disk can take in": store.landing.free_bytes,
        "tables": "cannot be reached; the log says why" if store.is_in_trouble else "in reach",
        "objects received": store.received.total,
        "objects received in the last minute": store.received.per_minute(),
        "HTTP requests": call.door.pulse.total,
        "HTTP requests in the last minute": call.door.pulse.per_minute(),
        "running for (s)": round(monotonic() - _STARTED_S),
        "pacspark": __version__,
        "Python": platform.python_version(),
    }
    for name in _PACKAGES:
        try:
            told[name] = version(name)
        except PackageNotFoundError:
            continue
    return told
