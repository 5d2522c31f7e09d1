"""Whether a certificate belongs to an identity (RFC 4945 3.1, RFC 9525 6): the claim must be found in it, by its type.

Names are compared as what they are declared to be: an FQDN with dNSName, never with the common name; a distinguished
name with the subject, RDN by RDN.  A wildcard in a certificate matches nothing: a gateway has a name of its own.
"""

from __future__ import annotations

from ipaddress import ip_address

from cryptography import x509

from ipsecd.ike.consts import IdType, enum_name
from ipsecd.ike.crypto.certificates import Certificate, CertificateRefused, parse_dn, show_dn
from ipsecd.policy import Identity
from ipsecd.text import printable


def check_identity(certificate: Certificate, identity: Identity) -> None:
    """Return if the certificate was issued to `identity`; raise CertificateRefused, naming what it has, if not."""
    names = certificate.names
    match identity.type:
        case IdType.FQDN:
            host = _text(identity.data).lower()
            found = any(host == n.value.lower() for n in names if isinstance(n, x509.DNSName))
        case IdType.RFC822_ADDR:
            mailbox = _folded_host(_text(identity.data))
            found = any(mailbox == _folded_host(n.value) for n in names if isinstance(n, x509.RFC822Name))
        case IdType.IPV4_ADDR | IdType.IPV6_ADDR:
            found = any(ip_address(identity.data) == n.value for n in names if isinstance(n, x509.IPAddress))
        case IdType.DER_ASN1_DN:
            # An empty name would match every certificate that has its names in subjectAltName alone.
            found = bool(certificate.subject) and parse_dn(identity.data) == certificate.subject
        case _:
            raise CertificateRefused(f"no certificate proves an identity of type {enum_name(IdType, identity.type)}")
    if not found:
        raise CertificateRefused(f"the certificate is not for {identity}; it names {names_of(certificate)}")


def names_of(certificate: Certificate) -> str:
    """Return every identity that a certificate proves, for people."""
    alternative = [str(n.value) for n in certificate.names
                   if isinstance(n, x509.DNSName | x509.RFC822Name | x509.IPAddress)]
    return printable(", ".join([*alternative, f"dn:{show_dn(certificate.subject)}"]), 256)


def _text(data: bytes) -> str:
    """Return a claimed name; raise CertificateRefused for what no certificate of a gateway proves."""
    text = data.decode("latin-1")
    if not text or not text.isascii() or not text.isprintable() or "*" in text or " " in text:
        raise CertificateRefused(f"no certificate proves the name {printable(data)}")
    return text


def _folded_host(address: str) -> tuple[str, str]:
    local, _, host = address.rpartition("@")
    return local, host.lower()          # RFC 5280 7.5: the part before the @ is exact
