"""Both ends rekey or delete one Child SA at once (RFC 7296 2.8.1, 2.25).

N1 = A's Ni, N2 = B's Ni, N3 = B's Nr to A, N4 = A's Nr to B.  The lowest of the four loses: in {N1, N3} it is the SA
that A asked for, in {N2, N4} the one that B asked for.
"""

from __future__ import annotations

import pytest

from ipsecd.causes import Cause
from ipsecd.events import LocalFault
from ipsecd.ike.child_sa import LINGER_S
from ipsecd.ike.consts import ExchangeType, ProtocolId
from ipsecd.ike.wire.payloads import DeletePayload
from ipsecd.policy import Pfs
from ipsecd.reports import ChildGone, ChildMoved, ChildUp, IkeGone
from tests.exchange.test_message_layer import answers_to, say
from tests.support.exchange import Two, esp, policy_a, policy_b
from tests.support.sim import Filter, Host, exchange, sent_by

CREATE = ExchangeType.CREATE_CHILD_SA
INFO = ExchangeType.INFORMATIONAL
EACH_LOWEST = pytest.mark.parametrize(("n1", "n2", "n3", "n4"),
                                      [(1, 5, 5, 5), (5, 1, 5, 5), (5, 5, 1, 5), (5, 5, 5, 1)])


def crossing(n1: int, n2: int, n3: int, n4: int) -> Two:
    """Return two gateways with one child whose next nonces are steered."""
    two = Two()
    two.establish()
    two.a.rng.pin_nonce(n1, n4)
    two.b.rng.pin_nonce(n2, n3)
    return two


def requests_of(host: Host) -> Filter:
    return sent_by(host, exchange(CREATE, response=False))


def responses_to(two: Two, host: Host) -> Filter:
    other = two.b if host is two.a else two.a
    return sent_by(other, exchange(CREATE, response=True))


def rekey(two: Two, host: Host) -> None:
    host.endpoint.rekey_child(two.pair(host), two.net.now)


def one_child_without_flap(two: Two) -> None:
    two.net.run(LINGER_S + 2)
    two.check(children=1)
    for host in (two.a, two.b):
        assert len(host.reports(ChildMoved)) == len(host.reports(ChildUp)) == 1
        assert not host.reports(ChildGone)
        assert not host.dark


@EACH_LOWEST
def test_crossing_rekeys_keep_the_sa_without_the_lowest_nonce(n1: int, n2: int, n3: int, n4: int) -> None:
    # CX-01
    two = crossing(n1, n2, n3, n4)
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(0.5)
    one_child_without_flap(two)
    survivor = next(iter(two.a.endpoint._table.sas.values())).session.children[two.pair(two.a)]
    assert bytes([1]) * 32 not in (survivor.nonces.ni, survivor.nonces.nr)
    deletes = [d for d in two.net.sent if exchange(INFO)(d)]
    assert len(deletes) == 4


@EACH_LOWEST
def test_late_response_after_the_peers_delete_gives_the_same_result(n1: int, n2: int, n3: int, n4: int) -> None:
    # CX-04
    two = crossing(n1, n2, n3, n4)
    two.net.hold(responses_to(two, two.a))
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(0.3)
    two.net.release()
    one_child_without_flap(two)


@EACH_LOWEST
def test_late_response_does_not_revive_a_successor_deleted_meanwhile(n1: int, n2: int, n3: int, n4: int) -> None:
    # CX-05
    two = crossing(n1, n2, n3, n4)
    two.net.hold(responses_to(two, two.a))
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(0.2)
    two.b.endpoint.delete_child(two.pair(two.b), two.net.now, Cause.OPERATOR)
    two.net.run(0.2)
    two.net.release()
    two.net.run(LINGER_S + 2)
    two.check(children=0)
    assert len(two.a.reports(ChildGone)) == len(two.b.reports(ChildGone)) == 1


def test_peer_that_deletes_the_old_pair_though_it_lost_has_decided() -> None:
    # A's pair should stay, but B deletes what it replaced and uses its own: no fault of ours may come of it.
    two = crossing(5, 1, 5, 5)
    two.net.hold(responses_to(two, two.a))
    two.net.drop(sent_by(two.b, exchange(INFO, response=False)))
    old = two.pair(two.b)
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(0.05)
    delete = DeletePayload(ProtocolId.ESP, (old.to_bytes(4, "big"),))
    answers_to(two, say(two, two.b, (delete,)))
    two.net.release()
    two.net.run(0.05)
    assert not two.a.events(LocalFault)
    assert len(two.a.reports(ChildMoved)) == 1
    assert not two.a.reports(IkeGone)


@pytest.mark.parametrize("delete_first", [False, True])
def test_late_request_after_the_peer_finished_gets_temporary_failure_and_is_given_up(delete_first: bool) -> None:
    # CX-07
    two = crossing(5, 5, 5, 5)
    two.net.hold(requests_of(two.a))
    if not delete_first:
        two.net.hold(sent_by(two.b, exchange(INFO)))
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(0.1)
    two.net.release()
    one_child_without_flap(two)
    two.net.run(30)
    assert len(two.a.reports(ChildMoved)) == 1     # no retry was scheduled


def test_late_request_after_the_peer_deleted_the_old_pair_gets_child_not_found() -> None:
    # CX-08
    two = crossing(5, 5, 5, 5)
    two.net.hold(requests_of(two.a))
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(LINGER_S + 2)
    two.net.release()
    two.net.run(0.3)
    one_child_without_flap(two)


def test_late_request_after_old_and_new_pair_were_deleted_leaves_nothing() -> None:
    # CX-09
    two = crossing(5, 5, 5, 5)
    two.net.hold(requests_of(two.a))
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(0.5)
    two.b.endpoint.delete_child(two.pair(two.b), two.net.now, Cause.OPERATOR)
    two.net.run(0.5)
    two.net.release()
    two.net.run(LINGER_S + 2)
    two.check(children=0)
    assert len(two.a.reports(ChildGone)) == len(two.b.reports(ChildGone)) == 1


@EACH_LOWEST
def test_nonces_of_the_retry_decide_after_invalid_ke(n1: int, n2: int, n3: int, n4: int) -> None:
    # CX-11: each sends a value for a group that the other does not have; the first nonces must not count
    two = Two(policy_a(pfs=Pfs.REQUIRED, proposals=(esp("aes256gcm16-x25519-ecp256"),)),
              policy_b(pfs=Pfs.REQUIRED, proposals=(esp("aes256gcm16-ecp384-ecp256"),)))
    two.establish()
    two.a.rng.pin_nonce(0, n1, n4)
    two.b.rng.pin_nonce(0, n2, n3)
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(0.5)
    one_child_without_flap(two)
    survivor = next(iter(two.a.endpoint._table.sas.values())).session.children[two.pair(two.a)]
    assert bytes([1]) * 32 not in (survivor.nonces.ni, survivor.nonces.nr)


@pytest.mark.parametrize("late", [False, True])
def test_delete_by_the_peer_wins_over_our_rekey(late: bool) -> None:
    # CX-14, CX-16: B answers TEMPORARY_FAILURE; the Delete comes before or after it
    two = crossing(5, 5, 5, 5)
    if late:
        two.net.hold(sent_by(two.b, exchange(INFO)))
    else:
        two.net.hold(requests_of(two.a))
    rekey(two, two.a)
    two.b.endpoint.delete_child(two.pair(two.b), two.net.now, Cause.OPERATOR)
    two.net.run(0.1)
    two.net.release()
    two.net.run(30)
    two.check(children=0)
    assert len(two.a.reports(ChildGone)) == len(two.b.reports(ChildGone)) == 1


def test_rekey_that_arrives_after_the_delete_is_not_found_and_not_repeated() -> None:
    # CX-17
    two = crossing(5, 5, 5, 5)
    two.net.hold(requests_of(two.a))
    rekey(two, two.a)
    two.b.endpoint.delete_child(two.pair(two.b), two.net.now, Cause.OPERATOR)
    two.net.run(0.4)
    two.net.release()
    two.net.run(30)
    two.check(children=0)
    assert [g.failure.cause for g in two.a.reports(ChildGone)] == [Cause.PEER_DELETED]


def test_delete_of_the_new_pair_before_its_response_leaves_nothing() -> None:
    # CX-18
    two = crossing(5, 5, 5, 5)
    two.net.hold(responses_to(two, two.a))
    rekey(two, two.a)
    two.net.run(0.1)
    new = next(spi for spi in two.b.pairs if spi != two.pair(two.b))
    two.b.endpoint.delete_child(new, two.net.now, Cause.OPERATOR)
    two.net.run(0.1)
    two.net.release()
    two.net.run(LINGER_S + 2)
    two.check(children=0)
    assert len(two.a.reports(ChildGone)) == len(two.b.reports(ChildGone)) == 1


@pytest.mark.parametrize("other", ["rekey", "delete"])
def test_child_rekey_against_an_ike_exchange_of_the_peer(other: str) -> None:
    # CX-19, CX-20
    two = crossing(5, 5, 5, 5)
    rekey(two, two.a)
    handle = two.b.endpoint.views()[0].handle
    if other == "rekey":
        two.b.endpoint.rekey_ike(handle, two.net.now)
        two.net.run(0.5)
        assert not two.a.reports(ChildMoved)       # both were refused and neither tried again at once
        two.net.run(30)
        one_child_without_flap(two)
    else:
        two.b.endpoint.delete_ike(handle, two.net.now, Cause.OPERATOR)
        two.net.run(30)
        two.check(children=0, ike=0)
        assert len(two.a.reports(ChildGone)) == len(two.b.reports(ChildGone)) == 1


def test_loser_sends_on_the_old_pair_until_the_winner_can_receive() -> None:
    # B installs its pair with A's response, a key exchange later; what A sends on it before would be lost.
    two = crossing(1, 5, 5, 5)
    old = two.pair(two.a)
    two.net.hold(responses_to(two, two.b))
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(0.2)
    assert two.pair(two.a) == old
    two.net.release()
    two.net.run(LINGER_S + 3)
    assert two.pair(two.a) != old
    two.check(children=1)
