"""Collisions of rekeys of several exchanges, and of different numbers of them (RFC 7296 2.8, 2.25; RFC 9370 2.2.4).

Nonces are named as in test_child_rekey_collision.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ipsecd.causes import Cause
from ipsecd.events import IkeSaRekeyed
from ipsecd.ike.child_sa import LINGER_S
from ipsecd.ike.consts import ExchangeType, NotifyType, ProtocolId
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import DeletePayload
from ipsecd.policy import Pfs
from ipsecd.reports import ChildGone, ChildMoved, ChildUp, IkeGone
from tests.exchange.test_follow_up import EACH_LOWEST, healthy, rekey_child, rekey_ike, up
from tests.exchange.test_message_layer import say
from tests.support.exchange import Two, esp, ike, ike_policy, policy_a, policy_b
from tests.support.mallory import Mallory, child_payloads, rekey_notify
from tests.support.sim import Host, exchange, sent_by
from tests.support.victim import Victim

CREATE, FOLLOW_UP = ExchangeType.CREATE_CHILD_SA, ExchangeType.IKE_FOLLOWUP_KE
INFO = ExchangeType.INFORMATIONAL
Rekey = Callable[[Two, Host], None]
BOTH_KINDS = pytest.mark.parametrize("rekey", [rekey_child, rekey_ike])


def pinned(two: Two, n1: int, n2: int, n3: int, n4: int, *, rounds: int = 0) -> Two:
    """Steer the nonces of both rekeys; `rounds` requests of each end come before those that count."""
    two.a.rng.pin_nonce(*[0] * rounds, n1, n4)
    two.b.rng.pin_nonce(*[0] * rounds, n2, n3)
    return two


def refused_groups() -> Two:
    """Each end begins with a group that the other one does not have; both have a third."""
    ours, theirs = "x25519-ecp256", "ecp384-ecp256"
    two = Two(policy_a(pfs=Pfs.REQUIRED, proposals=(esp(f"aes256gcm16-{ours}"),), ike=ike_policy(
        proposals=(ike("aes256gcm16-prfsha256-x25519-ecp256"),))),
              policy_b(pfs=Pfs.REQUIRED, proposals=(esp(f"aes256gcm16-{theirs}"),), ike=ike_policy(
                  proposals=(ike("aes256gcm16-prfsha256-ecp384-ecp256"),))))
    two.establish()
    return two


def mixed() -> Two:
    """What A asks for is answered without an additional key exchange, what B asks for with one: each has its order."""
    plain, hybrid = "x25519", "x25519-ke1_mlkem768"
    def policies(first: str, second: str) -> dict[str, object]:
        return {"ike": ike_policy(proposals=tuple(ike(f"aes256gcm16-prfsha384-{k}") for k in (first, second))),
                "proposals": tuple(esp(f"aes256gcm16-{k}") for k in (first, second)), "pfs": Pfs.REQUIRED}
    two = Two(policy_a(**policies(hybrid, plain)), policy_b(**policies(plain, hybrid)))  # type: ignore[arg-type]
    two.establish()
    return two


def settled(two: Two, rekey: Rekey) -> None:
    two.net.run(LINGER_S + 65)
    two.check(children=1)
    healthy(two)
    for host in (two.a, two.b):
        assert not host.reports(ChildGone)
        assert len(host.reports(ChildUp)) == 1
        assert len(host.reports(ChildMoved) if rekey is rekey_child else host.events(IkeSaRekeyed)) == 1


@BOTH_KINDS
def test_refused_group_of_a_series_costs_one_round_and_the_old_stays_usable(rekey: Rekey) -> None:
    # CREATE_CHILD_SA { SA, Ni, KEi } -->  <-- N(INVALID_KE_PAYLOAD)
    # CREATE_CHILD_SA { SA, Ni, KEi } -->  <-- CREATE_CHILD_SA { SA, Nr, KEr, N(ADDITIONAL_KEY_EXCHANGE) }, follow-ups
    more = "ke1_mlkem768"
    two = Two(policy_a(pfs=Pfs.REQUIRED, proposals=(esp(f"aes256gcm16-x25519-ecp256-{more}"),),
                       ike=ike_policy(proposals=(ike(f"aes256gcm16-prfsha384-x25519-ecp256-{more}"),))),
              policy_b(pfs=Pfs.REQUIRED, proposals=(esp(f"aes256gcm16-ecp256-{more}"),),
                       ike=ike_policy(proposals=(ike(f"aes256gcm16-prfsha384-ecp256-{more}"),))))
    two.establish()
    for number in (1, 2):
        before = len([d for d in two.net.sent if sent_by(two.a, exchange(CREATE))(d)])
        rekey(two, two.a)
        two.net.run(LINGER_S + 65)
        two.check(children=1)
        healthy(two)
        asked = len([d for d in two.net.sent if sent_by(two.a, exchange(CREATE))(d)]) - before
        assert asked == (1 if rekey is rekey_child and number == 2 else 2), "a child remembers its group"
    assert not two.a.reports(ChildGone) + two.b.reports(ChildGone)


@EACH_LOWEST
@BOTH_KINDS
def test_rekeys_of_one_and_of_two_exchanges_that_cross_leave_one(n1: int, n2: int, n3: int, n4: int,
                                                                rekey: Rekey) -> None:
    two = pinned(mixed(), n1, n2, n3, n4)
    rekey(two, two.a)
    rekey(two, two.b)
    settled(two, rekey)
    asked = {d.source.address for d in two.net.sent if exchange(FOLLOW_UP, response=False)(d)}
    assert asked == ({two.b.address} if 1 in (n1, n3) else set()), "only a winner goes on with its series"


@EACH_LOWEST
@BOTH_KINDS
@pytest.mark.parametrize("slow", [(0.05, 0.0), (0.0, 0.05), (0.03, 0.03), (0.3, 0.07), (0.07, 0.3)])
def test_rekeys_of_one_and_of_two_exchanges_leave_one_whatever_is_slow(n1: int, n2: int, n3: int, n4: int, rekey: Rekey,
                                                                      slow: tuple[float, float]) -> None:
    two = pinned(mixed(), n1, n2, n3, n4)
    two.a.work_s, two.b.work_s = slow
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(100)
    two.check(children=1)
    healthy(two)


@EACH_LOWEST
@BOTH_KINDS
@pytest.mark.parametrize("held", [CREATE, FOLLOW_UP])
@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize("side", ["a", "b"])
def test_rekeys_of_one_and_of_two_exchanges_leave_one_whatever_is_late(
        n1: int, n2: int, n3: int, n4: int, rekey: Rekey, held: ExchangeType, *, response: bool, side: str) -> None:
    two = pinned(mixed(), n1, n2, n3, n4)
    two.net.hold(sent_by(two.net.hosts[side], exchange(held, response=response)))
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(0.3)
    two.net.release()
    two.net.run(100)
    two.check(children=1)
    healthy(two)


@EACH_LOWEST
def test_nonces_of_the_retry_decide_between_ike_rekeys(n1: int, n2: int, n3: int, n4: int) -> None:
    two = Two(policy_a(ike=ike_policy(proposals=(ike("aes256gcm16-prfsha256-x25519"),))),
              policy_b(ike=ike_policy(proposals=(ike("aes256gcm16-prfsha256-x25519"),))))
    two.establish()
    a, b = (policy(ike=ike_policy(proposals=(ike(f"aes256gcm16-prfsha256-{groups}"),)))
            for policy, groups in ((policy_a, "ecp521-ecp256"), (policy_b, "ecp384-ecp256")))
    two.a.endpoint.replace_policy(a, two.net.now)
    two.b.endpoint.replace_policy(b, two.net.now)
    pinned(two, n1, n2, n3, n4, rounds=1)
    rekey_ike(two, two.a)
    rekey_ike(two, two.b)
    settled(two, rekey_ike)
    assert two.a.endpoint.views()[0].initiator == (1 not in (n1, n3))


@BOTH_KINDS
@pytest.mark.parametrize("lowest", range(3))
def test_late_retry_after_the_peer_finished_is_put_off_and_given_up(rekey: Rekey, lowest: int) -> None:
    # Both were told another group; A's second request is late, and B's whole rekey comes before it.
    two = refused_groups()
    if rekey is rekey_ike:
        for host, base in ((two.a, policy_a), (two.b, policy_b)):
            groups = "ecp521-ecp256" if host is two.a else "ecp384-ecp256"
            host.endpoint.replace_policy(base(ike=ike_policy(proposals=(ike(f"aes256gcm16-prfsha256-{groups}"),))),
                                         two.net.now)
    pinned(two, *(1 if i == lowest else 5 for i in range(4)), rounds=1)
    seen = 0
    def second_of_a(datagram: object) -> bool:
        nonlocal seen
        if sent_by(two.a, exchange(CREATE, response=False))(datagram):  # type: ignore[arg-type]
            seen += 1
            return seen == 2
        return False
    two.net.hold(second_of_a)
    rekey(two, two.a)
    rekey(two, two.b)
    two.net.run(0.1)
    assert len(two.net.held) == 1
    two.net.release()
    settled(two, rekey)


@BOTH_KINDS
def test_delete_between_the_exchanges_of_a_series_ends_it(rekey: Rekey) -> None:
    two = up()
    two.net.hold(sent_by(two.a, exchange(FOLLOW_UP, response=False)))
    rekey(two, two.a)
    two.net.run(0.1)
    assert two.net.held
    if rekey is rekey_child:
        two.b.endpoint.delete_child(two.pair(two.b), two.net.now, Cause.OPERATOR)
    else:
        two.b.endpoint.delete_ike(two.b.endpoint.views()[0].handle, two.net.now, Cause.OPERATOR)
    two.net.run(0.1)
    two.net.release()
    two.net.run(90)
    two.check(children=0, ike=1 if rekey is rekey_child else 0)
    for host in (two.a, two.b):
        assert len(host.reports(ChildGone)) == 1
        assert len(host.reports(IkeGone)) == (rekey is rekey_ike)
        assert not host.events(IkeSaRekeyed)


def test_delete_of_the_old_pair_ahead_of_the_response_leaves_the_new_one_in_use() -> None:
    # B answers our rekey, and deletes what it replaced before its answer is here: that is our part to do.
    two = Two()
    two.establish()
    old = two.pair(two.b)
    two.net.hold(sent_by(two.b, exchange(CREATE, response=True)))
    rekey_child(two, two.a)
    two.net.run(0.1)
    delete = DeletePayload(ProtocolId.ESP, (old.to_bytes(4, "big"),))
    two.net.inject(say(two, two.b, (delete,)))
    two.net.run(0.05)
    two.net.release()
    two.net.run(0.5)
    healthy(two)
    assert len(two.a.reports(ChildMoved)) == 1
    assert not two.a.reports(ChildGone)
    deletes = [d for d in two.net.sent if sent_by(two.a, exchange(INFO, response=False))(d)]
    assert not deletes, "the pair that the peer deleted was deleted again"


def test_second_rekey_of_a_pair_that_was_replaced_is_answered_and_makes_no_mess() -> None:
    # CREATE_CHILD_SA { N(REKEY_SA), SA, Ni, TSi, TSr } --> twice, for the same old pair, which is never deleted
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    assert mallory.login() is not None
    old = rekey_notify(b"\xc0\0\0\1")
    first = mallory.request(CREATE, old, *child_payloads(spi=0xC0000002))
    second = mallory.request(CREATE, old, *child_payloads(spi=0xC0000003))
    assert first is not None
    assert second is not None
    refused = [p.type for p in second if isinstance(p, NotifyPayload) and p.is_error]
    assert refused in ([], [NotifyType.TEMPORARY_FAILURE])
    victim.wait(60)
    assert victim.established() == ["b"]
    assert len(victim.installed) <= 2
    victim.check()
