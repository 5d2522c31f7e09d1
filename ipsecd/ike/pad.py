"""The Peer Authorization Database (RFC 4301 4.4.3): which entry an identity belongs to, before it is proved.

An entry that names the identity comes first, then those with a pattern, in the order written.  A pattern never serves
an identity that another entry names, wherever it comes from and even if that entry sleeps: who is known by name is not
let in under a looser rule.

Of an entry that serves many, each remote has a peer of its own, its `instance`: the same entry, named for one identity.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from ipsecd.errors import AuthenticationError
from ipsecd.ike.consts import IdType
from ipsecd.ike.crypto.certificates import parse_dn, show_dn
from ipsecd.policy import NOBODY, Identity, IdentityPattern, PeerPolicy
from ipsecd.text import printable

# What a wildcard stands for: one label of a host name, one mailbox.  Neither a dot, nor another script, nor what would
# be shown in one (RFC 5890 A-labels): a look-alike of a name must not slip in unseen.
_LABEL = re.compile(rb"(?!xn--)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_MAILBOX = re.compile(rb"[A-Za-z0-9.!#$%&'+/=?^_`{|}~-]{1,64}")
_PROVABLE = (IdType.FQDN, IdType.RFC822_ADDR, IdType.IPV4_ADDR, IdType.IPV6_ADDR, IdType.DER_ASN1_DN)
_LONGEST_NAME = 253             # RFC 1035 2.3.4, as text

IdentityKey = tuple[int, bytes]


def identity_key(identity: Identity) -> IdentityKey:
    """Return what is equal for identities that mean the same: host names know no case (RFC 4343)."""
    folded = identity.type in (IdType.FQDN, IdType.RFC822_ADDR)
    return identity.type, identity.data.lower() if folded else identity.data


def matches(pattern: IdentityPattern, identity: Identity) -> bool:
    """Return whether a pattern stands for an identity."""
    if pattern.type is None:
        return identity.type in _PROVABLE
    if identity.type != pattern.type:
        return False
    data = identity.data
    match identity.type:
        case IdType.FQDN:
            name = data.lower()
            return (len(name) <= _LONGEST_NAME and name.endswith(pattern.suffix)
                    and _LABEL.fullmatch(name.removesuffix(pattern.suffix)) is not None)
        case IdType.RFC822_ADDR:
            mailbox, _, host = data.rpartition(b"@")
            return b"@" + host.lower() == pattern.suffix and _MAILBOX.fullmatch(mailbox) is not None
        case _:
            return _matches_dn(pattern, data)


class Directory:
    """Entries in the order tried, found by what they name: a thousand cost a peer no more than one."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, entries: Iterable[PeerPolicy]) -> None:
        self._exact: dict[Identity | None, list[tuple[int, PeerPolicy]]] = {}   # None: whoever is at the address
        self._patterns: list[tuple[IdentityPattern, PeerPolicy]] = []
        for rank, entry in enumerate(entries):
            if entry.pattern is not None:
                self._patterns.append((entry.pattern, entry))
            else:
                self._exact.setdefault(entry.remote_identity, []).append((rank, entry))

    def exact(self, remote: Identity, asked: Identity | None, *, address: Identity,
              own_address: Identity) -> PeerPolicy | None:
        """Return the first entry that names this identity."""
        found = [*self._exact.get(remote, ()), *(self._exact.get(None, ()) if remote == address else ())]
        return min(((rank, p) for rank, p in found if _is_asked(p, asked, own_address)), key=lambda pair: pair[0],
                   default=(0, None))[1]

    def pattern(self, remote: Identity, asked: Identity | None, *, own_address: Identity) -> PeerPolicy | None:
        """Return the first entry whose pattern stands for this identity."""
        return next((p for pattern, p in self._patterns if _is_asked(p, asked, own_address)
                     and matches(pattern, remote)), None)


def find_entry(directories: Sequence[Directory], named: Container[IdentityKey], remote: Identity,
               asked: Identity | None, *, address: Identity, own_address: Identity,
               session: bytes) -> PeerPolicy | None:
    """Return the entry, or its instance, for what a peer claims to be and asks us to be; None where there is none.

    `directories` come in the order tried; `named` are the identities of all entries; `session` names the IKE SA.
    """
    exact = next(filter(None, (d.exact(remote, asked, address=address, own_address=own_address)
                               for d in directories)), None)
    if exact is not None:
        return instance(exact, remote, session) if exact.serves_many else exact
    if identity_key(remote) in named:
        return None
    entry = next(filter(None, (d.pattern(remote, asked, own_address=own_address) for d in directories)), None)
    return instance(entry, remote, session) if entry else None


def _is_asked(entry: PeerPolicy, asked: Identity | None, own_address: Identity) -> bool:
    return asked in (None, entry.local_identity or own_address)


def instance(entry: PeerPolicy, remote: Identity, session: bytes) -> PeerPolicy:
    """Return the peer that one remote of an entry for many is; nobody is another one with each IKE SA."""
    return replace(entry, name=f"{entry.name}[{_label(remote, session)}]", remote_identity=remote, pattern=None,
                   entry=entry.name)


def renewed(instance_: PeerPolicy, entry: PeerPolicy | None) -> PeerPolicy | None:
    """Return the instance under a reloaded entry, None where that does not serve it any more."""
    remote = instance_.remote_identity
    if entry is None or remote is None or not entry.enabled or not entry.serves_many:
        return None
    if not (matches(entry.pattern, remote) if entry.pattern else remote == entry.remote_identity):
        return None
    return replace(entry, name=instance_.name, remote_identity=remote, pattern=None, entry=entry.name)


def _label(remote: Identity, session: bytes) -> str:
    """Name one remote, and no two alike."""
    if remote == NOBODY:
        return f"nobody {session.hex()[:8]}"
    if remote.type == IdType.DER_ASN1_DN:
        # A name for people may be cut, and leaves the types of its strings out.
        return f"dn:{show_dn(parse_dn(remote.data))} {hashlib.sha256(remote.data).hexdigest()[:8]}"
    return printable(str(replace(remote, data=identity_key(remote)[1])))


def _matches_dn(pattern: IdentityPattern, data: bytes) -> bool:
    """RDN by RDN, in order: each of one attribute, of the same type, with the same value or any."""
    try:
        name = parse_dn(data)
    except AuthenticationError:
        return False
    return len(name) == len(pattern.rdns) and all(
        len(rdn) == 1 and rdn[0][0] == oid and (value is None or rdn[0][1] == value)
        for rdn, (oid, value) in zip(name, pattern.rdns, strict=True))
