"""MOBIKE (RFC 4555): both ends change addresses, paths die, and nobody is moved who did not show that he is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.events import IkeAttemptFailed
from ipsecd.ike.consts import NotifyType
from ipsecd.ike.wire.addresses import MAX_ADDITIONAL, additional_addresses, address_list, nat_forbidden, no_nats_allowed
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.reports import IkeGone, IkeUp, PathMoved
from ipsecd.sa import Endpoint, Path
from tests.support.exchange import A, B, Two, ike_policy, policy_a, policy_b
from tests.support.mobile import A2, B2, INFO, MOBILE, VICTIM, check_on, mobile, traffic, up
from tests.support.sim import Datagram, Nat, sent_by


@pytest.mark.parametrize(("a", "b"), [(True, True), (True, False), (False, True), (False, False)])
def test_mobility_is_agreed_only_where_both_ends_want_it(*, a: bool, b: bool) -> None:
    # MB-01
    two = Two(policy_a(ike=ike_policy(mobike=a)), policy_b(ike=ike_policy(mobike=b)))
    two.establish()
    assert {r.mobile for host in (two.a, two.b) for r in host.reports(IkeUp)} == {a and b}


def test_lost_address_moves_ike_sa_and_children_to_another_without_a_handshake() -> None:
    # MB-02
    two = up()
    before = len(two.net.sent)
    two.a.readdress(A2)
    two.net.run(1)
    check_on(two, A2, B)
    assert [d.header.exchange for d in two.net.sent[before:]] == [INFO] * 4      # the update, and COOKIE2 back
    two.b.endpoint.rekey_child(two.pair(two.b), two.net.now)
    two.net.run(10)
    check_on(two, A2, B)


def test_initiators_traffic_leaves_by_the_new_address_at_once_where_the_peer_stays() -> None:
    two = up()
    two.net.drop(lambda d: True)
    two.a.readdress(A2)
    two.net.run(0.001)
    assert traffic(two.a).local.address == A2
    assert traffic(two.b).remote.address == A


def test_address_that_the_entry_does_not_name_is_left_when_this_host_changes() -> None:
    two = mobile()
    two.b.readdress(B, B2)
    two.establish()
    two.net.drop(lambda d: B in (d.source.address, d.destination.address))
    two.net.run(25)
    check_on(two, A, B2)
    two.a.readdress(A, A2)
    two.net.run(20)
    assert traffic(two.a).remote.address == B2
    two.net.heal()
    two.a.readdress(A)
    two.net.run(5)
    two.a.readdress(A, "192.0.2.12")
    two.net.run(5)
    check_on(two, traffic(two.a).local.address, B)


@pytest.mark.parametrize("gap_s", [5, 20])
def test_only_address_that_comes_back_as_another_is_used(gap_s: float) -> None:
    # MB-03
    two = up(dpd_timeout_s=60)
    two.a.readdress()
    two.net.run(gap_s)
    two.a.readdress(A2)
    two.net.run(20)
    check_on(two, A2, B)


def test_responders_lost_address_is_told_and_the_initiator_moves() -> None:
    two = up()
    two.b.readdress(B2)
    two.net.run(2)
    check_on(two, A, B2)


def test_dead_path_is_left_for_one_that_answers() -> None:
    # RFC 4555 3.10: both ends hold two addresses, and three of the four pairs are dead.
    two = mobile()
    two.a.readdress(A, A2)
    two.b.readdress(B, B2)
    two.establish()
    dead = {(A, B), (A2, B), (A, B2)}
    two.net.drop(lambda d: {(d.source.address, d.destination.address),
                            (d.destination.address, d.source.address)} & dead != set())
    two.net.run(25)
    check_on(two, A2, B2)


def test_path_just_taken_is_kept_though_another_would_answer_sooner() -> None:
    two = mobile()
    two.b.readdress(B, B2)
    two.establish()
    two.net.drop(lambda d: True)
    two.a.readdress(A, A2)                                  # its update is outstanding when the address goes
    two.net.run(0.1)
    two.net.heal()
    two.net.hold(lambda d: B in (d.source.address, d.destination.address))
    two.a.readdress(A2)
    two.net.run(0.1)
    two.net.release()
    two.net.run(5)
    check_on(two, A2, B)


def test_peer_that_moved_is_sought_where_it_spoke_from_before_other_addresses_of_its_entry() -> None:
    gone, other = "203.0.113.99", "203.0.113.98"
    policy = policy_a(ike=MOBILE)
    two = Two(replace(policy, peers=(replace(policy.peers[0], addresses=(B, gone, B2)),)), policy_b(ike=MOBILE))
    two.a.readdress(A)
    two.b.readdress(B, other)
    two.establish()
    two.b.readdress(B2, other)
    two.net.run(0.2)
    check_on(two, A, B2)
    assert not [d for d in two.net.sent if d.destination.address == gone]


def test_path_that_only_paused_is_kept() -> None:
    two = mobile()
    two.a.readdress(A, A2)
    two.establish()
    two.net.drop(lambda d: True)
    two.net.run(16)
    two.net.heal()
    two.net.drop(lambda d: A2 in (d.source.address, d.destination.address))
    two.net.run(20)
    check_on(two, A, B)


def test_second_change_during_an_update_wins() -> None:
    # MB-05
    two = up()
    two.net.hold(sent_by(two.b))
    two.a.readdress(A2)
    two.net.run(0.5)
    two.net.release()
    two.a.readdress("192.0.2.12")
    two.net.run(5)
    check_on(two, "192.0.2.12", B)


def test_update_waits_for_the_outstanding_request_which_goes_on_from_the_new_address() -> None:
    two = up()
    two.net.hold(sent_by(two.a))
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(0.1)
    two.net.heal()
    two.net.held.clear()
    two.a.readdress(A2)
    two.net.run(20)
    check_on(two, A2, B)


def test_change_during_an_ike_rekey_moves_the_successor() -> None:
    # MB-10
    for delay_s in (0.0, 0.005, 0.015, 0.025, 0.035, 0.06):
        for rekeys in (0, 1):
            two = up()
            (two.a, two.b)[rekeys].endpoint.rekey_ike(1, two.net.now)
            two.net.run(delay_s)
            two.a.readdress(A2)
            two.net.run(90)
            for host in (two.a, two.b):
                assert not host.reports(IkeGone), (delay_s, rekeys)
            assert (traffic(two.a).local.address, traffic(two.b).remote.address) == (A2, A2), (delay_s, rekeys)
            two.check(children=1)


@pytest.mark.parametrize("seed", range(12))
def test_ends_agree_again_under_loss(seed: int) -> None:
    two = up(seed=seed, dpd_timeout_s=60)
    two.net.loss = 0.3
    two.net.reorder_s = 0.05
    two.a.readdress(A2)
    two.net.run(3)
    two.b.readdress(B2)
    two.net.run(3)
    two.a.readdress(A)
    two.net.run(5)
    two.net.loss = 0.0
    two.net.run(40)
    check_on(two, A, B2)


def test_move_into_a_nat_and_out_of_it_is_noticed() -> None:
    # MB-04
    two = up(dpd_s=0)
    two.a.nat = Nat(A2)
    two.a.readdress("10.9.9.9")
    two.net.run(50)
    assert two.a.endpoint.views()[0].nat == "local"
    assert traffic(two.b).remote.address == A2
    assert two.a.keepalives == 2
    two.a.nat = None
    two.a.readdress(A)
    two.net.run(50)
    check_on(two, A, B)
    assert two.a.endpoint.views()[0].nat == "none"
    assert two.a.keepalives == 2


def test_new_nat_mapping_is_found_by_the_liveness_check() -> None:
    # RFC 4555 3.8
    two = up(nat=Nat(A))
    two.net.run(15)
    port = traffic(two.b).remote.port
    assert two.a.nat is not None
    two.a.nat.rebind()
    two.net.run(15)
    assert traffic(two.b).remote.port != port
    two.check(children=1)


def test_traffic_from_a_new_nat_mapping_is_followed_after_a_check() -> None:
    two = up(nat=Nat(A))
    assert two.a.nat is not None
    spi = two.pair(two.b)
    assert two.b.pairs[spi].follow
    two.a.nat.rebind()
    inside = traffic(two.a).local
    mapped = two.a.nat.leave(Datagram(inside, Endpoint(B, 4500), b"")).source
    two.b.endpoint.path_observed(spi, Path(Endpoint(B, 4500), mapped), two.net.now)
    two.net.run(1)
    assert two.b.reports(PathMoved)[-1].path.remote == mapped


def test_peer_without_a_nat_is_not_followed_by_its_traffic() -> None:
    two = up()
    assert not any(p.follow for host in (two.a, two.b) for p in host.pairs.values())
    spi = two.pair(two.b)
    two.b.endpoint.path_observed(spi, Path(Endpoint(B, 4500), Endpoint(VICTIM, 4500)), two.net.now)
    two.net.run(1)
    check_on(two, A, B)


def test_address_list_is_bounded_and_replaces_the_one_before() -> None:
    # MB-08
    told = address_list(f"192.0.2.{n}" for n in range(1, 30))
    assert len(told) == MAX_ADDITIONAL
    assert additional_addresses(told) == tuple(f"192.0.2.{n}" for n in range(1, 1 + MAX_ADDITIONAL))
    assert additional_addresses(address_list(())) == ()
    assert additional_addresses(()) is None
    broken = (NotifyPayload(NotifyType.ADDITIONAL_IP4_ADDRESS, b"12345"), *address_list(("2001:db8::1",)))
    assert additional_addresses(broken) == ("2001:db8::1",)


@pytest.mark.parametrize(("local", "remote"), [(A, B), ("2001:db8::1", "2001:db8::2")])
def test_forbidden_nat_is_seen_by_addresses_and_ports(local: str, remote: str) -> None:
    sent = Path(Endpoint(local, 4500), Endpoint(remote, 4500))
    arrived = Path(sent.remote, sent.local)
    assert not nat_forbidden((no_nats_allowed(sent),), arrived)
    assert nat_forbidden((no_nats_allowed(sent),), arrived._replace(remote=Endpoint(local, 4501)))
    assert not nat_forbidden((), arrived)


def test_failed_attempt_says_nothing_of_mobility() -> None:
    two = mobile()
    two.net.drop(lambda d: True)
    two.initiate(two.a)
    two.a.readdress(A2)
    two.net.run(20)
    assert len(two.a.events(IkeAttemptFailed)) == 1
