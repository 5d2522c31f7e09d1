"""Name constraints (RFC 5280 4.2.1.10): which names an authority may certify.

Every certificate below the authority is held to them, in its subject and its subjectAltName.  A constraint on a kind of
name that is not evaluated here refuses a certificate that has such a name; so does a name that cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from cryptography import x509
from cryptography.x509.oid import NameOID

from ipsecd.ike.crypto.certificates import LIBRARY_ERRORS, Certificate, CertificateRefused, dn


def check_constraints(path: Sequence[Certificate]) -> None:
    """Raise CertificateRefused where a certificate of `path`, leaf first, has a name that one above it forbids."""
    for index, authority in enumerate(path):
        if authority.constraints is None:
            continue
        for below, certificate in enumerate(path[:index]):
            # RFC 5280 4.2.1.10: self-issued ones, as in a change of keys, are exempt unless last.
            if below == 0 or not certificate.self_issued:
                _check(certificate, authority, authority.constraints)


def _check(certificate: Certificate, authority: Certificate, constraints: x509.NameConstraints) -> None:
    try:
        names = _names(certificate)
        for name in names:
            excluded = [c for c in constraints.excluded_subtrees or () if type(c) is type(name)]
            permitted = [c for c in constraints.permitted_subtrees or () if type(c) is type(name)]
            inside = not permitted or any(_within(name, c, excluding=False) for c in permitted)
            if not inside or any(_within(name, c, excluding=True) for c in excluded):
                raise CertificateRefused(f"{authority} may not certify {name.value} ({certificate})")
    except LIBRARY_ERRORS:
        raise CertificateRefused(f"the name constraints of {authority} cannot be evaluated for {certificate}") from None


def _names(certificate: Certificate) -> list[x509.GeneralName]:
    """Return all names; e-mail addresses in the subject are held to constraints too (RFC 5280 4.2.1.10)."""
    subject = certificate.parsed.subject
    names = list(certificate.names)
    if certificate.subject:
        names.append(x509.DirectoryName(subject))
    names += [x509.RFC822Name(str(a.value)) for a in subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS)]
    return names


def _within(name: x509.GeneralName, constraint: x509.GeneralName, *, excluding: bool) -> bool:
    """Return whether a name lies in a subtree of the same kind; what is in doubt counts against the name."""
    match name, constraint:
        case x509.DNSName(), x509.DNSName():
            return _host_within(name.value, constraint.value, excluding=excluding)
        case x509.RFC822Name(), x509.RFC822Name():
            return _mail_within(name.value, constraint.value)
        case x509.IPAddress(), x509.IPAddress():
            network, address = constraint.value, name.value
            if not isinstance(network, IPv4Network | IPv6Network) or isinstance(address, IPv4Network | IPv6Network):
                raise ValueError("a network where an address belongs, or the reverse")
            return address.version == network.version and address in network
        case x509.DirectoryName(), x509.DirectoryName():
            subtree = dn(constraint.value)
            return dn(name.value)[:len(subtree)] == subtree
        case _:
            raise ValueError("a kind of name that is not evaluated here")


def _host_within(host: str, subtree: str, *, excluding: bool) -> bool:
    """RFC 5280: a host and all below it.  A leading dot is no form of the RFC: below only, but it excludes both."""
    host, base = host.lower().rstrip("."), subtree.lower().lstrip(".").rstrip(".")
    if not base:
        return True
    exact = host == base and (excluding or not subtree.startswith("."))
    # A wildcard stands for names on both sides of an exclusion; no identity matches it, but it is no reason to accept.
    wild = excluding and host.startswith("*.") and base.endswith(host[1:])
    return exact or wild or host.endswith(f".{base}")


def _mail_within(address: str, subtree: str) -> bool:
    """RFC 5280: one mailbox, all of a host, or with a leading dot all hosts below a domain."""
    local, at, host = address.rpartition("@")
    if not at:
        raise ValueError("an e-mail address without @")
    host, wanted = host.lower(), subtree.lower()
    if "@" in subtree:
        only, _, wanted = subtree.rpartition("@")
        return (local, host) == (only, wanted.lower())
    return host.endswith(wanted) if wanted.startswith(".") else host == wanted
