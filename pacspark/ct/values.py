"""Dataclasses with arrays in them that are values all the same: they compare, hash and pickle."""

from dataclasses import fields
from typing import Any

import numpy as np


class ByValue:
    """What a frozen dataclass with arrays takes in place of ``eq=True``, which cannot do arrays."""

    __slots__ = ()

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, item.name) for item in fields(self))  # type: ignore[arg-type]

    def _key(self) -> tuple[Any, ...]:
        plain = (
            value.tobytes() if isinstance(value, np.ndarray) else value for value in self._fields()
        )
        return (type(self).__name__, *plain)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByValue) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        # made anew on the other side: an array does not come out of a pickle read-only
        return type(self), self._fields()
