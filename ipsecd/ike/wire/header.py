"""The IKE header (RFC 7296 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from ipsecd.errors import WireError
from ipsecd.ike.wire.cursor import Reader, exactly, u8, u32

HEADER_BYTES = 28
SPI_BYTES = 8
VERSION = 0x20                                     # major 2, minor 0
FLAG_INITIATOR = 0x08                              # sent by the original initiator of this IKE SA
FLAG_RESPONSE = 0x20
_LAYOUT = Struct("!8s8sBBBBII")                    # in the order of the fields below


@dataclass(frozen=True, slots=True)
class IkeHeader:
    """SPIs(8+8) next payload(1) version(1) exchange(1) flags(1) message ID(4) length(4); reserved flags as received."""

    spi_i: bytes
    spi_r: bytes
    next_payload: int
    version: int
    exchange: int
    flags: int
    message_id: int
    length: int             # bytes of the whole message, header included

    @classmethod
    def parse(cls, datagram: bytes) -> IkeHeader:
        """Read the header of a whole datagram; raise WireError when short or when its length is not the datagram's.

        Any version parses, so that the caller can answer INVALID_MAJOR_VERSION (RFC 7296 2.5) or recognise IKEv1.
        """
        header = cls(*Reader(datagram).unpack(_LAYOUT))
        if header.length != len(datagram):
            raise WireError(f"header says {header.length} bytes, the datagram has {len(datagram)}")
        return header

    def build(self) -> bytes:
        """Return the 28 bytes; raise LocalError when a field does not fit."""
        return b"".join((
            exactly(self.spi_i, SPI_BYTES, "SPIi"), exactly(self.spi_r, SPI_BYTES, "SPIr"),
            u8(self.next_payload, "next payload"), u8(self.version, "version"), u8(self.exchange, "exchange type"),
            u8(self.flags, "flags"), u32(self.message_id, "message ID"), u32(self.length, "length")))

    @property
    def is_response(self) -> bool:
        """True for a response."""
        return bool(self.flags & FLAG_RESPONSE)

    @property
    def is_initiator(self) -> bool:
        """True when the sender is the original initiator of the IKE SA."""
        return bool(self.flags & FLAG_INITIATOR)

    @property
    def major(self) -> int:
        """Return the major version: 2, or what the endpoint has to refuse."""
        return self.version >> 4
