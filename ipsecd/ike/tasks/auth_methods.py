"""How each side of IKE_AUTH proves who it is: by a pre-shared key, a certificate or a bare public key, or not at all.

The entry decides, for each direction by itself (RFC 4301 4.4.3.2); what the peer offers can only fit or fail.
Signatures and chains are worked off the loop.  Whatever fails, the peer is told AUTHENTICATION_FAILED; why, only the
operator learns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from ipsecd.causes import Cause, Failure
from ipsecd.errors import AuthenticationError, TokenError
from ipsecd.ike.consts import AuthMethod, CertEncoding, NotifyType, enum_name
from ipsecd.ike.crypto.auth import psk_auth, signed_octets, verify_psk_auth
from ipsecd.ike.crypto.cert_identity import check_identity
from ipsecd.ike.crypto.certificates import Certificate, CertificateRefused, parse_certificate, parse_dn, show_dn
from ipsecd.ike.crypto.chain import Trust, verify_chain
from ipsecd.ike.crypto.public_keys import import_public_key, load_private_key
from ipsecd.ike.crypto.revocation import Evidence, queries, unsettled
from ipsecd.ike.crypto.signatures import Signature, sign
from ipsecd.ike.crypto.signatures import verify as verify_signature
from ipsecd.ike.session import Session
from ipsecd.ike.steps import Steps, work
from ipsecd.ike.tasks.ike_init import InitResult
from ipsecd.ike.tasks.refusal import SaRefused
from ipsecd.ike.tasks.resume import check_resumed, prove_resumed
from ipsecd.ike.tasks.revocation_facts import Unsettled, settle_revocation, stapled
from ipsecd.ike.tasks.signature_support import Requested, fitting
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.payloads import AuthPayload, CertPayload, IdPayload
from ipsecd.policy import (
    CertificateTrust,
    Credential,
    Identity,
    NullAuth,
    PeerPolicy,
    RawKeys,
    Revocation,
    TokenKey,
)
from ipsecd.secret import Secret
from ipsecd.text import printable

_SIGNATURES = (AuthMethod.RSA_SIGNATURE, AuthMethod.ECDSA_256, AuthMethod.ECDSA_384, AuthMethod.ECDSA_521,
               AuthMethod.DIGITAL_SIGNATURE)


MAX_SHOWN_AUTHORITIES = 3       # in a failure; a directory may hold hundreds


class Proof(NamedTuple):
    """Our CERT payloads, none with a pre-shared key; our AUTH; and the time after the work."""

    certs: tuple[Payload, ...]
    auth: AuthPayload
    now: float


def prove(peer: PeerPolicy, init: InitResult, id_payload: IdPayload, now: float, *, initiator: bool,
          asked: Requested, wall_now: float) -> Steps[Proof]:
    """Return how we prove our identity as the entry says, below an authority `asked` for where we have the choice.

    Raises SaRefused where we cannot sign for the peer.
    """
    if init.resumed is not None:
        return Proof((), prove_resumed(init, init.resumed, id_payload, initiator=initiator), now)
    credential = peer.auth.local
    if not isinstance(credential, Credential):
        method = AuthMethod.SHARED_KEY if credential is None else AuthMethod.NULL
        mac = _mac(init, peer.psk if credential is None else None, id_payload, initiator=initiator)
        return Proof((), AuthPayload(method, mac), now)
    credential = fitting(credential, peer.auth, asked.authorities)
    octets = _octets(init, id_payload, initiator=initiator)
    try:
        worked = yield from work(partial(_sign, credential, octets, init.peer_hashes, legacy=peer.auth.legacy))
    except TokenError as error:
        raise unproven(Cause.TOKEN_FAILED, str(error), ours=printable(credential.private_key.uri) if isinstance(
            credential.private_key, TokenKey) else "") from None
    except AuthenticationError as error:
        raise unproven(Cause.AUTH_METHOD, str(error)) from None
    encoding = CertEncoding.RAW_PUBLIC_KEY if credential.raw else CertEncoding.X509_SIGNATURE
    certs = tuple(CertPayload(encoding, der) for der in credential.chain)
    staple = yield from stapled(credential if asked.ocsp else None, worked.now, wall_now=wall_now)
    certs += tuple(CertPayload(CertEncoding.OCSP_CONTENT, data) for data in staple.value)
    return Proof(certs, AuthPayload(worked.value.method, worked.value.data), staple.now)


def check(peer: PeerPolicy, session: Session, init: InitResult, id_payload: IdPayload, auth: AuthPayload | None,
          payloads: Sequence[object], now: float, *, initiator: bool) -> Steps[float]:
    """Return the time after the work if `auth` of the initiator or responder proves its identity as its entry demands.

    Raises SaRefused if not.
    """
    if init.resumed is not None:
        check_resumed(peer, session, init, init.resumed, id_payload, auth, initiator=initiator)
        return now
    trust = peer.auth.remote
    if trust is None:
        verify_mac(init, peer.psk, id_payload, auth, initiator=initiator)
        return now
    if isinstance(trust, NullAuth):
        verify_mac(init, None, id_payload, auth, initiator=initiator)
        return now
    if auth is None or auth.method not in _SIGNATURES:
        ours = "certificate" if isinstance(trust, CertificateTrust) else "public key"
        raise unproven(Cause.AUTH_METHOD, ours=ours, theirs=_method(auth))
    who = Identity(id_payload.id_type, id_payload.data)
    certs = tuple(p for p in payloads if isinstance(p, CertPayload))
    octets, signature = _octets(init, id_payload, initiator=initiator), Signature(auth.method, auth.data)
    if isinstance(trust, RawKeys):
        verification: Callable[[], Unsettled | None] = partial(
            _verify_raw, trust, certs, signature, octets, legacy=peer.auth.legacy)
    else:
        verification = partial(_verify, trust, who, certs, signature, octets, wall_now=session.host.wall_now(),
                               legacy=peer.auth.legacy)
    try:
        worked = yield from work(verification)
        if isinstance(trust, CertificateTrust) and worked.value is not None:
            return (yield from settle_revocation(session, peer, trust, worked.value))
    except CertificateRefused as error:
        raise unproven(Cause.CERTIFICATE_REFUSED, str(error), ours=_demanded(trust), theirs=str(who)) from None
    except AuthenticationError as error:
        raise unproven(Cause.AUTHENTICATION_FAILED, str(error), ours=_demanded(trust),
                       theirs=f"{who} by {_method(auth)}") from None
    return worked.now


def verify_mac(init: InitResult, psk: Secret | None, id_payload: IdPayload, auth: AuthPayload | None, *,
               initiator: bool) -> None:
    """Return if the initiator or responder proved to hold `psk`; raise SaRefused if not.

    None stands for NULL authentication, where SK_pi or SK_pr takes the key's place (RFC 7619 2.1): it proves that the
    identity payload came from whoever made the key exchange.
    """
    wanted = AuthMethod.NULL if psk is None else AuthMethod.SHARED_KEY
    if auth is None or auth.method != wanted:
        raise unproven(Cause.AUTH_METHOD, ours=wanted.name, theirs=_method(auth))
    message, nonce, sk_p = _covered(init, initiator=initiator)
    try:
        verify_psk_auth(auth.data, init.crypto.suite.prf, sk_p if psk is None else psk, message=message, nonce=nonce,
                        sk_p=sk_p, id_body=id_payload.build(), int_auth=init.int_auth)
    except AuthenticationError as error:
        who = str(Identity(id_payload.id_type, id_payload.data))
        raise unproven(Cause.AUTHENTICATION_FAILED, str(error), ours=f"our {wanted.name} of this entry",
                       theirs=f"{who} by {_method(auth)}") from None


def unproven(cause: Cause, detail: str = "", *, ours: str = "", theirs: str = "") -> SaRefused:
    """Return what ends an IKE SA whose peer is not who it should be; the peer learns nothing of the cause."""
    return SaRefused(Failure(cause, detail, ours, theirs), NotifyType.AUTHENTICATION_FAILED)


def _mac(init: InitResult, psk: Secret | None, id_payload: IdPayload, *, initiator: bool) -> bytes:
    message, nonce, sk_p = _covered(init, initiator=initiator)
    return psk_auth(init.crypto.suite.prf, sk_p if psk is None else psk, message=message, nonce=nonce, sk_p=sk_p,
                    id_body=id_payload.build(), int_auth=init.int_auth)


def _sign(credential: Credential, octets: bytes, peer_hashes: tuple[int, ...], *, legacy: bool) -> Signature:
    key = credential.private_key
    return sign(load_private_key(key) if isinstance(key, Secret) else key, octets, peer_hashes=peer_hashes,
                legacy=legacy)


def _verify(trust: CertificateTrust, who: Identity, certs: Sequence[CertPayload], signature: Signature, octets: bytes,
            *, wall_now: float, legacy: bool) -> Unsettled | None:
    """RFC 7296 3.6: the key of the first certificate verifies AUTH.  Whose it is comes before what it signed.

    Returns what is still to be asked about revocation, of a peer that is proved otherwise; None where nothing is.
    """
    ders = [c.data for c in certs if c.encoding == CertEncoding.X509_SIGNATURE]
    received = [parse_certificate(der) for der in ders[:1]] + _readable(ders[1:])
    chain = verify_chain(received, Trust(
        anchors=tuple(parse_certificate(der) for der in trust.authorities),
        intermediates=tuple(parse_certificate(der) for der in trust.intermediates),
        issuer=parse_dn(trust.issuer) if trust.issuer is not None else None, any_purpose=trust.any_purpose),
        wall_now=wall_now)
    check_identity(chain.leaf, who)
    evidence = Evidence(trust.crls, tuple(c.data for c in certs if c.encoding == CertEncoding.OCSP_CONTENT))
    links = () if trust.revocation is Revocation.OFF else unsettled(chain, evidence, wall_now=wall_now)
    verify_signature(chain.key, signature, octets, legacy=legacy)
    return Unsettled(chain, evidence, queries(links, wall_now=wall_now)) if links else None


def _verify_raw(trust: RawKeys, certs: Sequence[CertPayload], signature: Signature, octets: bytes, *,
                legacy: bool) -> None:
    """RFC 7670 3: the key in CERT must be one that the entry has; without CERT any of those may have signed."""
    shown = [c.data for c in certs if c.encoding == CertEncoding.RAW_PUBLIC_KEY]
    keys = [key for key in trust.keys if not shown or key == shown[0]]
    if not keys:
        raise AuthenticationError("the peer shows a public key that its entry does not have")
    failure: AuthenticationError | None = None
    for key in keys:
        try:
            verify_signature(import_public_key(key), signature, octets, legacy=legacy)
        except AuthenticationError as error:
            failure = error
        else:
            return
    raise failure or AuthenticationError("no key")


def _readable(ders: Sequence[bytes]) -> list[Certificate]:
    """Return the certificates that can be used: one that the chain does not need may be anything."""
    found: list[Certificate] = []
    for der in ders:
        try:
            found.append(parse_certificate(der))
        except CertificateRefused:
            continue
    return found


def _octets(init: InitResult, id_payload: IdPayload, *, initiator: bool) -> bytes:
    message, nonce, sk_p = _covered(init, initiator=initiator)
    return signed_octets(init.crypto.suite.prf, message=message, nonce=nonce, sk_p=sk_p, id_body=id_payload.build(),
                         int_auth=init.int_auth)


def _covered(init: InitResult, *, initiator: bool) -> tuple[bytes, bytes, Secret]:
    """Return the message, the other side's nonce and the key that AUTH of one side covers (RFC 7296 2.15)."""
    keys = init.crypto.keys
    return (init.request, init.nr, keys.sk_pi) if initiator else (init.response, init.ni, keys.sk_pr)


def method_name(local: Credential | NullAuth | None) -> str:
    """Return how we prove ourselves, for people."""
    if isinstance(local, Credential):
        return "public key" if local.raw else "certificate"
    return (AuthMethod.NULL if local else AuthMethod.SHARED_KEY).name


def _demanded(trust: CertificateTrust | RawKeys) -> str:
    """Return what an entry asks of a signing peer, for people."""
    if isinstance(trust, RawKeys):
        return f"{len(trust.keys)} public keys"
    names = [str(parse_certificate(der)) for der in trust.authorities[:MAX_SHOWN_AUTHORITIES]]
    more = ", and others" if len(trust.authorities) > len(names) else ""
    issuer = f"; issuer {show_dn(parse_dn(trust.issuer))}" if trust.issuer is not None else ""
    return f"a certificate of {', '.join(names)}{more}{issuer}; revocation {trust.revocation}"


def _method(auth: AuthPayload | None) -> str:
    return "EAP" if auth is None else enum_name(AuthMethod, auth.method)
