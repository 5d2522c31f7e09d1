"""Packets that wait for their SA (RFC 4301 leaves holding open; a first packet lost costs a TCP second).

Each child has a queue bounded in packets and bytes, all queues together a bound in bytes; the oldest go first.  One
acquire is told when a child begins to wait, and none more until the child moved: its queue released or abandoned.
"""

from __future__ import annotations

from collections import deque

from ipsecd.sa import ChildKey

MAX_CHILD_PACKETS = 64                             # a few round trips of several flows
MAX_CHILD_BYTES = 256 * 1024
MAX_TOTAL_BYTES = 16 * 1024 * 1024
MAX_AGE_S = 30.0                                   # what is older was sent again, or nobody wants it any more
# An abandoned child may be asked for again at once: its LAN must not make the control side's work at packet rate.
ACQUIRE_INTERVAL_S = 1.0


class HeldPackets:
    """The queues of all children.  `device` says from which TUN a packet came."""

    def __init__(self) -> None:
        self._queues: dict[ChildKey, deque[tuple[str, bytes, float]]] = {}
        self._bytes: dict[ChildKey, int] = {}
        self._total = 0
        self._told: dict[ChildKey, tuple[float, bool]] = {}    # last acquire, and whether it still stands

    def add(self, child: ChildKey, device: str, packet: bytes, now: float) -> int:
        """Hold a packet; return how many had to go for it."""
        queue = self._queues.setdefault(child, deque())
        queue.append((device, packet, now))
        self._count(child, len(packet))
        dropped = 0
        while len(queue) > MAX_CHILD_PACKETS or self._bytes.get(child, 0) > MAX_CHILD_BYTES:
            dropped += self._drop_oldest(child)
        while self._total > MAX_TOTAL_BYTES:
            dropped += self._drop_oldest(next(iter(self._queues)))
        return dropped

    def should_acquire(self, child: ChildKey, now: float) -> bool:
        """Return whether the control side must be told that this child is wanted, and note that it was."""
        last, standing = self._told.get(child, (-ACQUIRE_INTERVAL_S, False))
        if standing or now - last < ACQUIRE_INTERVAL_S:
            return False
        self._told[child] = now, True
        return True

    def release(self, child: ChildKey, now: float) -> tuple[list[tuple[str, bytes]], int]:
        """Hand out (device, packet) in order of arrival, and how many were too old; later packets ask anew."""
        if child in self._told:
            self._told[child] = self._told[child][0], False
        queue = self._queues.pop(child, None)
        if not queue:
            return [], 0
        self._total -= self._bytes.pop(child)
        fresh = [(device, packet) for device, packet, since in queue if now - since <= MAX_AGE_S]
        return fresh, len(queue) - len(fresh)

    def keep_only(self, children: frozenset[ChildKey]) -> int:
        """Abandon the queues of children that are gone from the policy; return how many packets that were."""
        for child in [c for c in self._told if c not in children]:
            del self._told[child]
        gone = [child for child in self._queues if child not in children]
        return sum(self.abandon(child) for child in gone)

    def abandon(self, child: ChildKey) -> int:
        """Drop what a child holds; return how many packets that were."""
        if child in self._told:
            self._told[child] = self._told[child][0], False
        self._total -= self._bytes.pop(child, 0)
        return len(self._queues.pop(child, ()))

    def counts(self) -> dict[ChildKey, int]:
        """Return how many packets each waiting child holds."""
        return {child: len(queue) for child, queue in self._queues.items()}

    def _drop_oldest(self, child: ChildKey) -> int:
        queue = self._queues[child]
        self._count(child, -len(queue.popleft()[1]))
        if not queue:
            del self._queues[child], self._bytes[child]
        return 1

    def _count(self, child: ChildKey, size: int) -> None:
        self._bytes[child] = self._bytes.get(child, 0) + size
        self._total += size
