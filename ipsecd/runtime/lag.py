"""How late the event loop runs: the figure that says whether ESP starves IKE or the other way round."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

SAMPLE_S = 0.05
KEPT = 1200                 # samples: one minute


class LagMeter:
    """Samples the loop's lateness; `beat` is called at least every `beat_s` while the loop runs (the watchdog)."""

    def __init__(self, beat: Callable[[], None], beat_s: float | None) -> None:
        self._late: deque[float] = deque(maxlen=KEPT)
        self._beat = beat
        self._beat_s = beat_s

    async def run(self) -> None:
        """Sample for ever."""
        loop = asyncio.get_running_loop()
        next_beat = loop.time()
        while True:
            due = loop.time() + SAMPLE_S
            await asyncio.sleep(SAMPLE_S)
            self._late.append(max(0.0, loop.time() - due))
            if self._beat_s is not None and loop.time() >= next_beat:
                next_beat = loop.time() + self._beat_s
                self._beat()

    def percentiles(self) -> tuple[float, float, float]:
        """Return median, 99th percentile and maximum of the last minute, in milliseconds."""
        found = sorted(self._late)
        if not found:
            return 0.0, 0.0, 0.0
        p50, p99 = (found[int((len(found) - 1) * q)] for q in (0.5, 0.99))
        return 1000 * p50, 1000 * p99, 1000 * found[-1]
