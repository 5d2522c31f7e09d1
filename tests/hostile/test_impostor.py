"""A responder that is not the peer, or that answers before it: attempts recover, and nobody makes us ask for ever."""

from __future__ import annotations

import pytest

from ipsecd.drops import DropReason
from ipsecd.events import Hint, IkeAttemptFailed, IkeSaUp, LocalFault
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto.kex import generate
from ipsecd.ike.wire.header import FLAG_INITIATOR, FLAG_RESPONSE
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import AuthPayload, DeletePayload, KePayload, NoncePayload
from ipsecd.reports import ChildRequest, IkeFailed
from ipsecd.sa import Endpoint, Path
from tests.support.exchange import A, B, Two, policy_a
from tests.support.mallory import Mallory, clear
from tests.support.sim import Datagram
from tests.support.victim import Victim

INIT = ExchangeType.IKE_SA_INIT
RIGHT = Path(Endpoint(A, 500), Endpoint(B, 500))


@pytest.mark.parametrize("notify", [1, 4, 5, 7, 9, 11, 14, 17, 24, 34, 35, 37, 38, 43, 44, 8192, 16383, 16384, 40000])
def test_forged_notify_before_the_genuine_response_ends_no_attempt(notify: int) -> None:
    # IN-19, IN-34, IN-47, row 81: every kind, each with empty and with odd data; the genuine response still wins.
    two = Two()
    two.initiate(two.a)
    two.net.run(0.005)
    forge(two, notify, b"", b"\0", b"\0\x13", b"\0\x02", b"\xff\xff", bytes(64), bytes(65))
    two.net.run(40)
    assert len(two.a.events(IkeSaUp)) == 1
    assert not two.a.events(LocalFault)
    two.check()


def test_forged_cookie_costs_one_attempt() -> None:
    # IN-28, row 81: two forms of our request are on their way, and no response says which of them it answers.
    two = Two()
    two.initiate(two.a)
    two.net.run(0.005)
    forge(two, NotifyType.COOKIE, b"forged")
    two.net.run(40)
    assert len(two.a.reports(IkeFailed)) + len(two.a.events(IkeSaUp)) == 1
    two.initiate(two.a)
    two.net.run(2)
    assert len(two.a.events(IkeSaUp)) == 1
    two.check()


def test_forged_response_with_another_key_delays_but_does_not_end_the_set_up() -> None:
    # IN-20: an attacker who sees the request is faster; the next attempt comes through.
    two = Two()
    two.initiate(two.a)
    two.net.run(0.005)
    request = two.net.sent[0].data
    forger = Mallory(Victim(policy_a()), port=500)
    two.net.inject(Datagram(Endpoint(B, 500), Endpoint(A, 500), forger.respond_init(request)))
    two.net.run(40)
    assert [f.refused for f in two.a.reports(IkeFailed)] == [False]
    assert two.a.endpoint.views() == ()
    two.initiate(two.a)
    two.net.run(2)
    assert len(two.a.events(IkeSaUp)) == 1
    two.net.run(40)
    two.check()


@pytest.mark.parametrize("wanted", ["COOKIE", "INVALID_KE", "both"])
def test_endless_demands_are_obeyed_a_few_times(wanted: str) -> None:
    # IN-30, row 81: new cookies and changing groups for ever.
    victim = Victim(policy_a())
    start(victim)
    asked = [s.datagram for s in victim.drain()]
    requests = 0
    for turn in range(100):
        if not asked:
            break
        requests += 1
        spi_i = asked[-1][:8]
        cookie = NotifyPayload(NotifyType.COOKIE, turn.to_bytes(8, "big"))
        group = NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, b"\0\x13" if turn // 2 % 2 == 0 else b"\0\x1f")
        answer = {"COOKIE": cookie, "INVALID_KE": group}.get(wanted) or (cookie, group)[turn % 2]
        asked = [s.datagram for s in victim.feed(clear((answer,), spi_i=spi_i, flags=FLAG_RESPONSE), RIGHT)]
    assert requests <= 10
    assert victim.jobs <= 5
    victim.wait(30)
    assert len(victim.events(IkeAttemptFailed)) == 1
    victim.check()


def test_responses_looked_at_in_one_attempt_are_limited() -> None:
    # Rows 39, 45: forged responses whose public values are no good cost a key exchange each, up to the limit.
    victim = Victim(policy_a())
    start(victim)
    request = victim.drain()[-1].datagram
    forger = Mallory(victim, port=500)
    for _ in range(200):
        victim.feed(forger.respond_init(request, change=(KePayload(31, bytes(32)),)), RIGHT)
    assert victim.jobs <= 33
    assert len(victim.events(Hint)) <= 2
    assert victim.dropped[DropReason.IKE_RATE_LIMIT] >= 168
    victim.wait(16)
    assert victim.endpoint.views() == ()
    victim.check()


BAD: dict[str, tuple[Payload, ...]] = {
    "low order": (KePayload(31, bytes(32)),), "empty KE": (KePayload(31, b""),), "long KE": (KePayload(31, bytes(33)),),
    "another group": (KePayload(19, generate(19).public),), "internal group": (KePayload(1025, bytes(32)),),
    "nonce of 15": (NoncePayload(bytes(15)),), "nonce of 257": (NoncePayload(bytes(257)),),
    "nonce of 16": (NoncePayload(bytes(16)),),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_value_in_a_response_leaves_the_attempt_open(name: str) -> None:
    # Rows 39, 41, 44, IN-13, IN-35 in the response: refused without a fault; the genuine one is taken afterwards.
    victim = Victim(policy_a())
    start(victim)
    request = victim.drain()[-1].datagram
    mallory = Mallory(victim)
    victim.feed(mallory.respond_init(request, change=BAD[name]), RIGHT)
    if name != "nonce of 16":
        assert [v.state for v in victim.endpoint.views()] == ["InitSent"]
        mallory.send(mallory.respond_init(request))
    assert [v.state for v in victim.endpoint.views()] == ["AuthSent"]
    victim.check()


@pytest.mark.parametrize("own", [False, True])
def test_responder_spi_of_zero_or_of_our_own_confuses_nothing(own: bool) -> None:
    # IN-02, row 11: SPIr is zero, or the SPI that we chose.
    victim = Victim(policy_a())
    start(victim)
    request = victim.drain()[-1].datagram
    mallory = Mallory(victim)
    response = mallory.respond_init(request, spi_r=request[:8])
    answers = mallory.send(response if own else response[:8] + bytes(8) + response[16:])
    for datagram in answers:
        mallory.send(datagram)
    assert not victim.established()
    victim.wait(40)
    assert victim.endpoint.views() == ()
    victim.check()


def test_impostor_without_the_key_learns_no_more_than_one_ike_auth() -> None:
    # Rows 5, 35: a wrong AUTH, then every request; the initiator tells AUTHENTICATION_FAILED and is gone.
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    start(victim)
    mallory.send(mallory.respond_init(victim.drain()[-1].datagram))
    header, asked = mallory.take()
    id_r, auth, *rest = mallory.respond_auth(asked)
    assert isinstance(auth, AuthPayload)
    wrong = AuthPayload(auth.method, bytes(len(auth.data)))
    mallory.respond(header, id_r, wrong, *rest)
    _, told = mallory.take()
    assert told == (NotifyPayload(NotifyType.AUTHENTICATION_FAILED),)
    assert mallory.request(ExchangeType.INFORMATIONAL, DeletePayload(3, (b"\0\1\2\3",)), message_id=0) in ((), None)
    assert mallory.rekey_ike() is None
    assert not victim.established()
    victim.wait(10)
    assert victim.endpoint.views() == ()
    victim.check()


def test_attempt_ignores_responses_with_wrong_flags_ids_and_spis() -> None:
    # IN-03: role flag, Message ID, exchange type, unknown SPIi; the attempt goes on.
    victim = Victim(policy_a())
    start(victim)
    request = victim.drain()[-1].datagram
    mallory = Mallory(victim)
    good = mallory.respond_init(request)
    variants = [good[:19] + bytes([FLAG_RESPONSE | FLAG_INITIATOR]) + good[20:], good[:23] + b"\1" + good[24:],
                b"\1" * 8 + good[8:], good[:17] + b"\x10" + good[18:], good[:17] + b"\x30" + good[18:]]
    variants += [good[:18] + bytes([exchange]) + good[19:] for exchange in (0, 33, 35, 36, 37, 43, 255)]
    for datagram in variants:
        victim.feed(datagram, RIGHT)
        assert [v.state for v in victim.endpoint.views()] == ["InitSent"]
    mallory.send(good)
    assert [v.state for v in victim.endpoint.views()] == ["AuthSent"]
    victim.check()


def forge(two: Two, notify: int, *data: bytes) -> None:
    """Send notifies to A as if they came from B, in answer to its request."""
    for item in data:
        forged = clear((NotifyPayload(notify, item),), spi_i=two.net.sent[0].header.spi_i, flags=FLAG_RESPONSE)
        two.net.inject(Datagram(Endpoint(B, 500), Endpoint(A, 500), forged))


def start(victim: Victim) -> None:
    """Begin an attempt with a child."""
    child = victim.endpoint._table.policy.peers[0].children[0]
    victim.endpoint.initiate("b", RIGHT, (ChildRequest(child.key, 0, child.local, child.remote),), victim.now)
