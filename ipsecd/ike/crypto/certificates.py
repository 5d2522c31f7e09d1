"""A certificate as facts (RFC 5280): read once, whole, and with every way of failing turned into one error.

The library reads most fields when they are asked for, and some fields of what a peer sends raise only then.  Here all
that the chain, the identity and the revocation checks need is taken in one place; afterwards nothing can surprise.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import AuthorityInformationAccessOID

from ipsecd.errors import AuthenticationError
from ipsecd.ike.crypto.public_keys import PublicKey, check_key, key_bytes
from ipsecd.text import printable

# What the library raises for bytes of others.  InvalidVersion and the extension errors are no ValueErrors.
LIBRARY_ERRORS: tuple[type[Exception], ...] = (
    ValueError, TypeError, OverflowError, UnsupportedAlgorithm, x509.InvalidVersion, x509.ExtensionNotFound,
    x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
SIGNATURE_ERRORS: tuple[type[Exception], ...] = (*LIBRARY_ERRORS, InvalidSignature)
MAX_CERTIFICATE_BYTES = 16384   # RSA-8192 with every usual extension is under 4 KiB
MAX_URL_CHARS = 1024
MAX_URLS = 2                    # of each kind: the second is for the day on which the first is down
_E = TypeVar("_E", bound=x509.ExtensionType)
_STRONG = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
# Critical extensions that are enforced; any other critical one refuses the certificate (RFC 5280 4.2).
_ENFORCED = frozenset({
    x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid, x509.SubjectAlternativeName.oid,
    x509.NameConstraints.oid})

# RDNs in order, each the sorted (OID, value) pairs in it; values in the form in which they are compared.
Dn = tuple[tuple[tuple[str, str | bytes], ...], ...]


class CertificateRefused(AuthenticationError):
    """A certificate, its chain or its revocation status does not hold; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What one certificate says; times in Unix seconds.  Its key passed `check_key`."""

    der: bytes = field(repr=False)
    parsed: x509.Certificate = field(repr=False, compare=False)
    key: PublicKey = field(repr=False, compare=False)
    subject: Dn
    issuer: Dn
    not_before: float
    not_after: float
    is_ca: bool
    path_length: int | None
    usage: x509.KeyUsage | None = field(compare=False)
    purposes: tuple[str, ...] | None             # OIDs of the extended key usage, None without one
    names: tuple[x509.GeneralName, ...]          # subjectAltName
    constraints: x509.NameConstraints | None
    key_id: bytes | None
    issuer_key_id: bytes | None
    strong_signature: bool                       # SHA-2, or a signature over the octets themselves
    crl_points: tuple[x509.GeneralName, ...] = ()    # where its issuer publishes whole lists, by whatever name
    crl_urls: tuple[str, ...] = ()               # those of them to ask, http and https alone
    ocsp_urls: tuple[str, ...] = ()

    @property
    def self_issued(self) -> bool:
        """Whether subject and issuer are the same (RFC 5280 3.2)."""
        return self.subject == self.issuer

    def signed_by(self, issuer: Certificate) -> bool:
        """Return whether `issuer` has the issuer's name and its key made the signature."""
        try:
            self.parsed.verify_directly_issued_by(issuer.parsed)
        except SIGNATURE_ERRORS:
            return False
        return True

    def __str__(self) -> str:
        return show_dn(self.subject)


@contextmanager
def quiet() -> Generator[None]:
    """Hide what the library warns of in bytes of others: a peer must not write to our error output.

    It warns of serial numbers below 1, of attributes of odd lengths and the like.  The filters belong to all threads:
    whatever order two of them restore in, at most such warnings stay hidden.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)       # CryptographyDeprecationWarning is one
        yield


def parse_certificate(der: bytes) -> Certificate:
    """Return the facts of a DER certificate; raise CertificateRefused, and nothing else, where there are none.

    Unknown critical extensions and keys that are too weak refuse it here.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise CertificateRefused(f"a certificate of {len(der)} bytes")
    try:
        with quiet():
            return _facts(der, x509.load_der_x509_certificate(der))
    except LIBRARY_ERRORS as error:
        raise CertificateRefused(f"a certificate that cannot be read: {printable(str(error), 120)}") from None
    except CertificateRefused:
        raise
    except AuthenticationError as error:
        raise CertificateRefused(f"a certificate with {error}") from None


def dn(name: x509.Name) -> Dn:
    """Return a name in the form in which it is compared; raises what the library raises.

    RFC 5280 7.1: the string types are equal, upper and lower case too, and runs of spaces count as one.
    """
    return tuple(tuple(sorted(((a.oid.dotted_string, _folded(a.value)) for a in rdn), key=repr)) for rdn in name.rdns)


def parse_dn(der: bytes) -> Dn:
    """Return the name that DER holds; raise CertificateRefused where it holds none."""
    try:
        with quiet():
            return dn(x509.Name.from_bytes(der))
    except LIBRARY_ERRORS:
        raise CertificateRefused("a distinguished name that is not DER") from None


def show_dn(name: Dn) -> str:
    """Return a name for people."""
    parts = "; ".join("+".join(f"{_SHORT.get(oid, oid)}={value!r}" for oid, value in rdn) for rdn in name)
    return printable(parts.replace("'", "") or "(no name)", 256)


def authority_hash(certificate: Certificate) -> bytes:
    """Return how CERTREQ names an authority: SHA-1 of its public key (RFC 7296 3.7), which nothing relies on."""
    return hashlib.sha1(key_bytes(certificate.key), usedforsecurity=False).digest()


def valid_at(certificate: Certificate, wall_now: float) -> bool:
    """Return whether a moment, in Unix seconds, lies within the validity (RFC 5280 4.1.2.5)."""
    return certificate.not_before <= wall_now <= certificate.not_after


_SHORT = {"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU",
          "1.2.840.113549.1.9.1": "E", "0.9.2342.19200300.100.1.25": "DC"}


def _folded(value: str | bytes) -> str | bytes:
    return " ".join(value.casefold().split()) if isinstance(value, str) else value


def _facts(der: bytes, parsed: x509.Certificate) -> Certificate:
    extensions = parsed.extensions
    unknown = [e.oid.dotted_string for e in extensions if e.critical and e.oid not in _ENFORCED]
    if unknown:
        raise CertificateRefused(f"a certificate with the critical extension {unknown[0]}, which is not known here")
    basic = _extension(extensions, x509.BasicConstraints)
    purposes = _extension(extensions, x509.ExtendedKeyUsage)
    names = _extension(extensions, x509.SubjectAlternativeName)
    own_id = _extension(extensions, x509.SubjectKeyIdentifier)
    issuer_id = _extension(extensions, x509.AuthorityKeyIdentifier)
    points = _distribution_points(extensions)
    algorithm = parsed.signature_hash_algorithm     # None: Ed25519 and Ed448 hash by themselves
    return Certificate(
        der=der, parsed=parsed, key=check_key(parsed.public_key()), subject=dn(parsed.subject),
        issuer=dn(parsed.issuer), not_before=parsed.not_valid_before_utc.timestamp(),
        not_after=parsed.not_valid_after_utc.timestamp(),
        # RFC 5280 4.2.1.9: without the extension, as in every version 1 certificate, it is no authority.
        is_ca=basic is not None and basic.ca, path_length=basic.path_length if basic else None,
        usage=_extension(extensions, x509.KeyUsage),
        purposes=tuple(oid.dotted_string for oid in purposes) if purposes is not None else None,
        names=tuple(names) if names is not None else (), constraints=_extension(extensions, x509.NameConstraints),
        key_id=own_id.digest if own_id else None, issuer_key_id=issuer_id.key_identifier if issuer_id else None,
        strong_signature=algorithm is None or isinstance(algorithm, _STRONG),
        crl_points=tuple(points), crl_urls=_urls(points), ocsp_urls=_urls(_responders(extensions)))


def _distribution_points(extensions: x509.Extensions) -> list[x509.GeneralName]:
    """RFC 5280 4.2.1.13: those that hold a whole list, signed by the certificate's issuer."""
    found = _extension(extensions, x509.CRLDistributionPoints)
    return [name for point in found or () if point.full_name and not point.reasons and not point.crl_issuer
            for name in point.full_name]


def _responders(extensions: x509.Extensions) -> list[x509.GeneralName]:
    found = _extension(extensions, x509.AuthorityInformationAccess)
    return [d.access_location for d in found or () if d.access_method == AuthorityInformationAccessOID.OCSP]


def _urls(names: list[x509.GeneralName]) -> tuple[str, ...]:
    texts = (n.value for n in names if isinstance(n, x509.UniformResourceIdentifier))
    return tuple(t for t in texts if t.lower().startswith(("http://", "https://")) and len(t) <= MAX_URL_CHARS
                 and t.isprintable() and " " not in t)[:MAX_URLS]


def _extension(extensions: x509.Extensions, kind: type[_E]) -> _E | None:
    return next((e.value for e in extensions if isinstance(e.value, kind)), None)
