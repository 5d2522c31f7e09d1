"""What a reload changes: two policies -> the plan (pure).

`diff` names every difference and what it disturbs; the daemon applies exactly these and `ipsecctl plan` prints
them, so both say the same.  Three grades of disturbance:

- nothing: timers, limits and verdicts take effect on what runs;
- a child: its SAs are made anew, the IKE SA and the other children stay;
- a peer: a new IKE SA with new children is made first, then traffic moves, then the old one is deleted.

The order of peers and children matters only where their selectors meet, so moving others changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from ipsecd.config.overlap import overlapping
from ipsecd.policy import AuthPolicy, CertificateTrust, ChildPolicy, Credential, IkePolicy, PeerPolicy, Policy, SpdEntry
from ipsecd.sa import ChildKey

# What an established IKE SA was made from; everything else applies to it as it is.
_IKE_SA_FIELDS = frozenset({"addresses", "local_identity", "remote_identity", "pattern", "psk", "ppk", "auth",
                            "encapsulation",
                            "ike.proposals"})
# What an established child SA was made from.
_CHILD_SA_FIELDS = frozenset({"local", "remote", "mode", "ts_style", "proposals", "esn", "interface", "tfc"})
_GATEWAY_FIELDS = ("listen", "inside", "exclude", "cookie_threshold", "source_limit")


@dataclass(frozen=True, slots=True)
class PeerAdded:
    """A peer comes up as its children's `start` says."""

    peer: str
    children: tuple[str, ...]
    enabled: bool

    def describe(self) -> str:
        """Return the line of the plan."""
        state = "" if self.enabled else "; asleep (enabled: false)"
        return f"+ peer {self.peer}: added with {_count(len(self.children), 'child', 'children')}{state}"


@dataclass(frozen=True, slots=True)
class PeerRemoved:
    """A peer is deleted: its IKE SA is closed, its routes go, its traffic is no longer protected."""

    peer: str
    children: tuple[str, ...]

    def describe(self) -> str:
        """Return the line of the plan."""
        return (f"- peer {self.peer}: removed; its IKE SA and {_count(len(self.children), 'child', 'children')} are "
                "deleted, its selectors are no longer protected")


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """A peer's own keys change; `fields` are named as in `PeerPolicy` ("psk", "ike.lifetime_s").

    `disruptive` says that the IKE SA must be made anew, before the old one is broken.
    """

    peer: str
    fields: tuple[str, ...]
    disruptive: bool

    def describe(self) -> str:
        """Return the line of the plan."""
        effect = ("a new IKE SA is made before the old one is deleted" if self.disruptive
                  else "applied to what runs, nothing is disturbed")
        if "enabled" in self.fields:
            effect = "its IKE SA is closed and its traffic dropped, or it is brought up, as `enabled` says"
        return f"~ peer {self.peer}: {', '.join(self.fields)} changed; {effect}"


@dataclass(frozen=True, slots=True)
class ChildAdded:
    """A child of a peer that stays; its selectors are protected from now on."""

    child: ChildKey

    def describe(self) -> str:
        """Return the line of the plan."""
        return f"+ child {self.child}: added; the IKE SA stays"


@dataclass(frozen=True, slots=True)
class ChildRemoved:
    """A child of a peer that stays; its selectors are no longer protected by it."""

    child: ChildKey

    def describe(self) -> str:
        """Return the line of the plan."""
        return f"- child {self.child}: removed; its SAs are deleted, the IKE SA stays"


@dataclass(frozen=True, slots=True)
class ChildChanged:
    """A child's keys change; `disruptive` says that its SAs must be made anew."""

    child: ChildKey
    fields: tuple[str, ...]
    disruptive: bool

    def describe(self) -> str:
        """Return the line of the plan."""
        effect = ("new SAs are made before the old ones are deleted, the IKE SA stays" if self.disruptive
                  else "applied to what runs, nothing is disturbed")
        return f"~ child {self.child}: {', '.join(self.fields)} changed; {effect}"


@dataclass(frozen=True, slots=True)
class EntriesChanged:
    """Bypass and discard entries come, go or change, or entries that meet change their order."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    moved: tuple[str, ...]

    def describe(self) -> str:
        """Return the line of the plan."""
        groups = (("added", self.added), ("removed", self.removed), ("changed", self.changed), ("moved", self.moved))
        parts = [f"{what} {', '.join(names)}" for what, names in groups if names]
        return f"~ policies: {'; '.join(parts)}; the SPD is exchanged as a whole, no SA is disturbed"


@dataclass(frozen=True, slots=True)
class DefaultActionChanged:
    """`policies_default` changes."""

    old: str
    new: str

    def describe(self) -> str:
        """Return the line of the plan."""
        return f"~ policies_default: {self.old} becomes {self.new}; no SA is disturbed"


@dataclass(frozen=True, slots=True)
class DomainChanged:
    """Device, tables, marks or priority change, which only a start of the daemon can do."""

    fields: tuple[str, ...]

    def describe(self) -> str:
        """Return the line of the plan."""
        return f"~ gateway: {', '.join(self.fields)} changed; needs a restart of the daemon, a reload refuses it"


@dataclass(frozen=True, slots=True)
class GatewayChanged:
    """Other keys of the gateway change."""

    fields: tuple[str, ...]

    def describe(self) -> str:
        """Return the line of the plan."""
        effect = "sockets are opened and closed to fit, peers on a closed one reconnect" if "listen" in self.fields \
            else "no SA is disturbed"
        return f"~ gateway: {', '.join(self.fields)} changed; {effect}"


Change = (PeerAdded | PeerRemoved | PeerChanged | ChildAdded | ChildRemoved | ChildChanged | EntriesChanged
          | DefaultActionChanged | DomainChanged | GatewayChanged)


def diff(old: Policy, new: Policy) -> tuple[Change, ...]:
    """Return what turns `old` into `new`, empty where both mean the same.

    Gateway first, then peers in the order of `new`, then the removed ones, then the SPD's order.
    """
    return (*_gateway_changes(old, new), *_peer_changes(old, new), *_entry_changes(old, new))


def plan_lines(changes: Sequence[Change], old: Policy, new: Policy, warnings: Sequence[str]) -> list[str]:
    """Return the plan as lines for people: each change, what stays undisturbed, and the warnings of the new file."""
    lines = [change.describe() for change in changes] or ["no change: nothing is disturbed"]
    touched = {_peer_of(change) for change in changes}
    same = [p.name for p in new.peers if p.name not in touched and old.peer(p.name) is not None]
    if changes and same:
        lines.append(f"  {_count(len(same), 'peer', 'peers')} untouched: {', '.join(same[:10])}"
                     + (" ..." if len(same) > 10 else ""))
    return [*lines, *(f"warning: {w}" for w in warnings)]


def _peer_of(change: Change) -> str | None:
    match change:
        case PeerAdded() | PeerRemoved() | PeerChanged():
            return change.peer
        case ChildAdded() | ChildRemoved() | ChildChanged():
            return change.child.peer
        case _:
            return None


def _gateway_changes(old: Policy, new: Policy) -> list[Change]:
    found: list[Change] = []
    gateway = tuple(f for f in _GATEWAY_FIELDS if getattr(old, f) != getattr(new, f))
    if gateway:
        found.append(GatewayChanged(gateway))
    domain = tuple(f.name for f in fields(new.domain) if getattr(old.domain, f.name) != getattr(new.domain, f.name))
    if domain:
        found.append(DomainChanged(domain))
    if old.default_action != new.default_action:
        found.append(DefaultActionChanged(old.default_action, new.default_action))
    return found


def _peer_changes(old: Policy, new: Policy) -> list[Change]:
    before = {peer.name: peer for peer in old.peers}
    found: list[Change] = []
    for peer in new.peers:
        was = before.pop(peer.name, None)
        if was is None:
            found.append(PeerAdded(peer.name, tuple(c.key.child for c in peer.children), peer.enabled))
        elif was != peer:
            found += _changed_peer(was, peer)
    found += [PeerRemoved(p.name, tuple(c.key.child for c in p.children)) for p in before.values()]
    return found


def _changed_peer(old: PeerPolicy, new: PeerPolicy) -> list[Change]:
    names = [f for f in ("enabled", "addresses", "local_identity", "remote_identity", "pattern",
                          "encapsulation")
             if getattr(old, f) != getattr(new, f)]
    # An empty key is one that was not read for this plan: whether it changes is not known, and a warning says so.
    if len(old.psk) and len(new.psk) and old.psk != new.psk:
        names.append("psk")
    if old.ppk != new.ppk and not (old.ppk and new.ppk and not (len(old.ppk.key) and len(new.ppk.key))):
        names.append("ppk")
    names += _changed_auth(old.auth, new.auth)
    names += [f"ike.{f.name}" for f in fields(IkePolicy) if getattr(old.ike, f.name) != getattr(new.ike, f.name)]
    found: list[Change] = []
    if names:
        found.append(PeerChanged(new.name, tuple(names), not _IKE_SA_FIELDS.isdisjoint(names)))
    before = {child.key: child for child in old.children}
    for child in new.children:
        was = before.pop(child.key, None)
        if was is None:
            found.append(ChildAdded(child.key))
        elif was != child:
            found.append(_changed_child(was, child))
    return [*found, *(ChildRemoved(key) for key in before)]


def _changed_auth(old: AuthPolicy, new: AuthPolicy) -> list[str]:
    """Return what changes of the certificates; "auth" alone is what an IKE SA was made from.

    A renewed certificate, or a newer revocation list, counts from the next handshake on.
    """
    if _kinds(old) == _kinds(new) and not (_read(old) and _read(new)):
        return []                   # as for keys that were not read
    names: list[str] = []
    if (old.local, old.others) != (new.local, new.others):
        names.append("auth.certificate")
    if _lists(old.remote) != _lists(new.remote) and type(old.remote) is type(new.remote):
        names.append("auth.crls")
    if _kinds(old) != _kinds(new) or _trust(old) != _trust(new):
        names.append("auth")
    return names


def _kinds(auth: AuthPolicy) -> tuple[object, ...]:
    return type(auth.local), isinstance(auth.local, Credential) and auth.local.raw, type(auth.remote)


def _read(auth: AuthPolicy) -> bool:
    return not auth.unread


def _trust(auth: AuthPolicy) -> tuple[object, ...]:
    remote = auth.remote
    if isinstance(remote, CertificateTrust):
        remote = replace(remote, crls=(), intermediates=())
    return remote, auth.legacy and (auth.local, auth.remote) != (None, None)


def _lists(remote: object) -> tuple[object, ...]:
    return (remote.crls, remote.intermediates) if isinstance(remote, CertificateTrust) else ()


def _changed_child(old: ChildPolicy, new: ChildPolicy) -> ChildChanged:
    names = tuple(f.name for f in fields(ChildPolicy) if getattr(old, f.name) != getattr(new, f.name))
    return ChildChanged(new.key, names, not _CHILD_SA_FIELDS.isdisjoint(names))


def _entry_changes(old: Policy, new: Policy) -> list[Change]:
    was = {entry.name: entry for entry in old.entries if entry.child is None}
    now = {entry.name: entry for entry in new.entries if entry.child is None}
    change = EntriesChanged(
        added=tuple(n for n in now if n not in was), removed=tuple(n for n in was if n not in now),
        changed=tuple(n for n in now if n in was and now[n] != was[n]), moved=_moved(old.entries, new.entries))
    return [change] if change.added or change.removed or change.changed or change.moved else []


def _moved(old: Sequence[SpdEntry], new: Sequence[SpdEntry]) -> tuple[str, ...]:
    """Return the entries that stood behind one they meet and now stand before it, or the reverse."""
    place = {_entry_key(entry): i for i, entry in enumerate(old)}
    found: dict[str, None] = {}
    for late, earlier in sorted(overlapping(new).items()):
        here = place.get(_entry_key(new[late]))
        for early in earlier:
            there = place.get(_entry_key(new[early]))
            if here is not None and there is not None and there > here:
                found[new[early].name] = None
    return tuple(found)


def _entry_key(entry: SpdEntry) -> tuple[ChildKey | None, str]:
    return entry.child, entry.name


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
