from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecd.ike.crypto.certificates import CertificateRefused, parse_certificate
from ipsecd.ike.crypto.chain import Chain, Trust, verify_chain
from ipsecd.ike.crypto.revocation import Evidence, Status, about, check_revocation, crl_status, echoes, ocsp_status
from ipsecd.policy import Revocation
from tests.support.pki import NOW, SERVER_AUTH, WALL_NOW, YEAR, Entity, authority, general_name, issue, usage

DAY = timedelta(days=1)
ROOT = authority("CN=Root")
INTER = authority("CN=Inter", ROOT, which=91)
LEAF = issue("CN=gw", INTER)
OCSP_SIGNING = x509.ExtendedKeyUsageOID.OCSP_SIGNING
RESPONDER = issue("CN=Responder", INTER, which=5, eku=(OCSP_SIGNING,))
STRICT, IF_AVAILABLE = Revocation.STRICT, Revocation.IF_AVAILABLE


def crl(issuer: Entity, revoked: Iterable[Entity] = (), *, start: datetime = NOW - DAY, end: datetime = NOW + DAY,
        extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()) -> bytes:
    builder = (x509.CertificateRevocationListBuilder().issuer_name(issuer.cert.subject).last_update(start)
               .next_update(end))
    for entity in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(entity.cert.serial_number).revocation_date(start).build())
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical)
    ed = not hasattr(issuer.key, "curve") and not hasattr(issuer.key, "key_size")
    return builder.sign(issuer.key, None if ed else hashes.SHA256()).public_bytes(Encoding.DER)


def answer(subject: Entity, issuer: Entity, signer: Entity | None = None, *, status: Any = ocsp.OCSPCertStatus.GOOD,
           start: datetime = NOW - DAY, end: datetime | None = NOW + DAY, nonce: bytes | None = None,
           attach: bool = True) -> bytes:
    signer = signer or issuer
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        subject.cert, issuer.cert, hashes.SHA256(), status, start, end, start if revoked else None, None,
    ).responder_id(ocsp.OCSPResponderEncoding.HASH, signer.cert)
    if attach:
        builder = builder.certificates([signer.cert])
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def chain(leaf: Entity = LEAF, inter: Entity = INTER, root: Entity = ROOT) -> Chain:
    received = (parse_certificate(leaf.der), parse_certificate(inter.der))
    return verify_chain(received, Trust((parse_certificate(root.der),)), wall_now=WALL_NOW)


def says(data: bytes, *, issuer: Entity = INTER, wall_now: float = WALL_NOW, subject: Entity = LEAF) -> Status:
    return crl_status(data, parse_certificate(subject.der), parse_certificate(issuer.der), wall_now=wall_now)


def asks(data: bytes, *, nonce: bytes | None = None, subject: Entity = LEAF) -> Status:
    return ocsp_status(data, parse_certificate(subject.der), parse_certificate(INTER.der), wall_now=WALL_NOW,
                       nonce=nonce)


@pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed25519"])
def test_ce09_crl_of_the_issuer_decides(kind: str) -> None:
    root = authority("CN=Root", kind=kind)
    leaf = issue("CN=gw", root)
    assert says(crl(root), issuer=root, subject=leaf) is Status.GOOD
    assert says(crl(root, [leaf]), issuer=root, subject=leaf) is Status.REVOKED
    assert says(crl(root, [LEAF]), issuer=root, subject=leaf) is Status.GOOD


@pytest.mark.parametrize(("revoked", "who"), [((LEAF,), "CN=gw"), ((INTER,), "CN=inter")])
def test_ce09_revoked_leaf_or_intermediate_is_refused_unless_off(revoked: tuple[Entity, ...], who: str) -> None:
    evidence = Evidence((crl(INTER, revoked), crl(ROOT, revoked)))
    for mode in (STRICT, IF_AVAILABLE):
        with pytest.raises(CertificateRefused, match=f"{who} was revoked"):
            check_revocation(chain(), evidence, mode, wall_now=WALL_NOW)
    check_revocation(chain(), evidence, Revocation.OFF, wall_now=WALL_NOW)


def test_ce09_strict_wants_current_evidence_for_each_certificate() -> None:
    check_revocation(chain(), Evidence((crl(INTER), crl(ROOT))), STRICT, wall_now=WALL_NOW)
    for crls in ((), (crl(INTER),), (crl(ROOT),), (crl(INTER, end=NOW - timedelta(hours=1)), crl(ROOT))):
        with pytest.raises(CertificateRefused, match="strict"):
            check_revocation(chain(), Evidence(crls), STRICT, wall_now=WALL_NOW)
        check_revocation(chain(), Evidence(crls), IF_AVAILABLE, wall_now=WALL_NOW)


def test_ce09_expired_crl_still_revokes() -> None:
    old = crl(INTER, [LEAF], start=NOW - YEAR, end=NOW - DAY)
    assert says(old) is Status.REVOKED
    assert says(crl(INTER, start=NOW + DAY, end=NOW + 2 * DAY)) is Status.UNKNOWN


def test_ce09_crl_of_another_issuer_or_key_is_ignored() -> None:
    namesake = authority("CN=Inter", which=95)
    for data in (crl(ROOT, [LEAF]), crl(namesake, [LEAF]), crl(INTER, [LEAF])[:-1] + b"\0"):
        assert says(data) is Status.UNKNOWN


def test_crl_of_an_authority_that_may_not_sign_crls_is_ignored() -> None:
    mute = authority("CN=Inter", ROOT, which=91, key_usage=usage(key_cert_sign=True))
    assert says(crl(mute, [LEAF]), issuer=mute) is Status.UNKNOWN


HERE, THERE = general_name("uri:http://pki.example/gw.crl"), general_name("uri:http://pki.example/other.crl")


def point(*names: x509.GeneralName, users: bool = False, authorities: bool = False, indirect: bool = False,
          attributes: bool = False, reasons: frozenset[x509.ReasonFlags] | None = None) -> x509.ExtensionType:
    return x509.IssuingDistributionPoint(list(names) or None, None, users, authorities, reasons, indirect, attributes)


@pytest.mark.parametrize("extra", [
    (x509.DeltaCRLIndicator(1), True), (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"), True),
    (point(authorities=True), True), (point(authorities=True), False), (point(indirect=True), True),
    (point(attributes=True), True), (point(THERE), True), (point(reasons=frozenset({x509.ReasonFlags.superseded})),
                                                          True)])
def test_crl_that_is_partial_or_unknown_says_nothing_good(extra: tuple[x509.ExtensionType, bool]) -> None:
    assert says(crl(INTER, extra=(extra,))) is Status.UNKNOWN
    assert says(crl(INTER, [LEAF], extra=(extra,))) is Status.UNKNOWN


def test_crl_of_a_distribution_point_speaks_of_the_certificates_that_it_covers() -> None:
    # RFC 5280 6.3.3 (b): one name of the point in common, and the kind of certificate that it holds
    published = x509.CRLDistributionPoints([x509.DistributionPoint([HERE], None, None, None)])
    leaf = issue("CN=gw", INTER, which=6, extra=((published, False),))
    for extension in (point(HERE), point(THERE, HERE), point(users=True), point(HERE, users=True)):
        extra = ((extension, True),)
        assert says(crl(INTER, extra=extra), subject=leaf) is Status.GOOD
        assert says(crl(INTER, [leaf], extra=extra), subject=leaf) is Status.REVOKED
    assert says(crl(ROOT, extra=((point(authorities=True), True),)), issuer=ROOT, subject=INTER) is Status.GOOD
    assert says(crl(ROOT, extra=((point(users=True), True),)), issuer=ROOT, subject=INTER) is Status.UNKNOWN


@pytest.mark.parametrize("signer", [INTER, RESPONDER])
def test_ce10_ocsp_good_and_revoked(signer: Entity) -> None:
    assert asks(answer(LEAF, INTER, signer)) is Status.GOOD
    assert asks(answer(LEAF, INTER, signer, status=ocsp.OCSPCertStatus.REVOKED)) is Status.REVOKED
    assert asks(answer(LEAF, INTER, signer, status=ocsp.OCSPCertStatus.UNKNOWN)) is Status.UNKNOWN


@pytest.mark.parametrize("kind", ["rsa2048", "ed25519"])
def test_ce10_ocsp_of_other_kinds_of_keys(kind: str) -> None:
    root = authority("CN=Root", kind=kind)
    leaf = issue("CN=gw", root)
    signed = builder_for(leaf, root).sign(root.key, None if kind == "ed25519" else hashes.SHA256())
    facts = parse_certificate(leaf.der), parse_certificate(root.der)
    data = signed.public_bytes(Encoding.DER)
    assert ocsp_status(data, *facts, wall_now=WALL_NOW) is Status.GOOD
    assert ocsp_status(data[:-1] + bytes([data[-1] ^ 1]), *facts, wall_now=WALL_NOW) is Status.UNKNOWN


def test_ce10_signature_with_sha1_does_not_count() -> None:
    root = authority("CN=Root", kind="rsa2048")
    leaf = issue("CN=gw", root)
    data = builder_for(leaf, root).sign(root.key, hashes.SHA256()).public_bytes(Encoding.DER)
    weak = data.replace(bytes.fromhex("06092a864886f70d01010b0500"), bytes.fromhex("06092a864886f70d0101050500"))
    assert weak != data
    assert ocsp_status(weak, parse_certificate(leaf.der), parse_certificate(root.der),
                       wall_now=WALL_NOW) is Status.UNKNOWN


def builder_for(leaf: Entity, root: Entity) -> ocsp.OCSPResponseBuilder:
    return ocsp.OCSPResponseBuilder().add_response(
        leaf.cert, root.cert, hashes.SHA1(), ocsp.OCSPCertStatus.GOOD, NOW - DAY, NOW + DAY, None, None,
    ).responder_id(ocsp.OCSPResponderEncoding.NAME, root.cert)


def test_ce10_only_good_passes_in_strict() -> None:
    above = (crl(ROOT),)
    check_revocation(chain(), Evidence(above, (answer(LEAF, INTER),)), STRICT, wall_now=WALL_NOW)
    for status in (ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN):
        with pytest.raises(CertificateRefused):
            check_revocation(chain(), Evidence(above, (answer(LEAF, INTER, status=status),)), STRICT, wall_now=WALL_NOW)


@pytest.mark.parametrize("data", [
    answer(LEAF, INTER, start=NOW - 2 * DAY, end=NOW - DAY), answer(LEAF, INTER, end=None),
    answer(LEAF, INTER, start=NOW + DAY, end=NOW + 2 * DAY),
    answer(issue("CN=other", INTER), INTER), answer(LEAF, authority("CN=Inter", which=95)),
    answer(LEAF, INTER, issue("CN=R", INTER, which=6)), answer(LEAF, INTER, issue("CN=R", INTER, eku=(SERVER_AUTH,))),
    answer(LEAF, INTER, issue("CN=R", ROOT, which=6, eku=(OCSP_SIGNING,))),
    answer(LEAF, INTER, issue("CN=R", which=6, eku=(OCSP_SIGNING,))),
    answer(LEAF, INTER, issue("CN=R", INTER, which=6, eku=(OCSP_SIGNING,), end=NOW - DAY)),
    answer(LEAF, INTER, RESPONDER, attach=False),
    ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(Encoding.DER),
], ids=["expired", "endless", "early", "other serial", "other issuer", "no purpose", "wrong purpose", "of the root",
        "self-appointed", "expired responder", "unknown signer", "unsuccessful"])
def test_ce10_answers_that_do_not_count(data: bytes) -> None:
    assert asks(data) is Status.UNKNOWN


def test_answer_with_the_nonce_or_none_may_be_to_our_question() -> None:
    mine = b"n" * 32
    assert echoes(answer(LEAF, INTER, nonce=mine), mine)
    assert echoes(answer(LEAF, INTER), mine)            # made ahead for everybody
    assert not echoes(answer(LEAF, INTER, nonce=b"m" * 32), mine)
    assert not echoes(b"<html>", mine)


def test_question_carries_the_nonce() -> None:
    leaf = issue("CN=a", ROOT, sans=("a.example",), extra=((x509.AuthorityInformationAccess([x509.AccessDescription(
        x509.oid.AuthorityInformationAccessOID.OCSP, general_name("uri:http://ocsp.example/"))]), False),))
    (query,) = about(leaf.der, ROOT.der, wall_now=WALL_NOW)
    assert query.asking is not None
    plain, asked = (ocsp.load_der_ocsp_request(b) for b in (query.body, query.asking(b"n" * 32)))
    assert not list(plain.extensions)
    assert asked.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 32
    assert asked.serial_number == plain.serial_number == leaf.cert.serial_number
    assert query.usable(answer(leaf, ROOT))


def test_ce10_nonce_must_be_the_one_asked_with() -> None:
    data = answer(LEAF, INTER, nonce=b"n" * 16)
    assert asks(data) is asks(data, nonce=b"n" * 16) is Status.GOOD
    assert asks(data, nonce=b"m" * 16) is asks(answer(LEAF, INTER), nonce=b"n" * 16) is Status.UNKNOWN


@pytest.mark.parametrize("good", [crl(INTER), answer(LEAF, INTER, RESPONDER)], ids=["crl", "ocsp"])
def test_no_changed_byte_of_evidence_is_good_or_raises(good: bytes) -> None:
    end = len(good) if good[4:6] != b"\n\1" else len(good) // 2      # behind it stands the responder's certificate
    for index in range(0, end, 3):
        changed = good[:index] + bytes([good[index] ^ 0x41]) + good[index + 1:]
        assert says(changed) is Status.UNKNOWN
        assert asks(changed) in (Status.UNKNOWN, asks(good))
    assert says(bytes(1 << 21)) is asks(bytes(1 << 21)) is Status.UNKNOWN


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_arbitrary_bytes_are_no_evidence(data: bytes) -> None:
    assert says(data) is asks(data) is Status.UNKNOWN
