"""A token bucket: what strangers may cause, in answers, events and lines of the log."""

from __future__ import annotations


class Bucket:
    """Lets `burst` through at once and `per_s` a second after that; a clock that goes back only gives nothing."""

    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, *, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at = now

    def has_any(self, now: float) -> bool:
        """Return whether one more could pass."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = now
        return self._tokens >= 1

    def take(self, now: float) -> bool:
        """Return whether one more may pass."""
        passes = self.has_any(now)
        if passes:
            self._tokens -= 1
        return passes
