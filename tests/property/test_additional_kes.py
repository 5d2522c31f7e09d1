"""Offers with the transform types of RFC 9370, on the wire and as both ends read them, against a plain search."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecd.errors import PeerError
from ipsecd.ike.consts import KeId, ProtocolId, TransformType
from ipsecd.ike.negotiate import accept_ike, choose_ike, offer_ike
from ipsecd.ike.wire.message import build_payloads, parse_payloads
from ipsecd.ike.wire.sa_payload import SaPayload, WireProposal, WireTransform
from ipsecd.suites import ADDITIONAL_KES, Proposal, Transform, parse_proposal
from tests.support.wire_strategies import u16

X25519 = KeId.CURVE25519
BASE = parse_proposal("aes256gcm16-prfsha384-x25519", protocol=ProtocolId.IKE)
methods = st.sampled_from([KeId.NONE, X25519, KeId.ECP_256, KeId.ML_KEM_768, KeId.ML_KEM_1024])
chains = st.dictionaries(st.sampled_from(ADDITIONAL_KES[:4]), st.lists(methods, min_size=1, max_size=3, unique=True),
                         max_size=3)
proposals = chains.map(lambda chain: Proposal(BASE.protocol, (
    *BASE.transforms, *(Transform(type_, method) for type_, found in chain.items() for method in found))))


@given(st.lists(st.builds(WireTransform, st.integers(6, 12), u16 | st.integers(0, 40)), max_size=60))
def test_offer_with_any_additional_key_exchanges_survives_build_and_parse(transforms: list[WireTransform]) -> None:
    sa = SaPayload((WireProposal(1, ProtocolId.IKE, b"", tuple(transforms)),))
    assert parse_payloads(*build_payloads((sa,))) == (sa,)


@given(proposals, proposals)
@settings(max_examples=300)
def test_choice_is_one_that_both_ends_take_and_is_found_where_there_is_one(ours: Proposal, theirs: Proposal) -> None:
    offer, possible = offer_ike((theirs,)), common(ours, theirs)
    try:
        chosen = choose_ike((ours,), offer, ke_sent=X25519)
    except PeerError:
        assert not possible
        return
    assert tuple(t for t in chosen.suite.additional) in possible
    answer, = parse_payloads(*build_payloads((chosen.answer(b""),)))
    assert isinstance(answer, SaPayload)
    assert accept_ike(offer, answer, ke=X25519).suite == chosen.suite


def common(ours: Proposal, theirs: Proposal) -> set[tuple[Transform, ...]]:
    """Return every choice without a method twice; a type that is absent means NONE (RFC 9370 2.2.1)."""
    found = set()
    for picked in product(*(allowed(ours, type_) & allowed(theirs, type_) for type_ in ADDITIONAL_KES)):
        done = tuple(Transform(type_, method) for type_, method in zip(ADDITIONAL_KES, picked, strict=True) if method)
        if len({X25519, *(t.id for t in done)}) == 1 + len(done):
            found.add(done)
    return found


def allowed(proposal: Proposal, type_: TransformType) -> set[int]:
    return {t.id for t in proposal.of_type(type_)} or {KeId.NONE}
