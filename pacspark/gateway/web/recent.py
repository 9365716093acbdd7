"""What the web door remembers for a while: accesses, and rows of instances."""

from collections.abc import Mapping
from itertools import dropwhile, islice
from threading import Lock
from time import monotonic
from typing import Any, Final

from pacspark.errors import InstanceNotFoundError
from pacspark.gateway.groups import StoredInstance
from pacspark.gateway.storing import Store

_KEPT_ACCESSES: Final = 4096
_ACCESS_S: Final = 60.0
_KEPT_SERIES: Final = 256
_READ_AHEAD: Final = 256
_MOST_WEIGHT: Final = 1_000_000


class RecentAccesses:
    """Which accesses have had their audit row lately: frames are asked for one by one."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen: dict[tuple[str, ...], float] = {}

    def is_new(self, *access: str) -> bool:
        """Tell whether an access is the first of its kind within a minute."""
        now = monotonic()
        with self._lock:
            if now - self._seen.get(access, -_ACCESS_S) < _ACCESS_S:
                return False
            self._seen.pop(access, None)
            self._seen[access] = now
            while len(self._seen) > _KEPT_ACCESSES:
                del self._seen[next(iter(self._seen))]
        return True


class Places:
    """Where the bytes and frames of instances are, of those asked for lately.

    Whoever asks for a second instance of a series will ask for those behind it: their rows lie
    together and are read together.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._rows: dict[str, tuple[str, dict[str, Any]]] = {}
        self._weight = 0
        self._missed: dict[str, None] = {}

    def of(self, instance: StoredInstance) -> dict[str, Any]:
        """Give the row of :meth:`Store.locate`.

        Raises
        ------
        InstanceNotFoundError
            where the instance went in between
        """
        uid = instance.sop_instance_uid
        with self._lock:
            known = self._rows.get(uid)
        if known is not None and known[0] == instance.sha256:
            return known[1]
        wanted = self._following(instance)
        rows = self._store.locate(wanted)
        if uid not in rows:
            rows |= self._store.locate([self._store.instance(uid)])
        if uid not in rows:
            message = f"no instance with the SOP Instance UID {uid}"
            raise InstanceNotFoundError(message)
        for one in wanted:
            if one.sop_instance_uid in rows:
                self._keep(one, rows[one.sop_instance_uid])
        return rows[uid]

    def _following(self, instance: StoredInstance) -> list[StoredInstance]:
        series = instance.series_instance_uid
        with self._lock:
            is_first = series not in self._missed
            self._missed[series] = None
            while len(self._missed) > _KEPT_SERIES:
                del self._missed[next(iter(self._missed))]
        if is_first or instance.landed is not None:
            return [instance]
        all_of_it = self._store.index.instances("series", [series])
        behind = dropwhile(lambda one: one.sop_instance_uid != instance.sop_instance_uid, all_of_it)
        return [one for one in islice(behind, _READ_AHEAD) if one.file == instance.file] or [
            instance
        ]

    def _keep(self, instance: StoredInstance, row: dict[str, Any]) -> None:
        with self._lock:
            self._forget(instance.sop_instance_uid)
            self._rows[instance.sop_instance_uid] = (instance.sha256, row)
            self._weight += _weight(row)
            while self._weight > _MOST_WEIGHT and len(self._rows) > 1:
                self._forget(next(iter(self._rows)))

    def _forget(self, uid: str) -> None:
        known = self._rows.pop(uid, None)
        if known is not None:
            self._weight -= _weight(known[1])


def _weight(row: Mapping[str, Any]) -> int:
    """Tell about how many numbers a row holds: multi-frame objects have some for each frame."""
    return 32 + sum(len(value) for value in row.values() if isinstance(value, list | tuple))
