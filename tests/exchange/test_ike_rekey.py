"""Rekeying the IKE SA, alone and against the peer's own exchanges (RFC 7296 1.3.2, 2.8.2, 2.18, 2.25).

Nonces are named as in test_child_rekey_collision.
"""

from __future__ import annotations

import pytest

from ipsecd.causes import Cause
from ipsecd.events import IkeSaRekeyed
from ipsecd.ike.consts import ExchangeType
from ipsecd.ike.handover import CLOSE_S
from ipsecd.reports import ChildGone, ChildMoved, ChildUp, IkeGone, IkeUp
from tests.support.exchange import Two, ike, ike_policy, policy_a, policy_b
from tests.support.sim import Host, exchange, sent_by

CREATE = ExchangeType.CREATE_CHILD_SA
INFO = ExchangeType.INFORMATIONAL
EACH_LOWEST = pytest.mark.parametrize(("n1", "n2", "n3", "n4"),
                                      [(1, 5, 5, 5), (5, 1, 5, 5), (5, 5, 1, 5), (5, 5, 5, 1)])


def crossing(n1: int = 5, n2: int = 5, n3: int = 5, n4: int = 5) -> Two:
    two = Two()
    two.establish()
    two.a.rng.pin_nonce(n1, n4)
    two.b.rng.pin_nonce(n2, n3)
    return two


def rekey(two: Two, host: Host) -> None:
    host.endpoint.rekey_ike(two.a.endpoint.views()[0].handle if host is two.a else two.b.endpoint.views()[0].handle,
                            two.net.now)


def one_ike_sa_with_the_child(two: Two) -> None:
    two.net.run(2)
    two.check(children=1)
    for host in (two.a, two.b):
        assert len(host.reports(ChildUp)) == len(host.reports(IkeUp)) == 1
        assert len(host.events(IkeSaRekeyed)) == 1
        assert not host.reports(ChildGone) + host.reports(IkeGone) + host.reports(ChildMoved)
        assert not host.dark


@pytest.mark.parametrize("from_a", [True, False])
def test_ike_rekey_moves_the_child_and_restarts_message_ids(from_a: bool) -> None:
    # IR-01: HDR, SK {SA, Ni, KEi}  -->  <-- HDR, SK {SA, Nr, KEr}, then D on the old IKE SA
    two = Two()
    handle = two.establish()
    old = two.a.endpoint.views()[0].spi_i
    rekey(two, two.a if from_a else two.b)
    one_ike_sa_with_the_child(two)
    view = two.a.endpoint.views()[0]
    assert view.spi_i != old
    assert (view.handle, view.initiator) == (handle, from_a)
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(0.1)
    first = next(d for d in reversed(two.net.sent) if sent_by(two.a, exchange(CREATE, response=False))(d))
    assert first.header.message_id == 0
    two.net.run(7)
    two.check(children=1)
    assert two.a.reports(ChildMoved)[0].handle == handle


def test_ike_rekey_retries_with_the_group_that_the_peer_wants() -> None:
    # IR-03
    two = Two(policy_a(ike=ike_policy(proposals=(ike("aes256gcm16-prfsha256-x25519-ecp256"),))),
              policy_b(ike=ike_policy(proposals=(ike("aes256gcm16-prfsha256-ecp256"),))))
    two.establish()
    rekey(two, two.a)
    one_ike_sa_with_the_child(two)


@EACH_LOWEST
def test_crossing_ike_rekeys_keep_the_one_without_the_lowest_nonce(n1: int, n2: int, n3: int, n4: int) -> None:
    # IR-05
    two = crossing(n1, n2, n3, n4)
    rekey(two, two.a)
    rekey(two, two.b)
    one_ike_sa_with_the_child(two)
    assert two.a.endpoint.views()[0].initiator == (1 not in (n1, n3))


@EACH_LOWEST
def test_late_response_of_an_ike_rekey_gives_the_same_result(n1: int, n2: int, n3: int, n4: int) -> None:
    # IR-10
    two = crossing(n1, n2, n3, n4)
    two.net.hold(sent_by(two.b, exchange(CREATE, response=True)))
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(0.3)
    two.net.release()
    two.net.run(CLOSE_S + 1)
    one_ike_sa_with_the_child(two)


def test_lost_request_of_an_ike_rekey_ends_with_the_peers_own() -> None:
    # IR-12
    two = crossing()
    two.net.drop(sent_by(two.a, exchange(CREATE, response=False)))
    rekey(two, two.a)
    rekey(two, two.b)
    one_ike_sa_with_the_child(two)


@pytest.mark.parametrize("delete_first", [True, False])
def test_late_request_of_an_ike_rekey_gets_temporary_failure_and_is_given_up(delete_first: bool) -> None:
    # IR-13, IR-14
    two = crossing()
    two.net.hold(sent_by(two.a, exchange(CREATE, response=False)))
    if not delete_first:
        two.net.hold(sent_by(two.b, exchange(INFO)))
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(0.1)
    two.net.release()
    one_ike_sa_with_the_child(two)
    two.net.run(30)
    assert len(two.a.events(IkeSaRekeyed)) == 1


@pytest.mark.parametrize("late", [False, True])
def test_delete_of_the_ike_sa_wins_over_our_rekey(late: bool) -> None:
    # IR-16, IR-18
    two = crossing()
    if late:
        two.net.hold(sent_by(two.b, exchange(INFO)))
    rekey(two, two.a)
    two.b.endpoint.delete_ike(two.b.endpoint.views()[0].handle, two.net.now, Cause.OPERATOR)
    two.net.run(1)
    two.net.release()
    two.net.run(30)
    two.check(ike=0, children=0)
    for host in (two.a, two.b):
        assert len(host.reports(IkeGone)) == len(host.reports(ChildGone)) == 1
        assert not host.events(IkeSaRekeyed)


@pytest.mark.parametrize("what", ["create", "rekey", "delete"])
def test_ike_rekey_against_a_child_exchange_of_the_peer(what: str) -> None:
    # IR-19, CC-05, DL-04
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"))
    two.establish()
    rekey(two, two.a)
    b, handle = two.b.endpoint, two.b.endpoint.views()[0].handle
    match what:
        case "create":
            b.create_child(handle, two.requests(two.b, "voice")[0], two.net.now)
        case "rekey":
            b.rekey_child(two.pair(two.b), two.net.now)
        case _:
            b.delete_child(two.pair(two.b), two.net.now, Cause.OPERATOR)
    two.net.run(40)
    two.check(children=0 if what == "delete" else 1)
    assert len(two.a.events(IkeSaRekeyed)) == 1


def test_three_children_survive_rekeys_from_both_ends() -> None:
    # IR-21
    names = ("lan", "voice", "guest")
    two = Two(policy_a(*names), policy_b(*names))
    two.establish(*names)
    for _ in range(3):
        rekey(two, two.a)
        rekey(two, two.b)
        two.net.run(5)
        two.check(children=3)
    assert not two.a.reports(ChildGone) + two.b.reports(ChildGone)


def test_request_that_waits_moves_to_the_new_ike_sa() -> None:
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"))
    handle = two.establish()
    two.a.endpoint.rekey_ike(handle, two.net.now)
    two.a.endpoint.create_child(handle, two.requests(two.a, "voice")[0], two.net.now)
    two.net.run(2)
    two.check(children=2)


def test_rekeyed_ike_sa_takes_deletes_only() -> None:
    # IR-20
    two = Two()
    two.establish()
    two.net.drop(sent_by(two.a, exchange(INFO)))
    rekey(two, two.a)
    two.net.run(0.3)
    assert sorted(v.state for v in two.b.endpoint.views()) == ["Established", "Rekeyed"]
    two.net.run(CLOSE_S + 1)
    two.net.heal()
    one_ike_sa_with_the_child(two)


def test_soft_lifetime_rekeys_the_ike_sa() -> None:
    short = ike_policy(lifetime_s=100)
    two = Two(policy_a(ike=short))
    two.establish()
    two.net.run(115)
    one_ike_sa_with_the_child(two)


def test_peer_that_refuses_for_minutes_loses_the_ike_sa() -> None:
    # IR-23: B has no PRF in common for a new IKE SA
    two = Two()
    two.establish()
    other = policy_b(ike=ike_policy(proposals=(ike("aes256gcm16-prfsha512-x25519"),)))
    two.b.endpoint.replace_policy(other, two.net.now)
    rekey(two, two.a)
    two.net.run(400)
    assert [g.failure.cause for g in two.a.reports(IkeGone)] == [Cause.TEMPORARY_FAILURE]
