"""The page that says how the gateway is: what it holds, what waits, what it is made of."""

import html
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from time import monotonic
from typing import Final

from starlette.responses import Response

from pacspark import __version__
from pacspark.gateway.web_call import Call
from pacspark.gateway.web_media import JSON

_STARTED_S: Final = monotonic()
_PACKAGES: Final = ("deltalake", "pyarrow", "pydicom", "starlette", "uvicorn", "numpy")
_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8">
<title>pacspark status</title>
<meta http-equiv="refresh" content="5">
<style>body{{font:15px system-ui;margin:2rem;background:#111;color:#ddd}}
td{{padding:.2rem 1rem .2rem 0}}
a{{color:#8bf}}</style><h1>pacspark</h1><table>{rows}</table>
<p><a href="/">viewer</a> ·
<a href="/simple">plain viewer</a> · <a href="/metrics">metrics</a></p></html>
"""


def status_page(call: Call) -> Response:
    """Answer how the gateway is, as a page or as JSON."""
    told = _told(call)
    forms = call.accepted()
    if forms and forms[0].media_type == JSON:
        return Response(json.dumps(told), media_type=JSON)
    rows = "".join(
        f"<tr><td>{html.escape(name)}<td>{html.escape(str(value))}</tr>"
        for name, value in told.items()
    )
    return Response(_PAGE.format(rows=rows), media_type="text/html")


def _told(call: Call) -> dict[str, object]:
    store, config = call.store, call.door.config
    told: dict[str, object] = {
        "AE title": config.ae_title,
        "instances": len(store.index),
        "version of the tables": store.index.version,
        "objects that wait for the tables": store.pending,
        "bytes in the landing": store.landing.held_bytes,
        "requests": call.door.pulse.total,
        "requests in the last minute": call.door.pulse.per_minute(),
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
