from __future__ import annotations

import warnings
from datetime import UTC, datetime

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecd.ike.consts import IdType
from ipsecd.ike.crypto.cert_identity import check_identity
from ipsecd.ike.crypto.certificates import (
    Certificate,
    CertificateRefused,
    authority_hash,
    dn,
    parse_certificate,
    parse_dn,
    show_dn,
    valid_at,
)
from ipsecd.policy import Identity
from tests.support.pki import KINDS, NOW, WALL_NOW, YEAR, Entity, authority, issue, key, name

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def facts(entity: Entity) -> Certificate:
    return parse_certificate(entity.der)


@pytest.mark.parametrize("kind", KINDS)
def test_facts_of_every_kind_of_key(kind: str) -> None:
    entity = issue("C=DE, O=Example, CN=gw", kind=kind, sans=("gw.example.net",))
    found = facts(entity)
    assert (str(found), found.is_ca, found.path_length) == ("C=de; O=example; CN=gw", False, None)
    assert found.strong_signature
    assert found.self_issued
    assert len(authority_hash(found)) == 20
    assert found == parse_certificate(entity.der)


@pytest.mark.parametrize("kind", ["rsa1024", "p192", "rsa2048e3"])
def test_ce19_weak_keys_are_refused(kind: str) -> None:
    signer = authority()
    with pytest.raises(CertificateRefused, match="key"):
        facts(issue("CN=gw", signer, kind=kind))


def test_ce19_explicit_curve_parameters_are_refused() -> None:
    der = issue("CN=gw", kind="p256").der
    named = bytes.fromhex("06082a8648ce3d030107")
    assert der.count(named) == 1
    with pytest.raises(CertificateRefused):
        parse_certificate(der.replace(named, bytes.fromhex("3008") + b"\x02\x01\x01\x30\x03\x06\x01\x2a"))


def test_ce06_unknown_critical_extension_is_refused_and_others_are_not() -> None:
    with pytest.raises(CertificateRefused, match=r"1\.2\.3\.4"):
        facts(issue("CN=gw", extra=((UNKNOWN, True),)))
    assert facts(issue("CN=gw", extra=((UNKNOWN, False),)))


@pytest.mark.parametrize("end", [datetime(2039, 1, 1, tzinfo=UTC), datetime(2051, 1, 1, tzinfo=UTC)])
def test_ce08_validity_past_2038_and_2050(end: datetime) -> None:
    found = facts(issue("CN=gw", end=end))
    assert valid_at(found, end.timestamp() - 1)
    assert not valid_at(found, end.timestamp() + 1)


def test_ce08_validity_has_two_ends() -> None:
    found = facts(issue("CN=gw", start=NOW - YEAR, end=NOW + YEAR))
    edges = (NOW - YEAR).timestamp(), (NOW + YEAR).timestamp()
    assert [valid_at(found, t) for t in (edges[0] - 1, edges[0], WALL_NOW, edges[1], edges[1] + 1)] == [
        False, True, True, True, False]


def test_oversized_certificate_is_refused_unread() -> None:
    with pytest.raises(CertificateRefused, match="20000 bytes"):
        parse_certificate(bytes(20000))


def test_no_change_of_a_byte_raises_another_error_or_a_warning() -> None:
    der = issue("O=Example, CN=gw", authority(), sans=("gw.example.net", "a@example.net", "10.0.0.1")).der
    survived = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(len(der)):
            for change in (0x01, 0x20, 0x80, 0xFF):
                try:
                    parse_certificate(der[:index] + bytes([der[index] ^ change]) + der[index + 1:])
                    survived += 1
                except CertificateRefused:
                    pass
    assert 0 < survived < 4 * len(der)


@given(st.binary(max_size=400))
@settings(max_examples=100)
def test_arbitrary_bytes_are_refused_by_the_declared_error(data: bytes) -> None:
    with pytest.raises(CertificateRefused):
        parse_certificate(data)


def test_cut_certificate_is_refused() -> None:
    der = issue("CN=gw").der
    for end in range(0, len(der), 7):
        with pytest.raises(CertificateRefused):
            parse_certificate(der[:end])


# Identities: what the peer claims against what its certificate says (CE-12, CE-13)

GATEWAY = issue("C=DE, O=Example, OU=North, CN=gw.other.net", sans=(
    "gw.example.net", "GW2.Example.NET", "*.wild.example.net", "admin@Example.net", "192.0.2.1", "2001:db8::1"))


def dn_identity(text: str) -> Identity:
    return Identity(IdType.DER_ASN1_DN, name(text).public_bytes())


@pytest.mark.parametrize("identity", [
    Identity(IdType.FQDN, b"gw.example.net"), Identity(IdType.FQDN, b"GW.EXAMPLE.net"),
    Identity(IdType.FQDN, b"gw2.example.net"), Identity(IdType.RFC822_ADDR, b"admin@example.NET"),
    Identity(IdType.IPV4_ADDR, bytes([192, 0, 2, 1])),
    Identity(IdType.IPV6_ADDR, b"\x20\1\x0d\xb8" + bytes(11) + b"\1"),
    dn_identity("C=DE, O=Example, OU=North, CN=gw.other.net"),
    dn_identity("C=DE, O=EXAMPLE, OU= North, CN=gw.other.net"),
], ids=str)
def test_ce12_identity_of_the_certificate_matches(identity: Identity) -> None:
    check_identity(facts(GATEWAY), identity)


@pytest.mark.parametrize("identity", [
    Identity(IdType.FQDN, b"gw.other.net"),                      # the common name
    Identity(IdType.FQDN, b"gw.example.ne"), Identity(IdType.FQDN, b"gw.example.net."),
    Identity(IdType.FQDN, b"a.wild.example.net"), Identity(IdType.FQDN, b"*.wild.example.net"),
    Identity(IdType.FQDN, b"*.example.net"), Identity(IdType.FQDN, b"*"),
    Identity(IdType.FQDN, b"gw.example.net\0.evil"), Identity(IdType.FQDN, b"gw.example.net "),
    Identity(IdType.FQDN, b"\xffgw.example.net"),
    Identity(IdType.FQDN, b""),
    Identity(IdType.FQDN, b"admin@example.net"), Identity(IdType.FQDN, b"192.0.2.1"),
    Identity(IdType.FQDN, b"C=DE, O=Example, OU=North, CN=gw.other.net"),
    Identity(IdType.RFC822_ADDR, b"ADMIN@example.net"), Identity(IdType.RFC822_ADDR, b"admin@example.net.de"),
    Identity(IdType.RFC822_ADDR, b"gw.example.net"), Identity(IdType.RFC822_ADDR, b"@example.net"),
    Identity(IdType.IPV4_ADDR, bytes([192, 0, 2, 2])), Identity(IdType.IPV6_ADDR, bytes(15) + b"\1"),
    dn_identity("C=DE, O=Example, OU=South, CN=gw.other.net"),
    dn_identity("C=DE, OU=North, O=Example, CN=gw.other.net"),
    dn_identity("C=DE, O=Example, OU=North"), dn_identity("C=DE, O=Example, OU=North, CN=gw.other.net, CN=x"),
    dn_identity(""), Identity(IdType.DER_ASN1_DN, b"not DER"), Identity(IdType.DER_ASN1_DN, b""),
    Identity(IdType.DER_ASN1_DN, GATEWAY.cert.subject.public_bytes() + b"\0"),
    Identity(IdType.KEY_ID, b"gw.example.net"), Identity(IdType.DER_ASN1_GN, b"x"), Identity(0, b""),
], ids=lambda i: f"{i.type}-{i.data[:40].hex()}")
def test_ce12_other_identities_do_not_match(identity: Identity) -> None:
    with pytest.raises(CertificateRefused):
        check_identity(facts(GATEWAY), identity)


def test_ce12_dn_of_one_changed_bit_does_not_match() -> None:
    der = GATEWAY.cert.subject.public_bytes()
    for index in range(len(der)):
        for bit in range(8):
            changed = Identity(IdType.DER_ASN1_DN, der[:index] + bytes([der[index] ^ 1 << bit]) + der[index + 1:])
            try:
                check_identity(facts_of_gateway, changed)
            except CertificateRefused:
                continue
            # What still matches is the same text in another string type, or another case.
            assert parse_dn(changed.data) == facts_of_gateway.subject


facts_of_gateway = facts(GATEWAY)


def test_ce12_string_types_of_one_text_are_equal() -> None:
    utf8 = name("C=DE, O=Example, OU=North, CN=gw.other.net").public_bytes()
    printable = utf8.replace(b"\x0c\x07Example", b"\x13\x07Example")
    assert printable != utf8
    assert parse_dn(printable) == parse_dn(utf8)


def test_ce12_common_name_is_no_host_even_without_alternative_names() -> None:
    with pytest.raises(CertificateRefused, match="is not for"):
        check_identity(facts(issue("CN=gw.example.net")), Identity(IdType.FQDN, b"gw.example.net"))


@pytest.mark.parametrize("country", ["", "D", "Example"])
def test_name_of_an_odd_length_is_compared_and_writes_nothing_to_our_error_output(country: str) -> None:
    # The library warns of a country that has not two letters; the bytes are those of a peer.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = x509.Name([x509.NameAttribute(x509.NameOID.COUNTRY_NAME, country or "DE", _validate=False),
                         x509.NameAttribute(x509.NameOID.COMMON_NAME, "gw")]).public_bytes()
    if not country:
        odd = odd.replace(b"\x13\x02DE", b"\x13\x00").replace(b"\x30\x09\x06\x03\x55", b"\x30\x07\x06\x03\x55")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CertificateRefused):
            check_identity(facts_of_gateway, Identity(IdType.DER_ASN1_DN, odd))


def test_empty_subject_matches_no_empty_name() -> None:
    with pytest.raises(CertificateRefused):
        check_identity(facts(issue("", sans=("gw.example.net",))), dn_identity(""))


def test_multi_valued_rdn_is_compared_as_a_set_and_is_not_two_rdns() -> None:
    ou, cn = (x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, "a"),
              x509.NameAttribute(x509.NameOID.COMMON_NAME, "b"))
    joined = x509.Name([x509.RelativeDistinguishedName([ou, cn])])
    assert dn(joined) == dn(x509.Name([x509.RelativeDistinguishedName([cn, ou])]))
    assert dn(joined) != dn(x509.Name([ou, cn]))
    assert show_dn(dn(joined)) == "OU=a+CN=b" or show_dn(dn(joined)) == "CN=b+OU=a"


def test_keys_of_the_pki_are_cached() -> None:
    assert key("p256") is key("p256")
