"""Every table of an archive, declared once: columns, types, units, keys, and what they mean.

From these declarations come the Arrow and Delta schemas with their column comments, the check of an
existing archive, and the page docs/tables.md, as :func:`describe_tables` writes it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import pyarrow as pa
from pydicom.datadict import dictionary_description

from pacspark.dicom.attributes import PROMOTED
from pacspark.dicom.frames import FrameIndex
from pacspark.errors import UsageError

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")
_KINDS: Final = MappingProxyType(
    {"string": pa.string(), "int64": pa.int64(), "double": pa.float64()}
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name, type, description
        as Arrow and people want them
    keyword
        the DICOM keyword of a promoted attribute, else empty
    unit
        of its numbers, empty where they have none
    nullable
        whether a row may have no value
    statistics
        whether the log keeps the smallest and largest value of each file, for engines to skip files
    """

    name: str
    type: pa.DataType
    description: str
    keyword: str = ""
    unit: str = ""
    nullable: bool = True
    statistics: bool = False


@dataclass(frozen=True)
class TableSpec:
    """One table.

    Attributes
    ----------
    name
        of the table and of its folder under the root
    columns
        in their order
    key
        the columns that tell its rows apart
    description
        what one row is
    bloom_column
        a column of UIDs of which files keep a Bloom filter, empty for none
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    description: str
    bloom_column: str = ""

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema; a field's metadata hold its comment, keyword and unit."""
        return pa.schema([_field(column) for column in self.columns])

    @cached_property
    def statistics_columns(self) -> tuple[str, ...]:
        """The columns whose smallest and largest values the log keeps."""
        return tuple(column.name for column in self.columns if column.statistics)

    def require_columns(self, names: Iterable[str] | None) -> list[str]:
        """Give the names of columns as a list, all where none are given; refuse any unknown."""
        known = self.arrow_schema.names
        wanted = known if names is None else list(names)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            found = ", ".join(map(str, unknown))
            message = f"columns: expected columns of {self.name}, found {found[:200]}"
            raise UsageError(message)
        return list(wanted)


def _field(column: Column) -> pa.Field:
    metadata = {"comment": column.description}
    if column.keyword:
        metadata["dicom_keyword"] = column.keyword
    if column.unit:
        metadata["unit"] = column.unit
    return pa.field(column.name, column.type, column.nullable, metadata)


def _key(name: str, arrow_type: pa.DataType, description: str, **more: Any) -> Column:
    return Column(name, arrow_type, description, nullable=False, statistics=True, **more)


_LOCATION: Final = (
    Column("sha256", pa.string(), "SHA-256 of the object's bytes, hexadecimal", statistics=True),
    Column("size_bytes", pa.int64(), "length of the object", unit="byte"),
    Column("object_file", pa.string(), "file of the bytes, relative to the table objects"),
    Column("object_row_group", pa.int32(), "row group of the first piece in that file"),
    Column("object_pieces", pa.int32(), "number of pieces, one row group each"),
    Column(
        "object_offsets",
        pa.list_(pa.int64()),
        "where in that file the bytes of each piece begin; each but the last is 16 MiB",
        unit="byte",
    ),
)
_FRAMES: Final = (
    Column("frame_kind", pa.string(), "none, native, encapsulated or deflated"),
    Column("frame_count", pa.int64(), "frames whose bytes can be told apart"),
    Column("pixel_data_offset", pa.int64(), "where the pixel data begin", unit="byte"),
    Column("pixel_data_length", pa.int64(), "length of the pixel data", unit="byte"),
    Column("frame_size_bits", pa.int64(), "length of one native frame", unit="bit"),
    Column("fragment_offsets", pa.list_(pa.int64()), "where each fragment begins", unit="byte"),
    Column("fragment_lengths", pa.list_(pa.int64()), "length of each fragment", unit="byte"),
    Column(
        "fragments_of_frame",
        pa.list_(pa.int64()),
        "fragments of each frame, empty where each frame has one",
    ),
)
_RUN: Final = Column("run_id", pa.string(), "the run that wrote the row", statistics=True)
_RECEIVED: Final = Column("received_at", TIMESTAMP, "when it arrived, UTC", statistics=True)

_REQUIRED: Final = frozenset(
    {"SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "TransferSyntaxUID"}
)
_SKIPPING: Final = _REQUIRED | {
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "StudyDate",
    "AccessionNumber",
    "StudyID",
    "Modality",
    "SeriesDate",
    "ContentDate",
    "InstanceNumber",
}

INSTANCES: Final = TableSpec(
    "instances",
    (
        *(
            Column(
                attribute.column,
                pa.list_(_KINDS[attribute.kind]) if attribute.multiple else _KINDS[attribute.kind],
                dictionary_description(attribute.tag),
                keyword=attribute.keyword,
                nullable=attribute.keyword not in _REQUIRED,
                statistics=attribute.keyword in _SKIPPING and not attribute.multiple,
            )
            for attribute in PROMOTED
        ),
        *_LOCATION,
        *_FRAMES,
        Column("dicom_json", pa.string(), "the data set without bulk data (PS3.18 Annex F)"),
        Column("source", pa.string(), "where the object came from"),
        _RECEIVED,
        _RUN,
    ),
    ("sop_instance_uid",),
    "One SOP instance. Its row makes an object part of the archive.",
    bloom_column="sop_instance_uid",
)

OBJECTS: Final = TableSpec(
    "objects",
    (
        _key("sha256", pa.string(), "SHA-256 of the whole object, hexadecimal"),
        _key("piece", pa.int32(), "number of the piece, from 0"),
        Column("content", pa.binary(), "the bytes as received", nullable=False),
    ),
    ("sha256", "piece"),
    "One piece, at most 16 MiB, of one DICOM object. Rows of `instances` say where in which file "
    "their bytes are, so other engines' OPTIMIZE would lose them; `pacspark compact` moves both.",
)

PROJECTIONS: Final = TableSpec(
    "projections",
    (
        _key("series_instance_uid", pa.string(), "the scan"),
        _key("energy_bin", pa.int32(), "index of the energy bin, 0 for a scan without"),
        _key("angle_start", pa.int32(), "index of the first angle"),
        Column("angle_count", pa.int32(), "number of angles", nullable=False),
        _key("row_start", pa.int32(), "index of the first detector row"),
        Column("row_count", pa.int32(), "number of detector rows", nullable=False),
        Column("column_count", pa.int32(), "number of detector columns", nullable=False),
        Column(
            "gantry_angles_rad", pa.list_(pa.float64()), "gantry angles of the block", unit="rad"
        ),
        _RUN,
        Column(
            "line_integrals",
            pa.binary(),
            "float32 little endian, C order (angle, row, column)",
            nullable=False,
        ),
    ),
    ("series_instance_uid", "energy_bin", "angle_start", "row_start"),
    "One block of line integrals of a scan: some angles of a band of detector rows.",
)

RUNS: Final = TableSpec(
    "runs",
    (
        _key("run_id", pa.string(), "the run"),
        Column("operation", pa.string(), "ingest, reconstruct, ...", nullable=False),
        Column("code_version", pa.string(), "version of pacspark"),
        Column("started_at", TIMESTAMP, "begin, UTC", statistics=True),
        Column("finished_at", TIMESTAMP, "end, UTC"),
        Column("outcome", pa.string(), "done or failed"),
        Column("message", pa.string(), "what went wrong, if anything"),
        Column("series_instance_uid", pa.string(), "the series that it made", statistics=True),
        Column("source_series_instance_uid", pa.string(), "the series it was made from"),
        Column("options", pa.string(), "what was asked for, JSON"),
        Column("geometry", pa.string(), "geometry of the scan and the grid, JSON"),
        Column("input_versions", pa.string(), "version of each table that was read, JSON"),
        Column("metrics", pa.string(), "counts, bytes and seconds, JSON"),
    ),
    ("run_id", "finished_at"),
    "One end of a job, done or failed: what is needed to make its result again. A reconstruction "
    "that is asked for again after it failed keeps its run_id.",
)

REJECTS: Final = TableSpec(
    "rejects",
    (
        Column("source", pa.string(), "where the input came from", nullable=False),
        Column("received_at", TIMESTAMP, "when it arrived, UTC", nullable=False, statistics=True),
        Column("error_class", pa.string(), "class of the error, or conflict", nullable=False),
        Column("message", pa.string(), "what was expected and what was found", nullable=False),
        Column("sop_instance_uid", pa.string(), "SOP Instance UID where it is known"),
        *_LOCATION,
        _RUN,
    ),
    ("source", "received_at"),
    "One refused input, with its bytes where they were kept.",
)

AUDIT: Final = TableSpec(
    "audit",
    (
        _key("occurred_at", TIMESTAMP, "when, UTC"),
        Column("actor", pa.string(), "AE title or user", nullable=False, statistics=True),
        Column("address", pa.string(), "network address of the peer"),
        Column("action", pa.string(), "what was done", nullable=False, statistics=True),
        Column("level", pa.string(), "patient, study, series or instance"),
        Column("uid", pa.string(), "what it was done to"),
        Column("outcome", pa.string(), "how it ended", nullable=False),
        Column("detail", pa.string(), "more, JSON"),
        _RUN,
    ),
    ("occurred_at", "actor", "action"),
    "One access or change.",
)

HOLDS: Final = TableSpec(
    "holds",
    (
        _key("study_instance_uid", pa.string(), "the study"),
        _key("occurred_at", TIMESTAMP, "when, UTC"),
        Column("action", pa.string(), "hold or release", nullable=False),
        Column("actor", pa.string(), "user", nullable=False),
        Column("reason", pa.string(), "why"),
        _RUN,
    ),
    ("study_instance_uid", "occurred_at"),
    "One legal hold, or its release. A study whose last row is a hold is not deleted.",
)

TABLES: Final[Mapping[str, TableSpec]] = MappingProxyType(
    {spec.name: spec for spec in (INSTANCES, OBJECTS, PROJECTIONS, RUNS, REJECTS, AUDIT, HOLDS)}
)
"""All tables by name."""


def frame_columns(frames: FrameIndex) -> dict[str, Any]:
    """Give the columns of `instances` that hold a frame index."""
    return {
        "frame_kind": frames.kind,
        "frame_count": frames.count,
        "pixel_data_offset": frames.pixel_data_offset,
        "pixel_data_length": frames.pixel_data_length,
        "frame_size_bits": frames.frame_size_bits,
        "fragment_offsets": frames.fragment_offsets,
        "fragment_lengths": frames.fragment_lengths,
        "fragments_of_frame": frames.fragments_of_frame,
    }


def frame_index(row: Mapping[str, Any]) -> FrameIndex:
    """Give the frame index of a row of `instances`; the inverse of :func:`frame_columns`."""
    return FrameIndex(
        row["frame_kind"] or "none",
        row["frame_count"] or 0,
        row["pixel_data_offset"],
        row["pixel_data_length"],
        row["frame_size_bits"],
        tuple(row["fragment_offsets"] or ()),
        tuple(row["fragment_lengths"] or ()),
        tuple(row["fragments_of_frame"] or ()),
    )


FRAME_COLUMNS: Final = tuple(column.name for column in _FRAMES)
LOCATION_COLUMNS: Final = tuple(column.name for column in _LOCATION)
"""What :class:`~pacspark.tables.catalog.Catalog` needs of a row to read its bytes."""

CHECKPOINT_INTERVAL: Final = 50
"""After so many commits whoever commits sums the log up, so that opening reads no more of it."""
LOG_RETENTION: Final = timedelta(days=365)
_CONFIGURATION: Final = MappingProxyType(
    {
        "delta.enableDeletionVectors": "false",
        "delta.checkpointInterval": str(CHECKPOINT_INTERVAL),
        # who changed what, when, stays listed for a year
        "delta.logRetentionDuration": f"interval {LOG_RETENTION.days} days",
        "delta.deletedFileRetentionDuration": "interval 30 days",
    }
)


def configuration(spec: TableSpec) -> dict[str, str]:
    """Give the properties that a new table has."""
    # unless told, readers keep bounds of the first 32 columns alone: not of the SOP Instance UID
    return {
        **_CONFIGURATION,
        "delta.dataSkippingStatsColumns": ",".join(spec.statistics_columns),
    }


def describe_tables() -> str:
    """Write the page about the tables, docs/tables.md."""
    lines = ["# Tables", ""]
    for spec in TABLES.values():
        key = ", ".join(f"`{name}`" for name in spec.key)
        lines += [f"## {spec.name}", "", f"{spec.description} Key: {key}.", ""]
        attributes = [column for column in spec.columns if column.keyword]
        if attributes:
            lines += ["DICOM attributes, which SQL finds by their keywords too:", ""]
        for name in dict.fromkeys(_type_name(column) for column in attributes):
            columns = [f"`{c.name}`" for c in attributes if _type_name(c) == name]
            lines += [f"* {name}: {', '.join(columns)}"]
        if attributes:
            lines.append("")
        lines += ["| column | type | unit | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{column.name}` | {_type_name(column)} | {column.unit} | {column.description} |"
            for column in spec.columns
            if not column.keyword
        ]
        lines.append("")
    return "\n".join(lines)


def _type_name(column: Column) -> str:
    name = str(column.type).replace("element: ", "").replace("item: ", "")
    return f"`{name}`" if column.nullable else f"`{name}`, never null"
