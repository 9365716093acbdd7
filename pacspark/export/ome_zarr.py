"""A volume as OME-Zarr 0.5: Zarr 3 with shards, and coarser levels for viewers that zoom.

Version 0.5 because its shards keep the number of files small: a volume of 2,048 voxels along each
axis has 32,768 chunks. A block of shards with full rows is read, written and forgotten; each
coarser level is made of the one before, shard by shard.
"""

import itertools
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.errors import MissingDependencyError
from pacspark.export.volumes import Voxels
from pacspark.pictures import Window
from pacspark.progress import Progress, Stage
from pacspark.wholes import whole_folder

CHUNK: Final = 64
"""Voxels along each axis of a chunk: 0.5 MiB of int16."""
SHARD: Final = 256
"""Voxels along y and x of a shard, at most: 8 MiB of int16, 64 slices high."""
BLOCK_BYTES: Final = 256 << 20
"""What a block of full rows takes at most, if one shard along y does not take more: slices that are
compressed are decoded once for each block that they touch."""
LARGEST_LEVEL: Final = 128
"""A level with no axis longer than this is the last."""


def write_ome_zarr(path: Path, volume: Voxels, progress: Progress) -> None:
    """Write a volume and its coarser levels.

    Parameters
    ----------
    path
        ends in ``.ome.zarr``
    volume
        evenly spaced
    progress
        told of slices of all levels

    Raises
    ------
    MissingDependencyError
        Without zarr.
    """
    try:
        zarr: Any = import_module("zarr")
    except ImportError as error:
        message = "OME-Zarr needs zarr: pip install 'pacspark[export]'"
        raise MissingDependencyError(message) from error
    levels = plan_levels(volume.shape, volume.voxel_mm)
    total = sum(-(-volume.shape[0] // factors[0]) for factors in levels)
    unit = "slices" if len(levels) == 1 else f"slices of {len(levels)} levels"
    with progress.stage("export", total, unit) as stage, whole_folder(path) as temporary:
        group = zarr.create_group(temporary, zarr_format=3)
        finer = None
        lowest, highest = np.inf, -np.inf
        for number, factors in enumerate(levels):
            shape = tuple(-(-n // f) for n, f in zip(volume.shape, factors, strict=True))
            array = _create(zarr, group, str(number), shape, volume.voxel_type)
            for block in _blocks(array, full_rows=finer is None):
                if finer is None:
                    values = _read(volume, block)
                    least, most = _extremes(values)
                    lowest, highest = min(lowest, least), max(highest, most)
                else:
                    step = [f // g for f, g in zip(factors, levels[number - 1], strict=True)]
                    values = _coarser(finer, block, step)
                _write(array, block, values)
                _advance(stage, block, shape)
            finer = array
        group.attrs.update(_attributes(volume, levels, (float(lowest), float(highest))))


def plan_levels(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]
) -> list[tuple[int, int, int]]:
    """Choose by which factors the levels are coarser, along z, y, x.

    An axis is halved where its voxels are not twice as long as the shortest already, so that thick
    slices stay until pixels are as large.

    >>> plan_levels((100, 512, 512), (3.0, 0.5, 0.5))
    [(1, 1, 1), (1, 2, 2), (1, 4, 4)]
    """
    levels = [(1, 1, 1)]
    sizes, edges = list(shape), list(voxel_mm)
    while max(sizes) > LARGEST_LEVEL:
        shortest = min(edge for size, edge in zip(sizes, edges, strict=True) if size > 1)
        halved = [
            size > 1 and edge < 2 * shortest * (1 - 1e-6)
            for size, edge in zip(sizes, edges, strict=True)
        ]
        sizes = [-(-size // (1 + half)) for size, half in zip(sizes, halved, strict=True)]
        edges = [edge * (1 + half) for edge, half in zip(edges, halved, strict=True)]
        z, y, x = (factor * (1 + half) for factor, half in zip(levels[-1], halved, strict=True))
        levels.append((z, y, x))
    return levels


def _create(zarr: Any, group: Any, name: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> Any:
    """Create an array whose shards are no larger than it needs."""
    shards = [CHUNK, *(min(SHARD, CHUNK * -(-n // CHUNK)) for n in shape[1:])]
    return group.create_array(
        name,
        shape=shape,
        dtype=kind,
        chunks=(CHUNK, CHUNK, CHUNK),
        shards=tuple(shards),
        compressors=zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
        dimension_names=["z", "y", "x"],
        fill_value=0,
    )


def _blocks(array: Any, *, full_rows: bool) -> Iterator[tuple[slice, slice, slice]]:
    """Give the blocks that are written at once: one shard, or as many as have full rows."""
    shape, shards = array.shape, array.shards
    steps = list(shards)
    if full_rows:
        one_row_bytes = shards[0] * shards[1] * shape[2] * array.dtype.itemsize
        steps[1:] = [shards[1] * max(1, BLOCK_BYTES // one_row_bytes), shape[2]]
    starts = (range(0, size, step) for size, step in zip(shape, steps, strict=True))
    for place in itertools.product(*starts):
        z, y, x = (
            slice(start, min(size, start + step))
            for start, size, step in zip(place, shape, steps, strict=True)
        )
        yield z, y, x


def _read(volume: Voxels, block: tuple[slice, slice, slice]) -> NDArray[Any]:
    along_z, along_y, along_x = block
    values = np.empty([part.stop - part.start for part in block], volume.voxel_type)
    for place, z in enumerate(range(along_z.start, along_z.stop)):
        values[place] = volume.rows(z, along_y.start, along_y.stop)[:, along_x]
    return values


def _extremes(values: NDArray[Any]) -> tuple[float, float]:
    """Give the least and the greatest finite value; inf and -inf where there is none."""
    if values.dtype.kind != "f":
        return values.min(), values.max()
    finite = np.isfinite(values)
    return values.min(initial=np.inf, where=finite), values.max(initial=-np.inf, where=finite)


def _coarser(finer: Any, block: tuple[slice, slice, slice], step: Sequence[int]) -> NDArray[Any]:
    """Average a block of the level before; an odd last voxel stands for two."""
    source = tuple(
        slice(part.start * factor, min(part.stop * factor, size))
        for part, factor, size in zip(block, step, finer.shape, strict=True)
    )
    values: NDArray[Any] = np.asarray(finer[source]).astype(np.float32)
    for axis, factor in enumerate(step):
        if factor == 1:
            continue
        if values.shape[axis] % 2:
            last = np.take(values, [-1], axis)
            values = np.concatenate([values, last], axis)
        even, odd = (
            values[tuple(slice(None) if a != axis else slice(first, None, 2) for a in range(3))]
            for first in (0, 1)
        )
        values = (even + odd) / 2
    kind = finer.dtype
    return values.astype(kind) if kind.kind == "f" else np.rint(values).astype(kind)


def _write(array: Any, block: tuple[slice, slice, slice], values: NDArray[Any]) -> None:
    """Write a block shard by shard: at once, zarr would go on with others after one has failed."""
    along_z, along_y, along_x = block
    _, step_y, step_x = array.shards
    for y in range(along_y.start, along_y.stop, step_y):
        for x in range(along_x.start, along_x.stop, step_x):
            shard = (
                slice(y, min(y + step_y, along_y.stop)),
                slice(x, min(x + step_x, along_x.stop)),
            )
            inside = (
                slice(part.start - whole.start, part.stop - whole.start)
                for part, whole in zip(shard, block[1:], strict=True)
            )
            array[along_z, *shard] = values[:, *inside]


def _advance(stage: Stage, block: tuple[slice, slice, slice], shape: tuple[int, ...]) -> None:
    along_z, along_y, along_x = block
    if (along_y.stop, along_x.stop) == shape[1:]:
        stage.advance(along_z.stop - along_z.start)


def _attributes(
    volume: Voxels, levels: Sequence[tuple[int, int, int]], extremes: tuple[float, float]
) -> dict[str, Any]:
    unit = {"unit": "millimeter"} if volume.length_unit == "mm" else {}
    # in the axes of the images, which for an axial series are the patient's L, P and H
    first = (volume.axes_lps @ volume.affine_lps_mm[:3, 3])[::-1]
    datasets = []
    for number, factors in enumerate(levels):
        scale = [edge * f for edge, f in zip(volume.voxel_mm, factors, strict=True)]
        # a voxel of a coarser level lies in the middle of those that it averages
        translation = [
            float(place + edge * (f - 1) / 2)
            for place, edge, f in zip(first, volume.voxel_mm, factors, strict=True)
        ]
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    {"type": "translation", "translation": translation},
                ],
            }
        )
    name = volume.description or volume.series_uid
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [
                {
                    "name": name,
                    "axes": [{"name": axis, "type": "space", **unit} for axis in "zyx"],
                    "datasets": datasets,
                    "type": "mean",
                }
            ],
            "omero": {"channels": [_channel(name, volume, extremes)]},
        },
        "pacspark": {
            "series_instance_uid": volume.series_uid,
            "unit": volume.unit,
            "affine_lps_mm": volume.affine_lps_mm.tolist(),
        },
    }


def _channel(name: str, volume: Voxels, extremes: tuple[float, float]) -> dict[str, Any]:
    lowest, highest = extremes if np.isfinite(extremes).all() else (0.0, 0.0)
    if highest <= lowest:
        highest = lowest + 1.0
    middle = Window((lowest + highest) / 2, highest - lowest)
    window = volume.window or middle
    return {
        "active": True,
        "color": "FFFFFF",
        "label": f"{name} ({volume.unit})" if volume.unit else name,
        "window": {
            "min": lowest,
            "max": highest,
            "start": float(window.lower),
            "end": float(window.upper),
        },
    }
