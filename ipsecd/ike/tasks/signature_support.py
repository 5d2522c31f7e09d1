"""What IKE_SA_INIT and IKE_AUTH say about signatures: the hashes that we verify (RFC 7427 4), whom we trust (CERTREQ).

Peers whose entries use pre-shared keys alone get neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ipsecd.ike.consts import CertEncoding, NotifyType
from ipsecd.ike.crypto.signatures import OUR_HASHES, hash_data, hash_list
from ipsecd.ike.wire.cursor import Reader
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.ike.wire.payloads import CertreqPayload
from ipsecd.policy import AuthPolicy, CertificateTrust, Credential, PeerPolicy, RawKeys, Revocation

HASH_BYTES = 20                 # SHA-1
MAX_NAMED = 10                  # authorities in a CERTREQ; with more it names none, so that IKE_SA_INIT stays small


def hash_payloads(peers: Iterable[PeerPolicy]) -> tuple[Payload, ...]:
    """Return SIGNATURE_HASH_ALGORITHMS where one of the entries signs or verifies.

    We send it also where only we sign: responders answer with theirs only then.
    """
    if not any(isinstance(p.auth.local, Credential) or isinstance(p.auth.remote, CertificateTrust | RawKeys)
               for p in peers):
        return ()
    return (NotifyPayload(NotifyType.SIGNATURE_HASH_ALGORITHMS, hash_data(OUR_HASHES)),)


def announced_hashes(payloads: Iterable[object]) -> tuple[int, ...]:
    """Return the hashes that the peer verifies, empty where it does not say."""
    notify = find(payloads, NotifyType.SIGNATURE_HASH_ALGORITHMS)
    return hash_list(notify.data) if notify else ()


class Requested(NamedTuple):
    """What a peer's CERTREQ asks for."""

    authorities: frozenset[bytes] = frozenset()     # by the SHA-1 of their keys (RFC 7296 3.7)
    ocsp: bool = False                              # an OCSP response about our certificate (RFC 4806 3.1)


NOTHING_ASKED = Requested()


def requested(payloads: Iterable[object]) -> Requested:
    """Return what the CERTREQ payloads of a message ask for."""
    found: set[bytes] = set()
    wanted = [p for p in payloads if isinstance(p, CertreqPayload)]
    for payload in wanted:
        if payload.encoding == CertEncoding.X509_SIGNATURE:
            reader = Reader(payload.data)
            while reader.remaining >= HASH_BYTES:
                found.add(reader.take(HASH_BYTES))
    return Requested(frozenset(found), any(p.encoding == CertEncoding.OCSP_CONTENT for p in wanted))


def fitting(local: Credential, auth: AuthPolicy, asked: frozenset[bytes]) -> Credential:
    """Return the first of our credentials below an authority that the peer asks for, `local` where none is.

    CERTREQ is a hint (RFC 7296 3.7): a peer may trust an authority that it does not name.
    """
    return next((c for c in (local, *auth.others) if any(h in asked for h in c.issuer_hashes)), local)


def certificate_request(peers: Iterable[PeerPolicy]) -> tuple[Payload, ...]:
    """Return the CERTREQ toward one of these entries, nothing where none proves itself by a certificate.

    It names the authorities that we trust (RFC 7296 3.7).
    """
    remotes = [p.auth.remote for p in peers]
    trusts = [r for r in remotes if isinstance(r, CertificateTrust)]
    # RFC 7670 3: for a raw key no authority is named.
    raw = (CertreqPayload(CertEncoding.RAW_PUBLIC_KEY, b""),) if any(isinstance(r, RawKeys) for r in remotes) else ()
    if not trusts:
        return raw
    named = list(dict.fromkeys(h for trust in trusts for h in trust.authority_hashes))
    # RFC 4806 3.1: no responder is named, for those that the authorities appoint are the ones that count.
    ocsp = (CertreqPayload(CertEncoding.OCSP_CONTENT, b""),) if any(t.revocation is not Revocation.OFF
                                                                    for t in trusts) else ()
    return (CertreqPayload(CertEncoding.X509_SIGNATURE, b"".join(named) if len(named) <= MAX_NAMED else b""), *ocsp,
            *raw)
