"""ESP packets (RFC 4303 2): sealing and opening one direction of an SA.

    SPI 4 | sequence 4 | IV | ciphertext of (packet | padding 1,2,3.. | pad length 1 | next header 1) | ICV

Combined modes take the 64-bit counter as IV, unique for a key because the counter never repeats (RFC 4106 3.1); what
is authenticated beside the ciphertext is SPI | sequence, 64 bits of it with ESN (RFC 4106 5).  AES-CBC takes a random
IV (RFC 3602 3), and the ICV covers the high half of an ESN behind the packet (RFC 4303 2.2.1).
"""

from __future__ import annotations

from struct import Struct
from typing import Protocol

from cryptography.exceptions import InvalidTag

from ipsecd.aead import aead_cipher, make_sealer
from ipsecd.errors import BadIcv
from ipsecd.ipsec.mtu import ESP_HEADER_BYTES, ESP_TRAILER_BYTES
from ipsecd.rng import Rng
from ipsecd.sa import SaSpec
from ipsecd.suites import EspSuite

_U64 = Struct(">Q").pack
_LOW = 0xFFFFFFFF

# RFC 4303 2.4: padding counts 1, 2, 3 ...  TRAILERS[next header][pad length] is padding and both fields behind it.
TRAILERS: dict[int, tuple[bytes, ...]] = {
    header: tuple(bytes(range(1, pad + 1)) + bytes((pad, header)) for pad in range(256)) for header in (4, 41)
}


class EspSeal(Protocol):
    """Outbound direction."""

    def seal(self, packet: bytes, trailers: tuple[bytes, ...], sequence: int) -> bytes:
        """Return the ESP packet; `trailers` is the row of TRAILERS, `sequence` all 64 bits, used once for a key."""
        ...


class EspOpen(Protocol):
    """Inbound direction."""

    minimum_bytes: int                             # RFC 4303 2: header, IV, an empty trailer, ICV

    def open(self, data: bytes, start: int, end: int, sequence: int) -> bytes | None:
        """Return the plaintext with its trailer, None where the ICV is wrong; needs `minimum_bytes` of data."""
        ...


def make_seal(suite: EspSuite, spec: SaSpec, rng: Rng) -> EspSeal:
    """Key the outbound direction.  Raises LocalError for keys that do not fit the suite."""
    return AeadEsp(suite, spec) if suite.encr.aead else CbcEsp(suite, spec, rng)


def make_open(suite: EspSuite, spec: SaSpec, rng: Rng) -> EspOpen:
    """Key the inbound direction.  Raises LocalError for keys that do not fit the suite."""
    return AeadEsp(suite, spec) if suite.encr.aead else CbcEsp(suite, spec, rng)


class AeadEsp:
    """AES-GCM (RFC 4106) and ChaCha20-Poly1305 (RFC 7634); the library's own methods, without a layer between."""

    __slots__ = ("_decrypt", "_encrypt", "_esn", "_salt", "_spi", "minimum_bytes")

    def __init__(self, suite: EspSuite, spec: SaSpec) -> None:
        cipher, self._salt = aead_cipher(suite.encr, spec.encr_key.reveal())
        self._encrypt = cipher.encrypt
        self._decrypt = cipher.decrypt
        self._spi = spec.spi.to_bytes(4, "big")
        self._esn = suite.esn
        self.minimum_bytes = _minimum_bytes(suite)

    def seal(self, packet: bytes, trailers: tuple[bytes, ...], sequence: int) -> bytes:
        """See EspSeal."""
        iv = _U64(sequence)
        header = self._spi + iv[4:]
        plaintext = packet + trailers[-(len(packet) + 2) & 3]
        return header + iv + self._encrypt(self._salt + iv, plaintext, self._spi + iv if self._esn else header)

    def open(self, data: bytes, start: int, end: int, sequence: int) -> bytes | None:
        """See EspOpen."""
        body = start + 16
        associated = self._spi + _U64(sequence) if self._esn else data[start:start + 8]
        try:
            return self._decrypt(self._salt + data[start + 8:body], data[body:end], associated)
        except InvalidTag:
            return None


class CbcEsp:
    """AES-CBC with HMAC (RFC 3602, 4868)."""

    __slots__ = ("_block", "_esn", "_iv_bytes", "_rng", "_sealer", "_spi", "minimum_bytes")

    def __init__(self, suite: EspSuite, spec: SaSpec, rng: Rng) -> None:
        self._sealer = make_sealer(suite.encr, suite.integ, encr_key=spec.encr_key, integ_key=spec.integ_key)
        self._spi = spec.spi.to_bytes(4, "big")
        self._esn = suite.esn
        self._iv_bytes = suite.encr.iv_bytes
        self._block = suite.encr.block_bytes
        self._rng = rng
        self.minimum_bytes = _minimum_bytes(suite)

    def seal(self, packet: bytes, trailers: tuple[bytes, ...], sequence: int) -> bytes:
        """See EspSeal."""
        header = self._spi + (sequence & _LOW).to_bytes(4, "big")
        iv = self._rng.random_bytes(self._iv_bytes)
        plaintext = packet + trailers[-(len(packet) + 2) % self._block]
        return header + iv + self._sealer.seal(iv, plaintext, header, self._high(sequence))

    def open(self, data: bytes, start: int, end: int, sequence: int) -> bytes | None:
        """See EspOpen."""
        body = start + 8 + self._iv_bytes
        try:
            return self._sealer.open(data[start + 8:body], data[body:end], data[start:start + 8],
                                     self._high(sequence))
        except BadIcv:
            return None

    def _high(self, sequence: int) -> bytes:
        return (sequence >> 32).to_bytes(4, "big") if self._esn else b""


def _minimum_bytes(suite: EspSuite) -> int:
    smallest = max(ESP_TRAILER_BYTES, suite.encr.block_bytes)
    return ESP_HEADER_BYTES + suite.encr.iv_bytes + smallest + suite.icv_bytes
