"""Anti-replay window (RFC 4303 3.4.3) and the high half of extended sequence numbers (RFC 4303 appendix A2).

The window is one integer: bit i tells whether number `top - i` was received.  All numbers up to 0 count as received
from the start, so that 0 is never valid, and what was never sent is not counted as lost.
"""

from __future__ import annotations

from ipsecd.drops import DropReason

MIN_WINDOW, MAX_WINDOW = 64, 8192                  # RFC 4303 3.4.3 asks for 32 at least; larger ones cost time
_EPOCH = 1 << 32


class ReplayWindow:
    """Remembers which sequence numbers were received.  A size of 0 switches the refusals off."""

    __slots__ = ("_bits", "_mask", "_size", "lost", "top")

    def __init__(self, size: int) -> None:
        if size and not MIN_WINDOW <= size <= MAX_WINDOW:
            raise ValueError(f"replay window of {size}; 0 or {MIN_WINDOW} to {MAX_WINDOW}")
        self._size = size
        self._mask = (1 << size) - 1
        self._bits = self._mask
        self.top = 0
        self.lost = 0                              # numbers that left the window without being received

    def check(self, sequence: int) -> DropReason | None:
        """Return why this number is refused, None when it is new.  Changes nothing."""
        if sequence <= 0:                          # RFC 4303 3.3.3: the first packet has 1
            return DropReason.ESP_TOO_OLD
        behind = self.top - sequence
        if behind < 0 or not self._size:
            return None
        if behind >= self._size:
            return DropReason.ESP_TOO_OLD
        return DropReason.ESP_REPLAYED if self._bits >> behind & 1 else None

    def commit(self, sequence: int) -> DropReason | None:
        """Remember the number of an authenticated packet; refuse, unchanged, what `check` refuses by then."""
        ahead = sequence - self.top
        if ahead <= 0:
            refused = self.check(sequence)
            if refused is None:
                self._bits |= 1 << -ahead
            return refused
        self.top = sequence
        if ahead >= self._size:                    # apart, because a shift by 2^31 bits is no shift
            self.lost += ahead - self._bits.bit_count() if self._size else 0
            self._bits = 1 & self._mask
            return None
        bits = self._bits << ahead | 1
        left = bits >> self._size
        self.lost += ahead - left.bit_count()
        self._bits = bits & self._mask
        return None

    def advance(self, sequence: int) -> None:
        """Remember every number from the next one to this, which were all received in order."""
        ahead = sequence - self.top
        self.top = sequence
        if self._size:
            bits = self._bits << ahead | (1 << ahead) - 1
            self.lost += ahead - (bits >> self._size).bit_count()
            self._bits = bits & self._mask


def full_sequence(low: int, *, top: int, size: int) -> int:
    """Return the 64-bit number that low 32 bits stand for, seen from a window of `size` ending at `top`.

    A negative value means "before the first packet".  A wrong guess fails authentication, which covers the number.
    """
    size = size or MIN_WINDOW
    high, top_low = top >> 32, top & (_EPOCH - 1)
    bottom = top_low - size + 1
    if bottom >= 0:                                # A2.2 case A: the window lies within one epoch
        return (high if low >= bottom else high + 1) * _EPOCH + low
    return (high - 1 if low >= bottom + _EPOCH else high) * _EPOCH + low    # case B: it spans two
