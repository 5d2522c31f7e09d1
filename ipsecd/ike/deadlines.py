"""Many timers, one next deadline: a heap, so that arming one costs the logarithm of how many there are."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from itertools import count, repeat
from typing import Generic, TypeVar

from ipsecd.sa import Deadline

_Key = TypeVar("_Key", bound=Hashable)

MAX_STALE = 64                  # entries without a deadline, beside as many as have one, before the heap is built anew


class Deadlines(Generic[_Key]):
    """At most one deadline for each key.

    Re-armed and cancelled entries stay in the heap until they surface, but never more than half of it: a peer that
    makes and deletes SAs all day leaves nothing behind.
    """

    __slots__ = ("_armed", "_heap", "_serial")

    def __init__(self) -> None:
        self._armed: dict[_Key, tuple[int, Deadline]] = {}
        self._heap: list[tuple[float, int, _Key]] = []
        self._serial = count()

    def __len__(self) -> int:
        return len(self._armed)

    def arm(self, key: _Key, at: float, why: str) -> None:
        """Set the deadline of `key`, in place of any that it has."""
        armed = self._armed.get(key)
        if armed is not None and armed[1].at == at:
            self._armed[key] = armed[0], Deadline(at, why)
            return
        serial = next(self._serial)
        self._armed[key] = serial, Deadline(at, why)
        heapq.heappush(self._heap, (at, serial, key))
        if len(self._heap) > 2 * len(self._armed) + MAX_STALE:
            self._heap = [(due.at, number, name) for name, (number, due) in self._armed.items()]
            heapq.heapify(self._heap)

    def cancel(self, key: _Key) -> None:
        """Forget the deadline of `key`, if it has one."""
        self._armed.pop(key, None)

    def get(self, key: _Key) -> Deadline | None:
        """Return the deadline of `key`."""
        armed = self._armed.get(key)
        return armed[1] if armed else None

    def next(self) -> Deadline | None:
        """Return the earliest deadline."""
        key = self._surface()
        return None if key is None else self._armed[key][1]

    def pop_due(self, now: float) -> _Key | None:
        """Remove and return the key whose deadline came first, None while none has come."""
        key = self._surface()
        if key is None or self._armed[key][1].at > now:
            return None
        heapq.heappop(self._heap)
        del self._armed[key]
        return key

    def due(self, now: float, most: int | None = None) -> Iterator[_Key]:
        """Remove and yield the keys whose deadlines have come, the earliest first; `most` of them where given."""
        for _ in repeat(None) if most is None else range(most):
            if (key := self.pop_due(now)) is None:
                return
            yield key

    def _surface(self) -> _Key | None:
        while self._heap:
            _, serial, key = self._heap[0]
            armed = self._armed.get(key)
            if armed is not None and armed[0] == serial:
                return key
            heapq.heappop(self._heap)
        return None
