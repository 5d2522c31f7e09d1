"""Identities as the operator writes them -> type and data as on the wire (RFC 7296 3.5, RFC 4945 3.1); and patterns.

The form decides the type: an IP address, something with "@", a DNS name, "dn:C=DE, O=Example, CN=gw", or "keyid:..."
(text, or 0x and hex digits).  "fqdn:", "email:" and "address:" force a type.
"""

from __future__ import annotations

import re
import unicodedata
from ipaddress import ip_address

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

from ipsecd.config.defaults import MAX_IDENTITY_BYTES
from ipsecd.ike.consts import IdType
from ipsecd.ike.crypto.certificates import parse_dn
from ipsecd.policy import Identity, IdentityPattern
from ipsecd.text import dns_name

_ATTRIBUTES: dict[str, ObjectIdentifier] = {
    "C": NameOID.COUNTRY_NAME, "ST": NameOID.STATE_OR_PROVINCE_NAME, "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME, "CN": NameOID.COMMON_NAME,
    "SN": NameOID.SURNAME, "GN": NameOID.GIVEN_NAME, "T": NameOID.TITLE, "UID": NameOID.USER_ID,
    "DC": NameOID.DOMAIN_COMPONENT, "E": NameOID.EMAIL_ADDRESS, "EMAILADDRESS": NameOID.EMAIL_ADDRESS,
    "SERIALNUMBER": NameOID.SERIAL_NUMBER,
}
_FORMS = ('a DNS name, an IP address, an e-mail address, "dn:C=..., CN=..." or "keyid:..."')


def parse_identity(text: str) -> Identity:
    """Return the identity that `text` declares; raise ValueError, continuing "expected ...", otherwise."""
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in text):
        raise ValueError(f"{_FORMS}, without control characters")
    kind, colon, rest = text.partition(":")
    forced = {"dn": _dn, "keyid": _key_id, "fqdn": _fqdn, "email": _email, "address": _address}.get(kind)
    identity = forced(rest.strip(), text) if colon and forced else _by_form(text)
    if not 0 < len(identity.data) <= MAX_IDENTITY_BYTES:
        raise ValueError(f"{_FORMS}, of at most {MAX_IDENTITY_BYTES} bytes")
    return identity


def parse_peer_identity(text: str) -> Identity | IdentityPattern:
    """Return the identity, or the pattern of many, that `text` declares; raise ValueError as `parse_identity` does.

    Patterns: "*.branches.example.net" (one label), "*@example.net", "dn:C=DE, O=Example, CN=*" (whole values), "any".
    """
    if text == "any":
        return IdentityPattern(None, text=text)
    if "*" not in text:
        return parse_identity(text)
    if text.startswith("dn:"):
        return _dn_pattern(text)
    head, mark, host = text.partition("@") if "@" in text else text.partition(".")
    if head != "*" or not dns_name(host) or "." not in host:
        raise ValueError('a wildcard in place of one whole part: "*.branches.example.net", "*@example.net" or '
                         '"dn:C=DE, O=Example, CN=*"')
    kind = IdType.RFC822_ADDR if mark == "@" else IdType.FQDN
    return IdentityPattern(kind, (mark + host).lower().encode(), text=text)


def _dn_pattern(text: str) -> IdentityPattern:
    parts = [part.strip() for part in re.split(r"(?<!\\),", text.removeprefix("dn:"))]
    open_ = [part.endswith("=*") for part in parts]
    # An attribute that is open is parsed with a value that every type allows.
    name = parse_identity("dn:" + ", ".join(part[:-1] + "XX" if any_ else part
                                            for part, any_ in zip(parts, open_, strict=True)))
    if any("*" in part.removesuffix("=*") for part in parts) or all(open_):
        raise ValueError('"*" in place of a whole value, beside at least one that is fixed: "dn:C=DE, O=Example, CN=*"')
    rdns = [rdn[0] for rdn in parse_dn(name.data)]
    return IdentityPattern(IdType.DER_ASN1_DN, text=text, rdns=tuple(
        (oid, None if any_ else str(value)) for (oid, value), any_ in zip(rdns, open_, strict=True)))


def _by_form(text: str) -> Identity:
    if ":" in text or re.fullmatch(r"[0-9.]+", text, re.ASCII):
        return _address(text, text)
    if "@" in text:
        return _email(text, text)
    if "=" in text:
        raise ValueError(f'"dn:{text}" (a distinguished name starts with dn:)')
    return _fqdn(text, text)


def _fqdn(name: str, text: str) -> Identity:
    if "*" in name:
        raise ValueError("one name without wildcards: only the identity of a peer that calls us may hold one")
    if not dns_name(name):
        raise ValueError(_FORMS)
    return Identity(IdType.FQDN, name.encode("ascii"), text)


def _email(address: str, text: str) -> Identity:
    local, at, domain = address.rpartition("@")
    if not at or not re.fullmatch(r"[A-Za-z0-9.!#$%&'+/=?^_`{|}~-]{1,64}", local, re.ASCII) or not dns_name(domain):
        raise ValueError("an e-mail address such as gateway@example.net")
    return Identity(IdType.RFC822_ADDR, address.encode("ascii"), text)


def _address(address: str, text: str) -> Identity:
    try:
        parsed = ip_address(address)
    except ValueError:
        raise ValueError(_FORMS) from None
    if "%" in address:
        raise ValueError("an IP address without scope id")
    return Identity(IdType.IPV4_ADDR if parsed.version == 4 else IdType.IPV6_ADDR, parsed.packed, text)


def _key_id(value: str, text: str) -> Identity:
    if re.fullmatch(r"0x([0-9a-fA-F]{2})+", value, re.ASCII):
        return Identity(IdType.KEY_ID, bytes.fromhex(value[2:]), text)
    if not value:
        raise ValueError("keyid: followed by text or by 0x and hex digits")
    return Identity(IdType.KEY_ID, value.encode("utf-8"), text)


def _dn(value: str, text: str) -> Identity:
    """Encode the attributes in the order written, as certificates list them (not reversed as in RFC 4514)."""
    parts: list[x509.NameAttribute[str]] = []
    for part in re.split(r"(?<!\\),", value):
        key, equals, content = part.strip().partition("=")
        oid = _ATTRIBUTES.get(key.strip().upper())
        content = re.sub(r"\\(.)", r"\1", content.strip())
        if not equals or oid is None or not content:
            raise ValueError(f'"dn:C=DE, O=Example, CN=gw" with attributes of {", ".join(_ATTRIBUTES)}')
        try:
            parts.append(x509.NameAttribute(oid, content))
        except (ValueError, TypeError) as error:
            raise ValueError(f"a valid {key.strip()} in the distinguished name: {error}") from None
    try:
        return Identity(IdType.DER_ASN1_DN, x509.Name(parts).public_bytes(), text)
    except ValueError as error:
        raise ValueError(f"a distinguished name that can be encoded: {error}") from None
