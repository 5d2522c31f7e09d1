"""The log as a task of the daemon."""

from __future__ import annotations

import asyncio
import io

from ipsecd.events import Warned
from ipsecd.log import WARNING_BURST, EventLog


def test_suppressed_warnings_are_counted_though_nothing_else_is_written() -> None:
    stream = io.StringIO()
    log = EventLog(stream, form="json", now=lambda: 0.0)
    for _ in range(int(WARNING_BURST) + 3):
        log.write(Warned("flood", ""))

    async def scene() -> None:
        running = asyncio.create_task(log.run(every_s=0.0))
        for _ in range(3):
            await asyncio.sleep(0)
        running.cancel()

    asyncio.run(scene())
    assert '"warnings_suppressed"' in stream.getvalue().splitlines()[-1]
