"""What a verify has checked so far, kept in the archive's scratch until it ends.

Under ``ROOT/_scratch/verify-<run>/`` lie ``run.json``, which says what is verified at which
versions of the tables, and a file for each data file that was checked: its name has the counts, and
it is empty unless there were findings.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow.fs as pafs

from pacspark.errors import StorageError
from pacspark.tables.findings import Finding
from pacspark.tables.fixity import FileCheck
from pacspark.tables.storage import Storage

_PREFIX: Final = "verify-"
_STATE: Final = frozenset({"run_id", "request", "versions", "began"})


@dataclass(frozen=True, slots=True)
class KeptChecks:
    """What tasks of one run have checked, in the archive's scratch."""

    storage: Storage
    run_id: str

    @property
    def folder(self) -> str:
        """Where it is."""
        return self.storage.path("_scratch", f"{_PREFIX}{self.run_id}")

    def begin(self, request: Mapping[str, Any], versions: Mapping[str, int]) -> None:
        """Make the folder and write down what is verified."""
        state = {"run_id": self.run_id, "request": request, "versions": versions}
        with suppress(Exception):
            self.storage.filesystem.create_dir(self.folder, recursive=True)
            self._write("run.json", json.dumps(state | {"began": time.time()}).encode())

    def keep(self, item: str, check: FileCheck) -> None:
        """Keep the check of one item; what cannot be kept is only not resumed from."""
        key = hashlib.sha256(item.encode()).hexdigest()[:32]
        found = [asdict(finding) for finding in check.findings]
        counts = f"{check.objects}.{check.bytes}.{check.bytes_read}.{len(found)}"
        with suppress(Exception):
            self._write(f"{key}.{counts}", json.dumps(found).encode() if found else b"")

    def find(self, item: str, names: Mapping[str, str]) -> FileCheck | None:
        """Find the check of one item among names from `names`."""
        key = hashlib.sha256(item.encode()).hexdigest()[:32]
        if key not in names:
            return None
        table, _, file = item.rpartition("/")
        try:
            objects, size_bytes, bytes_read, n_findings = map(int, names[key].split("."))
            found = self._findings(f"{key}.{names[key]}") if n_findings else ()
        except (OSError, ValueError, TypeError):
            return None  # written in part: as if it were not there
        return FileCheck(table, file, objects, size_bytes, bytes_read, found)

    def names(self) -> dict[str, str]:
        """Give what is kept: key -> counts."""
        parts = [info.base_name.partition(".") for info in self._infos()]
        return {key: counts for key, _, counts in parts if counts.count(".") == 3}

    def count(self) -> int:
        """Count the megabytes that are checked, for progress."""
        return sum(int(counts.split(".")[2]) for counts in self.names().values()) // 10**6

    def clear(self) -> None:
        """Forget everything."""
        with suppress(Exception):
            self.storage.filesystem.delete_dir(self.folder)

    def _infos(self) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(self.folder, allow_not_found=True)
        found: list[pafs.FileInfo] = self.storage.filesystem.get_file_info(selector)
        return found

    def _findings(self, name: str) -> tuple[Finding, ...]:
        return tuple(Finding(**one) for one in json.loads(_read(self.storage, self.folder, name)))

    def _write(self, name: str, data: bytes) -> None:
        with self.storage.filesystem.open_output_stream(f"{self.folder}/{name}") as stream:
            stream.write(data)


def _read(storage: Storage, folder: str, name: str) -> bytes:
    with storage.filesystem.open_input_file(f"{folder}/{name}") as stream:
        data: bytes = stream.read()
    return data


def unfinished(storage: Storage, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Find the newest verify of a request that was begun and did not end."""
    states = [state for state in _states(storage) if state["request"] == request]
    return max(states, key=lambda state: state["began"], default=None)


def forget(storage: Storage, request: Mapping[str, Any]) -> None:
    """Remove what verifies of a request that did not end have kept."""
    for state in _states(storage):
        if state["request"] == request:
            KeptChecks(storage, state["run_id"]).clear()


def _states(storage: Storage) -> Iterator[dict[str, Any]]:
    selector = pafs.FileSelector(storage.path("_scratch"), allow_not_found=True)
    try:
        infos = storage.filesystem.get_file_info(selector)
    except (OSError, RuntimeError):
        return
    for info in infos:
        if info.type != pafs.FileType.Directory or not info.base_name.startswith(_PREFIX):
            continue
        with suppress(OSError, RuntimeError, ValueError, KeyError, TypeError, StorageError):
            state = json.loads(_read(storage, info.path, "run.json"))
            if info.base_name == f"{_PREFIX}{state['run_id']}" and {*state} >= _STATE:
                yield state
