"""Deletes and REKEY_SA that name too much, too little or the wrong pair (RFC 7296 1.3.3, 1.4.1, 3.11)."""

from __future__ import annotations

import pytest

from ipsecd.events import IkeMessage, LocalFault
from ipsecd.ike.consts import ExchangeType, NotifyType, PayloadType, ProtocolId
from ipsecd.ike.tasks.child_exchange import offer_child
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import AuthPayload, DeletePayload, IdPayload, NoncePayload
from ipsecd.ike.wire.ts_payload import TsPayload
from ipsecd.reports import ChildGone, ChildMoved, ChildUp, IkeGone, IkeUp
from tests.exchange.test_message_layer import answers_to, sa_of, say
from tests.support.exchange import Two, policy_a, policy_b
from tests.support.sim import exchange, sent_by

CREATE, AUTH = ExchangeType.CREATE_CHILD_SA, ExchangeType.IKE_AUTH


def three_children() -> Two:
    names = ("lan", "voice", "guest")
    two = Two(policy_a(*names), policy_b(*names))
    two.establish(*names)
    return two


def spi(number: int) -> bytes:
    return number.to_bytes(4, "big")


def last_answer(two: Two) -> tuple[str, ...]:
    return next(e.payloads for e in reversed(two.b.events(IkeMessage)) if e.direction == "out")


def test_delete_of_several_pairs_answers_the_known_ones_once() -> None:
    # DL-08
    two = three_children()
    first, second, _ = list(two.a.pairs)
    delete = DeletePayload(ProtocolId.ESP, (spi(first), spi(0xDEADBEEF), spi(first), spi(second)))
    other = DeletePayload(ProtocolId.AH, (spi(first),))
    answers_to(two, say(two, two.a, (other, delete, delete)))
    assert [g.spi_in for g in two.b.reports(ChildGone)] == [next(
        g.spi_in for g in two.b.reports(ChildGone) if g.child.child == name) for name in ("lan", "voice")]
    assert len(two.b.pairs) == 1
    assert last_answer(two) == ("D",)


def test_delete_with_a_notify_beside_it_uses_nothing_after_its_removal() -> None:
    # DL-10
    two = three_children()
    first = next(iter(two.a.pairs))
    payloads: tuple[Payload, ...] = (
        DeletePayload(ProtocolId.ESP, (spi(first),)),
        NotifyPayload(NotifyType.INVALID_SELECTORS, b"", ProtocolId.ESP, spi(first)),
        NotifyPayload(NotifyType.REKEY_SA, b"", ProtocolId.ESP, spi(first)))
    answers_to(two, say(two, two.a, payloads))
    assert len(two.b.pairs) == 2
    assert not two.b.events(LocalFault)


def test_delete_of_our_own_inbound_spi_deletes_nothing() -> None:
    # CR-15: the classic mistake names the receiver's SPI
    two = three_children()
    answers_to(two, say(two, two.a, (DeletePayload(ProtocolId.ESP, (spi(next(iter(two.b.pairs))),)),)))
    assert len(two.b.pairs) == 3
    assert last_answer(two) == ()


@pytest.mark.parametrize(("protocol", "number", "answer"), [
    (ProtocolId.ESP, b"\1\2\3\4", "N(CHILD_SA_NOT_FOUND)"),
    (ProtocolId.AH, b"\1\2\3\4", "N(CHILD_SA_NOT_FOUND)"),
    (ProtocolId.AH, b"", "N(INVALID_SYNTAX)"),
    (ProtocolId.ESP, b"", "N(INVALID_SYNTAX)"),
    (ProtocolId.IKE, b"\1\2\3\4\5\6\7\x08", "N(INVALID_SYNTAX)"),
])
def test_rekey_of_what_is_no_child_is_refused_and_the_ike_sa_lives(protocol: int, number: bytes, answer: str) -> None:
    # CR-14
    two = three_children()
    session = sa_of(two.a).session
    offer = offer_child(session, two.requests(two.a, "lan")[0], session.peer.children[0], ke=0)
    sa, ts_i, ts_r = offer.payloads()
    payloads = (NotifyPayload(NotifyType.REKEY_SA, b"", protocol, number), sa, NoncePayload(bytes(32)), ts_i, ts_r)
    answers_to(two, say(two, two.a, payloads, kind=CREATE))
    assert last_answer(two) == (answer,)
    assert len(two.b.pairs) == 3
    assert two.b.established()


@pytest.mark.parametrize("ts", [PayloadType.TSI, PayloadType.TSR])
def test_request_without_one_of_its_selector_payloads_is_malformed(ts: int) -> None:
    # AU-17
    two = three_children()
    session = sa_of(two.a).session
    offer = offer_child(session, two.requests(two.a, "lan")[0], session.peer.children[0], ke=0)
    payloads = tuple(p for p in (offer.sa, NoncePayload(bytes(32)), *offer.payloads()[1:])
                     if not isinstance(p, TsPayload) or p.payload_type != ts)
    answers_to(two, say(two, two.a, payloads, kind=CREATE))
    assert last_answer(two) == ("N(INVALID_SYNTAX)",)
    assert two.b.reports(IkeGone)


@pytest.mark.parametrize("missing", ["IDi", "two AUTH", "SA only"])
def test_malformed_ike_auth_is_refused_and_leaves_nothing(missing: str) -> None:
    # AU-17
    two = Two()
    two.net.drop(sent_by(two.a, exchange(AUTH)))
    two.initiate(two.a)
    two.net.run(0.1)
    sa = sa_of(two.a)
    offer = offer_child(sa.session, two.requests(two.a, "lan")[0], sa.session.peer.children[0], ke=0)
    who, proof = IdPayload(PayloadType.IDI, 2, b"a.example"), AuthPayload(2, bytes(32))
    payloads: tuple[Payload, ...] = {"IDi": (proof,), "two AUTH": (who, proof, proof),
                                     "SA only": (who, proof, offer.sa)}[missing]
    answers_to(two, say(two, two.a, payloads, kind=AUTH, message_id=1))
    assert last_answer(two) == ("N(INVALID_SYNTAX)",)
    two.net.run(40)
    assert not two.b.endpoint.views()
    assert not two.b.reports(IkeUp) + two.b.reports(ChildUp) + two.b.reports(ChildMoved)
