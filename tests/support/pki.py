"""Keys, authorities and certificates for tests, made on the spot; keys are made once a session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ipsecd.ike.crypto.public_keys import PrivateKey
from ipsecd.secret import Secret

NOW = datetime(2026, 6, 1, tzinfo=UTC)
WALL_NOW = NOW.timestamp()
YEAR = timedelta(days=365)
KINDS = ("rsa2048", "rsa3072", "p256", "p384", "p521", "ed25519", "ed448")
_CURVES = {"p192": ec.SECP192R1, "p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}
_ATTRIBUTES = {"C": NameOID.COUNTRY_NAME, "O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
               "CN": NameOID.COMMON_NAME, "E": NameOID.EMAIL_ADDRESS}


@cache
def key(kind: str, which: int = 0) -> Any:
    """Return a private key; `which` tells keys of one kind apart."""
    del which
    if kind.startswith("rsa"):
        bits, _, exponent = kind[3:].partition("e")
        return rsa.generate_private_key(int(exponent or 65537), int(bits))
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind]())
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ed448.Ed448PrivateKey.generate()


def name(text: str) -> x509.Name:
    """Return "C=DE, CN=gw" as a name, in the order written; empty for ""."""
    parts = [part.strip().partition("=") for part in text.split(",") if part]
    return x509.Name([x509.NameAttribute(_ATTRIBUTES[k], value) for k, _, value in parts])


def san(*names: str) -> x509.SubjectAlternativeName:
    """Return names by their form: address, e-mail, "dn:...", "uri:...", DNS."""
    return x509.SubjectAlternativeName([general_name(text) for text in names])


def general_name(text: str) -> x509.GeneralName:
    if text.startswith("dn:"):
        return x509.DirectoryName(name(text[3:]))
    if text.startswith("uri:"):
        return x509.UniformResourceIdentifier(text[4:])
    if "@" in text or text.startswith("mail:"):
        return x509.RFC822Name(text.removeprefix("mail:"))
    if text.startswith("net:"):
        return x509.IPAddress(IPv6Network(text[4:]) if ":" in text[4:] else IPv4Network(text[4:]))
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def constraints(*, permitted: tuple[str, ...] = (), excluded: tuple[str, ...] = ()) -> x509.NameConstraints:
    return x509.NameConstraints([general_name(t) for t in permitted] or None,
                                [general_name(t) for t in excluded] or None)


def usage(**said: bool) -> x509.KeyUsage:
    """Return a key usage with only these bits."""
    bits = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
                          "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(**(bits | said))


IPSEC_IKE = ExtendedKeyUsageOID.IPSEC_IKE
SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True)
class Entity:
    """A certificate with its key."""

    cert: x509.Certificate
    key: PrivateKey

    @property
    def der(self) -> bytes:
        return self.cert.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.cert.public_bytes(Encoding.PEM)

    @property
    def pkcs8(self) -> Secret:
        return Secret(self.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def issue(subject: str, issuer: Entity | None = None, *, kind: str = "p256", which: int = 0, ca: bool = False,
          path_length: int | None = None, sans: tuple[str, ...] = (), start: datetime = NOW - YEAR,
          end: datetime = NOW + YEAR, extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
          key_usage: x509.KeyUsage | None = None, eku: tuple[x509.ObjectIdentifier, ...] = (),
          basic: bool = True, hash_: hashes.HashAlgorithm | None = None, serial: int | None = None,
          key_ids: bool = True) -> Entity:
    """Make a certificate, self-signed without `issuer`."""
    own: PrivateKey = key(kind, which)
    signer = issuer.key if issuer else own
    builder = (x509.CertificateBuilder().subject_name(name(subject))
               .issuer_name(issuer.cert.subject if issuer else name(subject)).public_key(own.public_key())
               .serial_number(serial or x509.random_serial_number()).not_valid_before(start).not_valid_after(end))
    if basic:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=True)
    if sans:
        builder = builder.add_extension(san(*sans), critical=not subject)
    if eku:
        builder = builder.add_extension(x509.ExtendedKeyUsage(eku), critical=False)
    if key_ids:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical)
    edwards = isinstance(signer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return Entity(builder.sign(signer, None if edwards else hash_ or hashes.SHA256()), own)


def authority(subject: str = "O=Example, CN=Root", issuer: Entity | None = None, *, kind: str = "p256",
              which: int = 90, **said: Any) -> Entity:
    """Make an authority with the usual key usage."""
    said.setdefault("key_usage", usage(key_cert_sign=True, crl_sign=True))
    return issue(subject, issuer, kind=kind, which=which, ca=True, **said)
