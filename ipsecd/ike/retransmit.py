"""When a request is sent again, and when it is given up (RFC 7296 2.1, 2.4).

0.5 s, then 1.8 times the last interval, each with jitter so that many tunnels do not beat in time.  The datagrams
repeated are the same to the bit.
"""

from __future__ import annotations

from ipsecd.rng import Rng

# Tuning
FIRST_INTERVAL_S = 0.5          # above the round trip of any terrestrial path, below what a person notices
FACTOR = 1.8                    # strongSwan's
MAX_INTERVAL_S = 30.0           # a healed path is noticed within this
MAX_INIT_INTERVAL_S = 1.5       # until authenticated: 95 % are up in 8 s at 30 % loss, and a restarted peer in 5 s
JITTER = 0.1


class Retransmission:
    """The schedule of one request: `next_at` is when to act, and `expired` says which way."""

    __slots__ = ("_interval_s", "_max_interval_s", "_rng", "give_up_at", "next_at", "sent_at", "tries")

    def __init__(self, rng: Rng, *, now: float, give_up_at: float, max_interval_s: float = MAX_INTERVAL_S,
                 first_s: float = FIRST_INTERVAL_S) -> None:
        self._rng = rng
        self._max_interval_s = max_interval_s
        self._interval_s = FIRST_INTERVAL_S
        self.sent_at = now
        self.give_up_at = give_up_at
        self.tries = 1
        self.next_at = now
        self._schedule(now, first_s)

    def repeat(self, now: float) -> None:
        """Note that the request was sent again."""
        self.tries += 1
        self._interval_s = min(self._interval_s * FACTOR, self._max_interval_s)
        self._schedule(now, self._interval_s)

    def limit(self, give_up_at: float) -> None:
        """Give up no later than this."""
        self.give_up_at = min(self.give_up_at, give_up_at)
        self.next_at = min(self.next_at, self.give_up_at)

    def expired(self, now: float) -> bool:
        """Return whether the request is given up."""
        return now >= self.give_up_at

    def _schedule(self, now: float, interval_s: float) -> None:
        jitter = self._rng.uniform(1 - JITTER, 1 + JITTER)
        self.next_at = min(now + interval_s * jitter, self.give_up_at)
