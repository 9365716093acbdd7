"""What a command and all that it starts take of memory, for benchmarks and tests."""

import threading

import psutil

SECONDS_BETWEEN_SAMPLES = 0.2


class MemoryWatch:
    """Samples the memory of a process and all its children: Spark's JVM and Python workers too.

    Pages that processes share are counted once (PSS); files that Linux keeps in memory for as long
    as nobody else needs it are not counted. Ends with the process.
    """

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self.at_peak: list[tuple[str, int]] = []
        """Each process then: its name and bytes."""
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(SECONDS_BETWEEN_SAMPLES):
            try:
                members = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            sample = [part for member in members for part in _parts(member)]
            total = sum(size_bytes for _, size_bytes in sample)
            if total > self.peak_bytes:
                self.peak_bytes, self.at_peak = total, sample

    def stop(self) -> int:
        """Stop sampling, and return the largest sample in bytes."""
        self._done.set()
        self._thread.join()
        return self.peak_bytes


def _parts(member: psutil.Process) -> list[tuple[str, int]]:
    try:
        return [(member.name(), member.memory_full_info().pss)]
    except psutil.Error:  # it ended meanwhile
        return []
