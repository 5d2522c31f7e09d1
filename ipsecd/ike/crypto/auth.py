"""What AUTH covers, and AUTH by pre-shared key (RFC 7296 2.15)."""

from __future__ import annotations

from ipsecd.errors import AuthenticationError
from ipsecd.ike.crypto.compare import same_bytes
from ipsecd.ike.crypto.keymat import prf
from ipsecd.secret import Secret
from ipsecd.suites import Prf

KEY_PAD = b"Key Pad for IKEv2"  # RFC 7296 2.15: 17 ASCII characters, no terminating zero


def psk_auth(prf_: Prf, psk: Secret, *, message: bytes, nonce: bytes, sk_p: Secret, id_body: bytes,
             int_auth: bytes = b"") -> bytes:
    """Return the data of an AUTH payload of method SHARED_KEY.

    `message` is the signer's own IKE_SA_INIT message from its SPIi on, the last one sent; `nonce` the body of the other
    side's nonce; `sk_p` the signer's SK_pi or SK_pr; `id_body` the signer's ID payload after its generic header;
    `int_auth` what covers IKE_INTERMEDIATE, empty without that exchange (RFC 9242 3.3.2).
    """
    octets = signed_octets(prf_, message=message, nonce=nonce, sk_p=sk_p, id_body=id_body, int_auth=int_auth)
    return prf(prf_, prf(prf_, psk.reveal(), KEY_PAD), octets)


def signed_octets(prf_: Prf, *, message: bytes, nonce: bytes, sk_p: Secret, id_body: bytes,
                  int_auth: bytes = b"") -> bytes:
    """Return what a signature or the MAC of a shared key covers; arguments as for `psk_auth`."""
    return message + nonce + prf(prf_, sk_p.reveal(), id_body) + int_auth


def verify_psk_auth(auth: bytes, prf_: Prf, psk: Secret, *, message: bytes, nonce: bytes, sk_p: Secret,
                    id_body: bytes, int_auth: bytes = b"") -> None:
    """Return if `auth` is what the peer with this key computes; raise AuthenticationError if not."""
    expected = psk_auth(prf_, psk, message=message, nonce=nonce, sk_p=sk_p, id_body=id_body, int_auth=int_auth)
    if not same_bytes(auth, expected):
        raise AuthenticationError("AUTH does not match: the pre-shared keys differ")
