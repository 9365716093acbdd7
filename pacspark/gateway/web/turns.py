"""Worker threads by address: who asks for much at once has some of them, and others the rest."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from starlette.concurrency import run_in_threadpool

MOST_AT_ONCE: Final = 16
"""Of the 40 that there are; further work of the same address waits for its turn."""
_T = TypeVar("_T")


@dataclass(slots=True)
class _Line:
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_AT_ONCE))
    length: int = 0


class Turns:
    """Runs work in threads; for one event loop."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    async def run(self, address: str, function: Callable[..., _T], *arguments: object) -> _T:
        """Run a function for an address, when it is its turn."""
        line = self._lines.setdefault(address, _Line())
        line.length += 1
        try:
            async with line.gate:
                return await run_in_threadpool(function, *arguments)
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[address]

    async def pieces(self, address: str, pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
        """Make the pieces of an answer, each in a turn: who takes them slowly holds no thread."""
        left = iter(pieces)
        while (piece := await self.run(address, next, left, None)) is not None:
            yield piece
