"""``/reconstructions``: what scans are reconstructed, from a viewer's side.

::

    POST   /reconstructions        {"SeriesInstanceUID": "1.2.3", "size": [256, 256, 256]}
    GET    /reconstructions        all jobs, the newest first
    GET    /reconstructions/{id}   one
    DELETE /reconstructions/{id}   ends it

The other keys of the body are the options of ``pacspark reconstruct``. What cannot be is refused
before anything runs.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from starlette.responses import Response

from pacspark.dicom.uids import require_uid
from pacspark.errors import ScanDescriptionError, UsageError
from pacspark.gateway.reconstructing import Job
from pacspark.gateway.web.call import ROOT, Call, problem
from pacspark.gateway.web.media import JSON
from pacspark.gateway.web.store import body
from pacspark.scans.toml import TomlTable
from pacspark.tables.catalog import Catalog

_MOST_BYTES: Final = 64 << 10
_KEYS: Final = (
    *("SeriesInstanceUID", "size", "voxel_mm", "center", "filter", "cutoff", "extrapolation"),
    *("energy_bins", "water_mu_per_mm"),
)


async def submit(call: Call) -> Response:
    """Take a reconstruction: 202 with its job, 200 where the same already waits or runs."""
    kind = call.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:  # a page of somebody else cannot send it without being asked first
        return problem(415, f"expected Content-Type: {JSON}")
    text = b"".join([piece async for piece in body(call, _MOST_BYTES)])
    return await call.work(_submit, call, text)


def _submit(call: Call, text: bytes) -> Response:
    try:
        asked = _table(text)
        series_uid = require_uid("SeriesInstanceUID", asked.text("SeriesInstanceUID"))
        options = _options(asked)
    except ScanDescriptionError as error:
        raise UsageError(*error.args) from None
    call.store.flush()  # its process reads the tables, not the landing
    _require_possible(call, series_uid, options)
    taken = call.door.reconstructions.submit(
        series_uid, _arguments(options), call.user, call.address
    )
    if taken is None:
        return problem(503, "too many reconstructions wait", {"Retry-After": "60"})
    job, is_new = taken
    if is_new:
        call.door.audit.record(
            call.user, call.address, "reconstruct", "queued",
            level="series", uid=series_uid, detail={"job": job.id},
        )  # fmt: skip
    return _answer(call, job, 202 if is_new else 200)


def jobs(call: Call) -> Response:
    """Answer all jobs."""
    reconstructions = call.door.reconstructions
    told = [reconstructions.told(job) for job in reconstructions.jobs()]
    return Response(json.dumps(told), media_type=JSON, headers={"Cache-Control": "no-store"})


def job(call: Call) -> Response:
    """Answer one job."""
    return _answer(call, call.door.reconstructions.job(call.request.path_params["job"]), 200)


def cancel(call: Call) -> Response:
    """End a job; one that has ended is 409."""
    reconstructions = call.door.reconstructions
    found = reconstructions.job(call.request.path_params["job"])
    if not found.is_open:
        return problem(409, f"expected a job that waits or runs, found one that is {found.state}")
    return _answer(call, reconstructions.cancel(found.id), 202)


def _answer(call: Call, found: Job, status: int) -> Response:
    told = call.door.reconstructions.told(found)
    location = f"{call.url.removesuffix(ROOT)}/reconstructions/{found.id}"
    headers = {"Location": location, "Cache-Control": "no-store"}
    return Response(json.dumps(told), status, media_type=JSON, headers=headers)


def _table(text: bytes) -> TomlTable:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"body: expected JSON, found {str(error)[:200]}"
        raise UsageError(message) from error
    if not isinstance(values, dict):
        message = f"body: expected a JSON object, found {type(values).__name__}"
        raise UsageError(message)
    return TomlTable(Path("body"), "", values, dict.fromkeys(_KEYS, ""))


def _options(asked: TomlTable) -> dict[str, Any]:
    """Read the options of ``pacspark reconstruct``; only those that were given."""
    readers: dict[str, Callable[[], Any]] = {
        "size": lambda: _three(asked, "size", asked.counts("size", smallest=1)),
        "voxel_mm": lambda: asked.number("voxel_mm", positive=True),
        "center": lambda: _three(asked, "center", asked.numbers("center")),
        "filter": lambda: asked.text("filter"),
        "cutoff": lambda: asked.number("cutoff"),
        "extrapolation": lambda: asked.number("extrapolation"),
        "energy_bins": lambda: asked.counts("energy_bins", smallest=0),
        "water_mu_per_mm": lambda: asked.number("water_mu_per_mm", positive=True),
    }
    return {key: read() for key, read in readers.items() if key in asked}


def _three(asked: TomlTable, key: str, numbers: list[Any]) -> list[Any]:
    if len(numbers) != 3:
        raise asked.error(key, "three numbers, along x, y, z", len(numbers))
    return numbers


def _require_possible(call: Call, series_uid: str, options: Mapping[str, Any]) -> None:
    """Refuse what ``pacspark reconstruct`` would refuse of this scan before it starts Spark."""
    # these bring Numba and SciPy, which a gateway that nobody asks for this does without
    from pacspark.ct.coverage import refit
    from pacspark.ct.filtering import FDKOptions
    from pacspark.tables.scans import read_stored_scan

    scan = read_stored_scan(Catalog(call.store.storage), series_uid).scan
    told = {key: options[key] for key in ("filter", "cutoff", "extrapolation") if key in options}
    FDKOptions(**told)
    center = options.get("center")
    grid = refit(scan.geometry.fit_grid(), options.get("size"), options.get("voxel_mm"), center)
    most = call.door.config.reconstructions.voxels
    if math.prod(grid.shape) > most:
        size = " x ".join(map(str, reversed(grid.shape)))
        message = (
            f"{'size' if 'size' in options else 'voxel_mm'}: expected at most {most} voxels, as "
            f"reconstructions.voxels of the gateway says, found {size}"
        )
        raise UsageError(message)
    for energy_bin in options.get("energy_bins", ()):
        scan.require_energy_bin(energy_bin)


def _arguments(options: Mapping[str, Any]) -> list[str]:
    arguments: list[str] = []
    for key, value in options.items():
        arguments.append("--" + key.replace("_", "-"))
        if key == "energy_bins":
            arguments.append(",".join(map(str, value)))
        else:
            arguments += map(str, value if isinstance(value, list) else [value])
    return arguments
