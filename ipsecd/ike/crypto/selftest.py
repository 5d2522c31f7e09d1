"""What must work before the first packet: every algorithm that the policy names is tried once.

A library without one of them (a FIPS provider, a stripped OpenSSL) shows when the daemon starts, not when a peer asks.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipsecd.aead import make_mac, make_sealer
from ipsecd.errors import BadIcv, LocalError
from ipsecd.ike.consts import EncrId, KeId, TransformType
from ipsecd.ike.crypto import kex
from ipsecd.ike.crypto.compare import same_bytes
from ipsecd.ike.crypto.keymat import prf
from ipsecd.secret import Secret
from ipsecd.suites import (
    ENCRS,
    GMACS,
    INTEGS,
    Encr,
    Integ,
    Prf,
    Proposal,
    Transform,
    encr_of,
    integ_of,
    is_ke,
    prf_of,
    transform_name,
)


def self_test(proposals: Iterable[Proposal]) -> None:
    """Return if every algorithm of these proposals works here; raise LocalError naming the first that does not.

    Takes about 20 ms, most of it for MODP groups: call it before serving.
    """
    for transform in dict.fromkeys(t for proposal in proposals for t in proposal.transforms):
        try:
            _try(transform)
        except Exception as error:  # a library may fail in any way: whichever it is, the algorithm is unusable
            raise LocalError(f"{transform_name(transform)} does not work on this machine: {error}") from error


def _try(transform: Transform) -> None:
    match transform.type:
        case TransformType.ENCR:
            _try_encr(encr_of(transform))
        case TransformType.INTEG:
            _try_integ(integ_of(transform))
        case TransformType.PRF:
            _try_prf(prf_of(transform))
        case TransformType.ESN:
            pass
        case type_ if is_ke(type_):
            if type_ == TransformType.KE or transform.id != KeId.NONE:
                _try_ke(transform.id)
        case _:
            raise LocalError(f"transform type {transform.type} is none of ours")


def _try_encr(encr: Encr | None) -> None:
    if encr is None:
        raise LocalError("none of our ciphers")
    _try_sealer(encr, None if encr.aead else INTEGS[0])


def _try_integ(integ: Integ | None) -> None:
    if integ is None:
        raise LocalError("none of our integrity algorithms")
    if integ in GMACS:
        _try_mac(integ)
        return
    _try_sealer(next(encr for encr in ENCRS if encr.id == EncrId.AES_CBC), integ)


def _try_prf(prf_: Prf | None) -> None:
    if prf_ is None or len(prf(prf_, b"key", b"data")) != prf_.size:
        raise LocalError("none of our PRFs")


def _try_ke(method: int) -> None:
    own = kex.generate(method)
    answer = kex.respond(method, own.public)
    if not same_bytes(own.shared(answer.public).reveal(), answer.shared.reveal()):
        raise LocalError("both ends compute different secrets")


def _try_mac(integ: Integ) -> None:
    mac, covered = make_mac(integ, Secret(bytes(range(integ.key_bytes)))), bytes(range(64))
    field = mac.make(covered, 1)
    if not mac.fits(covered, field) or mac.fits(covered + b"\0", field):
        raise LocalError("an ICV does not tell what it covers")


def _try_sealer(encr: Encr, integ: Integ | None) -> None:
    sealer = make_sealer(encr, integ, encr_key=Secret(bytes(range(encr.key_bytes + encr.salt_bytes))),
                         integ_key=Secret(bytes(integ.key_bytes if integ else 0)))
    iv, plaintext, aad = bytes(encr.iv_bytes), bytes(range(64)), b"associated data"
    sealed = sealer.seal(iv, plaintext, aad)
    if sealed[:len(plaintext)] == plaintext or sealer.open(iv, sealed, aad) != plaintext:
        raise LocalError("what was sealed does not open to the same")
    try:
        sealer.open(iv, sealed[:-1] + bytes([sealed[-1] ^ 1]), aad)
    except BadIcv:
        return
    raise LocalError("a changed ICV is accepted")
