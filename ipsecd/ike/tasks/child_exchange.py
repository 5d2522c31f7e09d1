"""The steps that IKE_AUTH and CREATE_CHILD_SA share when they make a Child SA (RFC 7296 1.2, 1.3.1, 2.9, 2.17)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from ipsecd.errors import AhBehindNat, PeerError
from ipsecd.events import Warned
from ipsecd.ike import negotiate, transport
from ipsecd.ike.child_sa import Agreed, ChildSa, build_pair, lifetime
from ipsecd.ike.collisions import Nonces
from ipsecd.ike.consts import KeId, NotifyType, PayloadType, ProtocolId
from ipsecd.ike.crypto.keymat import child_keys
from ipsecd.ike.narrow import is_within, narrow, narrow_pair
from ipsecd.ike.nat import no_ah
from ipsecd.ike.session import MAX_CHILDREN, Session
from ipsecd.ike.states import ChildState
from ipsecd.ike.tasks.pick import expect, need, selectors
from ipsecd.ike.transport import USE_TRANSPORT_MODE, Seen
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.ike.wire.sa_payload import SaPayload
from ipsecd.ike.wire.ts_payload import TsPayload
from ipsecd.policy import ChildPolicy, Mode, TsStyle
from ipsecd.reports import ChildRequest
from ipsecd.sa import NO_TFC, TransportEnds
from ipsecd.secret import Secret
from ipsecd.selectors import TrafficSelector

Selectors = tuple[TrafficSelector, ...]


@dataclass(frozen=True, slots=True)
class ChildOffer:
    """What we ask for: `ke` is the group of our KE payload, KeId.NONE without one; `ends` are set in transport mode."""

    request: ChildRequest
    policy: ChildPolicy
    spi: int
    sa: SaPayload
    ke: int
    ends: TransportEnds | None

    def payloads(self) -> tuple[Payload, ...]:
        """Return [N(USE_TRANSPORT_MODE)], SA, TSi, TSr."""
        mode = () if self.ends is None else (USE_TRANSPORT_MODE,)
        return (*mode, self.sa, TsPayload(PayloadType.TSI, self.request.ts_local),
                TsPayload(PayloadType.TSR, self.request.ts_remote))

    def shown(self, notify: int) -> str:
        """Name what we asked for, in that respect in which the peer's notify refuses it."""
        if notify in (NotifyType.TS_UNACCEPTABLE, NotifyType.SINGLE_PAIR_REQUIRED):
            return show(self.request.ts_local, self.request.ts_remote)
        return ", ".join(map(str, self.policy.proposals))


def offer_child(session: Session, request: ChildRequest, policy: ChildPolicy, *, ke: int,
                ends: TransportEnds | None = None) -> ChildOffer:
    """Return an offer with a fresh SPI."""
    spi = session.host.new_esp_spi()
    sa = negotiate.offer_esp(policy.proposals, spi=spi.to_bytes(4, "big"), with_ke=ke != KeId.NONE, pfs=policy.pfs,
                             esn=policy.esn)
    return ChildOffer(request, policy, spi, sa, ke, ends)


def transport_ends(session: Session, policy: ChildPolicy) -> TransportEnds | None:
    """Return the two hosts of a child in transport mode, as a new pair has them; None for a tunnel."""
    return transport.ends_of(session.path) if policy.mode is Mode.TRANSPORT else None


def accept_child(session: Session, offer: ChildOffer, payloads: tuple[Payload, ...]) -> Agreed:
    """Return what the responder chose; raise PeerError where it is not within our offer (RFC 7296 2.7, 2.9)."""
    chosen = negotiate.accept_esp(offer.sa, expect(payloads, SaPayload), ke=offer.ke)
    ts_local, ts_remote = selectors(payloads, PayloadType.TSI), selectors(payloads, PayloadType.TSR)
    ends = offer.ends
    if transport.is_wanted(payloads) and ends is None:
        raise transport.mismatch("peer answers in transport mode, which we did not ask for", ours=Mode.TUNNEL)
    if ends is not None:
        # RFC 7296 1.3.1: it is a tunnel unless the responder agrees, and where that is not wanted the Child SA goes.
        if not transport.is_wanted(payloads):
            raise transport.mismatch("peer takes it as a tunnel only", ours=Mode.TRANSPORT)
        found = transport.seen(ts_local, ts_remote, ends, nat=session.nat.between)
        if found is not None:
            ts_local, ts_remote, ends = found
    if not (is_within(ts_local, offer.request.ts_local) and is_within(ts_remote, offer.request.ts_remote)):
        raise PeerError(NotifyType.TS_UNACCEPTABLE, "peer answers with selectors outside our offer: "
                        f"{show(ts_local, ts_remote)}")
    return Agreed(chosen.suite, offer.spi, int.from_bytes(chosen.spi, "big"), ts_local, ts_remote, ends,
                  padding=takes_padding(payloads))


@dataclass(frozen=True, slots=True)
class ChildChoice:
    """What we answer as responder: one child entry, its narrowed selectors and one suite."""

    policy: ChildPolicy
    slot: int
    agreed: Agreed
    sa: SaPayload
    more_selectors: bool

    def payloads(self) -> tuple[Payload, ...]:
        """Return SA, TSi, TSr, behind notifies of the mode and of one pair being taken at a time (RFC 7296 2.9)."""
        mode = () if self.agreed.transport is None else (USE_TRANSPORT_MODE,)
        more = (NotifyPayload(NotifyType.ADDITIONAL_TS_POSSIBLE),) if self.more_selectors else ()
        return (*mode, *more, self.sa, TsPayload(PayloadType.TSI, self.agreed.ts_remote),
                TsPayload(PayloadType.TSR, self.agreed.ts_local))


def choose_child(session: Session, payloads: tuple[Payload, ...], *, with_ke: bool, ke_sent: int,
                 old: ChildSa | None = None) -> ChildChoice:
    """Return our answer to a request for a Child SA, or for the successor of `old`; raise PeerError."""
    _check_room(session)
    asked_remote, asked_local = selectors(payloads, PayloadType.TSI), selectors(payloads, PayloadType.TSR)
    ends: TransportEnds | None = None
    found = _in_transport(session, payloads, asked_local, asked_remote, old)
    if found is not None:
        asked_local, asked_remote, ends = found
    if old is None:
        mode = Mode.TUNNEL if found is None else Mode.TRANSPORT
        policy, ts_local, ts_remote, more = _match(session, asked_local, asked_remote, mode)
        claimant = session.host.claimant(session, ts_local, ts_remote)
        if claimant:
            raise _unacceptable(asked_local, asked_remote, f"{claimant} has {show(ts_local, ts_remote)}, or a part")
        slot = _slot(session, policy, ts_local, ts_remote)
    else:
        policy, slot, more = present_policy(session, old), old.pair.slot, False
        ts_local, ts_remote = narrow(asked_local, old.pair.ts_local), narrow(asked_remote, old.pair.ts_remote)
        # RFC 7296 2.9.2: a rekey asks for at least what there is; less would drop traffic that flows.
        if not (is_within(old.pair.ts_local, ts_local) and is_within(old.pair.ts_remote, ts_remote)):
            raise _unacceptable(asked_local, asked_remote, f"the Child SA has {show(*_ts(old))}")
    refusal = no_ah(session.nat, policy.protocol)
    if refusal is not None:
        raise AhBehindNat(NotifyType.NO_PROPOSAL_CHOSEN, refusal.detail)
    chosen = negotiate.choose_esp(policy.proposals, need(payloads, SaPayload), with_ke=with_ke, ke_sent=ke_sent,
                                  pfs=policy.pfs, esn=policy.esn)
    wanted = negotiate.wanted_ke(chosen.suite, ke_sent)
    if with_ke and wanted is not None:
        raise PeerError(NotifyType.INVALID_KE_PAYLOAD, "peer sent a value for another group",
                        wanted.to_bytes(2, "big"))
    spi = session.host.new_esp_spi()
    agreed = Agreed(chosen.suite, spi, int.from_bytes(chosen.spi, "big"), ts_local, ts_remote, ends,
                    padding=takes_padding(payloads))
    return ChildChoice(policy, slot, agreed, chosen.answer(spi.to_bytes(4, "big")), more)


def check_still(session: Session, choice: ChildChoice, *, rekeyed: bool) -> None:
    """Raise PeerError where key exchanges took so long that what was agreed is no longer to be had."""
    _check_room(session)
    if rekeyed:
        return
    key, agreed = choice.policy.key, choice.agreed
    if session.peer.child(key.child) != choice.policy:
        raise PeerError(NotifyType.TEMPORARY_FAILURE, f"{key} was changed by a reload meanwhile")
    claimant = session.host.claimant(session, agreed.ts_local, agreed.ts_remote)
    if claimant:
        raise _unacceptable(agreed.ts_local, agreed.ts_remote, f"{claimant} took it, or a part, meanwhile")


def _check_room(session: Session) -> None:
    if len(session.children) >= MAX_CHILDREN:
        raise PeerError(NotifyType.NO_ADDITIONAL_SAS, f"peer has {MAX_CHILDREN} Child SAs")


def make_child(session: Session, agreed: Agreed, policy: ChildPolicy, *, slot: int, nonces: Nonces,
               shared: Secret | None, initiator: bool, now: float, additional: tuple[Secret, ...] = (),
               state: ChildState = ChildState.UP) -> ChildSa:
    """Return the Child SA with its keys; the caller installs it (RFC 7296 2.17, RFC 9370 2.2.4)."""
    crypto = session.crypto
    keys = child_keys(crypto.suite.prf, crypto.keys.sk_d, agreed.suite, ni=nonces.ni, nr=nonces.nr, shared=shared,
                      additional=additional)
    ah = agreed.suite.protocol == ProtocolId.AH
    pair = build_pair(agreed, policy, slot=slot, keys=keys, initiator=initiator,
                      path=session.traffic.without_udp() if ah else session.way,
                      follow=_follows(session) and not ah, device=session.host.device_for(policy.interface))
    if policy.tfc != NO_TFC and not agreed.padding:
        session.emit(Warned("tfc_refused", f"{policy.key}: the peer takes no padding, so packets go as they are"))
    life = lifetime(session.host.rng, since=now, soft_s=policy.lifetime_s)
    return ChildSa(pair, policy, nonces, now, life, state)


def present_policy(session: Session, old: ChildSa) -> ChildPolicy:
    """Return by what policy a pair is rekeyed: its child's of today, unless that is of the other protocol."""
    today = session.peer.child(old.policy.key.child)
    return today if today is not None and today.protocol == old.protocol else old.policy


def _follows(session: Session) -> bool:
    """Return whether the engine may follow authenticated traffic to another address (RFC 7296 2.23).

    With MOBIKE the peer says itself where it is, but for a NAT's doing, which it cannot see (RFC 4555 3.8).
    """
    return not session.nat.local and (session.mobility is None or session.nat.remote)


def takes_padding(payloads: tuple[Payload, ...]) -> bool:
    """Return whether the peer takes TFC padding on the pair: it says where it does not (RFC 7296 3.10.1)."""
    return find(payloads, NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED) is None


def show(ts_local: Selectors, ts_remote: Selectors) -> str:
    """Name selectors for a person: local === remote."""
    return f"{', '.join(map(str, ts_local)) or 'none'} === {', '.join(map(str, ts_remote)) or 'none'}"


def _in_transport(session: Session, payloads: tuple[Payload, ...], asked_local: Selectors, asked_remote: Selectors,
                  old: ChildSa | None) -> Seen | None:
    """Return what a request is in transport mode, None for a tunnel; raise PeerError where the other is demanded.

    RFC 7296 2.23.1: a request for transport mode that no such entry fits is one for a tunnel.
    """
    between = None if old is None else old.pair.transport
    if not transport.is_wanted(payloads) or (old is not None and between is None):
        if between is not None:
            raise transport.mismatch("peer asks for a tunnel in place of it", ours=Mode.TRANSPORT)
        return None
    found = transport.seen(asked_local, asked_remote, between or transport.ends_of(session.path),
                           nat=session.nat.between)
    if old is not None:
        if found is None:
            raise _unacceptable(asked_local, asked_remote, f"the Child SA has {show(*_ts(old))}")
        return found
    fits = found is not None and any(
        child.mode is Mode.TRANSPORT and narrow(found.ts_local, child.local) and narrow(found.ts_remote, child.remote)
        for child in session.peer.children)
    return found if fits else None


def _match(session: Session, asked_local: Selectors, asked_remote: Selectors, mode: Mode,
           ) -> tuple[ChildPolicy, Selectors, Selectors, bool]:
    """Return the child entry of a mode that fits the request best, and the selectors to answer with.

    Best is an entry that holds all that is asked for, then one that lies within it and has no pair yet, then the first
    in the order of the configuration.  Of those that differ in nothing but the ingress interface, which no peer can
    name, one without a pair goes first.
    """
    found: list[tuple[tuple[bool, bool, int], ChildPolicy, Selectors, Selectors]] = []
    fitting = [(at, child, ts_local, ts_remote) for at, child in enumerate(session.peer.children)
               if child.mode is mode and (ts_remote := narrow(asked_remote, child.remote))
               and (ts_local := narrow(asked_local, child.local))]
    for at, child, ts_local, ts_remote in fitting:
        whole = is_within(asked_local, child.local) and is_within(asked_remote, child.remote)
        twin = any(c.interface != child.interface and (c.local, c.remote) == (child.local, child.remote)
                   for _, c, _, _ in fitting)
        up = (twin or not whole) and any(c.live and c.policy.key == child.key for c in session.children.values())
        found.append(((not whole, up, at), child, ts_local, ts_remote))
    if not found:
        if mode is Mode.TUNNEL and any(child.mode is Mode.TRANSPORT and narrow(asked_local, child.local)
                                       and narrow(asked_remote, child.remote) for child in session.peer.children):
            raise transport.mismatch("peer asks for a tunnel", ours=Mode.TRANSPORT)
        ours = "; ".join(f"{c.key.child} has {show(c.local, c.remote)}" for c in session.peer.children[:8])
        raise _unacceptable(asked_local, asked_remote, ours or "there is no child entry")
    _, policy, ts_local, ts_remote = min(found, key=lambda item: item[0])
    if policy.ts_style is TsStyle.PER_PAIR and len(ts_local) * len(ts_remote) > 1:
        pair = narrow_pair(asked_local, asked_remote, local=policy.local, remote=policy.remote)
        if pair is None:
            raise _unacceptable(asked_local, asked_remote, show(policy.local, policy.remote))
        return policy, (pair.local,), (pair.remote,), True
    return policy, ts_local, ts_remote, False


def _slot(session: Session, policy: ChildPolicy, ts_local: Selectors, ts_remote: Selectors) -> int:
    """Return the slot of a pair that the peer asks for: stable for equal selectors, so that a duplicate replaces.

    All selectors of the child have slot 0; one pair of several has its number in their product, as our own requests do.
    """
    taken: dict[int, tuple[Selectors, Selectors]] = {}
    for child in session.children.values():
        if child.live and child.policy.key == policy.key:
            if _ts(child) == (ts_local, ts_remote):
                return child.pair.slot
            taken[child.pair.slot] = _ts(child)
    products = [(a, b) for a in policy.local for b in policy.remote if a.version == b.version]
    inside = [at for at, (a, b) in enumerate(products) if is_within(ts_local, (a,)) and is_within(ts_remote, (b,))]
    lowest = session.host.first_slot(session)
    preferred = lowest + (inside[0] if inside else 0)
    if preferred not in taken:
        return preferred
    return next(number for number in count(lowest + len(products)) if number not in taken)


def _ts(child: ChildSa) -> tuple[Selectors, Selectors]:
    return child.pair.ts_local, child.pair.ts_remote


def _unacceptable(asked_local: Selectors, asked_remote: Selectors, ours: str) -> PeerError:
    asked = show(asked_local, asked_remote)
    return PeerError(NotifyType.TS_UNACCEPTABLE, f"peer asks for {asked}; {ours}", ours=ours, theirs=asked)
