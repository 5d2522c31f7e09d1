"""COOKIE in IKE_SA_INIT (RFC 7296 2.6): when it is asked for, what it covers, and floods."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.drops import DropReason
from ipsecd.events import IkeAttemptFailed
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto.cookie import COOKIE_STEP_S
from ipsecd.ike.half_open import CALM_DOWN_S
from ipsecd.ike.wire.message import ClearMessage, split
from ipsecd.ike.wire.notify import NotifyPayload, cookie
from ipsecd.ike.wire.payloads import NoncePayload, UnknownPayload
from ipsecd.reports import IkeUp
from tests.support.exchange import Two, policy_a, policy_b
from tests.support.init_requests import changed, deliver, first_request, flood, open_to_all
from tests.support.sim import exchange, sent_by


def test_cookie_is_brought_with_the_same_request_and_auth_covers_it() -> None:
    # IN-22
    two = Two(policy_a(), replace(policy_b(), cookie_threshold=0))
    two.establish()
    requests = [split(d.data) for d in two.net.sent if sent_by(two.a, exchange(ExchangeType.IKE_SA_INIT))(d)]
    first, second = (m for m in requests if isinstance(m, ClearMessage))
    assert cookie(second.payloads[:1]) is not None
    assert first.payloads == second.payloads[1:]
    assert (first.header.spi_i, second.header.message_id) == (second.header.spi_i, 0)


@pytest.mark.parametrize("latency_s", [0.3, 0.6, 1.0, 1.6])
def test_cookie_for_each_copy_of_a_request_leads_to_one_ike_sa(latency_s: float) -> None:
    # IN-28: a slow path, or a responder with much to do. Each copy has another cookie, as those of other makes do.
    two = Two(policy_a(), replace(policy_b(), cookie_threshold=0))
    two.net.latency_s = latency_s
    two.net.run(COOKIE_STEP_S - latency_s - 0.1)            # the second copy comes in the next step
    two.initiate(two.a)
    two.net.run_until(lambda: bool(two.a.reports(IkeUp)), limit_s=9 * latency_s)
    assert two.b.endpoint.half_open == 0
    brought = {cookie(m.payloads) for d in two.net.sent if sent_by(two.a, exchange(ExchangeType.IKE_SA_INIT))(d)
               if isinstance(m := split(d.data), ClearMessage)}
    assert len(brought) == 2                                # none, and one
    assert not two.b.events(IkeAttemptFailed)


@pytest.mark.parametrize(("sources", "free"), [(1, 3), (250, 30)])
def test_cookies_start_at_three_from_one_source_or_thirty_in_all(sources: int, free: int) -> None:
    # IN-23, IN-28
    two = open_to_all(Two())
    request = first_request(two)
    answers = flood(two, request, 40, sources=sources)
    assert two.b.endpoint.half_open == free
    assert len([a for a in answers if cookie(a.payloads)]) == 40 - free
    two.net.run(30.5 + CALM_DOWN_S)
    assert two.b.endpoint.half_open == 0
    assert cookie(deliver(two, request)[0].payloads) is None


def test_spoofed_flood_does_not_lock_its_victim_out() -> None:
    # IN-31, attack 73: the flood uses the peer's own address and cannot bring cookies
    two = Two()
    request = first_request(two)
    deliver(two, *(changed(request, spi_i=(i + 1).to_bytes(8, "big")) for i in range(2000)))
    assert two.b.endpoint.half_open == 3
    two.a.alive = True
    two.net.run(3)
    assert two.a.reports(IkeUp)


def test_request_that_was_answered_is_answered_alike_after_cookies_came_on() -> None:
    # RFC 7296 2.1: a retransmission gets the same response.
    two = open_to_all(Two())
    request = first_request(two)
    answer = deliver(two, request)[0]
    flood(two, request, 40, sources=250)
    assert two.b.endpoint.cookies_on
    assert deliver(two, request)[0] == answer


def test_malformed_request_is_dropped_without_a_word_while_cookies_are_on() -> None:
    two = Two(policy_a(), replace(policy_b(), cookie_threshold=0))
    request = first_request(two)
    message = split(request.data)
    assert isinstance(message, ClearMessage)
    without_nonce = tuple(p for p in message.payloads if not isinstance(p, NoncePayload))
    assert deliver(two, changed(request, payloads=without_nonce)) == []
    assert two.b.endpoint.drops[DropReason.IKE_MALFORMED] == 1


def test_cookie_of_another_exchange_counts_as_absent() -> None:
    # IN-24, IN-26
    two = Two(policy_a(), replace(policy_b(), cookie_threshold=0))
    request = first_request(two)
    brought = cookie(deliver(two, request)[0].payloads)
    assert brought is not None
    message = split(request.data)
    assert isinstance(message, ClearMessage)
    for data in (brought[:-1] + b"\0", b"x", bytes(64)):
        with_cookie = (NotifyPayload(NotifyType.COOKIE, data), *message.payloads)
        assert cookie(deliver(two, changed(request, payloads=with_cookie))[0].payloads)
    right = (NotifyPayload(NotifyType.COOKIE, brought), *message.payloads)
    assert cookie(deliver(two, changed(request, payloads=right, spi_i=b"somebody"))[0].payloads)
    assert not cookie(deliver(two, changed(request, payloads=right))[0].payloads)


def test_request_beyond_the_limit_of_its_source_is_dropped_before_it_is_parsed() -> None:
    # RFC 7296 2.6: five hundred behind one NAT repeat theirs until there is a place.
    two = Two(policy_a(), replace(policy_b(), cookie_threshold=0, source_limit=0))
    request = first_request(two)
    brought = cookie(deliver(two, request)[0].payloads)
    assert brought is not None
    message = split(request.data)
    assert isinstance(message, ClearMessage)
    right = (NotifyPayload(NotifyType.COOKIE, brought), *message.payloads)
    assert deliver(two, changed(request, payloads=(*right, UnknownPayload(255, True, b"")))) == []
    assert two.b.endpoint.drops[DropReason.IKE_HALF_OPEN_LIMIT] == 1
    assert two.b.endpoint.half_open == 0
