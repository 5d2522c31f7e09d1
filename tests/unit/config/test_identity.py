"""Identities: the declared form decides type and bytes (RFC 7296 3.5)."""

from __future__ import annotations

import pytest
from cryptography import x509

from ipsecd.config.identity import parse_identity
from ipsecd.ike.consts import IdType


@pytest.mark.parametrize(("text", "kind", "data"), [
    ("hq.example.net", IdType.FQDN, b"hq.example.net"),
    ("hq", IdType.FQDN, b"hq"),
    ("fqdn:10.example", IdType.FQDN, b"10.example"),
    ("192.0.2.1", IdType.IPV4_ADDR, b"\xc0\x00\x02\x01"),
    ("2001:db8::1", IdType.IPV6_ADDR, bytes.fromhex("20010db8000000000000000000000001")),
    ("::1", IdType.IPV6_ADDR, bytes(15) + b"\x01"),
    ("gw@example.net", IdType.RFC822_ADDR, b"gw@example.net"),
    ("email:gw@example.net", IdType.RFC822_ADDR, b"gw@example.net"),
    ("keyid:branch 7", IdType.KEY_ID, b"branch 7"),
    ("keyid:0x00ff", IdType.KEY_ID, b"\x00\xff"),
])
def test_identity_form_decides_its_type(text: str, kind: IdType, data: bytes) -> None:
    identity = parse_identity(text)
    assert (identity.type, identity.data, str(identity)) == (kind, data, text)


def test_distinguished_name_is_encoded_in_the_order_written() -> None:
    identity = parse_identity(r"dn:C=DE, O=Example\, Inc, CN=gw")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "DE"),
                      x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Example, Inc"),
                      x509.NameAttribute(x509.NameOID.COMMON_NAME, "gw")])
    assert (identity.type, identity.data) == (IdType.DER_ASN1_DN, name.public_bytes())


@pytest.mark.parametrize("text", [
    "", "a\x00b.example", "a\nb", "a\u202eb", "*.example.net", "300.1.2.3", "10.1", "fe80::1%eth0", "gw@",
    "@example.net", "a@b@c d", "CN=gw", "dn:", "dn:CN", "dn:XX=1", "dn:C=DEU", "dn:CN=", "keyid:", "bad name",
    "a..b", "x" * 64, "keyid:" + "x" * 1025, "fqdn:", "email:x", "address:x", "hq.example.net/x", "\u00fcber.example",
])
def test_identity_of_no_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_identity(text)
