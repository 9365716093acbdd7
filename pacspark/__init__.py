"""pacspark: a PACS on Spark that reconstructs inside the archive.

Names are resolved on first use: importing the package loads neither Spark nor Numba nor Arrow.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "open": ("archive", "open_archive"),
    "create": ("archive", "create_archive"),
    "describe_scan": ("scans.vendors.describe", "describe_scan"),
    "Archive": ("archive", "Archive"),
    "Volume": ("volume", "Volume"),
    "attribute": ("spark.attributes", "attribute"),
    "Frame": ("spark.frames", "Frame"),
    "frame_array": ("spark.frames", "frame_array"),
    "Cluster": ("spark.partition", "Cluster"),
    "ConeBeamGeometry": ("ct.geometry", "ConeBeamGeometry"),
    "ParallelBeamGeometry": ("ct.geometry", "ParallelBeamGeometry"),
    "FlatPanel": ("ct.geometry", "FlatPanel"),
    "VolumeGrid": ("ct.geometry", "VolumeGrid"),
    "FDKOptions": ("ct.filtering", "FDKOptions"),
    "reconstruct_fdk": ("ct.fdk", "reconstruct_fdk"),
    "PacsparkError": ("errors", "PacsparkError"),
}

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604 -- the table is the list


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    module, attribute = _HOMES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
