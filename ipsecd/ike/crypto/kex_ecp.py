"""ECP groups 19, 20 and 21 (RFC 5903): the public value is x | y, the shared secret is x alone."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipsecd.errors import PeerError
from ipsecd.ike.consts import KeId, NotifyType
from ipsecd.secret import Secret

PUBLIC_BYTES: Final[dict[int, int]] = {KeId.ECP_256: 64, KeId.ECP_384: 96, KeId.ECP_521: 132}
_CURVES: Final[dict[int, ec.EllipticCurve]] = {
    KeId.ECP_256: ec.SECP256R1(), KeId.ECP_384: ec.SECP384R1(), KeId.ECP_521: ec.SECP521R1(),
}
_UNCOMPRESSED = b"\x04"     # SEC 1 2.3.3; the KE payload leaves it out


class EcpExchange:
    """Our half of an ECDH exchange."""

    __slots__ = ("_private", "method", "public")

    def __init__(self, method: int, private: ec.EllipticCurvePrivateKey) -> None:
        self._private = private
        self.method = method
        self.public = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]

    def shared(self, peer_public: bytes) -> Secret:
        """Return the x coordinate, full length; raise PeerError for a wrong length or a point off the curve.

        The length is ours to check: with the prefix replaced, the library would take a compressed point as well.
        """
        if len(peer_public) != PUBLIC_BYTES[self.method]:
            raise PeerError(NotifyType.INVALID_SYNTAX,
                            f"ECP public value of {len(peer_public)} bytes, not {PUBLIC_BYTES[self.method]}")
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[self.method], _UNCOMPRESSED + peer_public)
            return Secret(self._private.exchange(ec.ECDH(), peer))
        except ValueError:
            # RFC 6989 2.3: both coordinates below p, and on the curve.
            raise PeerError(NotifyType.INVALID_SYNTAX, "ECP public value is no point of the curve") from None


def generate(method: int) -> EcpExchange:
    """Make a fresh key pair."""
    return EcpExchange(method, ec.generate_private_key(_CURVES[method]))
