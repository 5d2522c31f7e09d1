"""The kernel's verdict on random packets against the policy read naively: first match, in order."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from ipsecd.policy import Action, Policy, SpdEntry
from ipsecd.protected import Host, HostInterface
from ipsecd.routing_plan import RoutingPlan, make_plan
from ipsecd.runtime.kernel import Kernel
from ipsecd.runtime.tun import open_tun
from ipsecd.selectors import TrafficSelector
from tests.support.netns import LAB, Lab, Node, Tap
from tests.support.packets import GRE, ICMP, ICMPV6, TCP, UDP, Packet, frame
from tests.support.policies import entry, policy

pytestmark = LAB
POLICIES = 40
PACKETS = 24                                        # of each direction, for each policy
WAYS = ("forwarded", "local", "arriving")
LAN = {4: "10.1.0.", 6: "2001:db8:1::"}
FAR = {4: "10.2.0.", 6: "2001:db8:2::"}
WAN = {4: "192.0.2.1", 6: "2001:db8:a::1"}
HOST = Host((HostInterface("lan0", ("10.1.0.1/24", "2001:db8:1::1/64")),
             HostInterface("wan", ("192.0.2.1/24", "2001:db8:a::1/64"))), ("wan",), ("192.0.2.254",))


class World:
    """h --lan0-- g --wan-- w: the gateway alone, with both neighbours under our hand."""

    def __init__(self, lab: Lab) -> None:
        self.g, self.h, self.w = (lab.node(n) for n in "ghw")
        lab.link(self.h, "eth0", self.g, "lan0")
        lab.link(self.w, "eth0", self.g, "wan")
        for interface in HOST.interfaces:
            self.g.address(interface.name, *interface.addresses)
        self.g.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1, ipv4__conf__all__src_valid_mark=1,
                      ipv4__conf__all__rp_filter=0, ipv4__conf__lan0__rp_filter=0, ipv4__conf__wan__rp_filter=0)
        self.macs = {"lan0": (self.h.mac("eth0"), self.g.mac("lan0")), "wan": (self.w.mac("eth0"), self.g.mac("wan"))}
        self._neighbours()
        self.raw = {"lan0": lab_socket(lab, self.h), "wan": lab_socket(lab, self.w)}
        self.taps = {name: self.g.tap(name) for name in ("lan0", "wan")}
        self.kernel: Kernel | None = None
        self.tuns: dict[str, int] = {}

    def _neighbours(self) -> None:
        for name, far in (("wan", "192.0.2.254"), ("wan", "2001:db8:a::254")):
            self.g.ip(f"neigh add {far} lladdr {self.macs[name][0]} dev {name} nud permanent")
        for i in range(2, 10):
            for net in LAN.values():
                self.g.ip(f"neigh replace {net}{i} lladdr {self.macs['lan0'][0]} dev lan0 nud permanent")
        self.g.ip("route add default via 192.0.2.254", "-6 route add default via 2001:db8:a::254")

    @contextlib.contextmanager
    def holding(self, plan: RoutingPlan) -> Iterator[None]:
        with self.g.within():
            kernel = Kernel(plan.domain)
            try:
                kernel.put_guard([plan.guard], hold=True)
                kernel.add_rules(plan.rules)
                for device in plan.devices:
                    self.tuns[device.interface or "tun"] = open_tun(device.name)
                    kernel.put_device(device)
                kernel.put_routes(plan.routes)
                kernel.put_unreachable(plan.unreachable)
                self.fates([])
                yield
            finally:
                for descriptor in self.tuns.values():
                    os.close(descriptor)
                self.tuns.clear()
                kernel.remove_unreachable(plan.unreachable)
                kernel.remove_routes(plan.routes)
                kernel.remove_rules(plan.rules)
                kernel.remove_devices()
                kernel.remove_guard()
                kernel.close()

    def send(self, way: str, packet: Packet) -> None:
        if way == "local":
            send_locally(self.g, packet)
            return
        name = "lan0" if way == "forwarded" else "wan"
        theirs, ours = self.macs[name]
        self.raw[name].send(frame(packet.bytes(), source_mac=theirs, destination_mac=ours))

    def fates(self, packets: list[Packet]) -> list[str]:
        """Where each packet was seen: tun, tun of an interface, wan, lan0, or nowhere."""
        seen: dict[str, list[bytes]] = {"wan": frames(self.taps["wan"]), "lan0": frames(self.taps["lan0"])}
        for interface, descriptor in self.tuns.items():
            found = seen["tun" if interface == "tun" else f"tun of {interface}"] = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.append(os.read(descriptor, 65536))
        return ["+".join(name for name, found in seen.items() if any(p.mark in f for f in found)) or "nowhere"
                for p in packets]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab() as lab:
        yield World(lab)


def test_verdicts_are_those_of_the_ordered_policy(world: World) -> None:
    rng = random.Random(20260)
    wrong = []
    for _ in range(POLICIES):
        spd = random_policy(rng)
        plan = make_plan(spd, HOST, {})
        with world.holding(plan):
            sent = [(way, random_packet(rng, way)) for way in WAYS for _ in range(PACKETS)]
            for way, packet in sent:
                world.send(way, packet)
            fates = world.fates([p for _, p in sent])
        for (way, packet), fate in zip(sent, fates, strict=True):
            wanted = expected(spd, way, packet)
            if fate != wanted and not (wanted == "tun" and fate == "tun of lan0" and may_enter_by_its_own(spd, packet)):
                wrong.append(f"{way} {packet}: {fate}, wanted {wanted} under " + "; ".join(map(show, spd.entries))
                             + f"; default {spd.default_action}")
    assert not wrong, f"{len(wrong)} wrong, such as:\n" + "\n".join(wrong[:5])


def expected(spd: Policy, way: str, packet: Packet) -> str:
    """RFC 4301 5.1 and 5.2, without routes or chains."""
    clear = "lan0" if way == "arriving" else "wan"
    match = first_match(spd, way, packet)
    if match is None and way == "local" and strays(spd, packet):
        return "tun"                                 # a source that is not ours: the engine refuses it there
    if match is None and way == "local" and packet.is_error and any(
            e.action is Action.PROTECT and e.interface and selected(e.remote, packet.version, packet.destination)
            for e in spd.entries):
        return "nowhere"                             # it might quote what the tunnel of an interface brought
    action = match.action if match else spd.default_action
    if action is Action.DISCARD:
        # Without an entry the packet goes where routes lead, and the engine or the last chain drops it.
        return "nowhere" if match or not to_tunnel(spd, packet, way) else "tun"
    if action is Action.PROTECT:
        return "nowhere" if way == "arriving" else "tun of lan0" if match and match.interface else "tun"
    return clear


def first_match(spd: Policy, way: str, packet: Packet) -> SpdEntry | None:
    source, destination = (int(ip_address(a)) for a in (packet.source, packet.destination))
    sport, dport = packet.ports
    mine, theirs = ((destination, dport), (source, sport)) if way == "arriving" else (
        (source, sport), (destination, dport))
    for one in spd.entries:
        if one.interface and (way == "local" or one.interface != "lan0"):
            continue
        if any(s.matches(version=packet.version, address=mine[0], protocol=packet.protocol, port=mine[1])
               for s in one.local) and any(
                   s.matches(version=packet.version, address=theirs[0], protocol=packet.protocol, port=theirs[1])
                   for s in one.remote):
            return one
    return None


def strays(spd: Policy, packet: Packet) -> bool:
    """The gateway's own packet to a routed prefix with a source outside every local selector."""
    source = int(ip_address(packet.source))
    ours = any(s.version == packet.version and s.low <= source <= s.high
               for e in common(spd) for s in e.local)
    return routed(spd, packet) and not ours


def routed(spd: Policy, packet: Packet) -> bool:
    destination = int(ip_address(packet.destination))
    return any(s.version == packet.version and s.low <= destination <= s.high and not whole(s.low, s.high, s.version)
               for e in common(spd) for s in e.remote)


def common(spd: Policy) -> list[SpdEntry]:
    """The protect entries that share a device."""
    return [e for e in spd.entries if e.action is Action.PROTECT and e.interface is None]


def may_enter_by_its_own(spd: Policy, packet: Packet) -> bool:
    """Whether the table of lan0 has a route for it: the engine then asks the whole list, as for the common device."""
    return any(e.action is Action.PROTECT and e.interface == "lan0"
               and selected(e.remote, packet.version, packet.destination) for e in spd.entries)


def selected(side: tuple[TrafficSelector, ...], version: int, address: str) -> bool:
    return any(s.version == version and s.low <= int(ip_address(address)) <= s.high for s in side)


def to_tunnel(spd: Policy, packet: Packet, way: str) -> bool:
    """Whether routes alone take the packet: by its destination, or by source where the remote is everything."""
    if way == "arriving":
        return False
    if way == "forwarded" and may_enter_by_its_own(spd, packet):
        return True
    source = int(ip_address(packet.source))
    wide = any(whole(r.low, r.high, r.version) and r.version == packet.version
               and any(s.version == packet.version and s.low <= source <= s.high for s in e.local)
               for e in common(spd) for r in e.remote)
    return routed(spd, packet) or wide


def whole(low: int, high: int, version: int) -> bool:
    return (low, high) == (0, 2 ** (32 if version == 4 else 128) - 1)


def random_policy(rng: random.Random) -> Policy:
    entries = [random_entry(rng) for _ in range(rng.randint(1, 6))]
    return policy(*entries, default=rng.choice(("bypass", "bypass", "discard")), inside=("lan0",))


def random_entry(rng: random.Random) -> SpdEntry:
    action = rng.choice(("protect", "protect", "bypass", "discard"))
    protocol = rng.choice((0, 0, TCP, UDP, GRE, "icmp"))
    families = rng.choice(((4,), (6,), (4, 6)))
    if protocol == "icmp":
        families = families[:1]
        protocol = ICMP if families == (4,) else ICMPV6
    local, remote = (random_ports(rng, protocol), random_ports(rng, protocol))
    if protocol in (ICMP, ICMPV6):
        local = remote
    sides = [[a for v in families for a in random_ranges(rng, nets[v], v, wide)]
             for nets, wide in ((LAN, action != "protect"), (FAR, True))]
    return entry(action, *sides, protocol=protocol, local_ports=local, remote_ports=remote,
                 interface=rng.choice((None, None, None, "lan0", "lan9")))


def random_ports(rng: random.Random, protocol: int) -> tuple[int, int]:
    if protocol in (0, GRE) or rng.random() < 0.5:
        return 0, 65535
    if protocol in (ICMP, ICMPV6):
        return rng.choice(((8 * 256, 8 * 256 + 255), (128 * 256, 128 * 256), (0, 8 * 256)))
    low = rng.randint(1000, 1003)
    return low, rng.randint(low, 1003)


def random_ranges(rng: random.Random, net: str, version: int, wide: bool) -> list[str]:
    if wide and rng.random() < 0.2:
        return ["0.0.0.0/0" if version == 4 else "::/0"]
    found = []
    for _ in range(rng.randint(1, 2)):
        low = rng.randint(2, 9)
        found.append(f"{net}{low}-{net}{rng.randint(max(low, 6), 9)}")
    return found


def random_packet(rng: random.Random, way: str) -> Packet:
    version = rng.choice((4, 6))
    near = f"{LAN[version]}{rng.randint(2, 9)}"
    if way == "local":
        near = rng.choice((f"{LAN[version]}1", WAN[version]))
    far = f"{FAR[version]}{rng.randint(2, 9)}"
    protocol = rng.choice((TCP, UDP, ICMP if version == 4 else ICMPV6, GRE))
    ports = rng.randint(999, 1004), rng.randint(999, 1004)
    if protocol in (ICMP, ICMPV6):
        ports = rng.choice((8 * 256, 128 * 256, 3 * 256 + 1)), 0
    source, destination = (far, near) if way == "arriving" else (near, far)
    return Packet(source, destination, protocol, *ports, rng.randbytes(8))


def lab_socket(lab: Lab, node: Node) -> socket.socket:
    with node.within():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    lab.closing.callback(sock.close)
    sock.bind(("eth0", 0))
    return sock


def send_locally(node: Node, packet: Packet) -> None:
    """A raw socket with a header of its own passes the output hook as any process does."""
    family = socket.AF_INET if packet.version == 4 else socket.AF_INET6
    with node.within(), socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        if packet.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, 36, 1)      # IPV6_HDRINCL
            sock.bind((packet.source, 0))
        with contextlib.suppress(OSError):          # EPERM is how a drop shows itself here
            sock.sendto(packet.bytes(), (packet.destination, 0))


def frames(tap: Tap) -> list[bytes]:
    return tap.frames(wait_s=0.01)


def show(one: SpdEntry) -> str:
    return (f"{one.action} {','.join(map(str, one.local))} > {','.join(map(str, one.remote))}"
            + (f" in {one.interface}" if one.interface else ""))
