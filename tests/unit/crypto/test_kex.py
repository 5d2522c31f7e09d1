from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ipsecd.errors import LocalError, PeerError
from ipsecd.ike.consts import KeId, NotifyType
from ipsecd.ike.crypto import kex
from ipsecd.ike.crypto.kex_ecp import EcpExchange
from ipsecd.ike.crypto.kex_x25519 import X25519Exchange
from ipsecd.ike.crypto.modp_primes import PRIMES
from ipsecd.suites import KES, ML_KEMS
from tests.support import reference_crypto
from tests.support.vectors import load

VECTORS = load("kex.txt")
ECP = [("ecp256", 19, ec.SECP256R1()), ("ecp384", 20, ec.SECP384R1()), ("ecp521", 21, ec.SECP521R1())]
FAST = (KeId.CURVE25519, KeId.ECP_256, KeId.ECP_384, KeId.ECP_521, KeId.MODP_2048)
# RFC 2409 6.2 and RFC 3526 2-7: n -> the offset added to the digits of pi
PI_OFFSETS = {1024: 129093, 1536: 741804, 2048: 124476, 3072: 1690314, 4096: 240904, 6144: 929484, 8192: 4743158}


@pytest.mark.parametrize("method", sorted(KES.values()))
def test_every_method_of_the_suites_agrees_on_a_secret(method: int) -> None:
    own = kex.generate(method)
    answer = kex.respond(method, own.public)
    assert own.shared(answer.public) == answer.shared
    assert len(own.public) == len(answer.public) == kex.public_bytes(method)


def test_methods_are_those_of_the_suites() -> None:
    assert sorted(kex.METHODS) == sorted((KES | ML_KEMS).values())
    with pytest.raises(LocalError):
        kex.generate(KeId.ML_KEM_512)
    with pytest.raises(LocalError):
        kex.public_bytes(KeId.MODP_2048_256)


@pytest.mark.parametrize(("name", "method", "curve"), ECP, ids=[name for name, *_ in ECP])
def test_ecp_agrees_with_vector_and_reference(name: str, method: int, curve: ec.EllipticCurve) -> None:
    vector = VECTORS[name]
    scalars = [int.from_bytes(vector[f"private_{side}"], "big") for side in "ir"]
    i, r = (EcpExchange(method, ec.derive_private_key(scalar, curve)) for scalar in scalars)
    assert i.shared(r.public).reveal() == r.shared(i.public).reveal() == vector["shared"]
    if "public_i" in vector:
        assert (i.public, r.public) == (vector["public_i"], vector["public_r"])
    both = reference_crypto.ecp_multiply(method, scalars[0], point(r.public))
    assert both is not None
    assert both[0].to_bytes(len(vector["shared"]), "big") == vector["shared"]


def test_x25519_agrees_with_vector_and_reference() -> None:
    vector = VECTORS["x25519"]
    own = X25519Exchange(X25519PrivateKey.from_private_bytes(vector["private_i"]))
    assert own.public == vector["public_i"] == reference_crypto.x25519(vector["private_i"], (9).to_bytes(32, "little"))
    assert reference_crypto.x25519(vector["private_i"], vector["public_r"]) == vector["shared"]
    assert own.shared(vector["public_r"]).reveal() == vector["shared"]


def test_modp_primes_are_made_of_the_digits_of_pi() -> None:
    expected = {reference_crypto.modp_prime(bits, offset) for bits, offset in PI_OFFSETS.items()}
    assert {KeId.MODP_1024, KeId.MODP_1536, *range(14, 19)} == set(PRIMES)
    assert set(PRIMES.values()) == expected


@pytest.mark.parametrize("method", FAST)
def test_public_value_of_wrong_length_is_refused(method: int) -> None:
    # IN-35
    own = kex.generate(method)
    size = kex.public_bytes(method)
    for value in (b"", bytes(1), own.public[1:], own.public + b"\0", b"\0" + own.public, own.public * 2,
                  own.public[:size // 2] if size > 32 else own.public[:16]):
        refused(own, value)


@pytest.mark.parametrize("method", [KeId.MODP_1536, KeId.MODP_2048, KeId.MODP_3072])
def test_modp_value_outside_its_range_is_refused(method: int) -> None:
    # IN-35, RFC 6989 2.1
    own, prime, size = kex.generate(method), PRIMES[method], kex.public_bytes(method)
    for y in (0, 1, prime - 1, prime, prime + 1, 2**(8 * size) - 1):
        refused(own, y.to_bytes(size, "big"))


def test_modp_secret_keeps_its_leading_zeros() -> None:
    # RFC 7296 2.14: "zero-padded to the length of the modulus"; one exchange in 256 would be a byte short
    own = kex.generate(KeId.MODP_1536)
    assert all(len(kex.respond(KeId.MODP_1536, own.public).shared) == 192 for _ in range(20))


@pytest.mark.parametrize("method", [19, 20, 21])
def test_point_off_the_curve_is_refused(method: int) -> None:
    # IN-35, RFC 6989 2.3
    own, size = kex.generate(method), kex.public_bytes(method)
    prime = reference_crypto.ECP_PRIMES[method].to_bytes(size // 2, "big")
    for value in (bytes(size), b"\xff" * size, own.public[:-1] + bytes([own.public[-1] ^ 1]), prime + prime,
                  own.public[size // 2:] + own.public[:size // 2]):
        refused(own, value)


@pytest.mark.parametrize("u", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18, 2**255 + 1,
                               325606250916557431795983626356110631294008115727848805560023387167927233504])
def test_x25519_point_of_low_order_is_refused(u: int) -> None:
    # IN-35, RFC 7748 6.1: the result would be all zero
    refused(kex.generate(KeId.CURVE25519), u.to_bytes(32, "little"))


def point(public: bytes) -> tuple[int, int]:
    half = len(public) // 2
    return int.from_bytes(public[:half], "big"), int.from_bytes(public[half:], "big")


def refused(own: kex.KeyExchange, value: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        own.shared(value)
    assert caught.value.notify == NotifyType.INVALID_SYNTAX
