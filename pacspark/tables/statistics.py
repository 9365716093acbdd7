"""Statistics of a data file: what the log keeps of it, so that engines can pass it over."""

import json
import math
from datetime import datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pacspark.tables.schema import TableSpec

_STATISTICS_CHARS: Final = 128


class FileStatistics:
    """Gathers what the Delta log keeps of a file; every bound holds, but need not be tight.

    Parameters
    ----------
    spec
        the table, whose `statistics_columns` have bounds
    """

    def __init__(self, spec: TableSpec) -> None:
        self._names = spec.statistics_columns
        self._nulls = dict.fromkeys(self._names, 0)
        self._bounds: dict[str, tuple[Any, Any]] = {}
        self._unbounded: set[str] = set()

    def add(self, table: pa.Table) -> None:
        """Take rows of the file in."""
        for name in self._names:
            column = table[name]
            self._nulls[name] += column.null_count
            if name in self._unbounded or column.null_count == len(column):
                continue
            if pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py():
                # no order has a place for NaN that all engines agree on
                self._unbounded.add(name)
                continue
            if len(column) == 1:  # as of pieces, many times over
                low = high = column[0].as_py()
            else:
                found = pc.min_max(column)
                low, high = found["min"].as_py(), found["max"].as_py()
            if name in self._bounds:
                low, high = min(low, self._bounds[name][0]), max(high, self._bounds[name][1])
            self._bounds[name] = low, high

    def to_json(self, num_records: int) -> str:
        """Give the statistics of an add action."""
        low, high = {}, {}
        for name, (smallest, largest) in self._bounds.items():
            if name in self._unbounded:
                continue
            low[name], high[name] = _lower_bound(smallest), _upper_bound(largest)
        statistics = {
            "numRecords": num_records,
            "minValues": {name: value for name, value in low.items() if value is not None},
            "maxValues": {name: value for name, value in high.items() if value is not None},
            "nullCount": self._nulls,
        }
        return json.dumps(statistics, ensure_ascii=False, separators=(",", ":"))


def _lower_bound(value: Any) -> Any:
    return value[:_STATISTICS_CHARS] if isinstance(value, str) else _json_value(value)


def _upper_bound(value: Any) -> Any:
    if not isinstance(value, str):
        return _json_value(value)
    if len(value) <= _STATISTICS_CHARS:
        return value
    # the last code point sorts after whatever follows the prefix, unless it stands there itself
    rest = value[_STATISTICS_CHARS]
    return None if rest == "\U0010ffff" else value[:_STATISTICS_CHARS] + "\U0010ffff"


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
