"""Dummy packets at a rate (RFC 4303 2.6), on each pair that its child sends on.

Gaps between them are random, as of independent senders, so that no beat tells them from traffic.  A loop that was busy
makes up for what it missed, within a bound.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from ipsecd.ipsec.tfc import dummy_bytes
from ipsecd.rng import Rng
from ipsecd.sa import ChildKey, SaPair

MAX_BURST = 64                                     # made up for at once; more were never on time


class Dummies:
    """The timers of all pairs with dummies."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: Rng, *, send: Callable[[int, int], object],
                 largest: Callable[[ChildKey], int]) -> None:
        self._loop = loop
        self._rng = rng
        self._send = send
        self._largest = largest
        self._pairs: dict[tuple[ChildKey, int], SaPair] = {}
        self._timers: dict[tuple[ChildKey, int], asyncio.TimerHandle] = {}

    def use(self, pair: SaPair) -> None:
        """Send on this pair in place of the one of its slot before it."""
        slot = pair.child, pair.slot
        self._stop(slot)
        if pair.tfc.dummies_per_s:
            self._pairs[slot] = pair
            self._arm(slot, pair, self._loop.time())

    def forget(self, pair: SaPair) -> None:
        """Send no more on a pair that is gone."""
        slot = pair.child, pair.slot
        if slot in self._pairs and self._pairs[slot].spi_in == pair.spi_in:
            self._stop(slot)

    def close(self) -> None:
        """Send no more."""
        for slot in list(self._timers):
            self._stop(slot)

    def _stop(self, slot: tuple[ChildKey, int]) -> None:
        self._pairs.pop(slot, None)
        timer = self._timers.pop(slot, None)
        if timer is not None:
            timer.cancel()

    def _arm(self, slot: tuple[ChildKey, int], pair: SaPair, since: float) -> None:
        gap = -math.log(1 - self._rng.uniform(0.0, 1.0)) / pair.tfc.dummies_per_s
        self._timers[slot] = self._loop.call_at(since + gap, self._due, slot, pair, since + gap)

    def _due(self, slot: tuple[ChildKey, int], pair: SaPair, at: float) -> None:
        late = min(MAX_BURST, 1 + int((self._loop.time() - at) * pair.tfc.dummies_per_s))
        for _ in range(late):
            self._send(pair.spi_in, dummy_bytes(pair.tfc, self._largest(pair.child), self._rng))
        self._arm(slot, pair, self._loop.time())
