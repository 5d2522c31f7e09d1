"""What is well formed and still wrong: shadowed children, two peers of one identity, a family left in the clear."""

from __future__ import annotations

from collections.abc import Sequence

from ipsecd.config import model
from ipsecd.config.certificates import LOCAL_KEYS, REMOTE_KEYS
from ipsecd.config.nodes import Location
from ipsecd.config.overlap import covered, overlapping
from ipsecd.config.problems import Problems
from ipsecd.config.transport import check_transport
from ipsecd.config.values import literal
from ipsecd.policy import (
    INTERFACE_TABLES,
    Action,
    CertificateTrust,
    Credential,
    Identity,
    Mode,
    PeerPolicy,
    Policy,
    SpdEntry,
)
from ipsecd.sa import ChildKey
from ipsecd.suites import Proposal, encr_of

LAST_TABLE = 2**32 - 1
MAX_NAMES = 10                      # in one message


def check_policy(policy: Policy, problems: Problems) -> None:
    """Report everything that only the policy as a whole shows."""
    _check_identities(policy.peers, problems)
    _check_tables(policy, problems)
    _check_order(policy, problems)
    _check_outer_addresses(policy, problems)
    check_transport(policy, problems)
    _check_families(policy, problems)
    _check_strengths(policy, problems)
    if not policy.peers:
        problems.warn(("peers",), "there is no peer: nothing is protected")


def check_gateway(keys: model.GatewayKeys, policy: Policy, problems: Problems) -> None:
    """Warn of keys that have no effect."""
    for names, used in ((LOCAL_KEYS, any(isinstance(p.auth.local, Credential) for p in policy.peers)),
                        (REMOTE_KEYS, any(isinstance(p.auth.remote, CertificateTrust) for p in policy.peers))):
        for key in names:
            if not used and getattr(keys, key, None) is not None:
                problems.warn(("gateway", key), "is unused: no peer has `auth: certificate`")


def warn_unread_keys(policy: Policy, problems: Problems) -> None:
    """Warn, in a plan, of keys that were not read (see `compile.compile_text`)."""
    for peer in policy.peers:
        auth = peer.auth
        psk = (None in (auth.local, auth.remote) and not len(peer.psk)) or (peer.ppk and not len(peer.ppk.key))
        if psk or auth.unread:
            what = "the key was" if psk else "its certificates were"
            problems.warn(("peers", peer.name, "auth"), f"{what} not read for this plan, so whether "
                                                        f"{'it changes' if psk else 'they change'} is unknown")


def _check_identities(peers: Sequence[PeerPolicy], problems: Problems) -> None:
    """Two peers that present one identity to one of ours cannot be told apart (RFC 4301 4.4.3.1)."""
    seen: dict[tuple[object, ...], str] = {}
    for peer in peers:
        if not peer.enabled:
            continue
        remote: list[object] = [peer.pattern] if peer.pattern else [("at", a) for a in peer.addresses]
        if peer.remote_identity:
            remote = [_identity_key(peer.remote_identity)]
        local = _identity_key(peer.local_identity) if peer.local_identity else None
        for key in remote:
            other = seen.setdefault((key, local), peer.name)
            if other != peer.name:
                field = "identity" if peer.remote_identity or peer.pattern else "address"
                problems.error(("peers", peer.name, field), f"found the identity of peer {other}; expected one that no "
                                                            "other enabled peer has")


def _check_tables(policy: Policy, problems: Problems) -> None:
    """Every ingress interface needs a table that is nobody else's."""
    domain = policy.domain
    taken = {domain.protected_table: "tables.protected", domain.wide_table: "tables.wide"}
    if domain.interface_tables > LAST_TABLE - INTERFACE_TABLES:
        problems.expected(("gateway", "tables", "interfaces"), f"at most {LAST_TABLE - INTERFACE_TABLES}, as "
                                                               f"{INTERFACE_TABLES} tables follow")
    for name in policy.protected_interfaces:
        other = taken.setdefault(domain.table_for(name), f"interface {name}")
        if other != f"interface {name}":
            problems.error(("gateway", "tables"), f"found table {domain.table_for(name)} for interface {name} and "
                                                  f"{other}; expected two different tables: change one of the names")


def _identity_key(identity: Identity) -> tuple[int, bytes]:
    return identity.type, identity.data.lower()


def _check_order(policy: Policy, problems: Problems) -> None:
    """A child that never gets a packet is an error; one that shares packets with an earlier one, a warning."""
    entries = policy.entries
    for late, earlier in sorted(overlapping(entries).items()):
        entry = entries[late]
        before = [e for e in (entries[i] for i in earlier) if e.interface in (None, entry.interface)]
        asleep = entry.child is not None and not _enabled(policy, entry.child)
        if not before or asleep:
            continue
        at = _location(policy, entry)
        if covered(entry, before):
            names = _names([_shown(e) for e in before])
            message = f"found an entry wholly shadowed by {names}, which comes first; expected selectors of its own"
            if entry.child is None:
                problems.warn(at, f"is wholly shadowed by {names}, which comes first")
            else:
                problems.error(at, message)
            continue
        _warn_overlaps(entry, before, at, problems)


def _warn_overlaps(entry: SpdEntry, before: Sequence[SpdEntry], at: Location, problems: Problems) -> None:
    """Warn of earlier children that take a part.

    The narrower child first, within one peer, is how one writes an exception: no warning.
    """
    if entry.child is None:
        return
    for other in before:
        if other.child is None or (other.child.peer == entry.child.peer and covered(other, [entry])):
            continue
        problems.warn(at, f"overlaps {_shown(other)}, which comes first and takes what both select")


def _enabled(policy: Policy, key: ChildKey) -> bool:
    peer = policy.peer(key.peer)
    return peer is not None and peer.enabled


def _location(policy: Policy, entry: SpdEntry) -> Location:
    if entry.child is not None:
        return ("peers", entry.child.peer, "children", entry.child.child)
    names = [e.name for e in policy.entries if e.child is None]
    return ("policies", names.index(entry.name))


def _shown(entry: SpdEntry) -> str:
    return f"{entry.child}" if entry.child else f"{entry.action} entry {entry.name}"


def _names(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _check_outer_addresses(policy: Policy, problems: Problems) -> None:
    """Warn of selectors that take in a peer's own address, whose IKE and ESP must stay outside the tunnel."""
    outer = [(p.name, address) for p in policy.peers for text in p.addresses if (address := literal(text))]
    for peer in policy.peers:
        for child in (c for c in peer.children if c.mode is not Mode.TRANSPORT):
            swallowed = [f"{a} of peer {name}" for name, a in outer
                         if any(s.version == a.version and s.low <= int(a) <= s.high for s in child.remote)]
            if swallowed:
                problems.warn(("peers", peer.name, "children", child.key.child, "remote"),
                              f"takes in {_names(swallowed)}; our own IKE and ESP packets stay outside by their mark, "
                              "other traffic to that address is protected")


def _check_families(policy: Policy, problems: Problems) -> None:
    """Warn where a site's other address family passes in clear (RFC 7359)."""
    if policy.default_action == Action.DISCARD:
        return
    stated = {s.version for e in policy.entries if e.child is None for s in e.remote if s.low == 0 and
              s.high == (2**32 if s.version == 4 else 2**128) - 1 and s.protocol == 0}
    for version, other in ((4, 6), (6, 4)):
        names = [p.name for p in policy.peers if p.children and version not in stated
                 and all(s.version == other for c in p.children for s in c.remote)]
        if names:
            problems.warn(("peers", names[0]),
                          f"IPv{version} is not protected, only IPv{other} is, for: {_names(names)}; hosts that have "
                          f"both leak what goes over IPv{version} (RFC 7359): add selectors, or a policies entry that "
                          f"says what becomes of {'0.0.0.0/0' if version == 4 else '::/0'}")


def _check_strengths(policy: Policy, problems: Problems) -> None:
    """Warn of a child whose keys come out of a weaker handshake than its cipher promises (NIAP FCS_IPSEC_EXT.1.14)."""
    for peer in policy.peers:
        ike = _strongest(peer.ike.proposals)
        for child in peer.children:
            esp = _strongest(child.proposals)
            if esp > ike:
                problems.warn(("peers", peer.name, "children", child.key.child, "esp", "proposals"),
                              f"offers a cipher of {esp} bits under an IKE SA of at most {ike}, and its keys are no "
                              f"stronger than that; expected {esp} bits in peers.{peer.name}.ike.proposals too")


def _strongest(proposals: Sequence[Proposal]) -> int:
    """Return the key length, in bits, of the strongest cipher offered; 0 where there is none."""
    return max((found.key_bits for p in proposals for t in p.transforms if (found := encr_of(t))), default=0)
