"""The Notify payload (RFC 7296 3.10) and the notifies whose data has a form of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar

from ipsecd.errors import WireError
from ipsecd.ike.consts import FIRST_STATUS_NOTIFY, NotifyType, PayloadType, ProtocolId
from ipsecd.ike.wire.cursor import Reader, u8, u16

# Specification constants
MIN_COOKIE_BYTES = 1                               # RFC 7296 2.6
MAX_COOKIE_BYTES = 64
SPI_BYTES: dict[int, tuple[int, ...]] = {ProtocolId.IKE: (0, 8), ProtocolId.AH: (0, 4), ProtocolId.ESP: (0, 4)}
_HEADER = Struct("!BBH")
# Tuning
MAX_NOTIFY_BYTES = 4096                            # the largest in use, session tickets, are under 2 KiB


@dataclass(frozen=True, slots=True)
class NotifyPayload:
    """RFC 7296 3.10: protocol(1) SPI size(1) type(2) SPI data(n); `type` is the notify's number."""

    payload_type: ClassVar[int] = PayloadType.NOTIFY
    type: int
    data: bytes = b""
    protocol: int = 0
    spi: bytes = b""

    @classmethod
    def parse(cls, body: bytes) -> NotifyPayload:
        """Read the body; raise WireError.  The protocol is kept also where no SPI gives it a meaning."""
        reader = Reader(body)
        protocol, size, type_ = reader.unpack(_HEADER)
        if size not in SPI_BYTES.get(protocol, (size,)):
            raise WireError(f"notify for protocol {protocol} with an SPI of {size} bytes")
        spi, data = reader.take(size), reader.rest()
        if len(data) > MAX_NOTIFY_BYTES:
            raise WireError(f"notify with {len(data)} bytes of data")
        return cls(type_, data, protocol, spi)

    def build(self) -> bytes:
        """Return the body."""
        return b"".join((u8(self.protocol, "protocol"), u8(len(self.spi), "SPI size"), u16(self.type, "notify type"),
                         self.spi, self.data))

    @property
    def is_error(self) -> bool:
        """True for the numbers that say that a request failed (RFC 7296 3.10.1)."""
        return self.type < FIRST_STATUS_NOTIFY


def ppk_id(payload: NotifyPayload) -> bytes:
    """Return what names the key in PPK_IDENTITY, behind its type (RFC 8784 5.1); empty where there is nothing."""
    reader = Reader(payload.data)
    if reader.remaining:
        reader.skip(1)
    return reader.rest()


def find(payloads: Iterable[object], type_: int) -> NotifyPayload | None:
    """Return the first notify of one type among payloads of any kind."""
    return next((p for p in payloads if isinstance(p, NotifyPayload) and p.type == type_), None)


def cookie(payloads: Iterable[object]) -> bytes | None:
    """Return the COOKIE, None where it is absent or not of 1 to 64 bytes, which means the same (RFC 7296 2.6)."""
    found = find(payloads, NotifyType.COOKIE)
    if found is None or not MIN_COOKIE_BYTES <= len(found.data) <= MAX_COOKIE_BYTES:
        return None
    return found.data
