"""Dummy packets at a rate: on the pair in use, until it is replaced or gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ipsecd.runtime.dummies import MAX_BURST, Dummies
from ipsecd.runtime.entropy import SystemRng
from ipsecd.sa import SaPair, Tfc
from tests.support import esp_packets as p

FAST = Tfc(500, dummies_per_s=1000)


class Bench:
    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self._news = asyncio.Event()
        self.dummies = Dummies(asyncio.get_running_loop(), SystemRng(), send=self._send, largest=lambda child: 1400)

    def _send(self, spi_in: int, size: int) -> None:
        self.sent.append((spi_in, size))
        self._news.set()

    async def more(self, count: int) -> None:
        """Wait for so many more."""
        until = len(self.sent) + count
        while len(self.sent) < until:
            self._news.clear()
            await self._news.wait()


def run(body: Callable[[Bench], Awaitable[None]]) -> None:
    async def limited() -> None:
        bench = Bench()
        async with asyncio.timeout(10):
            await body(bench)
        bench.dummies.close()
    asyncio.run(limited())


def pair(spi_in: int, tfc: Tfc = FAST) -> SaPair:
    return p.pair(spi_in=spi_in, tfc=tfc)


def test_dummies_go_on_the_pair_in_use_and_move_with_it() -> None:
    async def body(bench: Bench) -> None:
        bench.dummies.use(pair(1))
        await bench.more(20)
        bench.dummies.use(pair(2))
        before = len(bench.sent)
        await bench.more(20)
        assert set(bench.sent[:before]) == {(1, 500)}
        assert set(bench.sent[before:]) == {(2, 500)}
    run(body)


def test_pair_that_is_gone_or_wants_none_gets_none() -> None:
    async def body(bench: Bench) -> None:
        first, second = pair(1), pair(2)
        bench.dummies.use(first)
        await bench.more(1)
        bench.dummies.use(second)
        bench.dummies.forget(first)                # removed after its successor took over
        await bench.more(1)
        bench.dummies.forget(second)
        bench.dummies.use(pair(3, Tfc(500)))
        before = list(bench.sent)
        await asyncio.sleep(0.02)
        assert bench.sent == before
    run(body)


def test_busy_loop_makes_up_for_no_more_than_a_burst() -> None:
    async def body(bench: Bench) -> None:
        bench.dummies.use(pair(1))
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.2                  # 200 of them
        while loop.time() < until:
            pass
        await bench.more(1)
        assert 1 < len(bench.sent) <= MAX_BURST
    run(body)
