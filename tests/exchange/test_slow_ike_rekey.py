"""What comes while the key exchange of an IKE rekey is worked on (RFC 7296 2.8, 2.25; RFC 6290 4.1)."""

from __future__ import annotations

import pytest

from ipsecd.causes import Cause
from ipsecd.ike.consts import ExchangeType, PayloadType
from ipsecd.ike.early import MAX_EARLY
from tests.support.exchange import Two
from tests.support.sim import Host, exchange, sent_by

SLOW_S = 0.05                   # one key exchange; a datagram takes 0.01 s, a repetition comes after 0.5 s
CREATE = ExchangeType.CREATE_CHILD_SA


def slow(*, a: float = SLOW_S, b: float = 0.0) -> Two:
    two = Two()
    two.establish()
    two.a.work_s, two.b.work_s = a, b
    two.net.sent.clear()
    return two


def rekey(two: Two, host: Host) -> None:
    host.endpoint.rekey_ike(host.endpoint.views()[0].handle, two.net.now)


def in_clear(two: Two) -> list[object]:
    return [d for d in two.net.sent if d.header.next_payload != PayloadType.SK]


def test_request_on_an_ike_sa_whose_response_is_worked_on_waits_for_it() -> None:
    two = slow()
    rekey(two, two.a)
    two.net.run(SLOW_S + 0.01)
    two.b.endpoint.delete_child(two.pair(two.b), two.net.now, Cause.OPERATOR)
    two.net.run(0.2)
    two.check(children=0)
    assert not in_clear(two), "the peer was told that the IKE SA does not exist"


def test_kept_requests_are_limited() -> None:
    two = slow()
    rekey(two, two.a)
    two.net.run(SLOW_S + 0.01)
    for _ in range(2 * MAX_EARLY):
        two.b.endpoint.delete_child(two.pair(two.b), two.net.now, Cause.OPERATOR)
        two.b.collect()
        two.net.inject(two.net.sent[-1])
    two.net.run(SLOW_S / 4)
    kept = [messages for _, messages in two.a.endpoint._table.early._kept.values()]
    assert [len(messages) for messages in kept] == [MAX_EARLY]
    two.net.run(0.2)
    two.check(children=0)


def test_peer_that_loses_a_crossing_deletes_its_ike_sa_though_the_old_one_went_first() -> None:
    two = slow(a=0.0, b=SLOW_S)
    two.a.rng.pin_nonce(5, 5)
    two.b.rng.pin_nonce(1, 5)
    rekey(two, two.b)
    two.net.run(0.015)
    rekey(two, two.a)
    two.net.run(1)
    two.check(children=1)
    assert two.a.endpoint.views()[0].initiator


@pytest.mark.parametrize("after_s", [0.0, SLOW_S / 2, SLOW_S + 0.005, SLOW_S + 0.015, SLOW_S + 0.03, 2 * SLOW_S])
def test_close_during_our_rekey_leaves_the_peer_nothing(after_s: float) -> None:
    two = slow()
    rekey(two, two.a)
    two.net.run(after_s)
    two.a.endpoint.delete_ike(two.a.endpoint.views()[0].handle, two.net.now, Cause.OPERATOR)
    two.net.run(1)
    two.check(ike=0, children=0)
    if after_s < SLOW_S:
        assert not any(sent_by(two.a, exchange(CREATE))(d) for d in two.net.sent)
