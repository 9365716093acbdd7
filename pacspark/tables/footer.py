"""The footer of a Parquet file, read in Python alone: damaged ones end pyarrow's process.

A footer is one struct in Thrift's compact protocol. It is read into dicts by field number, and of
these the few that tell where things lie have names here (parquet.thrift).
"""

import struct
from typing import Any, Final

ROW_GROUPS: Final = 4  # of a file
COLUMNS: Final = 1  # of a row group
NUM_ROWS: Final = 3
META_DATA: Final = 3  # of a column in a row group
COMPRESSED_SIZE: Final = 7  # of its meta data
DATA_PAGE_OFFSET: Final = 9
Struct = dict[int, Any]

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS: Final = frozenset({4, 5, 6})
_LONG_LIST: Final = 15
_DEEPEST: Final = 32


def parse_footer(data: bytes) -> Struct:
    """Read a footer.

    Raises
    ------
    ValueError
        where the bytes are none
    """
    try:
        found, end = _struct(data, 0, 0)
    except (IndexError, struct.error) as error:
        message = f"expected {len(data)} bytes to be a footer, found it to go on"
        raise ValueError(message) from error
    if end != len(data):
        message = f"expected a footer of {len(data)} bytes, found one of {end}"
        raise ValueError(message)
    return found


def _struct(data: bytes, position: int, depth: int) -> tuple[Struct, int]:
    found: Struct = {}
    number = 0
    while head := data[position]:
        position += 1
        if head >> 4:
            number += head >> 4
        else:
            number, position = _integer(data, position)
        kind = head & 15
        if kind in {_TRUE, _FALSE}:
            found[number] = kind == _TRUE
        else:
            found[number], position = _value(data, position, kind, depth)
    return found, position + 1


def _value(data: bytes, position: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in _INTEGERS:
        return _integer(data, position)
    if kind == _STRUCT and depth < _DEEPEST:
        return _struct(data, position, depth + 1)
    if kind == _BINARY:
        length, position = _varint(data, position)
        if length > len(data) - position:
            raise IndexError
        return data[position : position + length], position + length
    if kind in {_LIST, _SET} and depth < _DEEPEST:
        count, inner = data[position] >> 4, data[position] & 15
        position += 1
        if count == _LONG_LIST:
            count, position = _varint(data, position)
        values = []
        for _ in range(count):
            value, position = _value(data, position, inner, depth + 1)
            values.append(value)
        return values, position
    if kind in {_TRUE, _FALSE, _BYTE}:
        return data[position], position + 1
    if kind == _DOUBLE:
        return struct.unpack_from("<d", data, position)[0], position + 8
    message = f"expected a type of Thrift in a footer, found {kind} at {position}"
    raise ValueError(message)


def _integer(data: bytes, position: int) -> tuple[int, int]:
    value, position = _varint(data, position)
    return (value >> 1) ^ -(value & 1), position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError
