"""TFC padding and dummies go only to a peer that takes them (RFC 7296 3.10.1)."""

from __future__ import annotations

import pytest

from ipsecd.events import Warned
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.reports import ChildRequest, ChildUp
from ipsecd.sa import NO_TFC, Tfc
from tests.support.exchange import Two, policy_a, policy_b
from tests.support.mallory import Mallory
from tests.support.victim import Victim

TFC = Tfc(500, dummies_per_s=2)
NOT_SUPPORTED = NotifyPayload(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED)


def test_each_end_pads_as_its_own_policy_says_and_rekeys_keep_to_it() -> None:
    two = Two(policy_a(tfc=TFC), policy_b())
    two.establish()
    for _ in range(2):
        assert [pair.tfc for pair in two.a.pairs.values()] == [TFC]
        assert [pair.tfc for pair in two.b.pairs.values()] == [NO_TFC]
        two.b.endpoint.rekey_child(two.pair(two.b), two.net.now)
        two.net.run(10)
    assert not two.a.events(Warned)


@pytest.mark.parametrize("takes", [True, False])
def test_initiator_that_takes_no_padding_gets_none_nor_dummies(*, takes: bool) -> None:
    victim = Victim(policy_a(tfc=TFC))
    peer = Mallory(victim)
    assert peer.init()
    refusal = () if takes else (NOT_SUPPORTED,)
    assert peer.request(ExchangeType.IKE_AUTH, *peer.auth_payloads(), *refusal) is not None
    check(victim, takes=takes)


@pytest.mark.parametrize("takes", [True, False])
def test_responder_that_takes_no_padding_gets_none_nor_dummies(*, takes: bool) -> None:
    victim = Victim(policy_a(tfc=TFC))
    peer, child = Mallory(victim), policy_a().peers[0].children[0]
    header, asked = peer.accept_init((ChildRequest(child.key, 0, child.local, child.remote),))
    peer.respond(header, *peer.respond_auth(asked), *(() if takes else (NOT_SUPPORTED,)))
    check(victim, takes=takes)


def check(victim: Victim, *, takes: bool) -> None:
    up = next(entry for entry in victim.log if isinstance(entry, ChildUp))
    assert up.pair.tfc == (TFC if takes else NO_TFC)
    assert [event.what for event in victim.events(Warned) if isinstance(event, Warned)] == (
        [] if takes else ["tfc_refused"])
