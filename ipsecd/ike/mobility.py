"""MOBIKE (RFC 4555): where an IKE SA may go, and when its traffic follows.

The end that made the first IKE SA of the line decides the path (`decides`), whoever rekeyed since.  The IKE SA moves
first and its traffic when the other end has shown that it receives there.  A path is looked for where ours lost its
local address, requests stay unanswered, or the peer no longer lists the address that we send to:

    search -> Resolve (the edge asks the kernel's routes) -> paths_found -> requests go over all of them
           -> the path of the first answer -> UPDATE_SA_ADDRESSES there -> its answer -> traffic

The other end moves on UPDATE_SA_ADDRESSES alone, and then its traffic after COOKIE2 came back from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from ipsecd.effects import Resolve
from ipsecd.events import PathChanged
from ipsecd.ike.nat import no_ah
from ipsecd.ike.session import KEEPALIVE_S, Session, Timer, TimerKind
from ipsecd.ike.tasks.delete import ChildDelete
from ipsecd.ike.tasks.nat_detection import detect, floated
from ipsecd.ike.transport import cannot_follow
from ipsecd.ike.wire.addresses import MAX_ADDITIONAL
from ipsecd.sa import Endpoint, Path

# Tuning
DOUBT_TRIES = 3                 # a request sent so often without an answer: 1.4 s and more
MAX_CANDIDATES = 8              # paths tried at once

_BROADCAST = ip_address("255.255.255.255")


@dataclass(slots=True)
class Mobility:
    """What MOBIKE keeps of one line of IKE SAs."""

    decides: bool
    remotes: tuple[str, ...]            # every address that the peer told, the one of its message first
    announced: tuple[str, ...] = ()     # what we told last beside the address in use
    candidates: tuple[Path, ...] = ()   # requests go there too, until one is answered
    searching: bool = False             # the edge looks for paths
    ambiguous: bool = False             # the response taken last belongs to a request that went over several paths
    newest: int = -1                    # Message ID of the peer's newest request about addresses
    mapping: bytes = b""                # the peer's NAT_DETECTION_DESTINATION_IP when traffic last moved


def other_addresses(session: Session) -> tuple[str, ...]:
    """Return our addresses beside the one in use, as many as are told."""
    return tuple(a for a in session.host.own_addresses if a != session.path.local.address)[:MAX_ADDITIONAL]


def addresses_of(session: Session) -> tuple[str, ...]:
    """Return where the peer is by its entry, or by the gateway of it that sent us to another (RFC 5685)."""
    return (session.gateway,) if session.gateway else session.host.addresses_of(session.peer)


def is_one_host(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address that a peer names can be another host's."""
    return not (address.is_multicast or address.is_unspecified or address.is_loopback or address == _BROADCAST)


def may_go(session: Session, remote: Endpoint) -> bool:
    """Return whether a peer may be at this address: one host, and not this one."""
    return is_one_host(ip_address(remote.address)) and remote.port != 0 and (
        remote.address not in session.host.own_addresses)


def search(session: Session) -> None:
    """Look for paths to every address of the peer that we know, unless that is under way."""
    mobility = session.mobility
    if mobility is None or mobility.searching or not session.in_charge:
        return
    mobility.searching = True
    known = (*addresses_of(session), session.path.remote.address, *mobility.remotes)
    session.output(Resolve(session.peer.name, tuple(dict.fromkeys(known)), session.handle))


def is_away(session: Session) -> bool:
    """Return whether the peer is reached where it said, but its entry does not: for want of else."""
    mobility, configured = session.mobility, addresses_of(session)
    return mobility is not None and mobility.decides and bool(configured) and (
        session.path.remote.address not in configured)


def doubt(session: Session, tries: int) -> None:
    """A request was sent `tries` times in vain: the end that decides looks for another path (RFC 4555 3.5)."""
    mobility = session.mobility
    if mobility is not None and mobility.decides and tries >= DOUBT_TRIES and not mobility.candidates:
        search(session)


def paths_found(session: Session, found: tuple[Path, ...], request_update: Callable[[], None]) -> bool:
    """Try paths; return whether there is any to try beside the present one.

    From a path that cannot work any more the IKE SA leaves at once.  Its traffic goes along where the peer's address
    stays, which needs no check (RFC 4555 3.5), or where we do not decide and our address is gone, our one exception.
    """
    mobility, now_at = session.mobility, session.path
    if mobility is None:
        return False
    mobility.searching = False
    paths = [_toward(p if not session.nat.supported else floated(p), now_at) for p in found]
    configured = addresses_of(session)
    others = [p for p in dict.fromkeys(paths) if p != now_at and may_go(session, p.remote)]
    # Where the peer spoke from last is surer than what its entry says, of which it may hold another address by now.
    others.sort(key=lambda p: (p.remote != now_at.remote, p.remote.address != mobility.remotes[0],
                               p.remote.address not in configured, p.remote.address not in mobility.remotes))
    gone = now_at.local.address not in session.host.own_addresses
    away = is_away(session) and any(p.remote.address in configured for p in others)
    if others and (gone or away or now_at.remote.address not in mobility.remotes):
        session.path = others[0] if gone or not away else next(p for p in others if p.remote.address in configured)
        if session.path.remote == session.traffic.remote or (gone and not mobility.decides):
            move_traffic(session)
        request_update()
    mobility.candidates = tuple(p for p in others if p != session.path)[:MAX_CANDIDATES]
    return bool(others)


def answered(session: Session, path: Path, request_update: Callable[[], None]) -> None:
    """A response came over `path`: of the paths that were tried this one works."""
    mobility = session.mobility
    if mobility is None:
        return
    mobility.ambiguous = bool(mobility.candidates)
    if path in mobility.candidates:
        session.path = path
        request_update()
    mobility.candidates = ()


def note_nat(session: Session, payloads: tuple[object, ...], now: float) -> None:
    """Take what NAT detection says of the path in use; keepalives begin or end with it (RFC 4555 3.5)."""
    nat = detect(payloads, spi_i=session.crypto.spi_i, spi_r=session.crypto.spi_r, path=session.path,
                 true=session.peer.tells_nat)
    if not nat.supported or nat == session.nat:
        return
    was_raw, session.nat = session.raw, nat
    if session.raw != was_raw:
        session.carry(session.traffic)
        session.tell_udp()
    timer = Timer(TimerKind.KEEPALIVE)
    if nat.local:
        session.timers.arm(timer, now + KEEPALIVE_S, timer.kind.value)
    else:
        session.timers.cancel(timer)
    if session.path == session.traffic:            # else it may be said of another path that was tried first
        _close_what_cannot_follow(session)


def move_traffic(session: Session) -> None:
    """Let the pairs follow the IKE SA."""
    path, before = session.path, session.traffic
    if path != before:
        session.emit(PathChanged(session.peer.name, str(before), str(path)))
        session.carry(path)
        _close_what_cannot_follow(session)


def _close_what_cannot_follow(session: Session) -> None:
    closing = [task for task in session.tasks() if isinstance(task, ChildDelete)]
    for child in [c for c in session.children.values() if c.live]:
        failure = no_ah(session.nat, child.protocol) or cannot_follow(child.pair, session.traffic)
        if failure is not None and not any(task.is_of(child) for task in closing):
            session.enqueue(ChildDelete.of(session, child, failure))


def inherit(new: Session, old: Session) -> bool:
    """Carry path and mobility over to the successor; return whether its end of the line has an update to repeat."""
    mobility = old.mobility
    if mobility is None:
        return False
    new.path, new.nat, new.traffic, new.mobility = old.path, old.nat, old.traffic, mobility
    mobility.newest, mobility.mapping = -1, b""    # Message IDs begin anew, and the hash has other SPIs in it
    return mobility.decides and new.path != new.traffic


def _toward(path: Path, present: Path) -> Path:
    """Return a found path with the ports of use: those that the peer's NAT gave it, toward the address in use."""
    local = Endpoint(path.local.address, present.local.port)
    return Path(local, present.remote if path.remote.address == present.remote.address else path.remote)
