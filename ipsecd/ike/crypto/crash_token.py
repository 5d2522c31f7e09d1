"""The token by which an end that lost its IKE SAs proves to a peer that it is the one who had them (RFC 6290 5.1).

It follows from a secret that outlives a restart and from the SPIs, so nothing is remembered for it.  While an IKE SA
lives its token is told to the peer alone, inside; to whoever asks in the clear only when the IKE SA is no more.
"""

from __future__ import annotations

import hmac

from ipsecd.secret import Secret

TOKEN_BYTES = 16                # RFC 6290 4.1: 16 to 128; the least, so that the answer is no longer than the question


def crash_token(secret: Secret, *, spi_i: bytes, spi_r: bytes) -> bytes:
    """Return our token for the IKE SA with these SPIs."""
    return hmac.digest(secret.reveal(), b"".join((b"ipsecd QCD", spi_i, spi_r)), "sha256")[:TOKEN_BYTES]
