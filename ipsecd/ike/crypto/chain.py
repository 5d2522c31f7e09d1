"""From the certificate that a peer showed to an authority that the operator named (RFC 5280 6, RFC 4945 5).

Certificates that a peer sends serve one handshake; none of them is trusted for having been sent.  Paths are looked for
from the peer's own certificate upward, among configured and received ones, under bounds on length and on signatures
checked, because cross-signed authorities can make exponentially many.  Where the library's own validator knows all
that a path uses, it must agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from ipsecd.ike.crypto.certificates import LIBRARY_ERRORS, Certificate, CertificateRefused, Dn, show_dn, valid_at
from ipsecd.ike.crypto.name_constraints import check_constraints
from ipsecd.ike.crypto.public_keys import PublicKey

MAX_DEPTH = 7                   # certificates from the peer's to the authority's; strongSwan and libreswan have 7 too
MAX_SIGNATURES = 32             # checked for one handshake: a path needs 6, and 8 certificates are received at most

_IKE_PURPOSES: Final = (ExtendedKeyUsageOID.IPSEC_IKE.dotted_string,
                        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE.dotted_string)
_LIBRARY_REFUSALS: tuple[type[Exception], ...] = (*LIBRARY_ERRORS, VerificationError)
_COMPARABLE = (x509.DNSName, x509.IPAddress)     # what the library's validator evaluates in name constraints


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom the operator trusts to name a peer; `issuer`, where set, is an authority that must be in the chain."""

    anchors: tuple[Certificate, ...]
    intermediates: tuple[Certificate, ...] = ()
    issuer: Dn | None = None
    any_purpose: bool = False                    # take a certificate that was issued for something else, such as TLS


@dataclass(frozen=True, slots=True)
class Chain:
    """A verified path: the peer's certificate first, a configured authority last.  Only `verify_chain` makes one."""

    path: tuple[Certificate, ...]

    @property
    def leaf(self) -> Certificate:
        """The peer's own certificate."""
        return self.path[0]

    @property
    def key(self) -> PublicKey:
        """The key that verifies AUTH."""
        return self.path[0].key

    @property
    def not_after(self) -> float:
        """When the first certificate of the path ends, in Unix seconds."""
        return min(c.not_after for c in self.path)


def verify_chain(received: Sequence[Certificate], trust: Trust, *, wall_now: float) -> Chain:
    """Return a chain for the first of `received`; raise CertificateRefused with the nearest miss.

    RFC 7296 3.6: the first certificate is the one whose key made AUTH; the others may come in any order.
    """
    if not received:
        raise CertificateRefused("the peer sent no certificate")
    leaf = received[0]
    _check_leaf(leaf, any_purpose=trust.any_purpose)
    refusal: CertificateRefused | None = None
    for path in _Search(trust, received[1:]).paths((leaf,)):
        try:
            _check_path(path, trust.issuer, wall_now)
        except CertificateRefused as error:
            refusal = refusal or error
        else:
            return Chain(path)
    raise refusal or CertificateRefused(f"no trusted authority issued {leaf}; its issuer is {show_dn(leaf.issuer)}")


class _Search:
    """Yields every path to an anchor whose signatures hold, the shortest way to an anchor tried first."""

    def __init__(self, trust: Trust, received: Sequence[Certificate]) -> None:
        self._anchors = trust.anchors
        self._others = tuple(dict.fromkeys((*trust.intermediates, *received)))
        self._left = MAX_SIGNATURES

    def paths(self, path: tuple[Certificate, ...]) -> Iterator[tuple[Certificate, ...]]:
        """Yield the paths that go on from `path`."""
        if len(path) == MAX_DEPTH:
            return
        for anchor in self._anchors:
            if self._issued(anchor, path[-1]):
                yield (*path, anchor)
        for other in self._others:
            known = any(other.key_id == c.key_id and other.subject == c.subject for c in path) or other in path
            if not known and self._issued(other, path[-1]):
                yield from self.paths((*path, other))

    def _issued(self, issuer: Certificate, certificate: Certificate) -> bool:
        if issuer.subject != certificate.issuer or not _same_key_id(issuer.key_id, certificate.issuer_key_id):
            return False
        if self._left == 0:
            return False
        self._left -= 1
        return certificate.signed_by(issuer)


def _same_key_id(own: bytes | None, named: bytes | None) -> bool:
    return own is None or named is None or own == named


def _check_leaf(leaf: Certificate, *, any_purpose: bool) -> None:
    """RFC 4945 5.1.3: an end entity whose key may sign, issued for IKE."""
    if leaf.is_ca:
        raise CertificateRefused(f"{leaf} is an authority's certificate, which authenticates no peer")
    if not leaf.strong_signature:
        raise CertificateRefused(f"{leaf} is signed with a hash weaker than SHA-256")
    usage = leaf.usage
    if usage is not None and not usage.digital_signature and not usage.content_commitment:
        raise CertificateRefused(f"{leaf}: its key usage does not allow signatures")
    if leaf.purposes is not None and not any_purpose and not any(p in leaf.purposes for p in _IKE_PURPOSES):
        raise CertificateRefused(f"{leaf}: its extended key usage ({', '.join(leaf.purposes)}) is not for IKE")


def _check_path(path: tuple[Certificate, ...], issuer: Dn | None, wall_now: float) -> None:
    for index, certificate in enumerate(path):
        if not valid_at(certificate, wall_now):
            when = "is not valid yet" if wall_now < certificate.not_before else "has expired"
            raise CertificateRefused(f"{certificate} {when}")
        if index < len(path) - 1 and not certificate.strong_signature:
            raise CertificateRefused(f"{certificate} is signed with a hash weaker than SHA-256")
        if index:
            _check_authority(certificate, path[1:index])
    if issuer is not None and all(c.subject != issuer for c in path[1:]):
        raise CertificateRefused(f"{path[0]} was issued by {path[1]}, not by {show_dn(issuer)}")
    check_constraints(path)
    if _library_knows(path):
        _check_with_library(path, wall_now)


def _check_authority(authority: Certificate, below: tuple[Certificate, ...]) -> None:
    """RFC 5280 6.1.4 (k) to (n); `below` are the authorities between it and the peer's certificate."""
    if not authority.is_ca:
        raise CertificateRefused(f"{authority} is no authority and issued a certificate")
    if authority.usage is not None and not authority.usage.key_cert_sign:
        raise CertificateRefused(f"{authority}: its key usage does not allow issuing certificates")
    limit = authority.path_length
    if limit is not None and sum(not c.self_issued for c in below) > limit:
        raise CertificateRefused(f"{authority} allows {limit} authorities below it; the chain has more")


def _library_knows(path: tuple[Certificate, ...]) -> bool:
    """Return whether the library's validator can judge a path: RSA and ECDSA, name constraints on hosts alone.

    It counts self-issued authorities, too, toward path lengths, and takes no leading dot in a constraint.
    """
    constraints = [c.constraints for c in path if c.constraints is not None]
    subtrees = [t for c in constraints for t in (*(c.permitted_subtrees or ()), *(c.excluded_subtrees or ()))]
    return (all(isinstance(c.key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) for c in path)
            and all(isinstance(t, _COMPARABLE) and not str(t.value).startswith(".") for t in subtrees)
            and all(c.parsed.version == x509.Version.v3 for c in path)
            and not any(c.self_issued for c in path[:-1]))


def _check_with_library(path: tuple[Certificate, ...], wall_now: float) -> None:
    start = path[0].parsed.not_valid_before_utc
    authorities = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    builder = (PolicyBuilder().store(Store([path[-1].parsed])).time(start.fromtimestamp(wall_now, tz=start.tzinfo))
               .max_chain_depth(MAX_DEPTH)
               .extension_policies(ca_policy=authorities, ee_policy=ExtensionPolicy.permit_all()))
    try:
        builder.build_client_verifier().verify(path[0].parsed, [c.parsed for c in path[1:-1]])
    except _LIBRARY_REFUSALS as error:
        raise CertificateRefused(f"the chain of {path[0]} does not hold: {str(error)[:200]}") from None
