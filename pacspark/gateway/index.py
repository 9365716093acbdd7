"""The query index: which instances there are, found in microseconds; made again from the tables.

In memory are groups of instances (see :mod:`pacspark.gateway.groups`) and three maps to them, by
patient, study and series, and one from SOP Instance UIDs. All else of an instance, its place in
`objects`, its frames, its DICOM JSON, is read from the tables, for those instances alone that an
answer shows. The index follows the tables version by version: groups of data files that are no
longer listed go, those of new ones come, in one step; and it has what has landed at once.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock, RLock
from typing import Any, Final

from pacspark.dicom.attributes import LEVELS, UNIQUE_KEYS, Level
from pacspark.dicom.decode import InstanceIndex, index_instance
from pacspark.errors import StorageError
from pacspark.gateway.groups import (
    Group,
    StoredInstance,
    group_values,
    landed_instance,
    read_groups,
)
from pacspark.tables.landing import Landed, Landing
from pacspark.tables.lookup import find_rows
from pacspark.tables.schema import INSTANCES, frame_columns
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage

_PLACE_BITS: Final = 32
_ALL_COLUMNS: Final = tuple(name for name in INSTANCES.arrow_schema.names if name != "source")


@dataclass(slots=True)
class _Entities:
    """Groups by one column; the last one that goes takes its entity away."""

    column: str
    groups: dict[Any, dict[int, Group]] = field(default_factory=dict)

    def add(self, group: Group) -> None:
        self.groups.setdefault(group[self.column], {})[group.number] = group

    def remove(self, group: Group) -> None:
        of_key = self.groups[group[self.column]]
        del of_key[group.number]
        if not of_key:
            del self.groups[group[self.column]]

    def of(self, key: Any) -> list[Group]:
        return list(self.groups.get(key, {}).values())


class Index:
    """Every instance of an archive and of its landing; safe for threads.

    Parameters
    ----------
    storage
        the archive
    landing
        whose objects are found too; None for the tables alone
    """

    def __init__(self, storage: Storage, landing: Landing | None = None) -> None:
        self.storage, self.landing = storage, landing
        self._snapshot = Snapshot(storage, "instances")
        self._refreshing, self._lock = Lock(), RLock()
        self._numbers = itertools.count()
        self._groups: dict[int, Group] = {}
        self._groups_of_file: dict[str, list[Group]] = {}
        self._places: dict[str, int] = {}
        self._entities: dict[Level, _Entities] = {
            level: _Entities(UNIQUE_KEYS[level].column) for level in LEVELS if level != "instance"
        }
        self._landed_groups: dict[tuple[Any, ...], Group] = {}
        self._version = -1
        self.refresh()

    @property
    def version(self) -> int:
        """The version of `instances` that is shown."""
        return self._version

    def __len__(self) -> int:
        return len(self._places)

    # following

    def refresh(self) -> bool:
        """Move on to the newest version of `instances`; tell whether that was another one.

        Raises
        ------
        StorageError
            where the tables cannot be read; the index stays as it was
        """
        with self._refreshing:
            if self._snapshot.refresh():
                self._version = -1  # of another archive, it may have the same number
            if self._snapshot.version == self._version:
                return False
            active = {file.path: file for file in self._snapshot.files()}
            new = [file for path, file in active.items() if path not in self._groups_of_file]
            gone = [path for path in self._groups_of_file if path not in active]
            groups = list(read_groups(self._snapshot, new, self._numbers.__next__))
            with self._lock:
                for file in new:
                    self._groups_of_file[file.path] = []
                for group in groups:
                    self._add(group)
                for path in gone:
                    self._remove_file(path)
                self._version = self._snapshot.version
        return True

    def _add(self, group: Group) -> None:
        self._groups[group.number] = group
        for entities in self._entities.values():
            entities.add(group)
        if group.file is None:
            return
        self._groups_of_file[group.file.path].append(group)
        base = group.number << _PLACE_BITS
        places = self._places
        landed: dict[int, set[str]] = {}
        for place, uid in enumerate(group.uids()):
            before = places.get(uid)
            places[uid] = base | place
            if before is not None:
                landed.setdefault(before >> _PLACE_BITS, set()).add(uid)
        self._discard_landed(landed)

    def _remove_file(self, path: str) -> None:
        for group in self._groups_of_file.pop(path):
            for uid in group.uids():
                if self._places.get(uid, -1) >> _PLACE_BITS == group.number:
                    del self._places[uid]
            self._remove(group)

    def _remove(self, group: Group) -> None:
        del self._groups[group.number]
        for entities in self._entities.values():
            entities.remove(group)

    def add_landed(self, landed: Landed, index: InstanceIndex) -> StoredInstance:
        """Show an object that has landed, unless its UID is shown already."""
        instance = landed_instance(landed, index)
        values = group_values(index.row)
        with self._lock:
            known = self.lookup(instance.sop_instance_uid)
            if known is not None:
                return known
            group = self._landed_groups.get(values)
            if group is None:
                group = Group(next(self._numbers), values, None)
                self._landed_groups[values] = group
                self._add(group)
            group.add(instance)
            self._places[instance.sop_instance_uid] = group.number << _PLACE_BITS
        return instance

    def forget_landed(self, uids: Iterable[str]) -> None:
        """Show objects of the landing no longer: the tables or `rejects` have their bytes."""
        with self._lock:
            landed: dict[int, set[str]] = {}
            for uid in uids:
                number = self._places.get(uid, -1) >> _PLACE_BITS
                group = self._groups.get(number)
                if group is not None and group.file is None:
                    del self._places[uid]
                    landed.setdefault(number, set()).add(uid)
            self._discard_landed(landed)

    def _discard_landed(self, uids_of_group: Mapping[int, set[str]]) -> None:
        """Put groups without some instances in the place of groups of the landing.

        What a query already has in its hands stays as it was when it began.
        """
        for number, uids in uids_of_group.items():
            group = self._groups[number]
            if group.file is not None:
                continue
            self._remove(group)
            rest = group.without(uids)
            if len(rest):
                self._landed_groups[rest.values] = rest
                self._add(rest)
            else:
                del self._landed_groups[group.values]

    # one instance

    def lookup(self, uid: str) -> StoredInstance | None:
        """Give an instance by its SOP Instance UID."""
        with self._lock:
            place = self._places.get(uid)
            if place is None:
                return None
            group = self._groups[place >> _PLACE_BITS]
        return group.instance(place & ((1 << _PLACE_BITS) - 1), uid)

    def instances(self, level: Level, keys: Iterable[str]) -> list[StoredInstance]:
        """Give all instances of some patients, studies, series, or those with some UIDs.

        Parameters
        ----------
        level
            of the keys
        keys
            PatientIDs or UIDs

        Returns
        -------
        list of StoredInstance
            by study, series, instance number and UID
        """
        if level == "instance":
            found = [one for one in map(self.lookup, dict.fromkeys(keys)) if one is not None]
        else:
            with self._lock:
                groups = [g for key in dict.fromkeys(keys) for g in self._entities[level].of(key)]
            found = [instance for group in groups for instance in group.instances()]
        return sorted(found, key=_reading_order)

    def rows(
        self, instances: Sequence[StoredInstance], columns: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """Read columns of `instances` that are not in memory.

        Parameters
        ----------
        instances
            from this index
        columns
            of `instances`; of objects in the landing those of its promoted attributes, of its
            frames and ``dicom_json``

        Returns
        -------
        dict
            by SOP Instance UID; instances that went in between are missing
        """
        files = {one.file.path: one.file for one in instances if one.file is not None}
        wanted = [one.sop_instance_uid for one in instances if one.file is not None]
        names = list(dict.fromkeys(["sop_instance_uid", *columns]))
        found = {}
        if wanted:
            table = find_rows(self.storage, files.values(), wanted, names)
            found = {row["sop_instance_uid"]: row for row in table.to_pylist()}
        for one in instances:
            if one.landed is not None:
                row = self._landed_row(one)
                found |= {} if row is None else {one.sop_instance_uid: row}
        return found

    def _landed_row(self, instance: StoredInstance) -> dict[str, Any] | None:
        if instance.landed is None or self.landing is None:
            return None
        try:
            with self.landing.open_stream(instance.landed) as stream:
                index = index_instance(stream)
        except StorageError:  # the tables have it by now
            moved = self.lookup(instance.sop_instance_uid)
            if moved is None or moved.file is None:
                return None
            return self.rows([moved], _ALL_COLUMNS).get(moved.sop_instance_uid)
        return index.row | frame_columns(index.frames) | {"dicom_json": index.dicom_json}

    # groups, for queries

    @property
    def archive_id(self) -> str:
        """What tells the archive from others."""
        return self._snapshot.table_id

    def groups(self) -> list[Group]:
        """Give all groups."""
        with self._lock:
            return list(self._groups.values())

    def groups_of(self, level: Level, key: str | None) -> list[Group]:
        """Give the groups of one patient, study or series."""
        with self._lock:
            return self._entities[level].of(key)

    def located(self, uids: Iterable[str]) -> list[tuple[Group, StoredInstance]]:
        """Give instances by their UIDs, each with its group."""
        found = []
        for uid in dict.fromkeys(uids):
            with self._lock:
                place = self._places.get(uid, -1)
                group = self._groups.get(place >> _PLACE_BITS)
            if group is not None:
                instance = group.instance(place & ((1 << _PLACE_BITS) - 1), uid)
                if instance is not None:
                    found.append((group, instance))
        return found


def _reading_order(instance: StoredInstance) -> tuple[Any, ...]:
    number = instance.instance_number
    return (
        instance.study_instance_uid,
        instance.series_instance_uid,
        number is None,
        number,
        instance.sop_instance_uid,
    )
