"""How many may come in, and how often: the counts that the limits of a gateway speak of."""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock, local
from time import monotonic
from typing import Final

from pacspark.gateway.config import Limits
from pacspark.gateway.dimse.link import Link

MOST_HALF_OPEN: Final = 64
"""Connections without an association; the oldest goes when one more comes."""
_MINUTE_S: Final = 60.0
_MOST_ADDRESSES: Final = 4096


class Rates:
    """Buckets that fill with time, one for each address; safe for threads.

    Parameters
    ----------
    per_s
        what an address may take for ever
    most
        at once
    """

    def __init__(self, per_s: float, most: float) -> None:
        self._per_s, self._most = per_s, most
        self._lock = Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def takes(self, address: str, amount: float = 1.0) -> bool:
        """Take from the bucket of an address, or refuse that."""
        now = monotonic()
        with self._lock:
            left, at = self._left.pop(address, (self._most, now))
            left = min(left + (now - at) * self._per_s, self._most)
            allowed = left >= amount
            self._left[address] = (left - amount * allowed, now)
            while len(self._left) > _MOST_ADDRESSES:
                self._left.popitem(last=False)
        return allowed


class Room:
    """Memory for what is decoded: who finds too little waits for others; safe for threads.

    Parameters
    ----------
    size_bytes
        of all together; who needs more than that is alone
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = self._left_bytes = size_bytes
        self._first, self._changed = Lock(), Condition()
        self._own = local()

    @contextmanager
    def hold(self, size_bytes: int | None) -> Iterator[None]:
        """Have room while something is done; a thread that has some already needs no more.

        Parameters
        ----------
        size_bytes
            None where nobody knows before: all of it
        """
        if getattr(self._own, "holds", False):
            yield
            return
        wanted = self._size_bytes if size_bytes is None else min(size_bytes, self._size_bytes)
        # one waits at a time: who needs much is not passed for ever by those who need little
        with self._first, self._changed:
            self._changed.wait_for(lambda: self._left_bytes >= wanted)
            self._left_bytes -= wanted
        self._own.holds = True
        try:
            yield
        finally:
            self._own.holds = False
            with self._changed:
                self._left_bytes += wanted
                self._changed.notify_all()


DECODING: Final = Room(2 << 30)
"""Of this process: pictures, frames and objects that are decoded for peers."""


class Doorkeeper:
    """Counts connections; safe for threads.

    Who connects and then says nothing holds no place that somebody else could use: connections
    without an association are few, and the oldest of them makes room for the newest.

    Parameters
    ----------
    limits
        what is allowed
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = Lock()
        self._half_open: OrderedDict[Link, str] = OrderedDict()
        self._associated: dict[Link, str] = {}
        self._begun: OrderedDict[str, deque[float]] = OrderedDict()

    def lets_in(self, link: Link, address: str) -> bool:
        """Take a new connection, or refuse it where its address begins too many."""
        now, oldest = monotonic(), None
        with self._lock:
            begun = self._begun.setdefault(address, deque())
            self._begun.move_to_end(address)
            while begun and now - begun[0] > _MINUTE_S:
                begun.popleft()
            if len(begun) >= self._limits.associations_per_minute:
                return False
            begun.append(now)
            while len(self._begun) > _MOST_ADDRESSES:
                self._begun.popitem(last=False)
            if len(self._half_open) >= MOST_HALF_OPEN:
                oldest, _ = self._half_open.popitem(last=False)
            self._half_open[link] = address
        if oldest is not None:
            oldest.close()
        return True

    def associates(self, link: Link, address: str) -> bool:
        """Count a connection as an association from now on, or refuse it beyond the limits."""
        with self._lock:
            counts = Counter(self._associated.values())
            if (
                counts.total() >= self._limits.associations
                or counts[address] >= self._limits.associations_per_address
            ):
                return False
            self._half_open.pop(link, None)
            self._associated[link] = address
        return True

    def lets_out(self, link: Link) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._half_open.pop(link, None)
            self._associated.pop(link, None)
