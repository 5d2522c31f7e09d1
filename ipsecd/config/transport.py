"""Children in transport mode: their selectors are the two addresses that IKE itself uses (RFC 7296 2.23.1)."""

from __future__ import annotations

from collections.abc import Sequence

from ipsecd.config.nodes import Location
from ipsecd.config.problems import Problems
from ipsecd.config.values import literal
from ipsecd.policy import ChildPolicy, Mode, PeerPolicy, Policy
from ipsecd.selectors import TrafficSelector


def check_transport(policy: Policy, problems: Problems) -> None:
    """Report children in transport mode that could never come up."""
    for peer in policy.peers:
        for child in peer.children:
            if child.mode is Mode.TRANSPORT:
                _check_child(policy.listen, peer, child, problems)


def _check_child(listen: Sequence[str], peer: PeerPolicy, child: ChildPolicy, problems: Problems) -> None:
    at: Location = ("peers", peer.name, "children", child.key.child)
    if child.interface is not None:
        problems.error((*at, "interface"), "found an ingress interface with mode: transport; expected no such key, "
                                           "because nothing that is forwarded is protected in that mode")
    literals = [literal(text) for text in peer.addresses]
    theirs = [str(address) for address in literals if address is not None]
    for key, whose, selectors, source, known in (
            ("local", "this host's", child.local, "gateway.listen", listen),
            ("remote", "the peer's", child.remote, "the peer's address", theirs if None not in literals else ())):
        name = _one_address(selectors)
        if name is None:
            problems.error((*at, key), f"found {', '.join(map(str, selectors))} with mode: transport; expected one "
                                       f"address, {whose} own, or mode: tunnel")
        elif known and name not in known:
            problems.error((*at, key), f"found {name} with mode: transport; expected {' or '.join(known)}, as in "
                                       f"{source}")


def _one_address(selectors: Sequence[TrafficSelector]) -> str | None:
    found = sorted({str(address) for s in selectors for address in s.addresses()})
    return found[0] if len(found) == 1 else None
