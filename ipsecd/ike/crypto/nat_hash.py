"""The hash of NAT_DETECTION_*_IP (RFC 7296 2.23)."""

from __future__ import annotations

import hashlib
from ipaddress import ip_address


def nat_detection_hash(spi_i: bytes, spi_r: bytes, address: str, port: int) -> bytes:
    """Return SHA-1(SPIi | SPIr | address | port), 20 bytes; the SPIs are those in the header of that message.

    SHA-1 is what the RFC says; nothing secret depends on it.
    """
    data = b"".join((spi_i, spi_r, ip_address(address).packed, port.to_bytes(2, "big")))
    return hashlib.sha1(data, usedforsecurity=False).digest()
