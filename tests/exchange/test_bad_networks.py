"""How soon a tunnel is up where datagrams get lost, and back after an outage; the figures are the design's, over fixed
seeds.
"""

from __future__ import annotations

import pytest

from ipsecd.ike.consts import ExchangeType
from ipsecd.policy import Policy, Start
from ipsecd.reports import ChildUp
from tests.exchange.test_auth_cert import by_certificate, trust, with_auth
from tests.support.exchange import (
    B,
    Two,
    child_policy,
    ike_policy,
    peer_policy,
    policy,
    policy_a,
    policy_b,
)
from tests.support.gateways import Pair
from tests.support.pki import authority, issue
from tests.support.sim import SimNet, exchange, sent_by

TRIES = 60
ROOT = authority(kind="rsa2048", which=3)
INTER = authority("O=Example, CN=Inter", ROOT, kind="rsa2048", which=6)
GW_A, GW_B = (issue(f"O=Example, CN={name}", INTER, kind="rsa2048", which=which, sans=(f"{name}.example",))
              for name, which in (("a", 4), ("b", 5)))
SMALL = ike_policy(fragment_bytes=704)      # a chain of two RSA certificates then needs four datagrams


@pytest.mark.parametrize(("loss", "within_s"), [(0.1, 2.0), (0.2, 4.0), (0.3, 8.0)])
def test_nineteen_of_twenty_tunnels_are_up_in_time(loss: float, within_s: float) -> None:
    up = 0
    for seed in range(TRIES):
        two = Two(seed=(loss, seed))
        two.net.loss = loss
        two.initiate(two.a)
        two.net.run(within_s)
        up += bool(two.a.reports(ChildUp))
    assert up >= 0.95 * TRIES


@pytest.mark.parametrize("loss", [0.1, 0.2, 0.3])
def test_every_tunnel_is_up_within_a_minute(loss: float) -> None:
    in_a_minute(loss, 40)


@pytest.mark.long
@pytest.mark.parametrize("loss", [0.1, 0.2, 0.3])
def test_all_but_one_of_a_thousand_tunnels_are_up_within_a_minute(loss: float) -> None:
    in_a_minute(loss, 2000)


def test_tunnels_by_certificates_in_four_fragments_each_way_are_up_within_a_minute() -> None:
    two = Two(*with_certificates())
    two.establish()
    for host in (two.a, two.b):
        assert len([d for d in two.net.sent if sent_by(host, exchange(ExchangeType.IKE_AUTH))(d)]) == 4
    in_a_minute(0.2, 25, with_certificates())


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_all_but_one_of_a_thousand_tunnels_by_certificates_are_up_within_a_minute() -> None:
    in_a_minute(0.2, 1000, with_certificates())


def with_certificates() -> tuple[Policy, Policy]:
    return (with_auth(policy_a(ike=SMALL), by_certificate(GW_A, INTER, trusted=trust(ROOT))),
            with_auth(policy_b(ike=SMALL, start=Start.LISTEN), by_certificate(GW_B, INTER, trusted=trust(ROOT))))


def in_a_minute(loss: float, tries: int, policies: tuple[Policy, Policy] | None = None) -> None:
    late = 0
    for seed in range(tries):
        two = Pair(*(policies or (policy_a(), policy_b(start=Start.LISTEN))), seed=(loss, seed))
        two.net.loss = loss
        two.start(0.0)
        end = two.net.now + 60
        while not two.sends(two.a, "lan") and two.net.now < end:
            two.net.run(1.0)
        late += not two.sends(two.a, "lan")
    assert late <= 0.001 * tries


@pytest.mark.parametrize("outage_s", [5.0, 25.0, 100.0, 1000.0])
@pytest.mark.parametrize("seed", range(3))
def test_path_that_comes_back_carries_traffic_within_twelve_seconds(outage_s: float, seed: int) -> None:
    dpd = ike_policy(dpd_s=10)
    two = Pair(policy_a(ike=dpd), policy_b(ike=dpd), seed=seed)
    two.start(5.0)
    two.net.drop(lambda datagram: True)
    two.net.run(outage_s)
    two.net.heal()
    two.net.run(12.0)
    assert two.sends(two.a, "lan") and two.sends(two.b, "lan")


def test_branches_of_a_restarted_head_end_are_back_within_fifteen_seconds() -> None:
    back_after_a_restart(40)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_five_hundred_branches_of_a_restarted_head_end_are_back_within_fifteen_seconds() -> None:
    back_after_a_restart(500)


def back_after_a_restart(count: int) -> None:
    star = Star(count)
    star.net.run(15.0)
    assert star.connected() == count
    star.restart(star.hub)
    assert star.connected() == 0
    star.net.run(15.0)
    assert star.connected() == count


class Star(Pair):
    """A head-end that does not know where its branches are, and the branches."""

    def __init__(self, count: int) -> None:
        dpd = ike_policy(dpd_s=10)
        self.net = SimNet(("star", count))
        self.hub = self._add("hub", B, policy(*(peer_policy(
            f"p{n}", None, own="hub.example", other=f"p{n}.example", ike=dpd, children=(
                child_policy(f"p{n}", "lan", "10.1.0.0/16", _net(n), start=Start.LISTEN),)) for n in range(count))))
        self.spokes = [self._add(f"p{n}", f"172.16.{n // 250}.{n % 250 + 1}", policy(peer_policy(
            "hub", B, own=f"p{n}.example", other="hub.example", ike=dpd, children=(
                child_policy("hub", "lan", _net(n), "10.1.0.0/16"),)))) for n in range(count)]
        for host in (self.hub, *self.spokes):
            self.gateway(host).start(self.net.now)

    def connected(self) -> int:
        """Return how many branches send on a pair that the head-end has."""
        return sum(any(spoke.pairs[spi].outbound.spi in self.hub.pairs for spi in spoke.outbound.values())
                   for spoke in self.spokes)


def _net(number: int) -> str:
    return f"10.{number % 250 + 2}.{number // 250}.0/24"
