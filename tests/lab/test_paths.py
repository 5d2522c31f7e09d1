"""Paths that are not straight: loss, small and large packets, IPv6 outside, a hub."""

from __future__ import annotations

import pytest

from tests.lab.daemon import Config, Ipsecd, tunnel
from tests.lab.rig import Rig, ping
from tests.support.netns import LAB, CommandError, Node

pytestmark = LAB


def test_tunnel_comes_up_and_is_rekeyed_through_20_percent_loss() -> None:
    with Rig() as rig:
        left, right = (Ipsecd(rig, site, peer) for site, peer in ((rig.a, rig.b), (rig.b, rig.a)))
        rig.weather(20)
        rig.witness.strangers()
        right.start()
        left.start()
        left.wait_up(within_s=30)
        for _ in range(3):
            left.ctl("rekey", left.child, "--wait")
        rig.weather()
        ping(rig.a.host, rig.b.host4)
        rig.witness.assert_clean()


def test_tunnel_runs_over_ipv6() -> None:
    with Rig() as rig:
        tunnel(rig, family=6)
        for target in (rig.b.host4, rig.b.host6):
            ping(rig.a.host, target)
        rig.witness.assert_clean()


@pytest.mark.parametrize("wan_mtu", [1500, 1400])
def test_large_packets_pass_or_are_told_the_path_mtu(wan_mtu: int) -> None:
    with Rig(wan_mtu=wan_mtu) as rig:
        left, _ = tunnel(rig)
        mtu = left.child_status()["path_mtu"]
        assert wan_mtu - 80 < mtu < wan_mtu
        for target, header in ((rig.b.host4, 28), (rig.b.host6, 48)):
            ping(rig.a.host, target, size=mtu - header, options="-M do")
            with pytest.raises((AssertionError, CommandError)):
                ping(rig.a.host, target, count=1, size=1500 - header, options="-M do")
            # Fragmented before the tunnel; IPv6 by its sender, which learns the figure by losing a packet.
            rig.a.host.run("ping", "-c", "1", "-W", "1", "-s", "3000", target, check=False)
            ping(rig.a.host, target, size=3000)
        assert f"mtu {mtu}" in rig.a.host.run("ip", "route", "get", rig.b.host4)
        rig.witness.assert_clean()


def test_hub_carries_between_two_spokes_through_one_device() -> None:
    with Rig() as rig:
        spoke = add_spoke(rig)
        hub = Ipsecd(rig, rig.b, rig.a)
        hub.change(hub_peers)
        first, second = Ipsecd(rig, rig.a, rig.b), Ipsecd(rig, rig.a, rig.b, name="spoke")
        first.change(lambda config: child(config).update(remote=["10.2.0.0/16", "10.3.0.0/16"], local=["10.1.0.0/16"]))
        second.gateway = spoke
        second.change(spoke_config)
        for daemon in (hub, first, second):
            daemon.start()
        for daemon in (first, second):
            daemon.wait_up()
        rig.witness.strangers()
        ping(rig.a.host, "10.3.0.1")
        ping(spoke, rig.a.host4, source="10.3.0.1")
        ping(spoke, rig.b.host4, source="10.3.0.1")
        rig.witness.assert_clean()


def child(config: Config) -> Config:
    """Return the first child of the first peer."""
    found: Config = next(iter(next(iter(config["peers"].values()))["children"].values()))
    return found


def add_spoke(rig: Rig) -> Node:
    """Add a third gateway on the WAN whose LAN is an address of its own."""
    spoke = rig.lab.node("spoke")
    rig.lab.link(spoke, "wan0", rig.wan, "wc")
    spoke.address("wan0", "192.0.3.1/24")
    spoke.address("lo", "10.3.0.1/24")
    rig.wan.address("wc", "192.0.3.254/24")
    spoke.ip("route add default via 192.0.3.254")
    spoke.sysctl(ipv4__ip_forward=1, ipv4__conf__all__src_valid_mark=1)
    return spoke


def hub_peers(config: Config) -> None:
    """The hub: each spoke's remote is itself, its local everything else."""
    branch = next(iter(config["peers"].values()))
    child(config).update(local=["10.2.0.0/16", "10.3.0.0/16"], remote=["10.1.0.0/16"], start="listen")
    config["peers"]["spoke"] = {
        "address": ["192.0.3.1"], "identity": "spoke.example.net", "auth": dict(branch["auth"]),
        "children": {"office": {"local": ["10.2.0.0/16", "10.1.0.0/16"], "remote": ["10.3.0.0/16"],
                                "start": "listen"}}}


def spoke_config(config: Config) -> None:
    """The second spoke, made of the first one's configuration."""
    config["gateway"]["identity"] = "spoke.example.net"
    child(config).update(local=["10.3.0.0/16"], remote=["10.2.0.0/16", "10.1.0.0/16"])
