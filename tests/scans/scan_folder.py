"""Scans in folders, for tests: tables that become a SCAN.toml beside its files."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_ANGLES, N_ROWS, N_COLUMNS = 6, 4, 5

Tables = dict[str, Any]

CONE: Tables = {
    "format_version": 1,
    "projections": {"files": "stack.npy", "kind": "line_integrals"},
    "geometry": {
        "beam": "cone",
        "source_to_isocenter_mm": 110.0,
        "source_to_detector_mm": 300.0,
        "column_spacing_mm": 0.5,
    },
    "angles": {"step_deg": 60.0},
}


def with_values(changes: dict[str, Any], tables: Tables = CONE) -> Tables:
    """Return tables with some keys, named ``table.key``, changed; None takes one away."""
    changed = copy.deepcopy(tables)
    for name, value in changes.items():
        *parents, key = name.split(".")
        table = changed
        for parent in parents:
            table = table.setdefault(parent, {})
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
    return changed


def toml_value(value: Any) -> str:
    """Return a text, a number or a list as TOML, which writes them as JSON does."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_toml(folder: Path, tables: Tables) -> Path:
    """Write a SCAN.toml; its tables may hold texts, numbers and lists."""
    lines = [f"{key} = {toml_value(v)}" for key, v in tables.items() if not isinstance(v, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines.append(f"[{name}]")
            lines += [f"{key} = {toml_value(value)}" for key, value in table.items()]
    path = folder / "SCAN.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def frames(
    n_angles: int = N_ANGLES, n_rows: int = N_ROWS, n_columns: int = N_COLUMNS, n_bins: int = 1
) -> NDArray[np.uint16]:
    """Return ``[energy_bin, angle, row, column]`` in which no two pixels are alike."""
    shape = (n_bins, n_angles, n_rows, n_columns)
    return (np.arange(np.prod(shape)) * 7 + 3).reshape(shape).astype(np.uint16)


def write_scan(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write a small cone-beam scan of one NumPy file."""
    np.save(folder / "stack.npy", frames()[0])
    return write_toml(folder, with_values(changes or {}))
