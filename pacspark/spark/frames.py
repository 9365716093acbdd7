"""Pixels of frames as a DataFrame: read and decoded in tasks, a row per frame.

::

    instances ─▶ where ─▶ runs of frames, spread over tasks ─▶ task: range reads, decode ─▶ rows
                                                                     └▶ compute(frame) ─▶ rows

A run is about 8 MiB of decoded frames of one instance, and all that a task holds besides one Arrow
batch. Pixels pass through no driver; with ``compute`` they do not even leave the task.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as sf
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructField, StructType

from pacspark.errors import UsageError
from pacspark.spark.attributes import attribute
from pacspark.spark.query import filtered, table
from pacspark.spark.session import session_cluster
from pacspark.tables.catalog import Catalog
from pacspark.tables.framing import (
    PIXEL_COLUMNS,
    RUN_BYTES,
    RUN_FRAMES,
    DecodedRun,
    decode_run,
)
from pacspark.tables.storage import Storage

IDENTIFIERS: Final = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
LARGEST_FRAME_BYTES: Final = (1 << 31) - 1
"""Cells of Spark and Arrow end here."""
_OWN: Final = frozenset(
    "frame_number shape dtype spacing_mm rescale_slope rescale_intercept error pixels".split()
)
_SCHEMA: Final = (
    "frame_number int, shape array<int>, dtype string, spacing_mm array<double>, "
    "rescale_slope double, rescale_intercept double, error string"
)
_PER_FRAME: Final = "PerFrameFunctionalGroupsSequence[*]"
_SHARED: Final = "SharedFunctionalGroupsSequence"
_RESCALE: Final = "PixelValueTransformationSequence"
_TASKS_PER_CORE: Final = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame, as ``compute`` gets it.

    Attributes
    ----------
    pixels
        stored values, ``(rows, columns)`` or of colours ``(rows, columns, samples)``
    number
        from 1 on, as DICOM counts
    row
        identifiers of the instance and the columns that were asked for
    spacing_mm, rescale_slope, rescale_intercept
        None where the object does not say
    """

    pixels: NDArray[Any]
    number: int
    row: Mapping[str, Any]
    spacing_mm: Sequence[float] | None
    rescale_slope: float | None
    rescale_intercept: float | None

    @property
    def values(self) -> NDArray[np.float32]:
        """Pixels with slope and intercept applied, float32."""
        return rescaled(self.pixels, self.rescale_slope, self.rescale_intercept)


Compute = Callable[[Frame], Any]


def rescaled(
    pixels: NDArray[Any], slope: float | None, intercept: float | None
) -> NDArray[np.float32]:
    """Apply slope and intercept, 1 and 0 where there are none."""
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    return (pixels * slope + intercept).astype(np.float32)


def frame_array(row: Any, *, rescale: bool = False) -> NDArray[Any]:
    """Give the pixels of a row of `Archive.frames` as an array.

    Parameters
    ----------
    row
        A Spark `Row`, a dictionary, a pandas row: whatever has ``pixels``, ``dtype`` and ``shape``.
    rescale
        Whether slope and intercept are applied, into float32.

    Returns
    -------
    numpy.ndarray
        ``(rows, columns)`` or ``(rows, columns, samples)``; stored values are read-only, they are
        not copied.

    Raises
    ------
    UsageError
        When the frame could not be decoded; ``error`` of its row says why.
    """
    if row["pixels"] is None:
        message = f"frame {row['frame_number']}: expected pixels, found none: {row['error']}"
        raise UsageError(message)
    shape = tuple(int(edge) for edge in row["shape"])
    pixels = np.frombuffer(row["pixels"], row["dtype"]).reshape(shape)
    if not rescale:
        return pixels
    found = (row["rescale_slope"], row["rescale_intercept"])
    # pandas writes none as NaN
    slope, intercept = (None if value is None or value != value else value for value in found)  # noqa: PLR0124
    return rescaled(pixels, slope, intercept)


def frames(
    spark: SparkSession,
    catalog: Catalog,
    *,
    study: str | None = None,
    series: str | None = None,
    where: str | Column | None = None,
    columns: Sequence[str] = (),
    compute: Compute | None = None,
    returns: str | None = None,
) -> DataFrame:
    """Open frames as `Archive.frames` says."""
    if (compute is None) != (returns is None):
        message = "frames: expected compute and returns, or neither, found one of them"
        raise UsageError(message)
    instances = table(spark, catalog, "instances")
    for column, uid in (("study_instance_uid", study), ("series_instance_uid", series)):
        if uid is not None:
            instances = instances.where(sf.col(column) == uid)
    if where is not None:
        instances = filtered(instances, where)
    named = list(dict.fromkeys(name for name in columns if name not in IDENTIFIERS))
    taken = _OWN & {name.lower() for name in named}
    if taken:
        message = f"columns: expected names that frames do not have, found {', '.join(taken)}"
        raise UsageError(message)
    # by number, since names may be those of columns that decoding asks for
    extra = {
        f"_extra{i}": sf.col(name) if name in instances.columns else attribute(name)
        for i, name in enumerate(named)
    }
    runs = _runs(instances, [column.alias(name) for name, column in extra.items()])
    runs = runs.repartition(_TASKS_PER_CORE * session_cluster(spark).cores)
    kept = (*IDENTIFIERS, *extra)
    carried = runs.select(*kept).schema.fields
    fields = [
        StructField(name, field.dataType)
        for name, field in zip([*IDENTIFIERS, *named], carried, strict=True)
    ]
    own = cast(StructType, StructType.fromDDL(f"{_SCHEMA}, {returns or 'pixels binary'}"))
    schema = StructType([*fields, *own.fields])
    body = FrameTask(catalog.storage, kept, to_arrow_schema(schema), compute)
    return runs.mapInArrow(body, schema)


def _runs(instances: DataFrame, extra: list[Column]) -> DataFrame:
    """Give a row per run of frames: what it takes to read and decode it, and no more."""
    col = sf.col
    cell_bytes = sf.greatest(sf.lit(1), sf.coalesce(col("bits_allocated"), sf.lit(8)) / 8)
    frame_bytes = (
        sf.coalesce(col("rows"), sf.lit(1))
        * sf.coalesce(col("columns"), sf.lit(1))
        * sf.coalesce(col("samples_per_pixel"), sf.lit(1))
        * cell_bytes
    )
    step = sf.greatest(sf.lit(1), sf.least(sf.lit(RUN_FRAMES), sf.floor(RUN_BYTES / frame_bytes)))
    stated = sf.greatest(sf.lit(1), sf.coalesce(col("number_of_frames"), sf.lit(1)))
    # frames without a place of their own are those that the header states
    count = sf.when(col("frame_count") > 0, col("frame_count")).otherwise(stated)
    is_enhanced = col("number_of_frames").isNotNull()

    def shared(path: str) -> Column:
        return sf.when(is_enhanced, attribute(f"{_SHARED}.{path}"))

    def per_frame(path: str) -> Column:
        return sf.when(is_enhanced, attribute(f"{_PER_FRAME}.{path}"))

    spacing = "PixelMeasuresSequence.PixelSpacing"
    whole = (
        instances.where((col("frame_kind") != "none") & col("frame_kind").isNotNull())
        .withColumn("_step", step.cast("bigint"))
        .withColumn("_frames", count.cast("bigint"))
        .select(
            *(name for name in dict.fromkeys([*IDENTIFIERS, *PIXEL_COLUMNS])),
            *(column for column in extra),
            "_step",
            "_frames",
            sf.coalesce(
                _two(col("pixel_spacing")), _two(shared(spacing)), _two(col("imager_pixel_spacing"))
            ).alias("_spacing"),
            sf.arrays_zip(
                per_frame(f"{spacing}[0]").alias("row"), per_frame(f"{spacing}[1]").alias("column")
            ).alias("_spacings"),
            *(
                sf.coalesce(col(column), shared(f"{_RESCALE}.{keyword}")).alias(f"_{name}")
                for column, keyword, name in _RESCALES
            ),
            *(
                per_frame(f"{_RESCALE}.{keyword}").alias(f"_{name}s")
                for _, keyword, name in _RESCALES
            ),
        )
    )
    first = sf.explode(sf.sequence(sf.lit(0).cast("bigint"), col("_frames") - 1, col("_step")))
    cut = whole.withColumn("_first", first).withColumn(
        "_count", sf.least(col("_step"), col("_frames") - col("_first"))
    )
    groups, start, number = col("fragments_of_frame"), col("_first"), col("_count")
    is_grouped = sf.size(groups) > 0
    before = sf.when(is_grouped, _total(sf.slice(groups, 1, start.cast("int")))).otherwise(start)
    of_run = sf.slice(groups, (start + 1).cast("int"), number.cast("int"))
    fragments = sf.when(is_grouped, _total(of_run)).otherwise(number)
    is_placed = (col("frame_kind") == "encapsulated") & (col("frame_count") > 0)
    for name in ("fragment_offsets", "fragment_lengths"):
        part = sf.slice(col(name), (before + 1).cast("int"), fragments.cast("int"))
        cut = cut.withColumn(f"_{name}", sf.when(is_placed, part))
    cut = cut.withColumn("_fragments_of_frame", sf.when(is_placed & is_grouped, of_run))
    for name in ("fragment_offsets", "fragment_lengths", "fragments_of_frame"):
        cut = cut.drop(name).withColumnRenamed(f"_{name}", name)
    cut = cut.withColumn("frame_count", sf.when(is_placed, number).otherwise(col("frame_count")))
    for name in ("_spacings", "_slopes", "_intercepts"):
        cut = cut.withColumn(name, sf.slice(name, (start + 1).cast("int"), number.cast("int")))
    return cut.drop("_step", "_frames")


_RESCALES: Final = (
    ("rescale_slope", "RescaleSlope", "slope"),
    ("rescale_intercept", "RescaleIntercept", "intercept"),
)


def _two(values: Column) -> Column:
    return sf.when(sf.size(values) == 2, values)


def _total(values: Column) -> Column:
    return sf.aggregate(values, sf.lit(0).cast("bigint"), lambda total, value: total + value)


class FrameTask:
    """Body of the tasks; called with the Arrow batches of its runs.

    Input and output::

        in:  identifiers and asked columns, PIXEL_COLUMNS,
             _first: long, _count: long                       the run
             _spacing, _slope, _intercept                     of all its frames
             _spacings, _slopes, _intercepts                  of each, or null
        out: identifiers and asked columns, a row per frame; the fields of `frames`;
             pixels: binary, or what compute returned
    """

    def __init__(
        self, storage: Storage, kept: Sequence[str], schema: pa.Schema, compute: Compute | None
    ) -> None:
        self._storage = storage
        self._kept = kept
        self._schema = schema
        self._compute = compute

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Read, decode, and give frames or what is computed of them."""
        self._storage.require_seen()
        catalog = Catalog(self._storage)
        held: list[pa.RecordBatch] = []
        held_bytes = 0
        for batch in batches:
            carried = batch.select(self._kept)
            for i, row in enumerate(batch.to_pylist()):
                for run in decode_run(catalog, row, row["_first"], row["_count"]):
                    held.append(self._rows(carried.slice(i, 1), row, run))
                    held_bytes += held[-1].nbytes
                    if len(held) >= RUN_FRAMES or held_bytes >= RUN_BYTES:
                        yield pa.concat_batches(held)
                        held, held_bytes = [], 0
        if held:
            yield pa.concat_batches(held)

    def _rows(self, one: pa.RecordBatch, row: Mapping[str, Any], run: DecodedRun) -> pa.RecordBatch:
        """Give the rows of a decoded run."""
        frames = list(_told(row, run))
        error = run.error
        if run.pixels is not None and run.pixels[0].nbytes > LARGEST_FRAME_BYTES:
            error = f"{row['sop_instance_uid']}: expected a frame of less than 2 GiB, found more"
        shape = None if run.pixels is None else list(run.pixels.shape[1:])
        dtype = None if run.pixels is None else run.pixels.dtype.str
        arrays = [
            *(column.take(pa.array([0] * run.count, pa.int64())) for column in one.columns),
            pa.array([number for number, *_ in frames], pa.int32()),
            pa.array([shape] * run.count, pa.list_(pa.int32())),
            pa.array([dtype] * run.count, pa.string()),
            pa.array([spacing for _, spacing, *_ in frames], pa.list_(pa.float64())),
            pa.array([slope for _, _, slope, _ in frames], pa.float64()),
            pa.array([intercept for *_, intercept in frames], pa.float64()),
            pa.array([error or None] * run.count, pa.string()),
        ]
        pixels = None if error else run.pixels
        rest = list(self._schema)[len(arrays) :]
        if self._compute is None:
            arrays.append(_cells(pixels, run.count))
        else:
            arrays += self._computed(one, frames, pixels, rest)
        fields = zip(arrays, self._schema, strict=True)
        return pa.RecordBatch.from_arrays(
            [
                array if array.type == field.type else array.cast(field.type)
                for array, field in fields
            ],
            schema=self._schema,
        )

    def _computed(
        self,
        one: pa.RecordBatch,
        frames: Sequence[tuple[int, Any, Any, Any]],
        pixels: NDArray[Any] | None,
        fields: Sequence[pa.Field],
    ) -> list[pa.Array]:
        if pixels is None or self._compute is None:
            return [pa.nulls(len(frames), field.type) for field in fields]
        row = {
            name: one[i][0].as_py() for i, name in enumerate(self._schema.names[: len(self._kept)])
        }
        found = [
            _values(self._compute(Frame(pixels[i], number, row, *more)), fields)
            for i, (number, *more) in enumerate(frames)
        ]
        return [
            pa.array([values[i] for values in found], field.type) for i, field in enumerate(fields)
        ]


def _told(row: Mapping[str, Any], run: DecodedRun) -> Iterator[tuple[int, Any, Any, Any]]:
    """Give number, spacing, slope and intercept of each frame of a run."""
    for frame in range(run.first, run.first + run.count):
        place = frame - row["_first"]
        pair = _at(row["_spacings"], place) or {}
        spacing = [pair.get("row"), pair.get("column")]
        yield (
            frame + 1,
            row["_spacing"] if None in spacing else spacing,
            _first_of(_at(row["_slopes"], place), row["_slope"]),
            _first_of(_at(row["_intercepts"], place), row["_intercept"]),
        )


def _at(values: Sequence[Any] | None, place: int) -> Any:
    return values[place] if values is not None and place < len(values) else None


def _first_of(value: Any, other: Any) -> Any:
    return other if value is None else value


def _cells(pixels: NDArray[Any] | None, count: int) -> pa.Array:
    """Give the bytes of each frame as a cell; they are not copied."""
    if pixels is None:
        return pa.nulls(count, pa.binary())
    offsets = np.arange(count + 1, dtype=np.int64) * pixels[0].nbytes
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(pixels)]
    return pa.Array.from_buffers(pa.binary(), count, buffers)


def _values(result: Any, fields: Sequence[pa.Field]) -> list[Any]:
    """Give what a computation returned, field by field: a dictionary, a tuple or one value."""
    if isinstance(result, Mapping):
        values = [result[field.name] for field in fields]
    else:
        values = list(result) if isinstance(result, tuple) else [result]
    if len(values) != len(fields):
        message = f"compute: expected {len(fields)} values as returns says, found {len(values)}"
        raise UsageError(message)
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else value
