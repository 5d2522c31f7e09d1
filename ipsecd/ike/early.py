"""Messages that come for an IKE SA before it stands here: our rekey offered its SPI, and the peer has made it already.

The peer may use it with its response (RFC 7296 2.8), while we still work on that response.  To say INVALID_IKE_SPI then
would be untrue: the peer would make another IKE SA, and on the wire would be the crash token of one that is about to
live (RFC 6290 4.1).  So what comes is kept, and read as soon as the IKE SA stands.
"""

from __future__ import annotations

from ipsecd.ike.session import Session
from ipsecd.ike.states import Dead
from ipsecd.ike.wire.message import SealedMessage
from ipsecd.sa import Path

# Tuning
MAX_EARLY = 4                   # datagrams of one IKE SA, which anybody may have sent; a peer repeats what is lost

Arrival = tuple[SealedMessage, Path]


class EarlyMessages:
    """By the SPI that we offered; one for each IKE SA at most."""

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[Session, list[Arrival]]] = {}

    def expect(self, spi: bytes, old: Session) -> None:
        """Keep what comes for this SPI as long as `old` lives and offers no other."""
        self._kept = {s: kept for s, kept in self._kept.items()
                      if kept[0] is not old and not isinstance(kept[0].state, Dead)}
        self._kept[spi] = old, []

    def keep(self, message: SealedMessage, path: Path) -> bool:
        """Keep a message for an IKE SA that is about to be; return False where none is."""
        header = message.header
        kept = self._kept.get(header.spi_r if header.is_initiator else header.spi_i)
        if kept is None or isinstance(kept[0].state, Dead):
            return False
        if len(kept[1]) < MAX_EARLY:
            kept[1].append((message, path))
        return True

    def take(self, spi: bytes) -> list[Arrival]:
        """Return what came for an IKE SA that stands now, once."""
        kept = self._kept.pop(spi, None)
        return kept[1] if kept else []
