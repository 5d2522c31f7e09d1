"""ESP or AH that came ahead of its SA: who answers an exchange may send at once, while we still verify the answer.

Nothing of it is trusted: it waits as it came, for a second at most, and is opened like any other once its SA stands.
A flood of unknown SPIs only pushes out what waits.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ipsecd.sa import Path

# Tuning
MAX_DATAGRAMS = 256                                # a round trip's worth of a busy child
MAX_BYTES = 512 * 1024
MAX_AGE_S = 1.0                                    # longer than a signature takes to verify on a busy machine


class Datagram(NamedTuple):
    """A datagram as it came: ESP without anything before it, or a whole IP packet with AH.

    `protocol` is IP's; `tos` the outer byte of DSCP and ECN; `now` when it came, in seconds.
    """

    spi: int
    protocol: int
    data: bytes
    path: Path
    tos: int
    now: float


class Early:
    """Those that wait, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[Datagram] = deque()
        self._bytes = 0

    def keep(self, datagram: Datagram) -> None:
        """Keep a datagram; the oldest go for it."""
        self._waiting.append(datagram)
        self._bytes += len(datagram.data)
        while len(self._waiting) > MAX_DATAGRAMS or self._bytes > MAX_BYTES:
            self._bytes -= len(self._waiting.popleft().data)

    def take(self, spi: int, protocol: int, now: float) -> list[Datagram]:
        """Take what waits for an SA and is not too old at `now`, in the order it came."""
        found, others = list[Datagram](), deque[Datagram]()
        for waiting in self._waiting:
            (found if (waiting.spi, waiting.protocol) == (spi, protocol) else others).append(waiting)
        self._waiting, self._bytes = others, sum(len(waiting.data) for waiting in others)
        return [waiting for waiting in found if now - waiting.now <= MAX_AGE_S]
