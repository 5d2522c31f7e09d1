"""Two whole gateways on the simulated network: up, kept up, reloaded, healed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.effects import AbandonHeld, RemoveSa, Resolve, SendIke, SendKeepalive, Work
from ipsecd.errors import LocalError
from ipsecd.gateway import Gateway
from ipsecd.policy import EsnPolicy, Pfs, Policy, Start
from ipsecd.reports import Suspected
from ipsecd.sa import ChildKey, Endpoint, Path
from ipsecd.secret import Secret
from ipsecd.supervisor import PeerSupervisor
from tests.support.exchange import A, B, ike_policy, policy, policy_a, policy_b
from tests.support.gateways import Node, Pair, without_address
from tests.support.seeded_rng import SeededRng

LISTEN, DEMAND = Start.LISTEN, Start.ON_DEMAND


def test_initiator_and_responder_come_up_with_every_child() -> None:
    two = Pair(policy_a("lan", "voice"), policy_b("lan", "voice", start=LISTEN))
    two.start(1.0)
    two.check("lan", "voice")


def test_peer_without_address_is_served() -> None:
    two = Pair(policy_a(), without_address(policy_b()))
    two.start(1.0)
    two.check("lan")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("children", [("lan",), ("lan", "voice")])
def test_both_ends_always_end_with_one_ike_sa_and_one_pair_each(seed: int, children: tuple[str, ...]) -> None:
    quiet = {"pfs": Pfs.OFF}                          # without its early probe
    two = Pair(policy_a(*children, **quiet), policy_b(*children, **quiet), seed=seed, latency_s=0.01 + 0.02 * seed)
    two.start(30.0)
    two.check(*children)
    before = two.spis(two.a)
    two.net.run(300.0)
    assert two.spis(two.a) == before                 # and no flap
    two.check(*children)


@pytest.mark.parametrize("seed", range(4))
def test_each_end_wanting_another_child_ends_with_one_ike_sa_and_both(seed: int) -> None:
    a, b = policy_a("lan", "voice"), policy_b("lan", "voice")
    a = starts(a, voice=LISTEN)
    b = starts(b, lan=LISTEN)
    two = Pair(a, b, seed=seed)
    two.start(30.0)
    two.check("lan", "voice")


@pytest.mark.parametrize("seed", range(4))
def test_lossy_network_ends_the_same(seed: int) -> None:
    two = Pair(seed=seed)
    two.net.loss, two.net.duplicate, two.net.reorder_s = 0.3, 0.2, 0.3
    two.start(60.0)
    two.net.heal()
    two.net.loss = two.net.duplicate = 0.0
    two.net.run(60.0)
    two.check("lan")


def test_on_demand_child_comes_up_with_traffic_only() -> None:
    two = Pair(policy_a(start=DEMAND), policy_b(start=LISTEN))
    two.start(10.0)
    assert two.net.sent == []
    two.gateway(two.a).acquire(ChildKey("b", "lan"), two.net.now)
    two.net.run(1.0)
    two.check("lan")


def test_silent_peer_is_tried_until_it_comes() -> None:
    two = Pair(policy_a(), policy_b(start=LISTEN))
    two.b.alive = False
    two.start(300.0)
    assert two.peer(two.a).attempts >= 10
    two.b.alive = True
    two.net.run(21.0)
    two.check("lan")


def test_wrong_psk_is_retried_with_growing_waits_and_comes_up_once_it_is_right() -> None:
    two = Pair(policy_a(psk=Secret(b"another key of thirty-two bytes!")), policy_b(start=LISTEN))
    two.start(200.0)
    assert 7 <= two.peer(two.a).attempts <= 10
    two.reload(two.a, policy_a())
    two.net.run(2.0)
    two.check("lan")


def test_added_peer_and_child_come_up_and_leave_the_others_alone() -> None:
    two = Pair(policy_a("lan"), policy_b("lan", "voice", start=LISTEN))
    two.start(1.0)
    before = two.spis(two.a)["lan"]
    two.reload(two.a, policy_a("lan", "voice"))
    two.net.run(1.0)
    two.check("lan", "voice")
    assert two.spis(two.a)["lan"] == before


def test_removed_child_goes_on_both_ends_and_the_other_stays() -> None:
    two = Pair(policy_a("lan", "voice"), policy_b("lan", "voice", start=LISTEN))
    two.start(1.0)
    before = two.spis(two.a)["lan"]
    two.reload(two.a, policy_a("lan"))
    two.net.run(10.0)
    two.check("lan")
    assert two.spis(two.a)["lan"] == before
    assert AbandonHeld(ChildKey("b", "voice")) in two.a.log


def test_removed_peer_is_closed_on_both_ends() -> None:
    two = Pair(policy_a(), policy_b(start=LISTEN))
    two.start(1.0)
    two.reload(two.a, policy())
    two.net.run(10.0)
    assert two.a.pairs == two.b.pairs == {}
    assert two.a.endpoint.views() == two.b.endpoint.views() == ()
    assert two.a.endpoint.next_deadline() is None


def test_changed_child_is_replaced_without_a_gap() -> None:
    two = Pair(policy_a("lan", "voice"), policy_b("lan", "voice", start=LISTEN))
    two.start(1.0)
    before = two.spis(two.a)
    two.reload(two.a, policy_a("lan", "voice", esn=EsnPolicy.YES))
    steps_without_a_gap(two, 20.0, "lan", "voice")
    two.check("lan", "voice")
    assert all(two.spis(two.a)[child] != before[child] for child in before)


def test_changed_peer_is_replaced_without_a_gap() -> None:
    two = Pair(policy_a(), policy_b(start=LISTEN))
    two.start(1.0)
    before = two.spis(two.a)
    [peer] = policy_a().peers
    two.reload(two.a, policy(replace(peer, addresses=(B, "203.0.113.99"))))
    steps_without_a_gap(two, 20.0, "lan")
    two.check("lan")
    assert two.spis(two.a) != before


def test_unchanged_reload_sends_nothing() -> None:
    two = Pair()
    two.start(5.0)
    sent = len(two.net.sent)
    two.reload(two.a, policy_a())
    two.net.run(1.0)
    assert len(two.net.sent) == sent


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("both", [False, True])
def test_restart_of_one_end_heals_within_five_seconds(who: str, both: bool) -> None:
    two = Pair(policy_a(), policy_b() if both else policy_b(start=LISTEN))
    two.start(30.0)
    two.check("lan")
    two.restart(two.net.hosts[who])
    if who == "b" and not both:                      # it cannot call: what it does not know shows it to A
        path = next(iter(two.a.pairs.values())).path
        gone = next(iter(two.a.pairs.values())).outbound.spi
        two.net.run(0.1)
        two.gateway(two.b).unknown_spi(type(path)(path.remote, path.local), gone, two.net.now)
    two.net.run(5.0)
    assert two.sends(two.a, "lan") and two.sends(two.b, "lan")
    two.net.run(60.0)
    two.check("lan")


def test_esp_that_is_ahead_of_the_answer_to_our_offer_makes_nobody_suspicious() -> None:
    two = Pair(policy_a(), policy_b(start=LISTEN))
    two.start(30.0)
    gateway, path = two.gateway(two.a), next(iter(two.a.pairs.values())).path
    announced = gateway.endpoint._table.new_esp_spi()
    sent = len(two.net.sent)
    gateway.unknown_spi(path, announced, two.net.now)
    gateway.unknown_spi(path, next(iter(two.a.pairs)), two.net.now)       # reported before it was installed
    two.net.run(0.1)
    assert len(two.net.sent) == sent
    gateway.unknown_spi(path, announced ^ 1, two.net.now)
    two.net.run(0.1)
    assert len(two.net.sent) > sent


@pytest.mark.parametrize("away_s", [6.0 + 1.7 * i for i in range(24)])
def test_listener_is_served_within_five_seconds_of_its_being_back_whenever_that_is(away_s: float) -> None:
    two = Pair(policy_a(), policy_b(start=LISTEN))
    two.b.alive = False
    two.start(away_s)
    two.b.alive = True
    two.net.run(5.0)
    two.check("lan")


def test_delete_by_the_peer_heals() -> None:
    two = Pair(policy_a(), policy_b(start=LISTEN))
    two.start(60.0)
    spi = next(iter(two.b.pairs))
    two.gateway(two.b).hard_lifetime(spi, two.net.now)
    two.net.run(10.0)
    two.check("lan")
    assert spi not in two.b.pairs
    [handle] = [v.handle for v in two.b.endpoint.views()]
    gateway = two.gateway(two.b)
    gateway.endpoint.delete_ike(handle, two.net.now, Cause.OPERATOR)
    gateway.handle_timeout(two.net.now)
    two.net.run(10.0)
    two.check("lan")


def test_what_is_due_at_once_is_done_in_turns() -> None:
    # Five hundred repetitions in one turn of the loop would keep everything else waiting.
    branches = [replace(policy_a().peers[0], name=f"b{n}") for n in range(20)]
    gateway = Gateway(policy(*branches), SeededRng(1), now=100.0, last_inbound=lambda _: None)
    gateway.start(100.0, frozenset({A}))
    for peer in branches:
        gateway.resolved(peer.name, (Path(Endpoint(A, 500), Endpoint(B, 500)),), 100.0)
    for effect in gateway.take_effects():
        if isinstance(effect, Work):
            gateway.work_done(effect.id, effect.job(), 100.0)
    assert len([e for e in gateway.take_effects() if isinstance(e, SendIke)]) == 20
    turns = []
    while (deadline := gateway.next_deadline()) is not None and deadline.at <= 101.0:
        gateway.handle_timeout(101.0, most=8)
        turns.append(len([e for e in gateway.take_effects() if isinstance(e, SendIke)]))
    assert turns == [8, 8, 4]


def test_dead_peer_is_found_and_called_again() -> None:
    dpd = ike_policy(dpd_s=10.0, dpd_timeout_s=30.0)
    two = Pair(policy_a(ike=dpd), policy_b(start=LISTEN, ike=dpd))
    two.start(5.0)
    two.net.drop(lambda d: True)
    two.net.run(60.0)
    assert two.a.pairs == {}
    assert two.peer(two.a).last_failure is not None
    two.net.heal()
    two.net.run(25.0)
    two.check("lan")


def test_down_holds_and_up_brings_back() -> None:
    two = Pair(policy_a(), policy_b())
    two.start(30.0)
    two.gateway(two.a).down("b", "lan", two.net.now)
    two.net.run(120.0)
    assert not two.sends(two.a, "lan")
    assert two.peer(two.a).down == ("lan",)
    sent = len(two.net.sent)
    two.net.run(60.0)
    assert len(two.net.sent) - sent < 60             # the peer's attempts are backed off
    two.gateway(two.a).up("b", "lan", two.net.now)
    two.net.run(70.0)
    two.check("lan")


def test_rekey_by_the_operator_moves_the_pair_and_keeps_the_picture() -> None:
    two = Pair(policy_a(), policy_b(start=LISTEN))
    two.start(1.0)
    before = two.spis(two.a)
    assert two.gateway(two.a).rekey("b", "lan", two.net.now) == 1
    steps_without_a_gap(two, 20.0, "lan")
    assert two.gateway(two.a).rekey("b", None, two.net.now) == 1
    steps_without_a_gap(two, 100.0, "lan")
    two.check("lan")
    assert two.spis(two.a) != before


def test_shutdown_closes_both_ends_and_starts_nothing() -> None:
    two = Pair(policy_a(), policy_b(start=LISTEN))
    two.start(1.0)
    two.gateway(two.a).shutdown(two.net.now)
    two.a.collect()
    two.net.run(5.0)
    assert two.b.pairs == {}
    assert two.a.reports(RemoveSa)
    sent = len(two.net.sent)
    two.net.run(100.0)
    assert len(two.net.sent) == sent
    assert not [e for e in two.gateway(two.a).take_effects() if isinstance(e, SendIke)]


def test_lookups_of_a_peer_that_is_up_are_rare() -> None:
    two = Pair(policy_a(), policy_b(start=LISTEN))
    two.start(3000.0)
    assert isinstance(two.a.endpoint, Node)
    assert two.a.endpoint.lookups <= 12


def test_fault_with_one_peer_leaves_the_others_their_turn() -> None:
    [branch] = policy_a().peers
    first, second = replace(branch, name="first"), replace(branch, name="second")
    gateway = Gateway(replace(policy_a(), peers=(first, second)), SeededRng(0), now=0.0, last_inbound=lambda _: None)
    gateway._peers["first"] = Faulty(first, SeededRng(0), now=0.0)
    with pytest.raises(LocalError):
        gateway.start(0.0)
    gateway.handle_timeout(0.1)                      # whatever comes next
    assert [e.peer for e in gateway.take_effects() if isinstance(e, Resolve)] == ["second"]


def test_fault_with_one_report_loses_no_effect_behind_it() -> None:
    gateway = Gateway(policy_a(), SeededRng(0), now=0.0, last_inbound=lambda _: None)
    [peer] = policy_a().peers
    gateway._peers[peer.name] = Faulty(peer, SeededRng(0), now=0.0)
    here = Path(Endpoint("192.0.2.1", 4500), Endpoint(B, 4500))
    gateway.endpoint._effects += [Suspected(1, peer.name), SendKeepalive(here)]
    with pytest.raises(LocalError):
        gateway.handle_timeout(0.0)
    deadline = gateway.next_deadline()
    assert deadline is not None and deadline.at <= 0.0
    with pytest.raises(LocalError):                  # its next step, which is as faulty
        gateway.handle_timeout(0.0)
    assert gateway.take_effects() == [SendKeepalive(here)]


class Faulty(PeerSupervisor):
    """A supervisor with a bug."""

    def step(self, now: float) -> None:
        raise LocalError("a bug of ours")

    def suspicion(self, now: float) -> None:
        raise LocalError("a bug of ours")


def steps_without_a_gap(two: Pair, seconds: float, *children: str) -> None:
    """Run in small steps; at each, a packet of every child would pass both ways."""
    for _ in range(int(seconds * 500)):
        two.net.run(0.002)
        for host in (two.a, two.b):
            assert all(two.sends(host, child) for child in children), (host.name, two.net.now)


def starts(policy: Policy, **changes: Start) -> Policy:
    """Return the policy with the `start` of some children changed."""
    [peer] = policy.peers
    children = tuple(replace(c, start=changes.get(c.key.child, c.start)) for c in peer.children)
    return replace(policy, peers=(replace(peer, children=children),))



def test_what_we_refuse_a_peer_as_responder_is_its_last_failure() -> None:
    # The peer's operator sees AUTHENTICATION_FAILED only; ours must find the reason in status.
    two = Pair(policy_a(), policy_b(start=LISTEN, psk=Secret(b"quite another key that is long")))
    two.start(5.0)
    [peer] = two.b.endpoint.gateway.view().peers
    assert peer.last_failure is not None
    assert peer.last_failure.failure.cause is Cause.AUTHENTICATION_FAILED
    two.reload(two.b, policy_b(start=LISTEN))
    two.net.run(70.0)
    two.check("lan")
    assert two.b.endpoint.gateway.view().peers[0].last_failure is None
