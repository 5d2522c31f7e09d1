"""Transport mode in negotiation (RFC 7296 1.3.1), and what NATs do to its traffic selectors (RFC 7296 2.23.1).

Such a pair is for the two addresses that IKE itself uses, so each side of its selectors has one address only.  Behind a
NAT the ends know each other by different ones: a peer's selectors are taken as if they named the addresses seen here,
and what they named is kept, because the peer's checksums are made over it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from typing import NamedTuple

from ipsecd.causes import Cause, Failure
from ipsecd.errors import ModeMismatch
from ipsecd.ike.consts import NotifyType, ProtocolId
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.sa import Path, SaPair, TransportEnds
from ipsecd.selectors import TrafficSelector

Selectors = tuple[TrafficSelector, ...]

USE_TRANSPORT_MODE = NotifyPayload(NotifyType.USE_TRANSPORT_MODE)
_SUM = 65535                    # sums of 16-bit words in one's complement are residues of this (RFC 1071)


class Seen(NamedTuple):
    """A peer's selectors with the addresses of this host's view, and the two hosts."""

    ts_local: Selectors
    ts_remote: Selectors
    ends: TransportEnds


def is_wanted(payloads: Iterable[object]) -> bool:
    """Return whether a message asks for transport mode, or agrees to it."""
    return find(payloads, NotifyType.USE_TRANSPORT_MODE) is not None


def ends_of(path: Path) -> TransportEnds:
    """Return the two hosts that an IKE SA on this path can protect."""
    return TransportEnds(path.local.address, path.remote.address)


def unfit(ts_local: Selectors, ts_remote: Selectors, ends: TransportEnds) -> Failure | None:
    """Return why selectors of ours cannot be asked for between these hosts, None where they can."""
    if _are_of(ts_local, ends.local) and _are_of(ts_remote, ends.remote):
        return None
    return Failure(Cause.TRANSPORT_ADDRESSES, f"IKE runs between {ends.local} and {ends.remote}",
                   ours=f"{_named(ts_local)} === {_named(ts_remote)}", theirs=f"{ends.local} === {ends.remote}")


def seen(ts_local: Selectors, ts_remote: Selectors, ends: TransportEnds, *, nat: bool) -> Seen | None:
    """Return a peer's selectors as this host sees them, None where they are not for these hosts alone.

    With a NAT between the ends, either address may be another to the peer.
    """
    local, remote = _address(ts_local), _address(ts_remote)
    if local is None or remote is None:
        return None
    if not nat:
        return Seen(ts_local, ts_remote, ends) if unfit(ts_local, ts_remote, ends) is None else None
    here = [ip_address(ends.local), ip_address(ends.remote)]
    if {here[0].version, here[1].version} != {ts_local[0].version, ts_remote[0].version}:
        return None
    nat_sum = (local + remote - int(here[0]) - int(here[1])) % _SUM
    return Seen(_moved(ts_local, int(here[0])), _moved(ts_remote, int(here[1])), ends._replace(nat_sum=nat_sum))


def cannot_follow(pair: SaPair, path: Path) -> Failure | None:
    """Return why a pair cannot go over a path, None where it can: ahead of AH stands the packet's own header."""
    ends = pair.transport
    if ends is None or pair.suite.protocol != ProtocolId.AH or (":" in ends.local) == (":" in path.local.address):
        return None
    return Failure(Cause.TRANSPORT_ADDRESSES, f"AH between {ends.local} and {ends.remote} cannot go over {path}")


def mismatch(detail: str, *, ours: str) -> ModeMismatch:
    """Return the error for an end that is of the other mode than we are."""
    theirs = {"tunnel": "transport", "transport": "tunnel"}[ours]
    return ModeMismatch(NotifyType.TS_UNACCEPTABLE, detail, ours=ours, theirs=theirs)


def _address(selectors: Selectors) -> int | None:
    """Return the one address that selectors name, None where they name several."""
    found = {(s.version, s.low) for s in selectors} | {(s.version, s.high) for s in selectors}
    return selectors[0].low if len(found) == 1 else None


def _are_of(selectors: Selectors, address: str) -> bool:
    here = ip_address(address)
    return bool(selectors) and all((s.version, s.low, s.high) == (here.version, int(here), int(here))
                                   for s in selectors)


def _moved(selectors: Selectors, address: int) -> Selectors:
    return tuple(replace(s, low=address, high=address) for s in selectors)


def _named(selectors: Selectors) -> str:
    return ", ".join(map(str, selectors)) or "none"
