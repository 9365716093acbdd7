"""What a gateway left in its landing when it ended for good: an ingest takes it over.

A gateway commits its landing itself, and takes it up when it starts again. Where it will not, its
folder is a source like others: in the place of each journal come the objects of its whole records,
named and dated as the gateway would have. The folder is only read.
"""

import fcntl
import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from enum import Enum, auto
from pathlib import Path

from pacspark.tables.journals import JOURNAL_NAME, LOCK_NAME, read_journal
from pacspark.tables.sources import Source

LOGGER = logging.getLogger(__name__)


class _Folder(Enum):
    OTHER = auto()
    LEFT = auto()
    HELD = auto()


class Takeover(ExitStack):
    """Keeps gateways from landings that are read: a context manager.

    Meanwhile no gateway can begin with them; other ingests may read them too. What a living gateway
    holds is left to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folders: dict[str, _Folder] = {}

    def sources(self, found: Iterable[Source]) -> Iterator[Source]:
        """Put the objects of landings in the place of their files."""
        for source in found:
            folder, _, name = source.path.rpartition("/")
            state = self._state(folder)
            if state is _Folder.HELD:
                continue
            # of what is no file and only has the name of a journal, an ingest says so
            if JOURNAL_NAME.fullmatch(name) and "://" not in folder and Path(source.path).is_file():
                yield from _records(Path(source.path))
            elif state is _Folder.OTHER:
                yield source

    def waits(self, path: str) -> bool:
        """Tell whether a file is a journal of a gateway that lives."""
        folder, _, name = path.rpartition("/")
        return bool(JOURNAL_NAME.fullmatch(name)) and self._state(folder) is _Folder.HELD

    def _state(self, folder: str) -> _Folder:
        if folder not in self._folders:
            self._folders[folder] = self._look(folder)
        return self._folders[folder]

    def _look(self, folder: str) -> _Folder:
        if "://" in folder or not Path(folder, LOCK_NAME).is_file():
            return _Folder.OTHER
        try:
            lock = Path(folder, LOCK_NAME).open("rb")  # noqa: SIM115 -- the stack closes it
        except OSError:
            return _Folder.OTHER
        self.enter_context(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            LOGGER.warning("%s: left to the gateway that holds it", folder)
            return _Folder.HELD
        return _Folder.LEFT


def _records(path: Path) -> Iterator[Source]:
    end = 0
    try:
        size_bytes = path.stat().st_size
        found, damaged_bytes = read_journal(path, 0)
        for landed in found:
            end = landed.offset + landed.size_bytes
            yield Source(
                str(path), landed.size_bytes, landed.source, landed.offset, landed.received_at
            )
    except FileNotFoundError:
        return  # its gateway removed it since it was listed: the tables have all of it
    except OSError:
        yield Source(str(path), 0)  # becomes a reject that says why
        return
    if damaged_bytes:
        LOGGER.warning("%s: the disk has damaged %d bytes of it", path, damaged_bytes)
    elif end < size_bytes:
        message = "%s: its last %d bytes are no whole object, so were not acknowledged"
        LOGGER.warning(message, path, size_bytes - end)
