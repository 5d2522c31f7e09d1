"""Paths that narrow, with and without a word, under both engines: what is found, how soon, and what nobody may change.

The router in the middle narrows the way to one side by a route of its own; where it does so silently, a filter eats
what it would tell.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Any, Self

import pytest

from tests.lab.daemon import Ipsecd, default_config
from tests.lab.rig import Rig, Site, ping
from tests.support.netns import LAB, eventually

pytestmark = LAB

NARROW = 1300
RECOVERY_S = 10.0               # what a black hole may cost
_SILENT = """table inet silent { chain output { type filter hook output priority 0
  icmp type destination-unreachable icmp code frag-needed counter drop
  icmpv6 type packet-too-big counter drop
}
}"""


_OUTER_FRAGMENTS = """table inet outer { chain seen { type filter hook prerouting priority -450
  ip frag-off & 0x3fff != 0 counter
  exthdr frag exists counter
}
}"""
_HOP_OPTIONS, _DESTINATION_OPTIONS = 54, 59     # IPV6_HOPOPTS, IPV6_DSTOPTS: absent from some builds of the module


class World:
    """A tunnel between two gateways with one engine, whose path was found to be as wide as its links."""

    def __init__(self, rig: Rig, engine: str, *, family: int = 4, outer: int = 1500) -> None:
        self.rig = rig
        self.left, self.right = (
            Ipsecd(rig, site, peer, config=default_config(site, peer, family=family) | {
                "gateway": default_config(site, peer)["gateway"] | {"engine": engine}})
            for site, peer in ((rig.a, rig.b), (rig.b, rig.a)))
        for daemon in (self.right, self.left):
            daemon.start()
        self.left.wait_up()
        self.right.wait_up()
        for daemon in (self.left, self.right):
            assert eventually(lambda d=daemon: size(d) == (outer, "route"), within_s=10), size(daemon)  # type: ignore[misc]
        rig.witness.strangers()

    def narrow(self, to: Site, mtu: int, *, silent: bool) -> None:
        """Let the router carry no more than this toward a side."""
        if silent:
            self.rig.wan.nft(_SILENT)
        self.widen(to, f"mtu lock {mtu}")

    def widen(self, to: Site, how: str = "") -> None:
        prefix, link = ("192.0.2.0/24", "wa") if to is self.rig.a else ("198.51.100.0/24", "wb")
        six = "2001:db8:a::/64" if to is self.rig.a else "2001:db8:b::/64"
        # In the place of the kernel's own: one of another metric would stand beside it.
        self.rig.wan.ip(f"route replace {prefix} dev {link} {how}",
                        f"-6 route replace {six} dev {link} proto kernel metric 256 {how}")


@pytest.fixture(params=["python", "native"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def size(daemon: Ipsecd) -> tuple[int | None, str]:
    """The size of the path as status has it, and where it came from."""
    peer: dict[str, Any] = daemon.peer_status()
    return peer["path_mtu"], peer["path_mtu_origin"]


class Stream:
    """A TCP connection from one host to the other that sends all the time, and when its bytes arrived."""

    def __init__(self, client: Site, server: Site, family: int = 4) -> None:
        self.arrived = 0
        kind, address = (socket.AF_INET6 if family == 6 else socket.AF_INET), server.host_address(family)
        with server.host.within():
            self._listening = socket.socket(kind, socket.SOCK_STREAM)
        with client.host.within():
            self._calling = socket.socket(kind, socket.SOCK_STREAM)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind((address, 7310))
        self._listening.listen()
        self._listening.settimeout(10)
        self._calling.settimeout(10)
        self._calling.connect((address, 7310))
        self._arriving, _ = self._listening.accept()
        for end in (self._calling, self._arriving):
            end.settimeout(0.2)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for end in (self._calling, self._arriving, self._listening):
            end.close()

    def flows(self) -> bool:
        """Return whether bytes arrive, more than what was on its way."""
        before = self.arrived
        return eventually(lambda: self.arrived - before > 500_000, within_s=0.5)

    def _send(self) -> None:
        filler = bytes(16_384)
        while not self._stop.wait(0.005):
            try:
                self._calling.send(filler)
            except TimeoutError:
                continue

    def _receive(self) -> None:
        while not self._stop.is_set():
            try:
                self.arrived += len(self._arriving.recv(1 << 20))
            except TimeoutError:
                continue


@pytest.mark.parametrize(("family", "silent"), [(4, True), (6, True), (4, False)],
                         ids=["black hole", "black hole over IPv6", "told"])
def test_tcp_flows_again_within_10_s_after_the_path_narrowed(engine: str, family: int, silent: bool) -> None:
    with Rig() as rig:
        world = World(rig, engine, family=family)
        with Stream(rig.a, rig.b) as stream:
            assert eventually(stream.flows, within_s=10)
            world.narrow(rig.b, NARROW, silent=silent)
            end = time.monotonic() + RECOVERY_S
            assert eventually(lambda: size(world.left)[0] != 1500, within_s=RECOVERY_S)
            assert eventually(stream.flows, within_s=end - time.monotonic())
        assert eventually(lambda: size(world.left) == (NARROW, "probed"), within_s=20), size(world.left)
        assert size(world.right) == (1500, "route")        # each direction is its sender's business
        mtu = world.left.child_status()["path_mtu"]
        table = ("ip", "route", "show", "table", "7710")
        assert eventually(lambda: f"mtu {mtu}" in rig.a.gateway.run(*table), within_s=5)
        rig.a.host.ip("route flush cache", "-6 route flush cache")     # it was told of the base meanwhile
        ping(rig.a.host, rig.b.host4, size=mtu - 28, options="-M do")
        rig.witness.assert_clean()


def test_packets_are_fragmented_inside_and_never_outside(engine: str) -> None:
    with Rig() as rig:
        world = World(rig, engine)
        overhead = 1500 - world.left.child_status()["path_mtu"]
        rig.wan.nft(_OUTER_FRAGMENTS)
        for mtu in (1500, 1400):
            world.narrow(rig.b, mtu, silent=False)
            assert eventually(lambda: found(world, mtu), within_s=30), size(world.left)  # noqa: B023
            inner = mtu - overhead
            assert eventually(lambda: world.left.child_status()["path_mtu"] == inner, within_s=5)  # noqa: B023
            rig.a.host.ip("route flush cache", "-6 route flush cache")
            inside = rig.a.gateway.tap("ipsec0")                       # what the kernel hands over to be protected
            for target, header in ((rig.b.host4, 28), (rig.b.host6, 48)):
                assert arrives(rig, target, 4000)
                ping(rig.a.host, target, size=4000)
                ping(rig.a.host, target, size=inner - header, options="-M do")
            sizes = [len(packet) for packet in inside.frames()]
            assert max(sizes) <= inner
            assert sum(size > inner - 16 for size in sizes) >= 4       # whole fragments of the size in use
        assert "counter packets 0" in rig.wan.run("nft", "list", "table", "inet", "outer")
        rig.witness.assert_clean()


def test_forged_icmp_that_the_kernel_believes_lowers_nothing(engine: str) -> None:
    with Rig() as rig:
        world = World(rig, engine)
        mtu = world.left.child_status()["path_mtu"]
        for claimed in (1300, 600, 552):                               # it believes no more than what it has
            forge_too_big(rig, claimed)
            cached = ("ip", "route", "get", rig.b.wan4, "mark", "0x01000000")
            assert eventually(lambda: f"mtu {claimed}" in rig.a.gateway.run(*cached), within_s=5)  # noqa: B023
            world.left.ctl("rekey", world.left.child, "--wait")        # the host is asked again
            ping(rig.a.host, rig.b.host4, size=mtu - 28, options="-M do")
            assert size(world.left) == (1500, "route")
        assert "path_mtu_changed" not in world.left.said()
        rig.witness.assert_clean()


def test_route_and_link_that_change_are_followed_at_once(engine: str) -> None:
    with Rig() as rig:
        world = World(rig, engine)
        for commands, expected in (
                (("route replace default via 192.0.2.254 mtu 1400",), 1400),
                (("route replace default via 192.0.2.254",), 1500),
                (("link set wan0 mtu 1450",), 1450)):
            rig.a.gateway.ip(*commands)
            assert eventually(lambda: size(world.left) == (expected, "route"), within_s=5), size(world.left)  # noqa: B023
            mtu = world.left.child_status()["path_mtu"]
            assert expected - 80 < mtu < expected
            ping(rig.a.host, rig.b.host4, size=mtu - 28, options="-M do")
        rig.witness.assert_clean()


def test_number_in_the_entry_is_used_without_a_probe(engine: str) -> None:
    with Rig() as rig:
        world = World(rig, engine)
        world.left.change(lambda c: c["peers"][world.left.peer].update(ike={"path_mtu": 1350}))
        world.left.reload()
        assert eventually(lambda: size(world.left) == (1350, "fixed"), within_s=5), size(world.left)
        assert eventually(lambda: 1350 - 80 < world.left.child_status()["path_mtu"] < 1350, within_s=5)
        ping(rig.a.host, rig.b.host4, size=world.left.child_status()["path_mtu"] - 28, options="-M do")


def test_jumbo_packets_options_and_extension_headers_pass(engine: str) -> None:
    with Rig(wan_mtu=9000) as rig:
        for site in (rig.a, rig.b):
            site.gateway.ip("link set lan0 mtu 9000")
            site.host.ip("link set eth0 mtu 9000")
        world = World(rig, engine, outer=9000)
        mtu = world.left.child_status()["path_mtu"]
        assert 8900 < mtu < 9000
        for target, header in ((rig.b.host4, 28), (rig.b.host6, 48)):
            ping(rig.a.host, target, size=mtu - header, options="-M do")
            assert arrives(rig, target, 20_000)
        ping(rig.a.host, rig.b.host4, size=1000, options="-R")         # Record Route
        ping(rig.a.host, rig.b.host4, size=1000, options="-T tsonly")
        for kind in (_HOP_OPTIONS, _DESTINATION_OPTIONS):
            for payload in (100, 8000, 20_000):                        # the last in fragments behind the header
                assert passes_with(rig, kind, payload), (kind, payload)
        rig.witness.assert_clean()


def arrives(rig: Rig, target: str, payload: int) -> bool:
    """Return whether an echo of this size comes back soon: of IPv6 both senders learn the size by losing one first."""
    def comes() -> bool:
        return " 1 received" in rig.a.host.run("ping", "-n", "-c", "1", "-W", "1", "-s", str(payload), "-M", "dont",
                                               target, check=False)
    return eventually(comes, within_s=10)


def found(world: World, mtu: int) -> bool:
    """Send a large packet, without which nobody looks; return whether this is the size of the path by now."""
    rig = world.rig
    rig.a.host.run("ping", "-c", "1", "-W", "0.3", "-s", "1400", "-M", "dont", rig.b.host4, check=False)
    return size(world.left)[0] == mtu


def passes_with(rig: Rig, kind: int, payload: int) -> bool:
    """Send one UDP datagram with an IPv6 extension header of PadN options; return whether it arrived."""
    with rig.b.host.udp("::", 7320) as sink, rig.a.host.udp("::") as source:
        # Linux drops more than 7 bytes of padding in a row (RFC 4942 2.1.9.5).
        source.setsockopt(socket.IPPROTO_IPV6, kind, bytes((0, 0, 1, 4)) + bytes(4))
        source.sendto(bytes(payload), (rig.b.host6, 7320))
        sink.settimeout(5)
        return len(sink.recv(65_535)) == payload


def forge_too_big(rig: Rig, mtu: int) -> None:
    """Have the router tell gateway a that its ESP to gateway b was too large, which is not so (RFC 1191 4)."""
    with rig.wan.within():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    quoted = (bytes((0x45, 0)) + (1500).to_bytes(2, "big") + bytes((0, 1, 0x40, 0, 64, 17, 0, 0))
              + socket.inet_aton(rig.a.wan4) + socket.inet_aton(rig.b.wan4)
              + (4500).to_bytes(2, "big") * 2 + (1480).to_bytes(2, "big") + bytes(2))
    message = bytes((3, 4, 0, 0, 0, 0)) + mtu.to_bytes(2, "big") + quoted
    total = sum(int.from_bytes(message[at:at + 2], "big") for at in range(0, len(message), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    with raw:
        raw.sendto(message[:2] + (~total & 0xFFFF).to_bytes(2, "big") + message[4:], (rig.a.wan4, 0))
