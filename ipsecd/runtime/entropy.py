"""The operating system's randomness, behind the Rng protocol; the only place in the daemon that draws it."""

from __future__ import annotations

import os
import secrets


class SystemRng:
    """Rng over getrandom(2).  A failure of the kernel's generator raises and stops the daemon: nothing is weaker."""

    def __init__(self) -> None:
        self._uniform = secrets.SystemRandom().uniform

    def random_bytes(self, count: int) -> bytes:
        """Return `count` unpredictable bytes."""
        return os.urandom(count)

    def uniform(self, low: float, high: float) -> float:
        """Return a float in [low, high)."""
        return self._uniform(low, high)
