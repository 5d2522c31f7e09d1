"""NAT, address following, keepalives, liveness and fragments (RFC 7296 2.4, 2.11, 2.23; RFC 3948; RFC 7383)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.drops import DropReason
from ipsecd.effects import UpdatePath
from ipsecd.events import IkeSaUp, PathChanged
from ipsecd.ike.consts import ExchangeType, NotifyType, PayloadType
from ipsecd.ike.wire.message import ClearMessage, build_clear, split
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.policy import Identity, IkePolicy
from ipsecd.reports import ChildGone, IkeFailed, IkeGone, PathMoved
from ipsecd.sa import Endpoint
from tests.support.exchange import Two, ike_policy, policy_a, policy_b
from tests.support.sim import Datagram, Nat, exchange, sent_by

INIT, AUTH, INFO, CREATE = (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL,
                            ExchangeType.CREATE_CHILD_SA)
OUTSIDE = "192.0.2.1"
DPD = ike_policy(dpd_s=10)


def behind_nat(ike: IkePolicy | None = None) -> Two:
    """Return A behind a NAT whose outside address is the one that B knows."""
    return Two(policy_a(ike=ike), policy_b(ike=ike), nat=Nat(OUTSIDE))


def nat_seen(two: Two) -> tuple[str, str]:
    return two.a.last_event(IkeSaUp).nat, two.b.last_event(IkeSaUp).nat


def nat_of(two: Two) -> Nat:
    assert two.a.nat is not None
    return two.a.nat


def test_nat_before_the_initiator_is_seen_by_both() -> None:
    # IN-49
    two = behind_nat()
    two.establish()
    assert nat_seen(two) == ("local", "remote")
    pair_a, pair_b = next(iter(two.a.pairs.values())), next(iter(two.b.pairs.values()))
    assert (pair_a.follow, pair_b.follow) == (False, True)


def test_no_nat_lets_both_ends_follow() -> None:
    two = Two()
    two.establish()
    assert nat_seen(two) == ("none", "none")
    assert all(p.follow for h in (two.a, two.b) for p in h.pairs.values())


def test_anti_replay_switched_off_forbids_following() -> None:
    # NT-05
    two = Two(policy_a(replay_window=0))
    two.establish()
    assert not next(iter(two.a.pairs.values())).follow


def test_peer_without_nat_detection_is_refused_with_a_cause() -> None:
    two = Two()

    def strip(d: Datagram) -> Datagram:
        message = split(d.data)
        if not isinstance(message, ClearMessage) or message.header.is_response:
            return d
        kept = tuple(p for p in message.payloads if not isinstance(p, NotifyPayload)
                     or p.type == NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)
        h = message.header
        return Datagram(d.source, d.destination, build_clear(
            spi_i=h.spi_i, spi_r=h.spi_r, exchange=h.exchange, flags=h.flags, message_id=0, payloads=kept))

    two.net.rewrite(strip)
    two.initiate(two.a)
    two.net.run(20)
    assert two.a.reports(IkeFailed)[0].refused
    assert two.b.endpoint.half_open == 0


def test_rebinding_is_followed_by_the_end_outside_on_authenticated_ike() -> None:
    # NT-01
    two = behind_nat()
    two.establish()
    nat_of(two).rebind()
    two.a.endpoint.check_liveness(1, two.net.now)
    two.net.run(1)
    assert len(two.b.events(PathChanged)) == len(two.b.reports(PathMoved)) == 1
    new = two.b.reports(UpdatePath)[0].path.remote
    assert new.address == OUTSIDE
    assert new.port >= 40000
    two.b.endpoint.rekey_child(two.pair(two.b), two.net.now)
    two.net.run(10)
    two.check(children=1)


def test_rebinding_is_followed_on_an_authenticated_esp_packet() -> None:
    two = behind_nat()
    two.establish()
    spi = two.pair(two.b)
    path = two.b.pairs[spi].path
    moved = path._replace(remote=Endpoint(OUTSIDE, 55555))
    two.b.endpoint.path_observed(spi, moved, two.net.now)
    two.b.collect()
    assert two.b.reports(UpdatePath)[0].path == moved
    assert two.b.endpoint.views()[0].path == moved


def test_end_behind_the_nat_does_not_follow() -> None:
    # NT-02
    two = behind_nat()
    two.establish()
    spi = two.pair(two.a)
    before = two.a.endpoint.views()[0].path
    two.a.endpoint.path_observed(spi, before._replace(remote=Endpoint("198.51.100.9", 4500)), two.net.now)
    two.a.collect()
    assert two.a.endpoint.views()[0].path == before


@pytest.mark.parametrize("what", ["bad icv", "replayed request", "replayed response"])
def test_message_that_is_not_fresh_and_authentic_moves_nothing(what: str) -> None:
    # NT-03, attack 10
    two = Two()
    two.establish()
    two.a.endpoint.check_liveness(1, two.net.now)
    two.net.run(1)
    request, response = [d for d in two.net.sent if exchange(INFO)(d)]
    data = response.data if what == "replayed response" else request.data
    if what == "bad icv":
        data = data[:-1] + bytes([data[-1] ^ 1])
    target = two.a if what == "replayed response" else two.b
    two.net.inject(Datagram(Endpoint("198.51.100.66", 4500), Endpoint(target.address, 4500), data))
    two.net.run(1)
    assert not target.events(PathChanged)
    two.check(children=1)


def test_keepalives_come_from_the_end_behind_the_nat_only_when_idle() -> None:
    # LV-11
    two = behind_nat()
    two.establish()
    two.net.run(101)
    assert (two.a.keepalives, two.b.keepalives) == (5, 0)
    two = behind_nat(ike=DPD)
    two.establish()
    two.net.run(100)
    assert two.a.keepalives == 0     # liveness checks keep the mapping


def test_silent_peer_is_asked_and_answering_changes_nothing() -> None:
    # LV-01
    two = Two(policy_a(ike=DPD))
    two.establish()
    before = len(two.net.sent)
    two.net.run(9)
    assert len(two.net.sent) == before
    two.net.run(2)
    assert [d.header.exchange for d in two.net.sent[before:]] == [INFO, INFO]
    two.check(children=1)


def test_inbound_traffic_counts_as_proof_and_outbound_does_not() -> None:
    # LV-02, LV-03
    two = Two(policy_a(ike=DPD))
    two.establish()
    before = len(two.net.sent)
    spi = two.pair(two.a)
    for _ in range(10):
        two.net.run(5)
        two.a.seen_at[spi] = two.net.now
    assert len(two.net.sent) == before
    two.net.run(11)
    assert len(two.net.sent) > before


def test_dead_peer_is_noticed_thirty_seconds_after_the_question() -> None:
    # LV-04
    two = Two(policy_a(ike=DPD))
    two.establish()
    two.b.alive = False
    two.net.run(38)
    assert not two.a.reports(IkeGone)
    two.net.run(4)
    assert two.a.reports(IkeGone)[0].failure.cause == Cause.PEER_DEAD
    assert len(two.a.reports(ChildGone)) == 1
    assert not two.a.pairs


def test_outage_shorter_than_the_limit_tears_nothing_down() -> None:
    # LV-06
    two = Two(policy_a(ike=DPD), policy_b(ike=DPD))
    two.establish()
    two.net.drop(lambda d: True)
    two.net.run(25)
    two.net.heal()
    two.net.run(20)
    two.check(children=1)
    assert not two.a.reports(IkeGone) + two.b.reports(IkeGone)


def test_traffic_keeps_a_peer_alive_that_does_not_answer_a_rekey() -> None:
    # LV-09
    two = Two(policy_a(ike=DPD))
    two.establish()
    spi = two.pair(two.a)
    two.net.drop(sent_by(two.b))
    two.a.endpoint.rekey_child(spi, two.net.now)
    for _ in range(20):
        two.net.run(4)
        two.a.seen_at[spi] = two.net.now
    assert not two.a.reports(IkeGone)
    two.net.run(60)
    assert two.a.reports(IkeGone)


def test_replayed_response_is_no_proof_of_life() -> None:
    # LV-10
    two = Two(policy_a(ike=DPD))
    two.establish()
    two.net.run(15)
    old = next(d for d in reversed(two.net.sent) if sent_by(two.b, exchange(INFO))(d))
    two.b.alive = False
    for _ in range(10):
        two.net.run(5)
        two.net.inject(old)
    assert two.a.reports(IkeGone)


LONG = Identity(2, b"x" * 900, "long")


def long_identities(fragment_bytes: int = 576) -> Two:
    """Return ends whose IKE_AUTH messages need fragments."""
    small = ike_policy(fragment_bytes=fragment_bytes)
    a, b = policy_a(ike=small), policy_b(ike=small)
    other = Identity(2, b"y" * 900, "other")
    return Two(replace(a, peers=(replace(a.peers[0], local_identity=LONG, remote_identity=other),)),
               replace(b, peers=(replace(b.peers[0], local_identity=other, remote_identity=LONG),)))


def fragments(two: Two) -> list[Datagram]:
    return [d for d in two.net.sent if d.header.next_payload == PayloadType.SKF]


@pytest.mark.parametrize("order", ["in order", "reversed", "doubled"])
def test_large_messages_go_in_fragments_both_ways(order: str) -> None:
    # FR-01, FR-03, FR-14
    two = long_identities()
    if order == "doubled":
        two.net.duplicate = 1.0
    elif order == "reversed":
        two.net.hold(sent_by(two.a, exchange(AUTH)))
        two.initiate(two.a)
        two.net.run(0.1)
        two.net.held.reverse()
        two.net.release()
        two.net.run(1)
        two.check(children=1)
        return
    two.establish()
    assert {sent_by(two.a)(d) for d in fragments(two)} == {True, False}
    assert max(len(d.data) for d in fragments(two)) <= 576 - 28 - 4


def test_lost_fragment_is_made_good_by_repeating_the_whole_message() -> None:
    # FR-02
    two = long_identities()
    lost: list[int] = []

    def lose_second(d: Datagram) -> bool:
        if d.header.next_payload == PayloadType.SKF and len(lost) < 2:
            lost.append(1)
            return len(lost) == 2
        return False

    two.net.drop(lose_second)
    two.initiate(two.a)
    two.net.run(5)
    two.check(children=1)


def test_forged_fragment_neither_displaces_nor_blocks_a_good_one() -> None:
    # FR-08
    two = long_identities()

    def forge(d: Datagram) -> Datagram:
        if d.header.next_payload == PayloadType.SKF:
            two.net.inject(Datagram(d.source, d.destination, d.data[:-1] + bytes([d.data[-1] ^ 1])))
        return d

    two.net.rewrite(forge)
    two.establish()
    assert two.b.endpoint.drops[DropReason.IKE_BAD_ICV] > 0


def test_repeated_fragments_of_an_answered_request_draw_one_answer() -> None:
    # FR-12
    two = long_identities()
    two.establish()
    request = [d for d in fragments(two) if sent_by(two.a)(d)]
    answer = [d for d in fragments(two) if sent_by(two.b)(d)]
    before = len(two.net.sent)
    for d in request:
        two.net.inject(d)
    two.net.run(0.001)
    assert two.net.sent[before:] == answer


def test_fragments_are_not_used_where_one_end_did_not_announce_them() -> None:
    # IN-44, FR-11
    two = Two(policy_a(ike=ike_policy(fragment_bytes=0)))
    two.establish()
    assert not fragments(two)


def test_large_message_goes_whole_where_policy_says_so() -> None:
    two = long_identities(fragment_bytes=0)
    two.establish()
    assert not fragments(two)
    assert max(len(d.data) for d in two.net.sent) > 1280


def test_retransmission_goes_to_where_the_request_came_from() -> None:
    two = Two()
    two.establish()
    two.a.endpoint.check_liveness(1, two.net.now)
    two.net.run(1)
    request = next(d for d in two.net.sent if exchange(INFO)(d))
    two.net.inject(Datagram(Endpoint("192.0.2.1", 61001), request.destination, request.data))
    two.net.run(0.001)
    assert two.net.sent[-1].destination == Endpoint("192.0.2.1", 61001)
    assert two.b.endpoint.views()[0].path.remote.port == 4500
