"""Somebody takes away what keeps the gateway closed: it comes back within a second, and nothing leaks meanwhile."""

from __future__ import annotations

import re

import pytest

from tests.lab.daemon import tunnel
from tests.lab.rig import LeakProbe, Rig, answers, ping, seconds_until
from tests.support.netns import LAB, Node

pytestmark = LAB

# Commands in the gateway's namespace; after `ip rule flush` the main table has its rule back, as on any running host.
DAMAGE = {
    "ip rule flush": ["ip -4 rule flush", "ip -4 rule add priority 32766 lookup main",
                      "ip -6 rule flush", "ip -6 rule add priority 32766 lookup main"],
    "table flush": ["ip -4 route flush table 7710", "ip -6 route flush table 7710"],
    "device down": ["ip link set ipsec0 down"],
    "nft flush ruleset": ["nft flush ruleset"],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_leaks_nothing_and_is_repaired_within_1_s(damage: str) -> None:
    with Rig() as rig:
        left, _ = tunnel(rig)
        ping(rig.a.host, rig.b.host4)
        before = state(left.gateway)
        with LeakProbe(rig.a, rig.b):
            for command in DAMAGE[damage]:
                left.gateway.run(*command.split(), check=False)
            seconds_until(lambda: state(left.gateway) == before, within_s=1.5)
            assert answers(rig.a.host, rig.b.host4)
            assert answers(rig.a.host, rig.b.host6)
        rig.witness.assert_clean()
        assert left.status()["gateway"]["guard"]["repairs"] >= 1


def test_guard_is_back_within_1_s_for_senders_bound_to_the_wan() -> None:
    with Rig() as rig:
        left, _ = tunnel(rig)
        left.gateway.run("nft", "flush", "ruleset")
        seconds_until(lambda: "table inet ipsecd" in left.gateway.run("nft", "list", "tables"), within_s=1)
        rig.witness.strangers()
        with LeakProbe(rig.a, rig.b):
            ping(rig.a.host, rig.b.host4)
        rig.witness.assert_clean()


@pytest.mark.parametrize("route", ["10.2.0.0/24 via 192.0.2.254", "10.2.0.10/32 dev wan0"])
def test_rogue_route_in_main_does_not_take_protected_traffic(route: str) -> None:
    with Rig() as rig:
        left, _ = tunnel(rig)
        left.gateway.ip(f"route add {route}")
        with LeakProbe(rig.a, rig.b):
            ping(rig.a.host, rig.b.host4)
        rig.witness.assert_clean()


def test_rogue_route_toward_the_lan_does_not_send_decrypted_packets_back_out() -> None:
    with Rig() as rig:
        left, _ = tunnel(rig)
        left.gateway.ip("route add 10.1.0.10/32 via 192.0.2.254")
        with LeakProbe(rig.b, rig.a):
            assert not answers(rig.b.host, rig.a.host4)
        rig.witness.assert_clean()
        left.gateway.ip("route del 10.1.0.10/32")
        ping(rig.b.host, rig.a.host4)


def state(node: Node) -> tuple[str, ...]:
    """Return our rules and routes, the guard's chains whatever their generation, the device's flags."""
    rules = [line for family in ("-4", "-6") for line in node.run("ip", family, "rule", "show").splitlines()
             if line.startswith("77")]
    routes = [node.run("ip", family, "route", "show", "table", table, check=False)
              for family in ("-4", "-6") for table in ("7710", "7711")]
    chains = sorted({re.sub(r"\d+", "", line) for line in node.run("nft", "-s", "list", "ruleset").splitlines()
                     if "chain" in line})
    return (*rules, *routes, *chains, node.run("ip", "link", "show", "ipsec0").split(">")[0])


def test_foreign_route_in_place_of_ours_is_repaired_within_1_s() -> None:
    with Rig() as rig:
        left, _ = tunnel(rig)
        before = state(left.gateway)
        with LeakProbe(rig.a, rig.b):
            left.gateway.ip("route replace 10.2.0.0/16 via 192.0.2.254 table 7710")
            seconds_until(lambda: state(left.gateway) == before, within_s=1)
            assert answers(rig.a.host, rig.b.host4)
        rig.witness.assert_clean()
