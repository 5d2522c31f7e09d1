"""Choosing algorithms (RFC 7296 2.7, 3.3): what we offer, what we take from an offer, what we accept as an answer.

Our own order decides: the first of our proposals that any of the peer's satisfies, and inside each transform type our
first transform that the peer has too.  The one exception saves a round trip: a key exchange group that the peer already
sent a value for is taken if we allow it.  What we do not understand is never chosen: an unknown transform is passed
over, an unknown transform *type* makes its proposal unusable (RFC 7296 3.3.6).  SPIs were checked by `wire.rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from ipsecd.errors import HybridDemanded, LocalError, PeerError
from ipsecd.ike.consts import EsnId, KeId, NotifyType, ProtocolId, TransformType, enum_name
from ipsecd.ike.proposal_match import (
    NO_ADDITIONAL,
    NO_ESN,
    NO_INTEG,
    NO_KE,
    TYPES,
    any_aead,
    match,
    own_types,
    pick,
    wire_types,
)
from ipsecd.ike.wire.sa_payload import MAX_PROPOSALS, SaPayload, WireProposal, WireTransform
from ipsecd.policy import EsnPolicy, Pfs
from ipsecd.suites import (
    ADDITIONAL_KES,
    AhSuite,
    ChildSuite,
    EspSuite,
    IkeSuite,
    Integ,
    Prf,
    Proposal,
    Transform,
    encr_of,
    integ_of,
    is_ke,
    prf_of,
    transform_name,
)

MAX_NAMED = 12                  # transforms named in an explanation; a log line stays readable
MAX_EXPLAINED = 16              # proposals of a peer that an explanation looks at
_NONE_ANSWERS = tuple((t,) for t in (NO_INTEG, NO_KE, *NO_ADDITIONAL))

_Suite = TypeVar("_Suite", IkeSuite, ChildSuite)


@dataclass(frozen=True, slots=True)
class Chosen(Generic[_Suite]):
    """The outcome of a negotiation: the proposal's number and the peer's SPI in it, the suite, and its transforms."""

    number: int
    spi: bytes
    suite: _Suite
    transforms: tuple[Transform, ...]

    def answer(self, spi: bytes) -> SaPayload:
        """Return the SA payload of the response, with our own SPI (RFC 7296 2.7: one proposal, its number kept)."""
        transforms = tuple(map(WireTransform.of, self.transforms))
        return SaPayload((WireProposal(self.number, self.suite.protocol, spi, transforms),))


# What we ask for


def offer_ike(proposals: tuple[Proposal, ...], *, spi: bytes = b"") -> SaPayload:
    """Return the SA payload that offers an IKE SA; `spi` is empty in IKE_SA_INIT, 8 bytes in a rekey."""
    return _payload(proposals, spi)


def offer_esp(proposals: tuple[Proposal, ...], *, spi: bytes, with_ke: bool, pfs: Pfs, esn: EsnPolicy) -> SaPayload:
    """Return the SA payload that offers a Child SA; `spi` is the one we receive with.

    Without `with_ke` (IKE_AUTH, RFC 7296 1.2) no KE is offered.  With Pfs.OFFER the proposals follow a second time
    without KE, which more peers understand than the transform KE = NONE.
    """
    return _payload(esp_proposals(proposals, with_ke=with_ke, pfs=pfs, esn=esn), spi)


def esp_proposals(proposals: tuple[Proposal, ...], *, with_ke: bool, pfs: Pfs, esn: EsnPolicy) -> tuple[Proposal, ...]:
    """Return the proposals as policy allows them in this exchange, best first."""
    allowed = tuple(_with_esn(proposal, esn) for proposal in proposals)
    plain = tuple(dict.fromkeys(proposal.without_ke() for proposal in allowed))
    if not with_ke or pfs == Pfs.OFF:
        return plain
    keyed = tuple(proposal for proposal in allowed if proposal.of_type(TransformType.KE))
    return keyed if pfs == Pfs.REQUIRED else keyed + plain


def keep_prf(proposals: tuple[Proposal, ...], prf: Prf) -> tuple[Proposal, ...]:
    """Return IKE proposals with this PRF and no other, for a rekey (see `keymat.rekeyed_ike_keys`)."""
    kept = tuple(replace(proposal, transforms=tuple(t for t in proposal.transforms
                                                    if t.type != TransformType.PRF or t == prf.transform))
                 for proposal in proposals)
    return tuple(proposal for proposal in kept if proposal.of_type(TransformType.PRF))


def classical(proposals: tuple[Proposal, ...]) -> tuple[Proposal, ...]:
    """Return what is left of them toward a peer without IKE_INTERMEDIATE (RFC 9370 2.2.1)."""
    return _stripped(tuple(p for p in proposals if not any(map(p.needs, ADDITIONAL_KES))))


def permits(proposal: Proposal, suite: IkeSuite) -> bool:
    """Return whether a proposal has every algorithm of a suite, and demands no more."""
    wanted = [suite.encr.transform, suite.prf.transform, Transform(TransformType.KE, suite.ke), *suite.additional]
    if suite.integ is not None:
        wanted.append(suite.integ.transform)
    done = {t.type for t in suite.additional}
    return set(wanted) <= set(proposal.transforms) and not any(
        proposal.needs(type_) for type_ in ADDITIONAL_KES if type_ not in done)


def first_ke(proposals: tuple[Proposal, ...]) -> int:
    """Return the group to send a KE payload for: our first, KeId.NONE where the proposals have none."""
    return next((t.id for proposal in proposals for t in proposal.of_type(TransformType.KE)), KeId.NONE)


def ke_to_retry(proposals: tuple[Proposal, ...], data: bytes, *, used: int) -> int | None:
    """Return the group that INVALID_KE_PAYLOAD with `data` asks for, None where the notify is to be ignored.

    RFC 7296 1.2: only a group that we offered, and not the one we just used; the data is two octets.
    """
    wanted = int.from_bytes(data, "big")
    offered = any(t.id == wanted for proposal in proposals for t in proposal.of_type(TransformType.KE))
    return wanted if len(data) == 2 and offered and wanted not in (used, KeId.NONE) else None


# What we choose as responder


def choose_ike(ours: tuple[Proposal, ...], offered: SaPayload, *, ke_sent: int,
               intermediate: bool = True) -> Chosen[IkeSuite]:
    """Return what we take from the offer of an IKE SA; the caller asks `wanted_ke` next.

    Without `intermediate` the peer cannot do additional key exchanges before IKE_AUTH.  Raises
    PeerError(NO_PROPOSAL_CHOSEN) with the nearest miss as its detail, as HybridDemanded where such exchanges are all
    that is missing.
    """
    try:
        wire, picked = _choose(ours if intermediate else classical(ours), offered, ke_sent)
    except PeerError as error:
        if _would_match(_stripped(ours), offered, ke_sent):
            why = error.detail if intermediate else "peer does not support IKE_INTERMEDIATE"
            raise HybridDemanded(NotifyType.NO_PROPOSAL_CHOSEN, why) from None
        raise
    return Chosen(wire.number, wire.spi, _ike_suite(picked), picked)


def choose_esp(ours: tuple[Proposal, ...], offered: SaPayload, *, with_ke: bool, ke_sent: int, pfs: Pfs,
               esn: EsnPolicy) -> Chosen[ChildSuite]:
    """Return what we take from the offer of a Child SA; `ke_sent` is KeId.NONE where the request has no KE payload.

    In IKE_AUTH (`with_ke` false) groups in the offer are passed over.  Raises as `choose_ike` does.
    """
    allowed = esp_proposals(ours, with_ke=with_ke, pfs=pfs, esn=esn)
    if ke_sent == KeId.NONE:
        # No KE payload came: a suite without KE spares the peer INVALID_KE_PAYLOAD, where both sides allow one.
        allowed = tuple(sorted(allowed, key=lambda proposal: bool(proposal.of_type(TransformType.KE))))
    wire, picked = _choose(allowed, offered if with_ke else _without_ke(offered), ke_sent)
    return Chosen(wire.number, wire.spi, _child_suite(picked, wire.protocol), picked)


def wanted_ke(suite: IkeSuite | ChildSuite, ke_sent: int) -> int | None:
    """Return the group to ask for by INVALID_KE_PAYLOAD, None where the KE payload fits (RFC 7296 1.2, 1.3)."""
    return None if suite.ke in (ke_sent, KeId.NONE) else suite.ke


# What we accept as initiator


def accept_ike(offered: SaPayload, answered: SaPayload, *, ke: int) -> Chosen[IkeSuite]:
    """Return the suite that the responder took from our offer; `ke` is the group of our KE payload.

    Raises PeerError(NO_PROPOSAL_CHOSEN) for anything that we did not offer (RFC 7296 2.7, 3.3.6).
    """
    wire, picked = _accept(offered, answered)
    suite = _ike_suite(picked)
    if suite.ke != ke:
        raise _refused(f"peer answers with KE {_names((Transform(TransformType.KE, suite.ke),))}, not with the group "
                       "of our KE payload")
    return Chosen(wire.number, wire.spi, suite, picked)


def accept_esp(offered: SaPayload, answered: SaPayload, *, ke: int) -> Chosen[ChildSuite]:
    """Return the suite of a Child SA that the responder took from our offer; `ke` is KeId.NONE without KE payload.

    A suite without KE may answer an offer with it, where we offered that.  Raises as `accept_ike` does.
    """
    wire, picked = _accept(offered, answered)
    suite = _child_suite(picked, wire.protocol)
    if suite.ke not in (ke, KeId.NONE):
        raise _refused(f"peer answers with KE {_names((Transform(TransformType.KE, suite.ke),))}, not with the group "
                       "of our KE payload")
    return Chosen(wire.number, wire.spi, suite, picked)


# Why there was no match


def nearest_miss(ours: tuple[Proposal, ...], offered: SaPayload) -> str:
    """Name what keeps the closest pair of proposals apart: "peer offers KE modp2048 only; we ask for x25519".

    Looks at MAX_EXPLAINED proposals of each side and never raises.
    """
    if not ours:
        return "our policy leaves no proposal for this exchange"
    gaps = [_gap(own, wire) for own in ours[:MAX_EXPLAINED] for wire in offered.proposals[:MAX_EXPLAINED]]
    return "; and ".join(min(gaps, key=_by_width).misses) if gaps else "peer offers nothing"


def _shown(offered: SaPayload) -> str:
    known = ([t for item in wire.transforms if (t := item.transform()) is not None]
             for wire in offered.proposals[:MAX_EXPLAINED])
    return "; ".join("-".join(map(transform_name, transforms)) for transforms in known)


class _Gap(NamedTuple):
    """What keeps two proposals apart: how far, in transform types, and why."""

    width: int
    misses: tuple[str, ...]


def _by_width(gap: _Gap) -> int:
    return gap.width


def _gap(own: Proposal, wire: WireProposal) -> _Gap:
    if wire.protocol != own.protocol:
        theirs, mine = enum_name(ProtocolId, wire.protocol), enum_name(ProtocolId, own.protocol)
        return _Gap(len(TransformType), (f"peer offers protocol {theirs}; we ask for {mine}",))
    unknown = next((t.type for t in wire.transforms if t.type not in TYPES[ProtocolId(own.protocol)]), None)
    if unknown is not None:
        kind = enum_name(TransformType, unknown)
        return _Gap(2, (f"peer offers {kind} in proposal {wire.number}, which we do not speak there",))
    asked, offered = own_types(own), wire_types(wire) or {}
    misses = tuple(_miss(type_, asked.get(type_, {}), offered.get(type_, {}))
                   for type_ in TYPES[ProtocolId(own.protocol)]
                   if pick(type_, asked, offered, ke_sent=KeId.NONE, aead=any_aead(asked)) is None)
    return _Gap(len(misses), misses)


def _miss(type_: int, mine: dict[Transform, None], theirs: dict[Transform, None]) -> str:
    kind = enum_name(TransformType, type_)
    asked = f"we ask for {_names(tuple(mine))}" if mine else "we ask for none"
    return f"peer offers {kind} {_names(tuple(theirs))} only; {asked}" if theirs else f"peer offers no {kind}; {asked}"


def _names(transforms: tuple[Transform, ...]) -> str:
    names = ["none" if t in (NO_INTEG, NO_KE) else transform_name(t) for t in transforms[:MAX_NAMED]]
    if len(transforms) > MAX_NAMED:
        names.append(f"{len(transforms) - MAX_NAMED} more")
    return ", ".join(names)


# Matching


def _choose(ours: tuple[Proposal, ...], offered: SaPayload,
            ke_sent: int) -> tuple[WireProposal, tuple[Transform, ...]]:
    readable = [(wire, types) for wire in offered.proposals if (types := wire_types(wire)) is not None]
    for own in ours:
        mine = own_types(own)
        for wire, theirs in readable:
            if wire.protocol != own.protocol:
                continue
            picked = match(own.protocol, mine, theirs, ke_sent)
            if picked is not None:
                return wire, picked
    raise PeerError(NotifyType.NO_PROPOSAL_CHOSEN, nearest_miss(ours, offered), ours=", ".join(map(str, ours)),
                    theirs=_shown(offered))


def _accept(offered: SaPayload, answered: SaPayload) -> tuple[WireProposal, tuple[Transform, ...]]:
    if len(answered.proposals) != 1:
        raise _refused(f"peer answers with {len(answered.proposals)} proposals instead of one")
    wire = answered.proposals[0]
    asked = next((p for p in offered.proposals if (p.number, p.protocol) == (wire.number, wire.protocol)), None)
    if asked is None:
        raise _refused(f"peer answers with proposal {wire.number}, which we did not offer")
    ours, theirs = wire_types(asked), wire_types(wire)
    if ours is None or theirs is None or len(wire.transforms) != sum(map(len, theirs.values())):
        raise _refused("peer answers with a transform that we did not offer")
    for type_, transforms in theirs.items():
        none_for_absent = type_ not in ours and tuple(transforms) in _NONE_ANSWERS
        if len(transforms) != 1:
            raise _refused(f"peer answers with {len(transforms)} transforms of type {enum_name(TransformType, type_)}")
        if not none_for_absent and next(iter(transforms)) not in ours.get(type_, {}):
            raise _refused(_miss(type_, ours.get(type_, {}), transforms))
    for type_, transforms in ours.items():
        if type_ not in theirs and not (type_ in ADDITIONAL_KES and Transform(type_, KeId.NONE) in transforms):
            raise _refused(f"peer answers without {enum_name(TransformType, type_)}, which we offered")
    picked = tuple(t for transforms in theirs.values() for t in transforms)
    methods = [t.id for t in picked if is_ke(t.type) and t.id != KeId.NONE]
    if len(set(methods)) != len(methods):
        raise _refused("peer answers with one key exchange method twice")
    return wire, picked


def _stripped(proposals: tuple[Proposal, ...]) -> tuple[Proposal, ...]:
    return tuple(replace(proposal, transforms=tuple(t for t in proposal.transforms if t.type not in ADDITIONAL_KES))
                 for proposal in proposals)


def _would_match(ours: tuple[Proposal, ...], offered: SaPayload, ke_sent: int) -> bool:
    try:
        _choose(ours, offered, ke_sent)
    except PeerError:
        return False
    return True


def _without_ke(offered: SaPayload) -> SaPayload:
    return SaPayload(tuple(replace(wire, transforms=tuple(t for t in wire.transforms if not is_ke(t.type)))
                           for wire in offered.proposals))


def _with_esn(proposal: Proposal, esn: EsnPolicy) -> Proposal:
    unwanted = {EsnPolicy.AUTO: None, EsnPolicy.YES: EsnId.NO_ESN, EsnPolicy.NO: EsnId.ESN}[esn]
    return replace(proposal, transforms=tuple(t for t in proposal.transforms
                                              if t.type != TransformType.ESN or t.id != unwanted))


def _ike_suite(picked: tuple[Transform, ...]) -> IkeSuite:
    by_type = {t.type: t for t in picked}
    encr, prf = encr_of(by_type[TransformType.ENCR]), prf_of(by_type[TransformType.PRF])
    if encr is None or prf is None:
        raise LocalError("the policy names an algorithm that suites does not hold")
    return IkeSuite(encr, prf, _integ(by_type), by_type.get(TransformType.KE, NO_KE).id, _additional(by_type))


def _child_suite(picked: tuple[Transform, ...], protocol: int) -> ChildSuite:
    by_type = {t.type: t for t in picked}
    esn = by_type.get(TransformType.ESN, NO_ESN).id == EsnId.ESN
    ke, additional, integ = by_type.get(TransformType.KE, NO_KE).id, _additional(by_type), _integ(by_type)
    if protocol == ProtocolId.AH:
        if integ is None:
            raise LocalError("the policy names an algorithm that suites does not hold")
        return AhSuite(integ, esn, ke, additional)
    encr = encr_of(by_type[TransformType.ENCR])
    if encr is None:
        raise LocalError("the policy names an algorithm that suites does not hold")
    return EspSuite(encr, integ, esn, ke, additional)


def _additional(by_type: dict[int, Transform]) -> tuple[Transform, ...]:
    """Return the additional key exchanges in the order in which they are done (RFC 9370 2.2.2)."""
    found = (by_type.get(type_, NO_KE) for type_ in ADDITIONAL_KES)
    return tuple(t for t in found if t.id != KeId.NONE)


def _integ(by_type: dict[int, Transform]) -> Integ | None:
    transform = by_type.get(TransformType.INTEG)
    return integ_of(transform) if transform is not None else None


def _payload(proposals: tuple[Proposal, ...], spi: bytes) -> SaPayload:
    return SaPayload(tuple(WireProposal.of(proposal, number=number, spi=spi)
                           for number, proposal in enumerate(proposals[:MAX_PROPOSALS], 1)))


def _refused(detail: str) -> PeerError:
    return PeerError(NotifyType.NO_PROPOSAL_CHOSEN, detail)
