"""Whoever changes IKE_SA_INIT on its way brings nothing up: each AUTH covers what its sender sent (RFC 7296 2.15).

It covers one direction, so it is the end that received the altered message that must notice; the other one hears of it.
Here every copy is altered, as by a man in the middle; that a single altered copy ends nothing, test_ladder shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.events import IkeAttemptFailed, LocalFault
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.wire.message import ClearMessage, build_clear, split
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.sa_payload import SaPayload
from ipsecd.reports import ChildGone, ChildUp, IkeGone, IkeUp
from tests.exchange.test_auth_cert import GW_A, GW_B, by_certificate, with_auth
from tests.support.exchange import Two, ike, ike_policy, policy_a, policy_b
from tests.support.sim import Datagram, exchange

INIT = ExchangeType.IKE_SA_INIT
STRONG, WEAK = ike("aes256gcm16-prfsha384-x25519"), ike("aes128gcm16-prfsha256-x25519")
Edit = Callable[[ClearMessage], tuple[object, ...]]


def two_ends() -> Two:
    """Return gateways with certificates, so that SIGNATURE_HASH_ALGORITHMS is there, and a choice of suites."""
    both = ike_policy(proposals=(STRONG, WEAK), childless="prefer")
    return Two(with_auth(policy_a(ike=both), by_certificate(GW_A)), with_auth(policy_b(ike=both), by_certificate(GW_B)))


def man_in_the_middle(two: Two, change: Callable[[bytes], bytes], *, response: bool) -> None:
    wanted = exchange(INIT, response=response)
    two.net.rewrite(lambda d: replace(d, data=change(d.data)) if wanted(d) else d)


def nothing_comes_of_it(two: Two) -> None:
    two.initiate(two.a)
    two.net.run(60)
    for host in (two.a, two.b):
        assert not host.events(LocalFault)
    assert not two.a.reports(IkeUp) + two.a.reports(ChildUp)
    # A responder whose answer was altered has proof of its peer, and learns with the next message that it has none.
    assert len(two.b.reports(ChildUp)) == len(two.b.reports(ChildGone))
    assert len(two.b.reports(IkeUp)) == len(two.b.reports(IkeGone))
    assert not two.a.endpoint.views() + two.b.endpoint.views()


def edited(edit: Edit) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        message = split(data)
        assert isinstance(message, ClearMessage)
        h = message.header
        return build_clear(spi_i=h.spi_i, spi_r=h.spi_r, exchange=h.exchange, flags=h.flags, message_id=h.message_id,
                           payloads=edit(message))  # type: ignore[arg-type]
    return change


def without(notify: NotifyType) -> Edit:
    return lambda message: tuple(p for p in message.payloads if not (isinstance(p, NotifyPayload) and p.type == notify))


def weak_only(message: ClearMessage) -> tuple[object, ...]:
    """Leave the weakest proposal alone, under the number that it had."""
    return tuple(SaPayload((replace(p.proposals[-1], number=1),)) if isinstance(p, SaPayload) else p
                 for p in message.payloads)


EDITS: dict[str, tuple[Edit, bool]] = {
    "hash algorithms of the initiator": (without(NotifyType.SIGNATURE_HASH_ALGORITHMS), False),
    "hash algorithms of the responder": (without(NotifyType.SIGNATURE_HASH_ALGORITHMS), True),
    "fragmentation of the initiator": (without(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED), False),
    "fragmentation of the responder": (without(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED), True),
    "childless of the responder": (without(NotifyType.CHILDLESS_IKEV2_SUPPORTED), True),
    "strong proposals": (weak_only, False),
}


@pytest.mark.parametrize("name", EDITS)
def test_option_that_is_stripped_on_the_way_fails_authentication(name: str) -> None:
    edit, response = EDITS[name]
    two = two_ends()
    man_in_the_middle(two, edited(edit), response=response)
    nothing_comes_of_it(two)
    causes = {e.failure.cause for host in (two.a, two.b) for e in host.events(IkeAttemptFailed)}
    assert causes & {Cause.AUTHENTICATION_FAILED, Cause.AUTH_METHOD, Cause.NO_PROPOSAL}


@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize("start", range(5))
def test_no_byte_of_ike_sa_init_can_be_changed_on_the_way(start: int, *, response: bool) -> None:
    # Every fifth byte from here, another bit each; what does not parse brings nothing up either.
    plain = Two()
    plain.establish()
    size = len(next(d for d in plain.net.sent if exchange(INIT, response=response)(d)).data)
    for at in range(start, size, 5):
        two = Two(seed=at)
        flipped = 1 << at % 8
        man_in_the_middle(two, lambda d, at=at, bit=flipped: d[:at] + bytes([d[at] ^ bit]) + d[at + 1:],  # type: ignore[misc]
                          response=response)
        nothing_comes_of_it(two)


def test_unaltered_messages_of_these_ends_establish() -> None:
    seen: list[Datagram] = []
    two = two_ends()
    two.net.rewrite(lambda d: (seen.append(d), d)[1])
    two.establish()
    assert seen
