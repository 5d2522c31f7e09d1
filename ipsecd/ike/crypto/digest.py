"""What tells a repeated request from another one with its Message ID (RFC 7296 2.1)."""

from __future__ import annotations

import hashlib


def request_digest(datagram: bytes) -> bytes:
    """Return the SHA-256 of a whole datagram: 32 bytes are kept for each answer in place of the request."""
    return hashlib.sha256(datagram).digest()
