"""Whether a proposal of ours and one of the peer's meet, type by type (RFC 7296 3.3, RFC 9370 2.2.1).

Additional key exchanges are of types of their own.  Absence means NONE, as for KE, and no method is taken twice.
"""

from __future__ import annotations

from ipsecd.ike.consts import EsnId, IntegId, KeId, ProtocolId, TransformType
from ipsecd.ike.wire.sa_payload import WireProposal
from ipsecd.suites import ADDITIONAL_KES, Proposal, Transform, encr_of, is_ke

TYPES = {
    ProtocolId.IKE: (TransformType.ENCR, TransformType.PRF, TransformType.INTEG, TransformType.KE, *ADDITIONAL_KES),
    ProtocolId.AH: (TransformType.INTEG, TransformType.KE, TransformType.ESN, *ADDITIONAL_KES),
    ProtocolId.ESP: (TransformType.ENCR, TransformType.INTEG, TransformType.KE, TransformType.ESN, *ADDITIONAL_KES),
}
NO_INTEG = Transform(TransformType.INTEG, IntegId.NONE)
NO_KE = Transform(TransformType.KE, KeId.NONE)
NO_ESN = Transform(TransformType.ESN, EsnId.NO_ESN)
# RFC 7296 3.3.3: leaving INTEG or a KE out means NONE; a missing ESN is read as "no", the only form without it.
NO_ADDITIONAL = tuple(Transform(type_, KeId.NONE) for type_ in ADDITIONAL_KES)
_MEANT_BY_ABSENCE = (NO_INTEG, NO_KE, NO_ESN, *NO_ADDITIONAL)

ByType = dict[int, dict[Transform, None]]      # transforms of one proposal: type -> transforms in order


def match(protocol: int, mine: ByType, theirs: ByType, ke_sent: int) -> tuple[Transform, ...] | None:
    """Return one transform of each type, or None; the cipher decides whether INTEG must be there or must not.

    AH has no cipher and always INTEG (RFC 7296 3.3.3).
    """
    additional = tuple(t for t in ADDITIONAL_KES if t in mine or t in theirs)     # where both leave it out: NONE
    for aead in dict.fromkeys(is_aead(t) for t in mine.get(TransformType.ENCR, {})) or (False,):
        picked: list[Transform] = []
        for type_ in TYPES[ProtocolId(protocol)]:
            if type_ in ADDITIONAL_KES:
                continue
            found = pick(type_, mine, theirs, ke_sent=ke_sent, aead=aead)
            if found is None:
                break
            picked += found[:1]
        else:
            chain = _chain(additional, mine, theirs, tuple(t for t in picked if t.type == TransformType.KE))
            if chain is not None:
                return *picked, *chain
    return None


def _chain(types: tuple[int, ...], mine: ByType, theirs: ByType,
           taken: tuple[Transform, ...]) -> tuple[Transform, ...] | None:
    """Return one additional key exchange of each type, no method twice (RFC 9370 2.2.1), or None.

    Without a first key exchange there are no additional ones.
    """
    if not types:
        return ()
    found = pick(types[0], mine, theirs, ke_sent=KeId.NONE, aead=False)
    methods = [t.id for t in taken if t.id != KeId.NONE]
    for option in (None,) if found == () else found or ():
        if option is not None and option.id != KeId.NONE and (option.id in methods or not methods):
            continue
        rest = _chain(types[1:], mine, theirs, taken if option is None else (*taken, option))
        if rest is not None:
            return rest if option is None else (option, *rest)
    return None


def pick(type_: int, mine: ByType, theirs: ByType, *, ke_sent: int, aead: bool) -> tuple[Transform, ...] | None:
    """Return the transforms of one type that may be answered, best first; () where the answer leaves the type out.

    None stands for no match.
    """
    own, offered = mine.get(type_, {}), theirs.get(type_, {})
    match type_:
        case TransformType.ENCR:
            own = {t: None for t in own if is_aead(t) == aead}
        case TransformType.INTEG if aead:
            own = {NO_INTEG: None}
        case TransformType.KE if Transform(TransformType.KE, ke_sent) in own:
            own = {Transform(TransformType.KE, ke_sent): None} | own
        case _ if is_ke(type_) and not own:
            own = {Transform(type_, KeId.NONE): None}
        case _:
            pass
    if type_ not in theirs and any(t in own for t in _MEANT_BY_ABSENCE):
        return ()
    return tuple(t for t in own if t in offered) or None


def own_types(own: Proposal) -> ByType:
    """Return the transforms of a proposal of ours by type."""
    types: ByType = {}
    for transform in own.transforms:
        types.setdefault(transform.type, {})[transform] = None
    return types


def wire_types(wire: WireProposal) -> ByType | None:
    """Return the transforms that can be read, by type; None where a type does not belong to the protocol."""
    if wire.protocol not in TYPES:
        return None
    allowed = TYPES[ProtocolId(wire.protocol)]
    types: ByType = {}
    for item in wire.transforms:
        if item.type not in allowed:
            return None
        # A type of which nothing can be read stays, empty: it was offered, so leaving it out is no match.
        found = types.setdefault(item.type, {})
        transform = item.transform()
        if transform is not None:
            found[transform] = None
    return types


def is_aead(transform: Transform) -> bool:
    """Return whether a transform is a combined-mode cipher."""
    encr = encr_of(transform)
    return encr is not None and encr.aead


def any_aead(types: ByType) -> bool:
    """Return whether a proposal has a combined-mode cipher."""
    return any(is_aead(t) for t in types.get(TransformType.ENCR, {}))
