"""Re-authentication, make before break (RFC 7296 2.8.3), and what becomes of several IKE SAs of one identity."""

from __future__ import annotations

import pytest

from ipsecd.causes import Cause
from ipsecd.effects import RemoveSa
from ipsecd.events import IkeAttemptFailed, IkeSaDown, IkeSaUp
from ipsecd.ike.child_sa import LINGER_S
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.tasks.auth_lifetime import MIN_REAUTH_S
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.reports import ChildUp, IkeFailed, ReauthDue
from tests.support.exchange import Two, ike_policy, policy_a, policy_b
from tests.support.gateways import Pair, without_address
from tests.support.mallory import Mallory
from tests.support.sim import Datagram, exchange, sent_by
from tests.support.victim import Victim

REAUTH_S = 1000.0


def watched(pair: Pair, seconds: float, *children: str) -> None:
    """Run for a time in small steps: at each, both ends send every child's traffic to a pair that the other has."""
    end = pair.net.now + seconds
    while pair.net.now < end:
        pair.net.run(0.01)
        for host in (pair.a, pair.b):
            assert all(pair.sends(host, child) for child in children), (pair.net.now, host.name)


@pytest.mark.parametrize("unique", ["replace", "keep", "never"])
@pytest.mark.parametrize("both", [False, True])
def test_reauthentication_makes_everything_anew_before_the_old_goes(unique: str, both: bool) -> None:
    ike = ike_policy(reauth_s=REAUTH_S, unique=unique)
    pair = Pair(policy_a("lan", "voice", ike=ike),
                policy_b("lan", "voice", ike=ike if both else ike_policy(unique=unique)))
    pair.start()
    before = len([d for d in pair.net.sent if exchange(ExchangeType.IKE_AUTH)(d)])
    first, pairs = pair.a.endpoint.views()[0].spi_i, pair.spis(pair.a)
    pair.net.run_until(lambda: bool([v for v in pair.a.endpoint.views() if v.spi_i != first]), limit_s=1200)
    assert REAUTH_S * 0.85 < pair.net.now - 1000 < REAUTH_S * 1.15
    watched(pair, 2, "lan", "voice")
    pair.net.run(20)
    pair.check("lan", "voice")
    assert pair.a.endpoint.views()[0].spi_i != first
    assert not set(pairs["lan"]) & set(pair.spis(pair.a)["lan"])
    assert len([d for d in pair.net.sent if exchange(ExchangeType.IKE_AUTH)(d)]) == before + 2      # one exchange


def test_packets_that_the_delete_of_the_old_ike_sa_overtook_are_received() -> None:
    pair = Pair(policy_a(ike=ike_policy(reauth_s=REAUTH_S)))
    pair.start()
    pair.net.run(REAUTH_S * 0.8)                        # past the early rekey that tries PFS
    old = [(host, pair.spis(host)["lan"][0]) for host in (pair.a, pair.b)]
    pair.net.run(REAUTH_S * 0.4)
    for host, spi in old:
        assert [r for r in host.reports(RemoveSa) if r.spi_in == spi] == [RemoveSa(spi, LINGER_S)]


def test_traffic_leaves_a_relieved_pair_before_the_delete_of_its_ike_sa_is_answered() -> None:
    pair = Pair(policy_a(ike=ike_policy(reauth_s=REAUTH_S)))
    pair.start()
    pair.net.run(REAUTH_S * 0.8)
    first = pair.a.endpoint.views()[0].spi_i
    old = {host.name: pair.spis(host)["lan"][0] for host in (pair.a, pair.b)}
    still: list[bool] = []          # with each response on the old IKE SA: does the end that answers send on its pair?

    def look(d: Datagram) -> bool:
        for host in (pair.a, pair.b):
            if sent_by(host, exchange(ExchangeType.INFORMATIONAL, response=True))(d) and d.header.spi_i.hex() == first:
                still.append(old[host.name] in host.outbound.values())
        return False
    pair.net.drop(look)
    pair.net.run_until(lambda: not [v for v in pair.a.endpoint.views() if v.spi_i == first], limit_s=400)
    assert still[-1] is False, still


def test_pair_whose_slot_nobody_else_serves_ends_with_its_ike_sa() -> None:
    pair = Pair(policy_a())
    pair.start()
    old = [(host, pair.spis(host)["lan"][0]) for host in (pair.a, pair.b)]
    pair.gateway(pair.a).down("b", None, pair.net.now)
    pair.net.run(1)
    for host, spi in old:
        assert [r.linger_s for r in host.reports(RemoveSa) if r.spi_in == spi] == [0.0]


def test_rekeying_does_not_put_reauthentication_off() -> None:
    pair = Pair(policy_a(ike=ike_policy(reauth_s=REAUTH_S, lifetime_s=300)))
    pair.start()
    before = len(pair.a.events(IkeSaUp))
    pair.net.run(1150)
    assert len(pair.a.events(IkeSaUp)) == before + 1
    pair.check("lan")


def test_reauthentication_that_fails_leaves_the_old_up_until_its_proof_is_too_old() -> None:
    pair = Pair(policy_a(ike=ike_policy(reauth_s=REAUTH_S)))
    pair.start()
    first = pair.a.endpoint.views()[0].spi_i
    pair.net.drop(exchange(ExchangeType.IKE_SA_INIT))
    pair.net.run(REAUTH_S * 1.1 + 5)
    assert [v.spi_i for v in pair.a.endpoint.views() if v.state == "Established"] == [first]
    assert pair.sends(pair.a, "lan")
    pair.net.run(200)                       # hard: 10 %, at least 180 s later
    assert not [v for v in pair.a.endpoint.views() + pair.b.endpoint.views() if v.state == "Established"]
    pair.net.heal()
    pair.net.run(60)
    pair.check("lan")


def listening(pair_of: str = "lan", *, reauth_s: float = REAUTH_S, **ike: object) -> Pair:
    """B cannot call A, and wants it to prove itself anew; A has no such policy of its own."""
    return Pair(policy_a(pair_of, ike=ike_policy(**ike)),
                without_address(policy_b(pair_of, ike=ike_policy(reauth_s=reauth_s, **ike))))


@pytest.mark.parametrize("lifetime_s", [14400, 300])
def test_initiator_reauthenticates_before_the_time_that_the_responder_gives(lifetime_s: float) -> None:
    pair = listening(lifetime_s=lifetime_s)
    pair.start()
    authenticated = pair.net.now
    pair.net.run_until(lambda: len(pair.a.events(IkeSaUp)) == 2, limit_s=REAUTH_S)
    assert 0.78 * REAUTH_S < pair.net.now - authenticated < 0.92 * REAUTH_S
    watched(pair, 2, "lan")
    pair.net.run(20)
    pair.check("lan")
    assert [e.role for e in pair.a.events(IkeSaUp)] == ["initiator"] * 2


def test_end_that_only_listens_cuts_off_whoever_does_not_reauthenticate() -> None:
    pair = listening()
    pair.start()
    pair.net.drop(exchange(ExchangeType.IKE_SA_INIT))
    pair.net.run(REAUTH_S * 0.9 + 100)
    assert pair.sends(pair.b, "lan")
    pair.net.run(REAUTH_S * 0.2 + 100)
    assert not [v for v in pair.a.endpoint.views() + pair.b.endpoint.views() if v.state == "Established"]
    assert pair.b.last_event(IkeSaDown).failure.cause is Cause.EXPIRED
    pair.net.heal()
    pair.net.run(60)
    pair.check("lan")


def test_reload_of_the_listening_end_tells_the_new_time() -> None:
    pair = listening(reauth_s=0.0)
    pair.start()
    pair.net.run(100)
    pair.reload(pair.b, without_address(policy_b(ike=ike_policy(reauth_s=REAUTH_S))))
    pair.net.run_until(lambda: len(pair.a.events(IkeSaUp)) == 2, limit_s=REAUTH_S)
    assert 0.78 * REAUTH_S < pair.net.now - 1000 < 0.92 * REAUTH_S + 100
    pair.net.run(20)
    pair.check("lan")


def test_peer_that_wants_a_proof_at_every_moment_gets_one_now_and_then() -> None:
    pair = listening(reauth_s=1.0)
    pair.start()
    pair.net.run(100)
    assert 8 <= len(pair.a.events(IkeSaUp)) <= 100 / MIN_REAUTH_S + 2
    pair.check("lan")


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0\0\0\0\0"])
def test_time_of_a_proof_that_is_no_number_is_passed_over(data: bytes) -> None:
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    mallory.login()
    assert mallory.request(ExchangeType.INFORMATIONAL, NotifyPayload(NotifyType.AUTH_LIFETIME, data)) == ()
    victim.wait(100)
    assert not [e for e in victim.log if isinstance(e, ReauthDue)]
    mallory.request(ExchangeType.INFORMATIONAL, NotifyPayload(NotifyType.AUTH_LIFETIME, bytes(4)))
    victim.wait(1)
    assert len([e for e in victim.log if isinstance(e, ReauthDue)]) == 1


def second_attempt(unique: str, *, restarted: bool) -> Two:
    """A makes an IKE SA, and another one; B has this policy.  A has restarted before, or makes both knowingly."""
    two = Two(policy_a(ike=ike_policy(unique="never")), policy_b(ike=ike_policy(unique=unique)))
    two.establish()
    if restarted:
        two.net.restart(two.a, two.a.endpoint._table.policy)
    two.initiate(two.a)
    two.net.run(20)
    return two


@pytest.mark.parametrize(("unique", "restarted", "left"), [
    ("replace", False, 1), ("replace", True, 1), ("keep", False, 2), ("keep", True, 1), ("never", False, 2),
    ("never", True, 2), ("reject", False, 1), ("reject", True, 1)])
def test_unique_decides_about_the_older_ike_sa(unique: str, restarted: bool, left: int) -> None:
    assert len(second_attempt(unique, restarted=restarted).b.established()) == left


def test_rejected_second_ike_sa_is_told_nothing_and_the_first_is_asked_whether_it_lives() -> None:
    two = second_attempt("reject", restarted=False)
    assert two.a.reports(IkeFailed)[0].failure.cause is Cause.PEER_REFUSED_AUTH
    assert two.b.last_event(IkeAttemptFailed).failure.cause is Cause.OCCUPIED
    assert len(two.b.reports(ChildUp)) == 1
    assert [d for d in two.net.sent if exchange(ExchangeType.INFORMATIONAL)(d)]
    two.check(children=1)


def test_restarted_peer_says_initial_contact_and_is_let_in_where_a_second_one_is_rejected() -> None:
    two = second_attempt("reject", restarted=True)
    assert len(two.a.established()) == 1
    assert two.outbound_lan(two.b)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("unique", ["replace", "keep"])
def test_reauthentication_of_both_ends_under_loss_and_rekeys_converges(seed: int, unique: str) -> None:
    ike = ike_policy(reauth_s=30, lifetime_s=25, unique=unique, dpd_s=10)
    pair = Pair(policy_a("lan", "voice", ike=ike), policy_b("lan", "voice", ike=ike), seed=seed, latency_s=0.05 * seed)
    pair.net.loss = 0.1
    pair.start(200)
    pair.net.loss = 0
    calm = ike_policy(dpd_s=10)
    pair.reload(pair.a, policy_a("lan", "voice", ike=calm))
    pair.reload(pair.b, policy_b("lan", "voice", ike=calm))
    pair.net.run(300)
    pair.check("lan", "voice")
