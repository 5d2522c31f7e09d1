"""OCSP responses that go along in IKE_AUTH (RFC 4806): asked for by CERTREQ, fetched by the one that they are about."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from ipsecd.causes import Cause
from ipsecd.events import IkeAttemptFailed, Warned
from ipsecd.ike.consts import CertEncoding
from ipsecd.ike.tasks.revocation_facts import MAX_STAPLED_BYTES
from ipsecd.ike.tasks.signature_support import Requested, certificate_request, requested
from ipsecd.ike.wire.payloads import CertreqPayload
from ipsecd.policy import AuthPolicy, Credential, Revocation
from tests.exchange.test_auth_cert import GW_A, GW_B, ROOT, by_certificate, pair, trust
from tests.support.exchange import Two
from tests.support.pki import Entity, general_name, issue
from tests.unit.crypto.test_revocation import answer

URL = "http://ocsp.example/"
AIA = x509.AuthorityInformationAccess([
    x509.AccessDescription(AuthorityInformationAccessOID.OCSP, general_name("uri:" + URL))])
A_OCSP = issue("O=Example, CN=a", ROOT, which=1, sans=("a.example",), extra=((AIA, False),))
B_OCSP = issue("O=Example, CN=b", ROOT, which=2, sans=("b.example",), extra=((AIA, False),))
STRICT = trust(revocation=Revocation.STRICT)


def proves(entity: Entity, **changes: object) -> AuthPolicy:
    """Authenticate by this certificate, whose issuer is known; do not ask about the peer's."""
    auth = by_certificate(entity, trusted=trust(revocation=Revocation.OFF))
    assert isinstance(auth.local, Credential)
    return replace(auth, local=replace(auth.local, issuer=ROOT.der), **changes)


def world(initiator: bool, wants: AuthPolicy | None = None) -> tuple[Two, str]:
    """Return two ends of which the initiator, or the responder, has a certificate that names a responder."""
    wanted = by_certificate(GW_B if initiator else GW_A, trusted=STRICT)
    return (pair(proves(A_OCSP), wants or wanted), "a") if initiator else (pair(wants or wanted, proves(B_OCSP)), "b")


@pytest.mark.parametrize("initiator", [True, False])
def test_response_about_our_certificate_goes_along_and_the_peer_fetches_nothing(initiator: bool) -> None:
    # CERTREQ(OCSP Content) -->   <-- CERT(certificate), CERT(OCSP Content)
    two, name = world(initiator)
    own, other = (two.a, two.b) if name == "a" else (two.b, two.a)
    own.web[URL] = answer(A_OCSP if initiator else B_OCSP, ROOT)
    two.establish()
    assert own.fetched == [URL]
    assert not other.fetched


@pytest.mark.parametrize("initiator", [True, False])
def test_response_that_says_revoked_refuses_its_sender(initiator: bool) -> None:
    two, name = world(initiator)
    own, other = (two.a, two.b) if name == "a" else (two.b, two.a)
    own.web[URL] = answer(A_OCSP if initiator else B_OCSP, ROOT, status=ocsp.OCSPCertStatus.REVOKED)
    two.initiate(two.a)
    two.net.run(5)
    assert not two.a.established() + two.b.established()
    assert other.last_event(IkeAttemptFailed).failure.cause is Cause.CERTIFICATE_REFUSED
    assert not other.fetched


def test_response_about_another_certificate_counts_for_nothing() -> None:
    two, _ = world(initiator=True)
    two.a.web[URL] = answer(B_OCSP, ROOT)
    two.b.web[URL] = answer(A_OCSP, ROOT)
    two.establish()
    assert two.b.fetched == [URL]                   # so the peer asked for itself


@pytest.mark.parametrize("kept", ["off", "issuer", "silent", "large"])
def test_nothing_goes_along_unasked_unknown_or_too_large(kept: str) -> None:
    off = by_certificate(GW_B, trusted=trust(revocation=Revocation.OFF))
    two = Two()
    if kept == "issuer":
        two = pair(by_certificate(A_OCSP, trusted=trust(revocation=Revocation.OFF)), by_certificate(GW_B))
    else:
        two, _ = world(initiator=True, wants=off if kept == "off" else by_certificate(GW_B))
    if kept == "large":
        two.a.web[URL] = bytes(MAX_STAPLED_BYTES + 1)
    two.establish()
    assert bool(two.a.fetched) is (kept in ("silent", "large"))
    assert bool(two.b.fetched) is (kept != "off")
    assert [e.what for e in two.b.events(Warned)] == ([] if kept == "off" else ["revocation_unknown"])


def test_request_says_ocsp_content_where_revocation_is_asked_about() -> None:
    two = pair(by_certificate(GW_A, trusted=STRICT), proves(B_OCSP))
    (peer_of_a,), (peer_of_b,) = (h.endpoint._table.policy.peers for h in (two.a, two.b))
    assert CertreqPayload(CertEncoding.OCSP_CONTENT, b"") in certificate_request((peer_of_a,))
    assert [p.encoding for p in certificate_request((peer_of_b,)) if isinstance(p, CertreqPayload)] == [
        CertEncoding.X509_SIGNATURE]
    assert requested(certificate_request((peer_of_a,))).ocsp
    hashes = b"h" * 20 + b"i" * 20
    assert requested([CertreqPayload(CertEncoding.X509_SIGNATURE, hashes + b"j")]) == Requested(
        frozenset((b"h" * 20, b"i" * 20)))
    assert requested([CertreqPayload(CertEncoding.OCSP_CONTENT, hashes)]) == Requested(ocsp=True)
