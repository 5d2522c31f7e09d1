from __future__ import annotations

import pytest

from ipsecd.errors import LocalError, PeerError
from ipsecd.ike.consts import KeId, NotifyType, ProtocolId, TransformType
from ipsecd.ike.negotiate import (
    accept_esp,
    accept_ike,
    choose_esp,
    choose_ike,
    first_ke,
    ke_to_retry,
    keep_prf,
    nearest_miss,
    offer_esp,
    offer_ike,
    wanted_ke,
)
from ipsecd.ike.wire.sa_payload import Attribute, SaPayload, WireProposal, WireTransform
from ipsecd.policy import EsnPolicy, Pfs
from ipsecd.suites import PRFS, EspSuite, Proposal, Transform, parse_proposal
from tests.support.calls import calls

X25519, ECP256, MODP2048 = KeId.CURVE25519, KeId.ECP_256, KeId.MODP_2048
ENCR, PRF, INTEG, KE, ESN = (TransformType(i) for i in range(1, 6))
SPI, PEER_SPI = b"\xc0\0\0\1", b"\xc0\0\0\2"
T = WireTransform
GCM256 = T(ENCR, 20, (Attribute(14, 256),))
CBC256 = T(ENCR, 12, (Attribute(14, 256),))
PRF384, PRF256, SHA256 = T(PRF, 6), T(PRF, 5), T(INTEG, 12)
IKE = (GCM256, PRF384, T(KE, X25519))


def ike(*texts: str) -> tuple[Proposal, ...]:
    return tuple(parse_proposal(text, protocol=ProtocolId.IKE) for text in texts)


def esp(*texts: str) -> tuple[Proposal, ...]:
    return tuple(parse_proposal(text, protocol=ProtocolId.ESP) for text in texts)


def sa(*proposals: tuple[WireTransform, ...], protocol: int = ProtocolId.IKE, spi: bytes = b"") -> SaPayload:
    return SaPayload(tuple(WireProposal(number, protocol, spi, transforms)
                           for number, transforms in enumerate(proposals, 1)))


OURS = ike("aes256gcm16-prfsha384-x25519-ecp256", "aes256-sha256-x25519")


# The responder of an IKE SA


def test_own_order_decides() -> None:
    # IN-41
    ours = ike("aes256gcm16-prfsha384-x25519", "aes128gcm16-prfsha256-ecp256")
    theirs = offer_ike(ike("aes128gcm16-prfsha256-ecp256", "aes256gcm16-aes128gcm16-prfsha256-prfsha384-x25519"))
    chosen = choose_ike(ours, theirs, ke_sent=X25519)
    assert (chosen.number, str(chosen.suite)) == (2, "aes256gcm16-prfsha384-x25519")
    ours = ike("aes128gcm16-aes256gcm16-prfsha256-prfsha384-x25519")
    assert str(choose_ike(ours, theirs, ke_sent=X25519).suite) == "aes128gcm16-prfsha256-x25519"


def test_acceptable_group_of_the_ke_payload_is_taken_though_not_our_first() -> None:
    # IN-32
    theirs = offer_ike(ike("aes256gcm16-prfsha384-x25519-ecp256"))
    suite = choose_ike(OURS, theirs, ke_sent=ECP256).suite
    assert suite.ke == ECP256
    assert wanted_ke(suite, ECP256) is None


def test_unacceptable_group_of_the_ke_payload_is_answered_with_one_in_common() -> None:
    # IN-33
    theirs = offer_ike(ike("aes256gcm16-prfsha384-modp2048-ecp256"))
    assert wanted_ke(choose_ike(OURS, theirs, ke_sent=MODP2048).suite, MODP2048) == ECP256


@pytest.mark.parametrize("broken", [
    (GCM256, PRF384), (GCM256, PRF384, T(KE, 0)),                                 # no KE, KE = NONE
    (GCM256, T(KE, X25519)), (PRF384, T(KE, X25519)),                             # no PRF, no ENCR
    (CBC256, PRF256, T(KE, X25519)),                                              # CBC without INTEG
    (CBC256, PRF256, T(INTEG, 0), T(KE, X25519)), (*IKE, SHA256),                 # INTEG = NONE, AEAD with INTEG
    (*IKE, T(200, 1)), (*IKE, T(TransformType.ADDKE1, 36)), (*IKE, T(ESN, 0)),    # IN-37
    (),
])
def test_incomplete_or_unreadable_proposal_is_skipped(broken: tuple[WireTransform, ...]) -> None:
    # IN-36
    assert choose_ike(OURS, sa(broken, IKE), ke_sent=X25519).number == 2
    with pytest.raises(PeerError) as caught:
        choose_ike(OURS, sa(broken), ke_sent=X25519)
    assert caught.value.notify == NotifyType.NO_PROPOSAL_CHOSEN


def test_unknown_transform_is_skipped_and_the_next_taken() -> None:
    # IN-37
    offered = sa((T(ENCR, 999), GCM256, T(PRF, 77), PRF384, T(KE, 4000), T(KE, X25519)))
    assert str(choose_ike(OURS, offered, ke_sent=X25519).suite) == "aes256gcm16-prfsha384-x25519"


@pytest.mark.parametrize("attributes", [
    (), (Attribute(14, 0),), (Attribute(14, 64),), (Attribute(14, 129),), (Attribute(14, 65535),),
    (Attribute(14, b"\x01\x00"),), (Attribute(14, 256), Attribute(14, 256)), (Attribute(15, 256),),
])
def test_cipher_with_a_wrong_key_length_is_skipped(attributes: tuple[Attribute, ...]) -> None:
    # IN-38
    assert choose_ike(OURS, sa((T(ENCR, 20, attributes), PRF384, T(KE, X25519)), IKE), ke_sent=X25519).number == 2


def test_chacha_with_a_key_length_is_skipped() -> None:
    # IN-38
    ours = ike("chacha20poly1305-prfsha256-x25519")
    offered = sa((T(ENCR, 28, (Attribute(14, 256),)), PRF256, T(KE, X25519)), (T(ENCR, 28), PRF256, T(KE, X25519)))
    assert choose_ike(ours, offered, ke_sent=X25519).number == 2


def test_proposal_for_another_protocol_is_skipped() -> None:
    ah = WireProposal(1, ProtocolId.AH, b"", (T(INTEG, 12), T(ESN, 0)))
    offered = SaPayload((ah, WireProposal(2, ProtocolId.ESP, b"", IKE), WireProposal(3, ProtocolId.IKE, b"", IKE)))
    assert choose_ike(OURS, offered, ke_sent=X25519).number == 3


def test_algorithm_that_only_the_policy_knows_is_our_fault() -> None:
    unknown = (Proposal(ProtocolId.IKE, (Transform(ENCR, 23, 128), *OURS[1].transforms[1:])),)
    with pytest.raises(LocalError):
        choose_ike(unknown, offer_ike(unknown), ke_sent=X25519)
    unknown = (Proposal(ProtocolId.ESP, (Transform(ENCR, 23, 128), Transform(INTEG, 12), Transform(ESN, 0))),)
    with pytest.raises(LocalError):
        choose_child(unknown, offer_esp(unknown, spi=SPI, with_ke=False, pfs=Pfs.OFF, esn=EsnPolicy.NO))


def test_aead_with_integ_none_is_taken_and_mirrored() -> None:
    chosen = choose_ike(OURS, sa((*IKE, T(INTEG, 0))), ke_sent=X25519)
    assert chosen.suite.integ is None
    assert T(INTEG, 0) in chosen.answer(b"").proposals[0].transforms


def test_answer_repeats_the_number_and_one_transform_of_each_type() -> None:
    chosen = choose_ike(OURS, sa((T(ENCR, 999),), (GCM256, CBC256, PRF384, PRF256, *IKE[2:])), ke_sent=X25519)
    assert chosen.answer(b"") == SaPayload((WireProposal(2, ProtocolId.IKE, b"", IKE),))


# The responder of a Child SA


@pytest.mark.parametrize(("text", "pfs", "with_ke", "ke_sent", "found"), [
    ("aes256gcm16-x25519", Pfs.OFFER, True, X25519, X25519),
    ("aes256gcm16", Pfs.OFFER, True, 0, 0),
    ("aes256gcm16-x25519", Pfs.OFF, True, X25519, None),
    ("aes256gcm16", Pfs.OFF, True, 0, 0),
    ("aes256gcm16", Pfs.REQUIRED, True, 0, None),
    ("aes256gcm16", Pfs.REQUIRED, False, 0, 0),                                   # IKE_AUTH has no KE
    ("aes256gcm16-modp2048", Pfs.OFFER, False, 0, 0),                             # and ignores groups
    ("aes256gcm16-modp2048", Pfs.OFFER, True, MODP2048, None),
])
def test_key_exchange_of_a_child_follows_policy(text: str, pfs: Pfs, *, with_ke: bool, ke_sent: int,
                                                found: int | None) -> None:
    # IN-41
    offered = sa(tuple(map(T.of, esp(text)[0].transforms)), protocol=ProtocolId.ESP, spi=PEER_SPI)
    ours = esp("aes256gcm16-x25519-ecp256")
    if found is None:
        with pytest.raises(PeerError, match="KE"):
            choose_child(ours, offered, pfs=pfs, with_ke=with_ke, ke_sent=ke_sent)
        return
    assert choose_child(ours, offered, pfs=pfs, with_ke=with_ke, ke_sent=ke_sent).ke == found


def test_group_none_is_taken_where_no_ke_payload_came() -> None:
    offered = sa((GCM256, T(KE, X25519), T(KE, 0), T(ESN, 0)), protocol=ProtocolId.ESP, spi=PEER_SPI)
    ours = esp("aes256gcm16-x25519")
    assert choose_child(ours, offered, ke_sent=0).ke == KeId.NONE
    assert choose_child(ours, offered, ke_sent=X25519).ke == X25519
    suite = choose_child(ours, offered, ke_sent=0, pfs=Pfs.REQUIRED)
    assert wanted_ke(suite, 0) == X25519


@pytest.mark.parametrize(("offered", "policy", "found"), [
    ((1, 0), EsnPolicy.AUTO, True), ((0, 1), EsnPolicy.AUTO, True), ((0,), EsnPolicy.AUTO, False),
    ((1,), EsnPolicy.AUTO, True), ((0, 1), EsnPolicy.NO, False), ((1,), EsnPolicy.NO, None),
    ((0,), EsnPolicy.YES, None), ((), EsnPolicy.AUTO, False), ((), EsnPolicy.YES, None), ((9,), EsnPolicy.AUTO, None),
])
def test_extended_sequence_numbers_follow_policy(offered: tuple[int, ...], policy: EsnPolicy, *,
                                                 found: bool | None) -> None:
    # IN-41
    payload = sa((GCM256, *(T(ESN, number) for number in offered)), protocol=ProtocolId.ESP, spi=PEER_SPI)
    if found is None:
        with pytest.raises(PeerError, match="ESN"):
            choose_child(esp("aes256gcm16"), payload, esn=policy)
        return
    assert choose_child(esp("aes256gcm16"), payload, esn=policy).esn is found


def test_child_keeps_the_peers_spi_and_answers_with_ours() -> None:
    # IN-41
    offered = sa((GCM256, T(ESN, 0)), protocol=ProtocolId.ESP, spi=PEER_SPI)
    chosen = choose_esp(esp("aes256gcm16"), offered, with_ke=False, ke_sent=0, pfs=Pfs.OFFER, esn=EsnPolicy.AUTO)
    assert chosen.spi == PEER_SPI
    assert chosen.answer(SPI).proposals[0].spi == SPI


# The initiator


def test_offer_without_pfs_follows_the_offer_with_it() -> None:
    offered = offer_esp(esp("aes256gcm16-x25519"), spi=SPI, with_ke=True, pfs=Pfs.OFFER, esn=EsnPolicy.NO)
    assert [p.transforms for p in offered.proposals] == [(GCM256, T(KE, X25519), T(ESN, 0)), (GCM256, T(ESN, 0))]
    assert [p.number for p in offered.proposals] == [1, 2]
    for with_ke, pfs, groups in ((True, Pfs.REQUIRED, [True]), (True, Pfs.OFF, [False]), (False, Pfs.OFFER, [False])):
        made = offer_esp(esp("aes256gcm16-x25519"), spi=SPI, with_ke=with_ke, pfs=pfs, esn=EsnPolicy.AUTO)
        assert [any(t.type == KE for t in p.transforms) for p in made.proposals] == groups


def test_answer_of_a_responder_is_accepted() -> None:
    theirs = ike("aes256-sha256-x25519")
    offered = offer_ike(OURS)
    chosen = choose_ike(theirs, offered, ke_sent=X25519)
    assert accept_ike(offered, chosen.answer(b""), ke=X25519).suite == chosen.suite


@pytest.mark.parametrize("answer", [
    (GCM256, PRF256, T(KE, X25519)),                                              # not offered in this proposal
    (T(ENCR, 20, (Attribute(14, 128),)), PRF384, T(KE, X25519)),
    (GCM256, PRF384, T(KE, X25519), T(KE, ECP256)), (*IKE, GCM256),               # two of one type, also the same
    (GCM256, PRF384), (PRF384, T(KE, X25519)), (GCM256, T(KE, X25519)), (),       # none of a type
    (GCM256, PRF384, T(KE, ECP256)),                                              # not the group of our KE payload
    (*IKE, SHA256), (*IKE, T(ESN, 0)), (*IKE, T(200, 0)), (T(ENCR, 20, (Attribute(99, 1),)), *IKE[1:]),
])
def test_answer_that_we_did_not_offer_is_refused(answer: tuple[WireTransform, ...]) -> None:
    # IN-40
    with pytest.raises(PeerError) as caught:
        accept_ike(offer_ike(OURS), sa(answer), ke=X25519)
    assert caught.value.notify == NotifyType.NO_PROPOSAL_CHOSEN


def test_answer_with_another_number_protocol_or_count_is_refused() -> None:
    # IN-40
    offered = offer_ike(OURS)
    for wrong in (SaPayload((WireProposal(3, 1, b"", IKE),)), SaPayload((WireProposal(1, 3, b"", IKE),)),
                  sa(IKE, IKE), SaPayload((WireProposal(2, 1, b"", IKE),))):
        with pytest.raises(PeerError):
            accept_ike(offered, wrong, ke=X25519)


def test_aead_answer_with_integ_none_is_accepted() -> None:
    assert accept_ike(offer_ike(OURS), sa((*IKE, T(INTEG, 0))), ke=X25519).suite.integ is None


def test_child_answer_may_leave_out_the_key_exchange_where_that_was_offered() -> None:
    answer = SaPayload((WireProposal(2, 3, PEER_SPI, (GCM256, T(ESN, 1))),))
    offered = offer_esp(esp("aes256gcm16-x25519"), spi=SPI, with_ke=True, pfs=Pfs.OFFER, esn=EsnPolicy.AUTO)
    assert accept_esp(offered, answer, ke=X25519).suite.ke == KeId.NONE
    offered = offer_esp(esp("aes256gcm16-x25519"), spi=SPI, with_ke=True, pfs=Pfs.REQUIRED, esn=EsnPolicy.AUTO)
    for number in (1, 2):
        with pytest.raises(PeerError):
            accept_esp(offered, SaPayload((WireProposal(number, 3, PEER_SPI, (GCM256, T(ESN, 1))),)), ke=X25519)


def test_child_answer_with_another_group_is_refused() -> None:
    offered = offer_esp(esp("aes256gcm16-x25519-ecp256"), spi=SPI, with_ke=True, pfs=Pfs.OFFER, esn=EsnPolicy.AUTO)
    with pytest.raises(PeerError, match="ecp256"):
        accept_esp(offered, sa((GCM256, T(KE, ECP256), T(ESN, 1)), protocol=3, spi=PEER_SPI), ke=X25519)


@pytest.mark.parametrize(("data", "group"), [
    (b"\0\x13", ECP256), (b"\0\x1f", None), (b"\0\x0e", None), (b"\0\0", None), (b"", None), (b"\x13", None),
    (b"\0\0\x13", None),
])
def test_invalid_ke_is_followed_only_to_another_group_of_the_offer(data: bytes, group: int | None) -> None:
    # IN-34
    assert ke_to_retry(OURS, data, used=X25519) == group


def test_first_group_and_kept_prf() -> None:
    assert first_ke(OURS) == X25519
    assert first_ke(esp("aes256gcm16")) == KeId.NONE
    assert keep_prf(OURS, PRFS[0]) == ike("aes256-sha256-x25519")


# Explanations


@pytest.mark.parametrize(("ours", "theirs", "text"), [
    (ike("aes256gcm16-prfsha384-x25519-ecp256"), ike("aes256gcm16-prfsha384-modp2048"),
     "peer offers KE modp2048 only; we ask for x25519, ecp256"),
    (OURS, ike("aes128gcm16-prfsha384-ecp384", "aes256-sha512-prfsha256-x25519"),
     "peer offers INTEG sha512 only; we ask for sha256"),
    (ike("aes256gcm16-prfsha384-x25519"), ike("aes256gcm16-prfsha256-ecp256"),
     "peer offers PRF prfsha256 only; we ask for prfsha384; and peer offers KE ecp256 only; we ask for x25519"),
    (esp("aes256gcm16"), ike("aes256gcm16-prfsha256-x25519"), "peer offers protocol IKE; we ask for ESP"),
    ((), OURS, "our policy leaves no proposal for this exchange"),
])
def test_nearest_miss_names_what_keeps_the_closest_proposals_apart(
        ours: tuple[Proposal, ...], theirs: tuple[Proposal, ...], text: str) -> None:
    assert nearest_miss(ours, offer_ike(theirs)) == text


def test_nearest_miss_is_total_and_short() -> None:
    many = sa(*[tuple(T(type_, 60000 + i) for i in range(64)) for type_ in (*range(9), 255)] * 6)
    text = nearest_miss(OURS, many)
    assert text.startswith("peer offers")
    assert len(text) < 1000
    assert nearest_miss(OURS, SaPayload(())) == "peer offers nothing"
    assert "ADDKE1" in nearest_miss(OURS, sa((*IKE, T(TransformType.ADDKE1, 36))))
    assert "no INTEG" in nearest_miss(ike("aes256-sha256-x25519"), sa((CBC256, PRF256, T(KE, X25519))))


def test_large_offers_are_decided_in_linear_time() -> None:
    # IN-43
    def cost(proposals: int, transforms: int) -> int:
        many = sa(*[tuple(T(1 + i % 4, 60000 + i) for i in range(transforms))] * proposals)

        def refuse() -> None:
            with pytest.raises(PeerError):
                choose_ike(OURS, many, ke_sent=X25519)
        return calls(refuse)

    assert cost(64, 64) < 5 * cost(16, 64)
    assert cost(64, 64) < 5 * cost(64, 16)


def choose_child(ours: tuple[Proposal, ...], offered: SaPayload, *, with_ke: bool = True, ke_sent: int = 0,
                 pfs: Pfs = Pfs.OFFER, esn: EsnPolicy = EsnPolicy.AUTO) -> EspSuite:
    return choose_esp(ours, offered, with_ke=with_ke, ke_sent=ke_sent, pfs=pfs, esn=esn).suite
