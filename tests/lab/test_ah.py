"""AH between real daemons: tunnels and hosts, both families outside, readable on the WAN, refused behind a NAT."""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path

import pytest

from ipsecd.ipsec.mtu import ah_bytes
from ipsecd.sa import SaSpec
from ipsecd.secret import Secret
from ipsecd.suites import GMACS, INTEGS
from tests.lab.command import rekey_child, rekey_ike
from tests.lab.daemon import Config, Ipsecd, bring_up, default_config
from tests.lab.keylog import integrity_keys
from tests.lab.rig import NAT4, OUTER_FRAGMENTS, Rig, answers, ping, ping_every_size
from tests.lab.test_host_to_host import carried, hosts
from tests.support.ah_packets import opened_part
from tests.support.ah_packets import suite as a_suite
from tests.support.netns import LAB, Node, eventually

pytestmark = LAB
MARKED = "6970736563642d6d61726b"                  # "ipsecd-mark", as ping fills its packets with it


@pytest.mark.parametrize(("family", "suite", "engine"), [
    (4, "sha256-x25519", "auto"), (6, "sha512-x25519", "auto"), (4, "aes256gmac", "python"),
    (6, "aes128gmac", "python")])
def test_ah_tunnel_carries_every_size_and_both_families_as_protocol_51(family: int, suite: str, engine: str) -> None:
    with Rig() as rig:
        for site in (rig.a, rig.b):
            site.gateway.sysctl(ipv4__conf__all__rp_filter=1)
        left, right = tunnel(rig, suite, family=family, engine=engine)
        tap = rig.wan.tap("wa")
        tap.keep(OUTER_FRAGMENTS)
        mtu = left.child_status()["path_mtu"]
        integ = next(i for i in (*INTEGS, *GMACS) if i.keyword == suite.partition("-")[0])
        assert mtu == 1500 - (20 if family == 4 else 40) - ah_bytes(integ, family)
        for target in (rig.b.host4, rig.b.host6):
            ping_every_size(rig.a.host, target, mtu)
        ping(rig.b.host, rig.a.host4)
        rekey_child(left)
        rekey_ike(right)
        ping(rig.a.host, rig.b.host4)
        ping(rig.b.host, rig.a.host6)
        for daemon, near, far in ((left, rig.a, rig.b), (right, rig.b, rig.a)):
            sa, = daemon.child_status()["sas"]
            assert (sa["protocol"], sa["path"]) == ("ah", f"{near.wan(family)} -> {far.wan(family)}")
            assert sa["suite"].startswith(f"ah-{integ.keyword}")
            assert daemon.child_status()["drops"] == {}
            assert daemon.peer_status()["nat"] == "none"
        counts = rig.witness.counts()
        assert counts["esp"] == counts["raw_esp"] == counts["ah6" if family == 4 else "ah"] == 0
        assert counts["ah" if family == 4 else "ah6"] > 20
        assert tap.frames() == []                  # what is too long is fragmented before AH, never after
        rig.witness.assert_clean()


def test_what_ah_carries_is_readable_on_the_wan_with_ah_around_it() -> None:
    with Rig() as rig:
        tunnel(rig, "sha256")
        tap = rig.wan.tap("wa")
        tap.keep("ah")
        ping(rig.a.host, rig.b.host4, options=f"-p {MARKED}")
        frames = tap.frames(outgoing=False)
        assert frames
        assert all(bytes.fromhex(MARKED) in frame for frame in frames)
        assert {frame[23] for frame in frames} == {51}
        assert all(frame[34:36] == bytes([4, 5]) for frame in frames)     # next header IPv4, 28 bytes less 2 words


def test_traffic_of_an_ah_child_never_leaves_without_it() -> None:
    with Rig() as rig:
        left, right = tunnel(rig, "sha256-x25519")
        ping(rig.a.host, rig.b.host4)
        right.kill()
        left.kill()
        assert not answers(rig.a.host, rig.b.host4)
        rig.witness.assert_clean()
        right.start()
        left.start()
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=30)
        rig.witness.assert_clean()


def test_ah_child_behind_a_nat_is_refused_and_says_so_at_both_ends() -> None:
    with Rig(nat=True) as rig:
        left, right = daemons(rig, "sha256-x25519")
        # Its peer comes from the NAT's address, which the entry has to name.
        right.change(lambda c: peer_of(c).update(address=NAT4))
        right.start()
        left.start()
        assert eventually(lambda: "ah_behind_nat" in left.said(), within_s=20)
        line = next(line for line in left.said().splitlines() if "ah_behind_nat" in line)
        assert re.search("AH cannot pass a NAT", line)
        assert not answers(rig.a.host, rig.b.host4)
        assert rig.witness.counts()["ah"] == 0
        rig.witness.assert_clean()


@pytest.mark.parametrize("family", [4, 6])
def test_hosts_talk_under_ah_in_transport_mode_and_scapy_verifies_each_packet(family: int, tmp_path: Path) -> None:
    with Rig() as rig:
        a, b, keys = rig.a.wan(family), rig.b.wan(family), tmp_path / "keys"
        suite = {4: "sha256-x25519-noesn", 6: "sha512-x25519-noesn"}[family]
        tap = rig.wan.tap("wa")
        tap.keep("ip proto 51 or ip6 proto 51 or (ip6 proto 0 and ip6[40] = 51)")
        left, right = hosts(rig, a, b, family=family, ah=suite, keys=keys)
        for size in (8, 1200, 1400):
            ping(rig.a.gateway, b, size=size)
            ping(rig.b.gateway, a, size=size)
        assert carried(rig.a.gateway, rig.b.gateway, b, 300_000)
        rekey_child(left)
        assert options_pass(rig.a.gateway, rig.b.gateway, b)
        rig.witness.strangers()                    # it does not find AH behind a hop-by-hop header
        assert carried(rig.b.gateway, rig.a.gateway, a, 300_000)
        for daemon, near, far in ((left, a, b), (right, b, a)):
            sa, = daemon.child_status()["sas"]
            assert (sa["protocol"], sa["mode"], sa["path"]) == ("ah", "transport", f"{near} -> {far}")
            assert daemon.child_status()["drops"] == {}
        rig.witness.assert_clean()
        counts = rig.witness.counts()
        assert counts["esp"] == counts["raw_esp"] == 0
        left.kill()
        assert not answers(rig.a.gateway, b)
        assert not answers(rig.b.gateway, a)
        rig.witness.assert_clean()
        packets = [frame[14:] for frame in tap.frames(outgoing=False)]
    assert len(packets) > 100
    chosen, known = a_suite(suite.partition("-")[0]), integrity_keys(keys)
    seen = set[int]()
    for packet in packets:
        at = ah_at(packet)
        spi, sequence = struct.unpack_from(">II", packet, at + 4)
        spec = SaSpec(spi, Secret(b""), Secret(known[spi]))
        assert opened_part(chosen, spec, packet, sequence)      # raises where the ICV is wrong
        seen.add(spi)
    assert len(seen) >= 3                          # both ways, and after the rekey


def options_pass(sender: Node, receiver: Node, address: str) -> bool:
    """Send a UDP datagram with IP options, or extension headers, of both kinds; return whether it arrived."""
    far, near = receiver.udp("::" if ":" in address else "0.0.0.0", 7200), sender.udp("::" if ":" in address else "")
    far.settimeout(10)
    with far, near:
        if near.family == socket.AF_INET:          # RFC 2113, which stays, and RFC 791's record route, which changes
            near.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes((148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0)))
        else:
            padding = bytes((0, 0, 1, 4, 0, 0, 0, 0))
            near.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, padding)
            near.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, padding)
        near.sendto(b"with options", (address, 7200))
        return far.recv(100) == b"with options"


def ah_at(packet: bytes) -> int:
    """Where AH begins: behind the options of IPv4, or at most one extension header."""
    if packet[0] >> 4 == 4:
        return (packet[0] & 15) * 4
    return 40 if packet[6] == 51 else 40 + (packet[41] + 1) * 8


def tunnel(rig: Rig, suite: str, *, family: int = 4, engine: str = "auto") -> tuple[Ipsecd, Ipsecd]:
    """Start both daemons, that of b listening; return them once they are up."""
    left, right = daemons(rig, suite, family=family, engine=engine)
    bring_up(left, right)
    return left, right


def daemons(rig: Rig, suite: str, *, family: int = 4, engine: str = "auto") -> tuple[Ipsecd, Ipsecd]:
    left, right = (Ipsecd(rig, site, peer, config=default_config(site, peer, family=family))
                   for site, peer in ((rig.a, rig.b), (rig.b, rig.a)))
    for daemon in (left, right):
        daemon.change(lambda c: peer_of(c)["children"]["office"].update(ah={"proposals": [suite]}))
        daemon.change(lambda c: peer_of(c)["children"]["office"].pop("esp", None))
    left.change(lambda c: c["gateway"].update(engine=engine))
    right.change(lambda c: peer_of(c)["children"]["office"].update(start="listen"))
    return left, right


def peer_of(config: Config) -> Config:
    found: Config = next(iter(config["peers"].values()))
    return found
