"""Which IKE SAs and Child SAs exist, whose they are, and which of several with one peer stays.

The table is the `Host` of all sessions.  It touches an IKE SA that somebody else's doing changed; the endpoint then
pokes and drains it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address

from ipsecd.causes import Cause, Failure
from ipsecd.ike.child_sa import lifetime
from ipsecd.ike.collisions import Nonces
from ipsecd.ike.crypto.crash_token import crash_token
from ipsecd.ike.early import EarlyMessages
from ipsecd.ike.handover import CLOSE_S
from ipsecd.ike.ike_sa import IkeSa
from ipsecd.ike.pad import Directory, IdentityKey, find_entry, identity_key, renewed
from ipsecd.ike.remotes import Remotes
from ipsecd.ike.session import IkeCrypto, Session, Timer, TimerKind
from ipsecd.ike.sizing import PathSizes
from ipsecd.ike.states import ChildState, Established, InitAnswered
from ipsecd.ike.tasks.auth_lifetime import TellLifetime
from ipsecd.ike.tasks.ike_auth import address_identity
from ipsecd.ike.tasks.signature_support import certificate_request, hash_payloads
from ipsecd.ike.tickets import Tickets
from ipsecd.policy import ChildPolicy, Identity, PeerPolicy, Policy
from ipsecd.rng import Rng, esp_spi, nonzero_spi64
from ipsecd.sa import ChildKey
from ipsecd.secret import Secret
from ipsecd.selectors import TrafficSelector, overlap

Selectors = tuple[TrafficSelector, ...]
LastInbound = Callable[[int], float | None]
WallClock = Callable[[], float]

MAX_ANNOUNCED = 256             # more exchanges than are open at once but after a restart; a hint costs little then
MAX_REPLACED = 8                # an honest peer deletes each one before it rekeys the next


def epoch() -> float:
    """Return the time of day of a gateway that has no clock: no certificate is valid then."""
    return 0.0


class SaTable:
    """All IKE SAs by our SPI, by handle, and by the inbound SPIs of their children."""

    def __init__(self, policy: Policy, rng: Rng, last_inbound: LastInbound, wall_clock: WallClock,
                 crash_secret: Secret | None = None) -> None:
        self.policy = policy
        self.sas: dict[bytes, IkeSa] = {}
        self.current: dict[int, IkeSa] = {}         # the IKE SA in charge of a handle
        self.by_child: dict[int, IkeSa] = {}
        self.touched: list[IkeSa] = []
        self.early = EarlyMessages()
        self.announced: deque[int] = deque(maxlen=MAX_ANNOUNCED)    # inbound SPIs, offered last; less those in use
        self.tickets = Tickets(rng)
        self.sizes = PathSizes()
        self._rng = rng
        self._last_inbound = last_inbound
        self._wall_clock = wall_clock
        self._crash_secret = crash_secret
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._own: tuple[str, ...] = ()
        self._handles = 0
        self._by_peer: dict[str, dict[bytes, IkeSa]] = {}
        self._half_open: dict[str, dict[bytes, IkeSa]] = {}     # as responder, by the peer's address
        self._by_address: dict[str, list[PeerPolicy]] = {}
        self._anywhere: list[PeerPolicy] = []
        self._at_address: dict[str, Directory] = {}             # as `identify` searches them, made when asked for
        self._from_anywhere = Directory(())
        self._named: frozenset[IdentityKey] = frozenset()
        self._remotes = Remotes()
        self._offers: dict[str, tuple[PeerPolicy, ...]] = {}    # by configured address; "" for all others
        self._probed: dict[ChildKey, tuple[object, ...]] = {}   # configurations of children that were probed for PFS
        self._index_peers()

    # The Host of sessions

    @property
    def rng(self) -> Rng:
        """The source of chance."""
        return self._rng

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """The addresses of this host that IKE may use, sorted."""
        return self._own

    def addresses_of(self, peer: PeerPolicy) -> tuple[str, ...]:
        """Return the addresses of a peer that its entry says, names resolved."""
        literal = tuple(a for a in peer.addresses if _is_literal(a))
        return tuple(dict.fromkeys((*literal, *self._addresses.get(peer.name, ()))))

    def crash_token(self, spi_i: bytes, spi_r: bytes) -> bytes | None:
        """Return our crash token for an IKE SA, None without a secret that outlives a restart."""
        return crash_token(self._crash_secret, spi_i=spi_i, spi_r=spi_r) if self._crash_secret else None

    def device_for(self, interface: str | None) -> str:
        """Return the TUN device of new pairs of a child with this ingress interface."""
        return self.policy.domain.device_for(interface)

    def last_inbound(self, spi_in: int) -> float | None:
        """Return when the engine last took an authenticated packet on a pair."""
        return self._last_inbound(spi_in)

    def wall_now(self) -> float:
        """Return the time of day in Unix seconds."""
        return self._wall_clock()

    def new_esp_spi(self) -> int:
        """Draw an inbound SPI that no pair of this gateway has."""
        while (spi := esp_spi(self._rng)) in self.by_child:
            pass
        self.announced.append(spi)
        return spi

    def new_ike_spi(self) -> bytes:
        """Draw an IKE SPI of ours that no IKE SA of this gateway has."""
        while (spi := nonzero_spi64(self._rng)) in self.sas:
            pass
        return spi

    def offer_ike_spi(self, old: Session) -> bytes:
        """Draw the SPI of a successor that we ask for; what the peer says on it is kept until it stands."""
        spi = self.new_ike_spi()
        self.early.expect(spi, old)
        return spi

    def identify(self, remote: Identity, local: Identity | None, session: Session) -> PeerPolicy | None:
        """Return the first entry for this address that has these identities (ike.pad)."""
        path = session.path
        return find_entry(self._directories(path.remote.address), self._named, remote, local,
                          address=address_identity(path.remote.address),
                          own_address=address_identity(path.local.address), session=session.crypto.own_spi)

    def alone_with(self, session: Session) -> bool:
        """Return whether nothing else is open with this peer: only then INITIAL_CONTACT is true (RFC 7296 2.4)."""
        others = (*self.of_peer(session.peer.name), *self._half_open.get(session.path.remote.address, {}).values())
        return not any(sa.session is not session and not sa.dead for sa in others)

    def kept_out(self, session: Session, remote: Identity, *, alone: bool) -> Failure | None:
        """Return why a proved peer gets no IKE SA all the same: its older one lives, or its entry has too many."""
        peer = session.peer
        if peer.ike.unique == "reject" and not alone:
            others = [sa for sa in self.of_peer(peer.name) if sa.session is not session and sa.session.in_charge
                      and sa.session.established and sa.session.remote_id == remote]
            for other in others:
                other.check_liveness()      # a dead one keeps nobody out for long
                self.touched.append(other)
            if others:
                return Failure(Cause.OCCUPIED, ours=f"an IKE SA with {others[0].session.path.remote}",
                               theirs=str(remote))
        return self._remotes.refuse(peer)

    def first_slot(self, session: Session) -> int:
        """Return the first of the slots that belong to this peer."""
        return self._remotes.first_slot(session.peer)

    def claimant(self, session: Session, ts_local: Selectors, ts_remote: Selectors) -> str:
        """Return another remote of the same entry that has some of this traffic, empty where it is free."""
        for name in self._remotes.others(session.peer):
            pairs = [c.pair for sa in self.of_peer(name) for c in sa.session.children.values() if c.live]
            if any(overlap(p.ts_remote, ts_remote) and overlap(p.ts_local, ts_local) for p in pairs):
                return name
        return ""

    def crowded(self, session: Session) -> bool:
        """Return whether too many replaced IKE SAs of this line wait for their Delete to make another."""
        waiting = [sa for sa in self.of_peer(session.peer.name)
                   if sa.session.handle == session.handle and sa.session is not session]
        return len(waiting) >= MAX_REPLACED

    def successor(self, old: Session, crypto: IkeCrypto, nonces: Nonces, now: float) -> Session:
        """Make the IKE SA that a rekey of `old` agreed: established, without children."""
        new = Session(self, old.peer, crypto, handle=old.handle, path=old.path, nat=old.nat, state=Established(now),
                      now=now)
        new.nonces, new.local_id, new.remote_id = nonces, old.local_id, old.remote_id
        new.authenticated_at, new.reauth_by, new.gateway = old.authenticated_at, old.reauth_by, old.gateway
        new.child_ke, new.opened_at, new.predecessor = old.child_ke, None, old
        sa = IkeSa(new, fragmentation=self.sas[old.crypto.own_spi].fragmentation)
        self.add(sa)
        new.timers.arm(Timer(TimerKind.CLOSE), now + CLOSE_S, "an IKE SA that a collision left redundant")
        sa.start(now)
        return new

    def adopt(self, session: Session) -> None:
        """Take note that this IKE SA speaks for its handle and holds its children."""
        sa = self.sas[session.crypto.own_spi]
        self.current[session.handle] = sa
        self.by_child.update(dict.fromkeys(session.children, sa))
        self.touched.append(sa)

    def heir(self, session: Session) -> Session:
        """Return the IKE SA that speaks for the handle of this one, which rekeys may have replaced."""
        current = self.current.get(session.handle)
        return current.session if current else session

    def release(self, session: Session, failure: Failure) -> None:
        """Close another IKE SA of the same peer, with a Delete; it may be gone already."""
        sa = self.sas.get(session.crypto.own_spi)
        if sa is not None:
            session.released = failure
            self.touched.append(sa)

    # Tables

    def install(self, spi_in: int, sa: IkeSa) -> None:
        """Take note of the IKE SA of a pair that the engine has from here on."""
        self.by_child[spi_in] = sa
        with suppress(ValueError):
            self.announced.remove(spi_in)

    def new_handle(self) -> int:
        """Return a handle that was never used."""
        self._handles += 1
        return self._handles

    def add(self, sa: IkeSa) -> None:
        """Take an IKE SA in."""
        session = sa.session
        self.sas[session.crypto.own_spi] = sa
        if isinstance(session.state, InitAnswered):
            self._half_open.setdefault(session.path.remote.address, {})[session.crypto.own_spi] = sa
        else:
            self.know(sa)
        self.touched.append(sa)

    def know(self, sa: IkeSa) -> None:
        """File an IKE SA under its peer, once that is known."""
        self._by_peer.setdefault(sa.session.peer.name, {})[sa.session.crypto.own_spi] = sa

    def forget_half_open(self, spi: bytes, address: str) -> None:
        """The IKE SA that answered this address is no longer half-open."""
        found = self._half_open.get(address, {})
        found.pop(spi, None)
        if not found:
            self._half_open.pop(address, None)

    def remove(self, sa: IkeSa) -> None:
        """Forget an IKE SA."""
        session = sa.session
        self.sas.pop(session.crypto.own_spi, None)
        known = self._by_peer.get(session.peer.name, {})
        known.pop(session.crypto.own_spi, None)
        if not known:
            self._by_peer.pop(session.peer.name, None)
            self._remotes.forget(session.peer)
        if self.current.get(session.handle) is sa:
            del self.current[session.handle]

    def of_peer(self, name: str) -> tuple[IkeSa, ...]:
        """Return the IKE SAs of a peer entry, oldest first; half-open ones as responder are not among them."""
        return tuple(self._by_peer.get(name, {}).values())

    def may_probe(self, policy: ChildPolicy) -> bool:
        """Return whether this configuration of a child was not asked about before, and remember it."""
        made_of = (policy.proposals, policy.pfs)
        new = self._probed.get(policy.key) != made_of
        self._probed[policy.key] = made_of
        return new

    def same_slot(self, peer: str, key: ChildKey, slot: int, *, but: int) -> Iterator[int]:
        """Return the inbound SPIs of other pairs that could carry a slot's traffic, oldest first, new arrivals last."""
        found = [child for sa in self.of_peer(peer) for child in sa.session.children.values()
                 if child.policy.key == key and child.pair.slot == slot and child.spi_in != but and child.live]
        yield from (child.spi_in for child in found if child.state is not ChildState.ARRIVING)
        yield from (child.spi_in for child in found if child.state is ChildState.ARRIVING)

    # Peer entries

    def set_addresses(self, peer: str, addresses: Iterable[str]) -> None:
        """Remember what a peer's names resolve to."""
        self._addresses[peer] = tuple(addresses)
        self._index_peers()

    def set_own_addresses(self, addresses: frozenset[str]) -> None:
        """Remember the addresses of this host."""
        self._own = tuple(sorted(addresses))

    def candidates(self, address: str) -> tuple[PeerPolicy, ...]:
        """Return the entries that a message from this address may belong to, likeliest first.

        Entries with this address come first, then those without any, then those with names, which may have changed.
        """
        known = self._by_address.get(address, [])
        return (*known, *(p for p in self._anywhere if p not in known)) if known else tuple(self._anywhere)

    def _directories(self, address: str) -> tuple[Directory, Directory]:
        """Return the candidates of an address, to be searched by identity: its own, then those from anywhere."""
        own = self._at_address.get(address)
        if own is None:
            own = Directory(self._by_address.get(address, ()))
            if address in self._by_address:
                self._at_address[address] = own
        return own, self._from_anywhere

    def offers(self, address: str) -> tuple[PeerPolicy, ...]:
        """Return the candidates of an address that IKE_SA_INIT can tell apart: by their proposals, and by what we say.

        So a stranger's request costs the same with ten thousand entries alike.
        """
        key = address if address in self._by_address else ""
        found = self._offers.get(key)
        if found is None:
            distinct: dict[tuple[object, ...], PeerPolicy] = {}
            for peer in self.candidates(address):
                said = (peer.ppk is None, hash_payloads((peer,)), certificate_request((peer,)), peer.encapsulation,
                        peer.tells_nat)
                distinct.setdefault((peer.ike.proposals, *said), peer)
            found = self._offers[key] = tuple(distinct.values())
        return found

    def is_configured(self, address: str) -> bool:
        """Return whether an address is one of a peer entry."""
        return address in self._by_address

    def replace_policy(self, policy: Policy, now: float) -> None:
        """New entries count for new exchanges; timers are computed again from the age of each SA."""
        self.tickets.replace_policy(self.policy, policy)
        self.policy = policy
        self._index_peers()
        for sa in self.sas.values():
            session = sa.session
            entry = policy.peer(session.peer.entry or session.peer.name)
            peer = renewed(session.peer, entry) if session.peer.entry else entry
            if peer is None or peer == session.peer:
                continue
            told_s, session.peer = session.peer.ike.reauth_s, peer
            self.touched.append(sa)
            if session.in_charge and session.life is not None:
                session.rearm(now)
                if peer.ike.reauth_s != told_s:
                    session.enqueue(TellLifetime(session))
            for child in session.children.values():
                wanted = peer.child(child.policy.key.child)
                if wanted is not None and wanted != child.policy and child.state is ChildState.UP:
                    # What was negotiated stays as it was: a successor under the new entry is another child.
                    child.policy = replace(child.policy, start=wanted.start, lifetime_s=wanted.lifetime_s,
                                           volume=wanted.volume)
                    child.life = lifetime(self._rng, since=child.since, soft_s=wanted.lifetime_s)
                    session.arm_lifetime(child, now)

    def _index_peers(self) -> None:
        enabled = [p for p in self.policy.peers if p.enabled]
        self._offers.clear()
        self._named = frozenset(identity_key(i) for p in self.policy.peers if not p.pattern
                                for i in ([p.remote_identity] if p.remote_identity else _address_identities(p)))
        self._by_address = {}
        for peer in enabled:
            for address in dict.fromkeys((*peer.addresses, *self._addresses.get(peer.name, ()))):
                self._by_address.setdefault(address, []).append(peer)
        self._anywhere = [p for p in enabled if not p.addresses]
        self._anywhere += [p for p in enabled if any(not _is_literal(a) for a in p.addresses)]
        self._at_address, self._from_anywhere = {}, Directory(self._anywhere)


def _address_identities(peer: PeerPolicy) -> list[Identity]:
    return [address_identity(a) for a in peer.addresses if _is_literal(a)]


def _is_literal(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
