"""Traffic flow confidentiality: sizes that tell little of the packets, and packets that are none (RFC 4303 2.6, 2.7).

    ciphertext of (packet | TFC padding | padding 1,2,3.. | pad length 1 | next header 1)

The receiver finds the end of the packet by its own length field, so this padding is for tunnel mode.  A dummy has next
header 59 and is discarded there; of either the network sees the size alone.
"""

from __future__ import annotations

from ipsecd.rng import Rng
from ipsecd.sa import Tfc

NO_NEXT_HEADER = 59                                # RFC 4303 2.6
MIN_DUMMY_BYTES = 40                               # the smallest TCP segment
MAX_DUMMY_BYTES = 65_000                           # below the largest UDP datagram, where the path is not known
_LONGEST_PADDING = 16                              # of a cipher's blocks (RFC 4303 2.4)

# As `esp.TRAILERS` has them for packets; inbound, none of these is a packet's.
DUMMY_TRAILERS = tuple(bytes(range(1, pad + 1)) + bytes((pad, NO_NEXT_HEADER)) for pad in range(_LONGEST_PADDING))


def padded_bytes(tfc: Tfc, length: int, largest: int, rng: Rng) -> int:
    """Return the size in bytes to which a packet of `length` is padded; `largest` fits the path, 0 where not known."""
    if largest <= length:
        return length
    if tfc.randomly:
        return int(rng.uniform(length, largest + 1))
    return min(largest, -(-length // tfc.pad_to) * tfc.pad_to) if tfc.pad_to else length


def dummy_bytes(tfc: Tfc, largest: int, rng: Rng) -> int:
    """Return the size in bytes of a dummy that looks like other packets: of the first step, or random without one."""
    largest = max(largest, MIN_DUMMY_BYTES)
    if tfc.randomly or not tfc.pad_to:
        return int(rng.uniform(MIN_DUMMY_BYTES, largest + 1))
    return min(tfc.pad_to, largest)
