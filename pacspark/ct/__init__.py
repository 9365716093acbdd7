"""The physics: geometry, preprocessing, reconstruction; NumPy, SciPy's FFT and Numba.

Names are resolved on first use, so that the vocabulary of geometry does not load a compiler.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ConeBeamGeometry": "geometry",
    "ConeBeamViews": "views",
    "FlatPanel": "geometry",
    "Geometry": "geometry",
    "ParallelBeamGeometry": "geometry",
    "VolumeGrid": "geometry",
    "FDKOptions": "filtering",
    "SlabReconstruction": "fdk",
    "circle_shares": "circles",
    "reconstruct_circles": "circles",
    "reconstruct_fdk": "fdk",
    "stitch": "stitching",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
