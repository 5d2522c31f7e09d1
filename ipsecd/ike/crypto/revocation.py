"""Whether a certificate was revoked: CRLs (RFC 5280 5, 6.3) and OCSP responses (RFC 6960), as bytes that somebody got.

Evidence counts only if the certificate's own issuer signed it, or a responder that this issuer appointed.  "Revoked"
is believed from old evidence too; "good" only while the evidence is current.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from ipsecd.effects import RevocationQuery
from ipsecd.ike.crypto.certificates import (
    SIGNATURE_ERRORS,
    Certificate,
    CertificateRefused,
    dn,
    parse_certificate,
    quiet,
    valid_at,
)
from ipsecd.ike.crypto.chain import Chain
from ipsecd.ike.crypto.public_keys import PublicKey
from ipsecd.policy import Revocation

MAX_EVIDENCE_BYTES = 1 << 20    # one CRL or OCSP response: a CRL of 25,000 entries
MAX_RESPONDERS = 4              # certificates looked at in an OCSP response
CLOCK_SKEW_S = 300.0            # evidence from the near future is the clock's fault
_STRONG = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
# Critical extensions of a CRL that are looked at, or leave it a complete list of its issuer; any other one may not.
_CRL_KNOWN = frozenset({x509.CRLNumber.oid, x509.AuthorityKeyIdentifier.oid, x509.IssuingDistributionPoint.oid})


class Status(Enum):
    """What the evidence says of one certificate."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Evidence:
    """CRLs and OCSP responses in DER, wherever they come from: those that cannot be used are passed over."""

    crls: tuple[bytes, ...] = ()
    ocsp: tuple[bytes, ...] = ()


class Link(NamedTuple):
    """A certificate and who issued it."""

    certificate: Certificate
    issuer: Certificate


def check_revocation(chain: Chain, evidence: Evidence, mode: Revocation, *, wall_now: float) -> None:
    """Raise CertificateRefused where a certificate of the chain was revoked, or in strict mode may have been."""
    if mode is Revocation.OFF:
        return
    open_links = unsettled(chain, evidence, wall_now=wall_now)
    if open_links and mode is Revocation.STRICT:
        raise CertificateRefused(f"{unknown_text(open_links)}, and revocation is strict")


def unsettled(chain: Chain, evidence: Evidence, *, wall_now: float) -> tuple[Link, ...]:
    """Return the links of which the evidence says nothing current; raise CertificateRefused for a revoked one.

    The authority at the end is not asked about: the operator named it.
    """
    found: list[Link] = []
    for link in map(Link, chain.path, chain.path[1:]):
        status = _status(link.certificate, link.issuer, evidence, wall_now)
        if status is Status.REVOKED:
            raise CertificateRefused(f"{link.certificate} was revoked by {link.issuer}")
        if status is Status.UNKNOWN:
            found.append(link)
    return tuple(found)


def unknown_text(links: Sequence[Link]) -> str:
    """Say of which certificates nothing is known."""
    return "; ".join(f"no current CRL or OCSP response of {link.issuer} speaks of {link.certificate}" for link in links)


def queries(links: Sequence[Link], *, wall_now: float) -> tuple[RevocationQuery, ...]:
    """Return where evidence about links may be fetched: OCSP before CRLs, and only what certificates in a chain name.

    Whoever signed them was trusted by the operator to do so; nothing that a peer says otherwise leads anywhere.
    """
    found: list[RevocationQuery] = []
    for link in links:
        found += _ocsp_queries(link, wall_now)
        found += [RevocationQuery(url, b"", partial(_speaks_crl, link, wall_now)) for url in link.certificate.crl_urls]
    return tuple(found)


def about(certificate: bytes, issuer: bytes, *, wall_now: float) -> tuple[RevocationQuery, ...]:
    """Return where OCSP responses about a certificate of ours may be had, both in DER."""
    return tuple(_ocsp_queries(Link(parse_certificate(certificate), parse_certificate(issuer)), wall_now))


def _ocsp_queries(link: Link, wall_now: float) -> list[RevocationQuery]:
    urls = link.certificate.ocsp_urls
    body = _ocsp_request(link, b"") if urls else b""
    return [RevocationQuery(url, body, partial(_speaks_ocsp, link, wall_now), partial(_ocsp_request, link), echoes)
            for url in urls]


def _ocsp_request(link: Link, nonce: bytes) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(link.certificate.parsed, link.issuer.parsed, hashes.SHA1())
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def echoes(data: bytes, nonce: bytes) -> bool:
    """Return whether an OCSP response has this nonce, or none: many are made ahead for everybody (RFC 9654 2.1)."""
    try:
        with quiet():
            return _nonce(ocsp.load_der_ocsp_response(data)) in (None, nonce)
    except SIGNATURE_ERRORS:
        return False


def fetched(asked: Sequence[RevocationQuery], answers: Sequence[bytes | None]) -> Evidence:
    """Return what came of queries as evidence."""
    came = [(query, data) for query, data in zip(asked, answers, strict=False) if data is not None]
    return Evidence(tuple(d for q, d in came if not q.body), tuple(d for q, d in came if q.body))


def _speaks_ocsp(link: Link, wall_now: float, data: bytes) -> bool:
    return ocsp_status(data, link.certificate, link.issuer, wall_now=wall_now) is not Status.UNKNOWN


def _speaks_crl(link: Link, wall_now: float, data: bytes) -> bool:
    return crl_status(data, link.certificate, link.issuer, wall_now=wall_now) is not Status.UNKNOWN


def _status(certificate: Certificate, issuer: Certificate, evidence: Evidence, wall_now: float) -> Status:
    said = [crl_status(data, certificate, issuer, wall_now=wall_now) for data in evidence.crls]
    said += [ocsp_status(data, certificate, issuer, wall_now=wall_now) for data in evidence.ocsp]
    return next((status for status in (Status.REVOKED, Status.GOOD) if status in said), Status.UNKNOWN)


def crl_status(data: bytes, certificate: Certificate, issuer: Certificate, *, wall_now: float) -> Status:
    """Return what a CRL says; UNKNOWN also for one of another issuer, a partial, malformed or badly signed one."""
    if len(data) > MAX_EVIDENCE_BYTES:
        return Status.UNKNOWN
    try:
        with quiet():
            return _crl_status(x509.load_der_x509_crl(data), certificate, issuer, wall_now)
    except SIGNATURE_ERRORS:
        return Status.UNKNOWN


def _crl_status(crl: x509.CertificateRevocationList, certificate: Certificate, issuer: Certificate,
                wall_now: float) -> Status:
    algorithm = crl.signature_hash_algorithm
    if (not all(_is_whole(e, certificate) for e in crl.extensions)
            or dn(crl.issuer) != issuer.subject or not (algorithm is None or isinstance(algorithm, _STRONG))
            or (issuer.usage is not None and not issuer.usage.crl_sign) or not crl.is_signature_valid(issuer.key)):
        return Status.UNKNOWN
    if crl.get_revoked_certificate_by_serial_number(certificate.parsed.serial_number) is not None:
        return Status.REVOKED
    end = crl.next_update_utc
    return _current(crl.last_update_utc.timestamp(), end.timestamp() if end else None, wall_now)


def _is_whole(extension: x509.Extension[x509.ExtensionType], certificate: Certificate) -> bool:
    """Return whether an extension leaves a CRL one that would name this certificate, had it been revoked."""
    if isinstance(extension.value, x509.IssuingDistributionPoint):
        return _covers(extension.value, certificate)
    return not isinstance(extension.value, x509.DeltaCRLIndicator) and (
        not extension.critical or extension.oid in _CRL_KNOWN)


def _covers(point: x509.IssuingDistributionPoint, certificate: Certificate) -> bool:
    """RFC 5280 6.3.3 (b): it limits the list, critical or not.  A relative name is not looked at."""
    if point.indirect_crl or point.only_some_reasons or point.relative_name or point.only_contains_attribute_certs:
        return False
    if point.full_name is not None and not any(name in certificate.crl_points for name in point.full_name):
        return False
    return not (point.only_contains_user_certs if certificate.is_ca else point.only_contains_ca_certs)


def ocsp_status(data: bytes, certificate: Certificate, issuer: Certificate, *, wall_now: float,
                nonce: bytes | None = None) -> Status:
    """Return what an OCSP response says; UNKNOWN for one that is not about this certificate or not to be trusted.

    With `nonce`, the one that was asked with must be in it.
    """
    if len(data) > MAX_EVIDENCE_BYTES:
        return Status.UNKNOWN
    try:
        with quiet():
            response = ocsp.load_der_ocsp_response(data)
            return _ocsp_status(response, certificate, issuer, wall_now, nonce)
    except SIGNATURE_ERRORS:
        return Status.UNKNOWN


def _ocsp_status(response: ocsp.OCSPResponse, certificate: Certificate, issuer: Certificate, wall_now: float,
                 nonce: bytes | None) -> Status:
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return Status.UNKNOWN
    if nonce is not None and _nonce(response) != nonce:
        return Status.UNKNOWN
    if not any(_signed(response, key) for key in _responder_keys(response, issuer, wall_now)):
        return Status.UNKNOWN
    said = [_single_status(single, wall_now) for single in response.responses if _about(single, certificate, issuer)]
    return next((status for status in (Status.REVOKED, Status.GOOD) if status in said), Status.UNKNOWN)


def _nonce(response: ocsp.OCSPResponse) -> bytes | None:
    return next((e.value.nonce for e in response.extensions if isinstance(e.value, x509.OCSPNonce)), None)


def _responder_keys(response: ocsp.OCSPResponse, issuer: Certificate, wall_now: float) -> Iterator[PublicKey]:
    """RFC 6960 4.2.2.2: the issuer itself, or whom it gave a certificate for signing OCSP responses, directly."""
    yield issuer.key
    for parsed in response.certificates[:MAX_RESPONDERS]:
        try:
            responder = parse_certificate(parsed.public_bytes(Encoding.DER))
        except CertificateRefused:
            continue
        appointed = ExtendedKeyUsageOID.OCSP_SIGNING.dotted_string in (responder.purposes or ())
        if appointed and responder.strong_signature and valid_at(responder, wall_now) and responder.signed_by(issuer):
            yield responder.key


def _signed(response: ocsp.OCSPResponse, key: PublicKey) -> bool:
    algorithm = response.signature_hash_algorithm
    try:
        match key:
            case rsa.RSAPublicKey() if isinstance(algorithm, _STRONG):
                key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), algorithm)
            case ec.EllipticCurvePublicKey() if isinstance(algorithm, _STRONG):
                key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
            case rsa.RSAPublicKey() | ec.EllipticCurvePublicKey():
                return False
            case _:
                key.verify(response.signature, response.tbs_response_bytes)
    except SIGNATURE_ERRORS:
        return False
    return True


def _about(single: ocsp.OCSPSingleResponse, certificate: Certificate, issuer: Certificate) -> bool:
    """RFC 6960 4.1.1: the issuer by name and key, the certificate by its number."""
    wanted = ocsp.OCSPRequestBuilder().add_certificate(certificate.parsed, issuer.parsed, single.hash_algorithm).build()
    return (wanted.serial_number == single.serial_number and wanted.issuer_name_hash == single.issuer_name_hash
            and wanted.issuer_key_hash == single.issuer_key_hash)


def _single_status(single: ocsp.OCSPSingleResponse, wall_now: float) -> Status:
    match single.certificate_status:
        case ocsp.OCSPCertStatus.REVOKED:
            return Status.REVOKED
        case ocsp.OCSPCertStatus.GOOD:
            end = single.next_update_utc
            return _current(single.this_update_utc.timestamp(), end.timestamp() if end else None, wall_now)
        case _:
            return Status.UNKNOWN


def _current(start: float, end: float | None, wall_now: float) -> Status:
    """Return GOOD within the time for which evidence is issued; without an end it is current for no time at all."""
    return Status.GOOD if end is not None and start - CLOCK_SKEW_S <= wall_now < end else Status.UNKNOWN
