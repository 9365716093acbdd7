"""What the stages of one run hand on through the archive's storage: files that no table lists."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pacspark.tables.storage import Storage


@dataclass(frozen=True, slots=True)
class Scratch:
    """The folder ``ROOT/_scratch/RUN``.

    Two tasks that do the same work, as Spark may let them, write files of their own; which of them
    counts is told by the task whose result counts.
    """

    storage: Storage
    run_id: str

    @property
    def _folder(self) -> str:
        return self.storage.path("_scratch", self.run_id)

    def begin(self) -> None:
        """Make the folder, without what an earlier, killed job of the same run left in it."""
        self.clear()
        with self.storage.errors("make a folder for files of a run"):
            self.storage.filesystem.create_dir(self._folder, recursive=True)

    def clear(self) -> None:
        """Remove all files."""
        with suppress(Exception):
            self.storage.filesystem.delete_dir(self._folder)

    @contextmanager
    def write(self) -> Iterator[tuple[str, Any]]:
        """Give a new file's name, and its stream."""
        name = uuid.uuid4().hex
        with (
            self.storage.errors("write a file of a run"),
            self.storage.filesystem.open_output_stream(f"{self._folder}/{name}") as stream,
        ):
            yield name, stream

    def open(self, name: str) -> Any:
        """Open a file for reads at any place."""
        with self.storage.errors("read a file of a run"):
            return self.storage.filesystem.open_input_file(f"{self._folder}/{name}")
