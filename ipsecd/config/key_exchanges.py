"""Which key exchanges of the written proposals this machine can do, and what `post_quantum: required` leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ipsecd.ike.consts import ProtocolId
from ipsecd.ike.crypto import kex
from ipsecd.suites import (
    ADDITIONAL_KES,
    DEFAULT_IKE_PROPOSALS,
    ML_KEMS,
    Proposal,
    is_ke,
    parse_proposal,
    transform_name,
)

Available = Callable[[int], bool]


def default_ike(available: Available = kex.available) -> list[str]:
    """Return the default proposals that the cryptographic library can do: OpenSSL before 3.5 has no ML-KEM."""
    return [text for text in DEFAULT_IKE_PROPOSALS
            if not missing(parse_proposal(text, protocol=ProtocolId.IKE), available)]


def missing(proposal: Proposal, available: Available = kex.available) -> str:
    """Return the first key exchange that the library cannot do, by its keyword; empty where it can do all."""
    return next((transform_name(t) for t in proposal.transforms if is_ke(t.type) and t.id and not available(t.id)), "")


def demanding(proposal: Proposal) -> Proposal | None:
    """Return the proposal with ML-KEM no longer optional; None where it has none to demand."""
    for type_ in ADDITIONAL_KES:
        kept = [t for t in proposal.of_type(type_) if t.id in ML_KEMS.values()]
        if kept:
            return replace(proposal, transforms=tuple(t for t in proposal.transforms if t.type != type_ or t in kept))
    return None
