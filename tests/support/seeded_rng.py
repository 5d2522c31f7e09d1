"""A repeatable source of chance that can be told what to say next."""

from __future__ import annotations

import hashlib
import random
from collections import deque


class SeededRng:
    """Bytes and jitter from a seed; `pin_nonce` decides the next 32-byte draws, which are nonces."""

    def __init__(self, seed: object) -> None:
        self._random = random.Random(hashlib.sha256(repr(seed).encode()).digest())
        self._nonces: deque[bytes] = deque()
        self.jitter: float | None = None    # fixes uniform(): 0.0 is the low end, 1.0 the high one

    def pin_nonce(self, *first_bytes: int) -> None:
        """Have the next nonces begin with these bytes, so that a test decides which is lowest."""
        self._nonces.extend(bytes([b]) * 32 for b in first_bytes)

    def random_bytes(self, count: int) -> bytes:
        if count == 32 and self._nonces:
            return self._nonces.popleft()
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        drawn = self._random.random() if self.jitter is None else self.jitter
        return low + (high - low) * drawn
