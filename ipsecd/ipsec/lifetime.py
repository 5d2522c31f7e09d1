"""Lifetimes by volume (RFC 4301 4.4.2.1) and the end of the sequence numbers (RFC 4303 3.3.3).

Each direction has a Meter.  The hot path adds to `packets` and `bytes` and compares with the two alarms; only when one
rings does `ring` look at the limits themselves.  A packet that crosses a hard limit is still carried; none after it.
"""

from __future__ import annotations

from ipsecd.sa import Volume

NEVER = 1 << 65
LAST_SEQUENCE = (1 << 32) - 1                      # RFC 4303 3.3.3: the counter must not cycle
LAST_EXTENDED_SEQUENCE = (1 << 64) - 1
# Tuning: half of the numbers are left for the rekeying that this starts.
SOFT_SEQUENCE = 1 << 31
SOFT_EXTENDED_SEQUENCE = 1 << 63


class Meter:
    """Counts one direction of a pair against its volume limits."""

    __slots__ = ("_volume", "alarm_bytes", "alarm_packets", "bytes", "expired", "last", "packets")

    def __init__(self, volume: Volume) -> None:
        self.packets = 0
        self.bytes = 0
        self.last: float | None = None             # time of the last packet, None for never
        self.expired = False
        self._volume = volume
        self.alarm_packets = volume.soft_packets or volume.hard_packets or NEVER
        self.alarm_bytes = volume.soft_bytes or volume.hard_bytes or NEVER

    def ring(self) -> tuple[str | None, str | None]:
        """Return why the soft and the hard limit were reached (None where not), and set the alarms anew."""
        limits, soft, hard = self._volume, None, None
        if self.packets >= self.alarm_packets:
            if self.alarm_packets == limits.soft_packets:
                soft = f"soft limit of {limits.soft_packets} packets"
            self.alarm_packets = limits.hard_packets or NEVER
        if self.bytes >= self.alarm_bytes:
            if self.alarm_bytes == limits.soft_bytes:
                soft = f"soft limit of {limits.soft_bytes} bytes"
            self.alarm_bytes = limits.hard_bytes or NEVER
        if limits.hard_packets and self.packets >= limits.hard_packets:
            hard = f"hard limit of {limits.hard_packets} packets"
        elif limits.hard_bytes and self.bytes >= limits.hard_bytes:
            hard = f"hard limit of {limits.hard_bytes} bytes"
        if hard:
            self.expired = True
            self.alarm_packets = self.alarm_bytes = NEVER
        return soft, hard
