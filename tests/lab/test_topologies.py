"""Shapes of networks and policies: hub and spoke, two WAN addresses, IPv6, ports, wide selectors, bypass and discard,
rogue routes, loss, sizes, start and stop.  One rig for the module, new daemons for each test.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.lab.command import spis
from tests.lab.daemon import Config, Ipsecd, default_config
from tests.lab.rig import LeakProbe, Rig, Site, answers, ping, seconds_until
from tests.support.netns import LAB, Node, Tap, drain, eventually

pytestmark = LAB

LEAN = {"policies_default": "bypass"}


class World:
    """A rig whose gateways get new daemons for each test."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.daemons: list[Ipsecd] = []
        self._number = 0

    def daemon(self, site: Site, peer: Site, change: Callable[[Config], object] = lambda _: None, *, family: int = 4,
               gateway: Node | None = None) -> Ipsecd:
        """Return a daemon that is not started, its configuration changed."""
        self._number += 1
        made = Ipsecd(self.rig, site, peer, name=f"{site.name}{self._number}",
                      config=default_config(site, peer, family=family))
        made.gateway = gateway or made.gateway
        made.change(change)
        self.daemons.append(made)
        return made

    def pair(self, left: Callable[[Config], object] = lambda _: None,
             right: Callable[[Config], object] = lambda _: None, *, family: int = 4,
             up: bool = True) -> tuple[Ipsecd, Ipsecd]:
        """Start one on each side, the right one listening, and wait until they are up."""
        b = self.daemon(self.rig.b, self.rig.a, lambda c: (office(c).update(start="listen"), right(c)), family=family)
        a = self.daemon(self.rig.a, self.rig.b, left, family=family)
        for daemon in (b, a):
            daemon.start(wait=False)
        for daemon in (b, a):
            assert eventually(daemon.answers, within_s=15)
        if up:
            a.wait_up()
            b.wait_up()
        self.rig.witness.strangers()
        return a, b

    def clear(self) -> None:
        """End all daemons and take away what they leave."""
        for daemon in self.daemons:
            if daemon.running:
                daemon.kill()
            forget(daemon.gateway)
        self.daemons.clear()
        self.rig.weather()


@pytest.fixture(scope="module")
def built() -> Iterator[World]:
    with Rig() as rig:
        yield World(rig)


@pytest.fixture
def world(built: World) -> Iterator[World]:
    yield built
    built.clear()


# Wide selectors: LAN to LAN, LAN to gateway, the gateway's own DNS, the administrator's way in

WIDE = {"ipv4 default": ["0.0.0.0/0"], "ipv6 default": ["::/0"], "contains local": ["10.0.0.0/8"],
        "contains peer": ["198.51.100.0/24", "10.2.0.0/16"]}


@pytest.mark.parametrize("remote", WIDE.values(), ids=WIDE)
def test_wide_remote_selectors_carry_and_leave_the_gateways_own_ways(world: World, remote: list[str]) -> None:
    rig, family = world.rig, 6 if ":" in remote[0] else 4
    local = [rig.a.prefix6 if family == 6 else rig.a.prefix4]
    left, _ = world.pair(lambda c: office(c).update(local=local, remote=remote),
                         lambda c: office(c).update(local=remote, remote=local))
    inside = rig.a.lan6 if family == 6 else rig.a.lan4
    for rp_filter in (0, 1, 2):
        for site in (rig.a, rig.b):
            site.gateway.sysctl(**{f"ipv4__conf__{name}__rp_filter": rp_filter
                                   for name in ("all", "default", "wan0", "lan0", "ipsec0")})
        try_all_ways(rig, family, inside)
    left.kill()
    assert not answers(rig.a.host, rig.b.host_address(family))
    assert not answers(rig.a.gateway, rig.b.host_address(family), source=inside)
    rig.witness.assert_clean()


def try_all_ways(rig: Rig, family: int, inside: str) -> None:
    """LAN to LAN, LAN to gateway and back, the gateway's own DNS, the administrator's way in."""
    for sender, target in ((rig.a.host, rig.b.host_address(family)), (rig.b.host, rig.a.host_address(family)),
                           (rig.a.host, inside),
                           (rig.a.gateway, rig.a.host_address(family))):
        ping(sender, target, count=1)
    ping(rig.a.gateway, rig.b.host_address(family), count=1, source=inside)
    rig.witness.assert_clean()
    router = "2001:db8:a::fe" if family == 6 else "192.0.2.254"
    assert answered(rig.a.gateway, rig.wan, router, 53)
    assert answered(rig.wan, rig.a.gateway, rig.a.wan(family), 2222)
    rig.witness.strangers()                          # those two were meant to be in clear


def test_two_wan_addresses_reach_the_peer_although_the_first_path_is_dead(world: World) -> None:
    rig, other = world.rig, "192.0.9.1"
    rig.lab.link(rig.a.gateway, "wan1", rig.wan, "wa1")
    rig.a.gateway.address("wan1", f"{other}/24")
    rig.wan.address("wa1", "192.0.9.254/24")
    rig.a.gateway.ip(f"rule add from {other} lookup 99 priority 9000", "route add default via 192.0.9.254 table 99")
    rig.weather(rule=f"ip saddr {rig.a.wan4} drop")
    try:
        left, _ = world.pair(lambda c: (c["gateway"].update(listen=[rig.a.wan4, other]),
                                        peer(c).update(ike={"init_timeout": "3s"})),
                             lambda c: peer(c).update(address=[rig.a.wan4, other]))
        assert left.peer_status()["local_address"].startswith(other)
        ping(rig.a.host, rig.b.host4)
        rig.witness.assert_clean()
    finally:
        rig.a.gateway.ip(f"rule del from {other} lookup 99 priority 9000", "link del wan1")


# Selectors

def test_children_that_differ_in_ports_carry_their_own(world: World) -> None:
    def children(config: Config, here: Site, there: Site) -> None:
        start = office(config)["start"]
        peer(config)["children"] = {
            name: {"local": [{"prefix": here.prefix4, "protocol": "udp", "port": port}],
                   "remote": [{"prefix": there.prefix4, "protocol": "udp", "port": port}], "start": start}
            for name, port in (("voice", 5060), ("video", 6060))}

    rig = world.rig
    left, right = world.pair(lambda c: children(c, rig.a, rig.b), lambda c: children(c, rig.b, rig.a))
    for port, packets in ((5060, 7), (6060, 3)):
        with rig.b.host.udp("0.0.0.0", port) as sink, rig.a.host.udp("0.0.0.0", port) as source:
            for _ in range(packets):
                source.sendto(b"through its own child", (rig.b.host4, port))
            assert drain(sink, packets, 2) == packets
    for daemon, direction in ((left, "packets_out"), (right, "packets_in")):
        carried = {child["name"]: child["traffic"][direction] for child in daemon.peer_status()["children"]}
        assert carried == {"voice": 7, "video": 3}
    rig.witness.assert_clean()


def test_pairs_of_selectors_get_an_sa_each_where_the_peer_wants_it_so(world: World) -> None:
    rig = world.rig
    left, right = world.pair(lambda c: office(c).update(ts_style="per-pair"))
    assert len(spis(left)) == len(spis(right)) == 2                    # IPv4 and IPv6
    for family in (4, 6):
        ping(rig.a.host, rig.b.host_address(family))
        ping(rig.b.host, rig.a.host_address(family))
    rig.witness.assert_clean()


def test_bypass_goes_in_clear_discard_goes_nowhere_and_the_rest_is_protected(world: World) -> None:
    rig, printer = world.rig, "10.2.9.5"

    def policies(config: Config, side: str) -> None:
        config["policies"] = [
            {"name": "no-smb", "action": "discard", side: [{"prefix": rig.b.prefix4, "protocol": "udp", "port": 445}]},
            {"name": "printers", "action": "bypass", side: ["10.2.9.0/24"]}]

    rig.b.host.ip(f"addr add {printer}/32 dev lo")
    rig.b.gateway.ip(f"route add {printer}/32 via {rig.b.host4}")
    rig.wan.ip("route add 10.2.9.0/24 via 198.51.100.2", "route add 10.1.0.0/16 via 192.0.2.1")
    try:
        left, _ = world.pair(lambda c: policies(c, "remote"), lambda c: policies(c, "local"))
        out = left.child_status()["traffic"]["packets_out"]
        with rig.b.host.udp("0.0.0.0", 445) as sink, rig.a.host.udp("0.0.0.0") as source:
            for _ in range(20):
                source.sendto(b"discard me", (rig.b.host4, 445))
            assert drain(sink, 1, 0.5) == 0
        rig.witness.assert_clean()
        ping(rig.a.host, rig.b.host4)
        rig.witness.assert_clean()
        assert left.child_status()["traffic"]["packets_out"] == out + 3
        ping(rig.a.host, printer)                                      # answers come back in clear as well
        assert len(rig.witness.strangers()) == 2 * 2 * 3               # request and reply, on two links
        assert left.child_status()["traffic"]["packets_out"] == out + 3
    finally:
        rig.b.host.ip(f"addr del {printer}/32 dev lo")
        rig.b.gateway.ip(f"route del {printer}/32")
        rig.wan.ip("route del 10.2.9.0/24", "route del 10.1.0.0/16")


def test_rogue_routes_in_main_carry_nothing_away(world: World) -> None:
    rig = world.rig
    world.pair()
    rig.a.gateway.ip(f"route add {rig.b.host4}/32 via 192.0.2.254", f"route add {rig.a.host4}/32 via 192.0.2.254")
    try:
        with LeakProbe(rig.a, rig.b), LeakProbe(rig.b, rig.a):
            # The outbound one is not asked; the one toward the LAN leads decrypted packets out again.
            assert not answers(rig.a.host, rig.b.host4)
            rig.a.gateway.ip(f"route del {rig.a.host4}/32")
            seconds_until(lambda: answers(rig.a.host, rig.b.host4), within_s=3)
        rig.witness.assert_clean()
    finally:
        rig.a.gateway.ip(f"route del {rig.b.host4}/32", f"route del {rig.a.host4}/32", check=False)


# Starting and stopping

@pytest.mark.parametrize("speaker", ["host", "gateway"])
def test_on_demand_start_loses_nothing_of_the_first_burst(world: World, speaker: str) -> None:
    rig, burst = world.rig, 50
    left, _ = world.pair(lambda c: office(c).update(start="on-demand"), up=False)
    assert not spis(left)
    sender = rig.a.host if speaker == "host" else rig.a.gateway
    with rig.b.host.udp("0.0.0.0", 7200) as sink, sender.udp("0.0.0.0") as source:
        for number in range(burst):
            source.sendto(number.to_bytes(2, "big"), (rig.b.host4, 7200))
        assert drain(sink, burst, 5) == burst
    assert len(spis(left)) == 1
    rig.witness.assert_clean()


def test_tunnel_comes_up_within_15_s_and_transfers_through_20_percent_loss(world: World) -> None:
    rig = world.rig
    b = world.daemon(rig.b, rig.a, lambda c: office(c).update(start="listen"))
    a = world.daemon(rig.a, rig.b)
    b.start()
    rig.weather(20)
    a.start()
    a.wait_up(within_s=15)
    b.wait_up(within_s=15)
    rig.witness.strangers()
    sent = bytes(range(256)) * 200
    assert transferred(rig.a.host, rig.b.host, rig.b.host4, sent, within_s=30) == sent
    rig.weather()
    ping(rig.b.host, rig.a.host4)
    rig.witness.assert_clean()


def test_stopped_and_started_gateway_adopts_device_and_routes(world: World) -> None:
    rig = world.rig
    left, right = world.pair()
    before, routes = index(left), tables(left)
    with LeakProbe(rig.a, rig.b), LeakProbe(rig.b, rig.a):
        left.stop()
        assert eventually(lambda: not spis(right), within_s=1)         # told by DELETE
        assert tables(left) == routes and index(left) == before
        assert not answers(rig.a.host, rig.b.host4)
        left.start()
        seconds_until(lambda: answers(rig.a.host, rig.b.host4), within_s=5)
    assert index(left) == before
    assert eventually(lambda: tables(left) == routes, within_s=2)      # the path's MTU is measured a moment later
    rig.witness.assert_clean()


# Sizes

@pytest.mark.parametrize("family", [4, 6])
def test_tcp_mss_is_clamped_in_both_directions(world: World, family: int) -> None:
    rig = world.rig
    left, right = world.pair()
    for daemon in (left, right):                                       # a probe that was lost is made good
        assert eventually(lambda d=daemon: d.peer_status()["path_mtu_origin"] == "route", within_s=20)  # type: ignore[misc]
    taps = {site.name: site.host.tap("eth0") for site in (rig.a, rig.b)}
    clamped = left.child_status()["path_mtu"] - (40 if family == 4 else 60)
    for site, other in ((rig.a, rig.b), (rig.b, rig.a)):
        for tap in taps.values():
            tap.frames(wait_s=0)
        transferred(site.host, other.host, other.host_address(family), b"?", within_s=5)
        for end in (other, site):                                      # the SYN there, the answer to it here
            assert syn_sizes(taps[end.name], end.host_address(family)) == {clamped}, (site.name, end.name)
    assert right.child_status()["path_mtu"] - (40 if family == 4 else 60) == clamped
    rig.witness.assert_clean()


def forget(gateway: Node) -> None:
    """Take away what a daemon leaves, as a reboot does."""
    gateway.ip("link del ipsec0", check=False)
    gateway.run("nft", "flush", "ruleset")
    for family in ("-4", "-6"):
        gateway.ip(f"{family} rule flush", f"{family} rule add priority 32766 lookup main",
                   f"{family} route flush table 7710", f"{family} route flush table 7711", check=False)


def peer(config: Config) -> Config:
    """Return the first peer."""
    found: Config = next(iter(config["peers"].values()))
    return found


def office(config: Config) -> Config:
    """Return its child."""
    found: Config = peer(config)["children"]["office"]
    return found


def index(daemon: Ipsecd) -> str:
    """Return the index of its device."""
    return daemon.gateway.run("cat", "/sys/class/net/ipsec0/ifindex")


def tables(daemon: Ipsecd) -> list[str]:
    """Return what stands in its routing tables and rules."""
    return [daemon.gateway.run("ip", family, *words.split(), check=False).replace(" linkdown", "")
            for family in ("-4", "-6") for words in ("route show table 7710", "route show table 7711", "rule show")]


def answered(client: Node, server: Node, address: str, port: int) -> bool:
    """Return whether a datagram to a server in another node is answered."""
    with server.udp(address, port) as served, client.udp("::" if ":" in address else "0.0.0.0") as asking:
        served.settimeout(2)
        asking.settimeout(2)
        try:
            asking.sendto(b"?", (address, port))
            _, back = served.recvfrom(64)
            served.sendto(b"!", back)
            return asking.recv(64) == b"!"
        except TimeoutError:
            return False


def transferred(client: Node, server: Node, address: str, sent: bytes, *, within_s: float) -> bytes:
    """Send bytes over a TCP connection; return what arrived."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.within():
        listening = socket.socket(family, socket.SOCK_STREAM)
    with client.within():
        calling = socket.socket(family, socket.SOCK_STREAM)
    got = bytearray()
    with listening, calling:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, 7300))
        listening.listen()
        for end in (calling, listening):
            end.settimeout(within_s)
        calling.connect((address, 7300))
        arriving, _ = listening.accept()
        with arriving:
            arriving.settimeout(within_s)
            calling.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(sent))
            calling.sendall(sent)
            while len(got) < len(sent) and (data := arriving.recv(65536)):
                got += data
    return bytes(got)


def syn_sizes(tap: Tap, target: str) -> set[int]:
    """Return the maximum segment sizes (RFC 9293 3.2) of the SYNs for an address."""
    found = set()
    for frame in tap.frames(wait_s=0.1, outgoing=False):
        packet, six = frame[14:], ":" in target
        wanted = socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, target)
        if (packet[24:40] if six else packet[16:20]) != wanted or packet[6 if six else 9] != 6:
            continue
        tcp = packet[40 if six else 20:]
        if tcp[13] & 2 and tcp[20:22] == b"\x02\x04":
            found.add(int.from_bytes(tcp[22:24], "big"))
    return found
