"""What AUTH covers of the IKE_INTERMEDIATE exchanges (RFC 9242 3.3.2).

Each message adds to a running MAC of its direction, under the SK_p that was in force before its exchange:

    IntAuth_i1 = prf(SK_pi1, A1 | P1)        IntAuth_iN = prf(SK_piN, IntAuth_iN-1 | AN | PN)

A is the message up to the end of the Encrypted payload's generic header, as if nothing were encrypted or in fragments:
next payload SK, and both lengths those of the bare payloads.  P is those payloads.
"""

from __future__ import annotations

from ipsecd.ike.consts import PayloadType
from ipsecd.ike.crypto.keymat import prf
from ipsecd.ike.wire.header import HEADER_BYTES, IkeHeader
from ipsecd.ike.wire.message import GENERIC_HEADER_BYTES, generic_header
from ipsecd.secret import Secret
from ipsecd.suites import Prf


def covered(header: IkeHeader, first_inner: int, plaintext: bytes) -> bytes:
    """Return A | P of a message whose only outer payload is the Encrypted one, whole or in fragments."""
    length = HEADER_BYTES + GENERIC_HEADER_BYTES + len(plaintext)
    whole = IkeHeader(header.spi_i, header.spi_r, PayloadType.SK, header.version, header.exchange, header.flags,
                      header.message_id, length)
    return whole.build() + generic_header(first_inner, len(plaintext)) + plaintext


class IntAuth:
    """The running MACs of both directions."""

    __slots__ = ("_exchanges", "_i", "_r")

    def __init__(self) -> None:
        self._i = self._r = b""
        self._exchanges = 0

    @property
    def message_id(self) -> int:
        """The Message ID of the exchange under way: IKE_SA_INIT has 0, and nothing else comes before IKE_AUTH."""
        return 1 + self._exchanges

    def add(self, prf_: Prf, sk_p: Secret, octets: bytes, *, is_response: bool) -> None:
        """Take a message in: `sk_p` is its sender's, before its exchange changed the keys."""
        if is_response:
            self._r = prf(prf_, sk_p.reveal(), self._r + octets)
            self._exchanges += 1
        else:
            self._i = prf(prf_, sk_p.reveal(), self._i + octets)

    def value(self) -> bytes:
        """Return IntAuth: both MACs and the Message ID of the first IKE_AUTH; empty without IKE_INTERMEDIATE."""
        return self._i + self._r + self.message_id.to_bytes(4, "big") if self._exchanges else b""
