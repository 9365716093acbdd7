"""How busy the gateway is: how often something happened, all in all and in the last minute."""

from threading import Lock
from time import monotonic


class Pulse:
    """How often something happened in each of the last sixty seconds."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: dict[int, int] = {}
        self.total = 0

    def beat(self) -> None:
        """Count it once more."""
        now = int(monotonic())
        with self._lock:
            self.total += 1
            self._counts[now] = self._counts.get(now, 0) + 1
            for second in [one for one in self._counts if one <= now - 60]:
                del self._counts[second]

    def per_minute(self) -> int:
        """Give how often it happened in the last sixty seconds."""
        now = int(monotonic())
        with self._lock:
            return sum(count for second, count in self._counts.items() if second > now - 60)
