"""EventHub: events to any number of slow readers, without waiting for any of them.

Each subscriber has a bounded queue that drops its oldest lines and counts them; the hub keeps the last events for
clients that ask what happened.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import cast

from ipsecd.control.schema import API_VERSION, shown
from ipsecd.events import Event, Level

HISTORY = 512                       # events that a client can look back on
QUEUE = 1024                        # lines for each subscriber: seconds of a busy gateway at debug, under 1 MiB
LEVELS = {level: rank for rank, level in enumerate(Level)}


class Subscription:
    """The queue of one subscriber."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.dropped = 0
        self._lines: deque[bytes] = deque(maxlen=QUEUE)
        self._wake = asyncio.Event()

    def put(self, line: bytes) -> None:
        """Append a line; the oldest gives way, with a count."""
        self.dropped += len(self._lines) == QUEUE
        self._lines.append(line)
        self._wake.set()

    async def take(self) -> bytes:
        """Wait for lines and return all there are, led by a count of those dropped since the last call."""
        await self._wake.wait()
        self._wake.clear()
        lines, dropped = b"".join(self._lines), self.dropped
        self._lines.clear()
        self.dropped = 0
        return (_dropped_line(dropped) if dropped else b"") + lines


class EventHub:
    """Where the daemon publishes events for the control socket."""

    def __init__(self) -> None:
        self._subscribers: list[Subscription] = []
        self._history: deque[tuple[Level, bytes]] = deque(maxlen=HISTORY)

    def publish(self, event: Event, wall_now: float) -> None:
        """Hand an event to every subscriber; never waits.  Debug events are not kept as history."""
        rank = LEVELS[event.level]
        takers = [s for s in self._subscribers if LEVELS[s.level] <= rank]
        if not takers and event.level is Level.DEBUG:
            return
        line = event_line(event, wall_now)
        if event.level is not Level.DEBUG:
            self._history.append((event.level, line))
        for subscriber in takers:
            subscriber.put(line)

    def history(self, level: Level) -> bytes:
        """Return the kept events of at least `level`, oldest first, as lines."""
        return b"".join(line for kept, line in self._history if LEVELS[kept] >= LEVELS[level])

    @contextmanager
    def subscribe(self, level: Level) -> Generator[Subscription]:
        """Receive events of at least `level` until the block ends."""
        subscription = Subscription(level)
        self._subscribers.append(subscription)
        try:
            yield subscription
        finally:
            self._subscribers.remove(subscription)


def event_line(event: Event, wall_now: float) -> bytes:
    """Return an event as one line of JSON (schema.EventLine)."""
    head = {"version": API_VERSION, "time": _utc(wall_now), "event": event.name, "level": event.level.value}
    return _line(head | escaped(event.as_dict()))


def escaped(fields: Mapping[str, object]) -> dict[str, object]:
    """Return event fields with every text escaped once more: an event that forgot to is still harmless."""
    return {key: _escaped(value) for key, value in fields.items()}


def _escaped(value: object) -> object:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return escaped(cast("dict[str, object]", value))
    if isinstance(value, list):
        return [_escaped(v) for v in cast("list[object]", value)]
    return value


def _utc(wall_now: float) -> str:
    return datetime.fromtimestamp(wall_now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _dropped_line(count: int) -> bytes:
    return _line({"version": API_VERSION, "time": "", "event": "events_dropped", "level": "warning", "count": count})


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
