"""Floods on the simulated network: whoever spoofs ten thousand requests a second keeps no good peer out."""

from __future__ import annotations

import pytest

from ipsecd.ike.consts import ProtocolId
from ipsecd.reports import ChildRequest, IkeFailed, IkeUp
from ipsecd.sa import Endpoint, Path
from ipsecd.suites import parse_proposal
from tests.hostile.test_budgets import Flood
from tests.support.exchange import (
    A,
    B,
    Two,
    child_policy,
    ike_policy,
    peer_policy,
    policy,
    policy_a,
    policy_b,
)
from tests.support.sim import Datagram, Nat, SimNet
from tests.support.victim import Victim

PER_S = 10_000
ECP_FIRST = parse_proposal("aes256gcm16-prfsha256-ecp256-x25519", protocol=ProtocolId.IKE)
X25519 = parse_proposal("aes256gcm16-prfsha256-x25519", protocol=ProtocolId.IKE)


@pytest.mark.parametrize("kinds", [("init",), ("init", "init_from_peer"), ("no_payload", "unknown_spi", "bad_proposal"),
                                   ("low_order", "other_group", "cut")])
def test_good_peer_is_up_within_three_seconds_of_a_flood(kinds: tuple[str, ...]) -> None:
    # Rows 72, 73, 74, IN-31: its own address is among the spoofed ones.
    two = Two(policy_a(), policy_b())
    pour(two, kinds)
    two.net.run(0.7)
    two.initiate(two.a)
    two.net.run_until(lambda: bool(two.a.reports(IkeUp)), limit_s=3)
    assert not two.a.reports(IkeFailed)
    assert two.b.endpoint.half_open <= 40
    two.net.run(45)
    assert two.b.endpoint.half_open == 0
    two.check()


def test_flood_of_refusals_leaves_the_answers_that_a_good_peer_needs() -> None:
    # Row 74: INVALID_KE_PAYLOAD is part of the negotiation, whatever others use up of the answers to strangers.
    two = Two(policy_a(ike=ike_policy(proposals=(ECP_FIRST,))), policy_b(ike=ike_policy(proposals=(X25519,))))
    pour(two, ("no_payload", "unknown_spi", "bad_proposal"))
    two.net.run(0.7)
    two.initiate(two.a)
    two.net.run_until(lambda: bool(two.a.reports(IkeUp)), limit_s=3)


@pytest.mark.long
def test_five_hundred_peers_behind_one_nat_all_come_up() -> None:
    # Row 73: one address, one moment; cookies come on, and no source limit keeps anybody out.
    behind_one_nat(500)


def test_peers_behind_one_nat_all_come_up_beyond_the_source_limit() -> None:
    behind_one_nat(90)


def behind_one_nat(count: int) -> None:
    """Bring up `count` peers at once that share an address, each in its first attempt."""
    net, nat = SimNet("crowd"), Nat("198.51.100.1")
    hub = net.add("hub", B, policy(*(peer_policy(
        f"p{n}", None, own="hub.example", other=f"p{n}.example",
        children=(child_policy(f"p{n}", "lan", "10.1.0.0/16", f"10.{n % 250 + 2}.{n // 250}.0/24"),))
        for n in range(count))))
    spokes = []
    for n in range(count):
        entry = peer_policy("hub", B, own=f"p{n}.example", other="hub.example", children=(
            child_policy("hub", "lan", f"10.{n % 250 + 2}.{n // 250}.0/24", "10.1.0.0/16"),))
        spoke = net.add(f"p{n}", f"172.16.{n // 250}.{n % 250 + 1}", policy(entry), nat=nat)
        child = entry.children[0]
        spokes.append((spoke, ChildRequest(child.key, 0, child.local, child.remote)))
    for spoke, request in spokes:
        spoke.endpoint.initiate("hub", Path(Endpoint(spoke.address, 500), Endpoint(B, 500)), (request,), net.now)
    net.run(15)
    assert len(hub.established()) == len(hub.pairs) == count
    net.run(31)
    assert hub.endpoint.half_open == 0


def pour(two: Two, kinds: tuple[str, ...]) -> None:
    """Have B flooded from now on until A is up, for five seconds at most; `init_from_peer` comes from A's address."""
    flood = Flood(Victim(policy_b()))
    number = 0

    def wave() -> None:
        nonlocal number
        for _ in range(PER_S // 100):
            number += 1
            datagram, way = getattr(flood, kinds[number % len(kinds)])(number)
            source = Endpoint(A if way.remote.address == B else way.remote.address, way.remote.port)
            two.net.inject(Datagram(source, Endpoint(B, 500), datagram))
        if two.net.now < end and not two.a.reports(IkeUp):
            two.net.after(0.01, wave)

    end = two.net.now + 5
    two.net.after(0.0, wave)
