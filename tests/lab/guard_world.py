"""Two gateways with LANs and a router between, for the guard's labs.

    host A --- gateway A --- WAN router --- gateway B --- host B
    host C ---/

A stub that scrambles packets between TUN and a marked UDP socket stands for ESP; it protects nothing.  Every probe
carries TOKEN; "clear" counts frames with TOKEN that leave gateway A by its WAN link.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from ipsecd.errors import LocalError
from ipsecd.policy import Policy, RoutingDomain
from ipsecd.protected import Host, HostInterface
from ipsecd.routing_plan import RoutingPlan, make_plan
from ipsecd.runtime.netlink import Watcher
from ipsecd.runtime.routing import Router, flush
from ipsecd.runtime.tun import open_tun
from tests.support.netns import Lab, Node, drain
from tests.support.policies import GATEWAY, SITE_A, SITE_B, entry, policy

T = TypeVar("T")
Sender = tuple[str, Node, int, dict[str, Any]]      # what it is, where, address family, options of its socket
TOKEN, BYPASS_TOKEN = b"clear-text-probe", b"bypassed--probe-"
A4, A6, C4, C6, B4, B6 = ("10.1.0.10", "2001:db8:1::10", "10.1.1.10", "2001:db8:1:1::10", "10.2.0.10",
                          "2001:db8:2::10")
MOVED4 = "10.2.1.10"
NET4, NET6, PEER4 = "203.0.113.10", "2001:db8:f::10", "198.51.100.2"
PEER6 = "2001:db8:b::2"
NEAR4, NEAR6, PORT4, PORT6 = "10.2.9.1", "2001:db8:2:9::1", "10.2.8.1", "2001:db8:2:8::1"
WAN4, WAN6 = "192.0.2.1", "2001:db8:a::1"
GATEWAY_B = Host((HostInterface("lan0", ("10.2.0.1/24", "2001:db8:2::1/64")),
                  HostInterface("wan", ("198.51.100.2/24", "2001:db8:b::2/64"))),
                 ("wan",), ("198.51.100.254", "2001:db8:b::254"))
EXTRAS = (entry("discard", protocol=17, remote_ports=(445, 445)),
          entry("bypass", remote=("10.2.9.0/24", "2001:db8:2:9::/64")),
          entry("bypass", remote=SITE_B, protocol=17, remote_ports=(5060, 5061)))
SITES = policy(*EXTRAS, entry("protect", SITE_A, SITE_B))
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_SCRAMBLE = bytes(b ^ 0x5A for b in range(256))


class Daemon(threading.Thread):
    """Router and Watcher in a loop of their own, as in the daemon, inside a node."""

    def __init__(self, node: Node, domain: RoutingDomain, *, watching: bool = True) -> None:
        super().__init__(daemon=True)
        self._watching = watching
        self.repairs: list[str] = []
        self.failures: list[str] = []
        self.moves = 0
        self._node, self._domain = node, domain
        self._ready = threading.Event()
        self._ending = asyncio.Event()
        self.start()
        self._ready.wait()

    def run(self) -> None:
        with self._node.within():
            asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.router = Router(self._domain, repaired=self.repairs.extend, failed=self.failures.append,
                             unheld=self.failures.append)
        watcher = Watcher(self._domain, damaged=self.router.poke,
                          guard_touched=self.router.poke_guard, moved=self._moved)
        if self._watching:
            watcher.start()
        repairing = asyncio.create_task(self.router.run())
        self._ready.set()
        await self._ending.wait()
        repairing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await repairing
        watcher.close()
        await self.router.close()

    def _moved(self) -> None:
        self.moves += 1

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self.join(20)


class World:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.ha, self.hc, self.ga, self.w, self.gb, self.hb = (lab.node(n) for n in ("hA", "hC", "gA", "w", "gB",
                                                                                     "hB"))
        for a, an, b, bn in ((self.ha, "eth0", self.ga, "lan0"), (self.hc, "eth0", self.ga, "lan1"),
                             (self.ga, "wan", self.w, "wa"), (self.gb, "wan", self.w, "wb"),
                             (self.hb, "eth0", self.gb, "lan0")):
            lab.link(a, an, b, bn)
        self._addresses()
        self._routes()
        self.daemons: list[Daemon] = []
        self.stubs: list[tuple[Node, int]] = []
        self.tap = self.ga.tap("wan")

    def _addresses(self) -> None:
        self.ha.address("eth0", f"{A4}/24", f"{A6}/64")
        self.hc.address("eth0", f"{C4}/24", f"{C6}/64")
        self.hb.address("eth0", f"{B4}/24", f"{MOVED4}/24", f"{B6}/64")
        for node, host in ((self.ga, GATEWAY), (self.gb, GATEWAY_B)):
            for interface in host.interfaces:
                node.address(interface.name, *interface.addresses)
        self.gb.address("lan0", "10.2.1.1/24")
        self.w.address("wa", "192.0.2.254/24", "2001:db8:a::254/64")
        self.w.address("wb", "198.51.100.254/24", "2001:db8:b::254/64")
        self.w.address("lo", *(f"{a}/{128 if ':' in a else 32}" for a in (NET4, NET6, NEAR4, NEAR6, PORT4, PORT6)))

    def _routes(self) -> None:
        for node, via4, via6 in ((self.ha, "10.1.0.1", "2001:db8:1::1"), (self.hc, "10.1.1.1", "2001:db8:1:1::1"),
                                 (self.hb, "10.2.0.1", "2001:db8:2::1"), (self.ga, *GATEWAY.next_hops),
                                 (self.gb, *GATEWAY_B.next_hops)):
            node.ip(f"route add default via {via4}", f"-6 route add default via {via6}")
        # The router delivers clear packets both ways: a leak must be able to succeed to be seen.
        self.w.ip("route add 10.1.0.0/16 via 192.0.2.1", "route add 10.2.0.0/16 via 198.51.100.2",
                  "-6 route add 2001:db8:1::/48 via 2001:db8:a::1", "-6 route add 2001:db8:2::/48 via 2001:db8:b::2")
        for node in (self.ga, self.w, self.gb):
            node.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1, ipv4__conf__all__src_valid_mark=1,
                        ipv4__icmp_ratelimit=0)
        # As on a link without ARP: a sender bound to the device gets its packet out.
        mac = self.w.mac("wa")
        self.ga.ip(*(f"neigh add {a} lladdr {mac} dev wan nud permanent" for a in (B4, B6)))

    def rp_filter(self, value: int) -> None:
        for node, names in ((self.ga, ("all", "lan0", "lan1", "wan")), (self.gb, ("all", "lan0", "wan"))):
            node.sysctl(**{f"ipv4__conf__{n}__rp_filter": value for n in (*names, "default")})
            with contextlib.suppress(FileNotFoundError):
                node.sysctl(ipv4__conf__ipsec0__rp_filter=value)

    def up(self, a: Policy, b: Policy | None = None, *, mtus: dict[Any, int] | None = None,
           watching: bool = True, outside: tuple[str, str] = (WAN4, PEER4)) -> RoutingPlan:
        """Start both gateways with their stubs; `b` mirrors the last entry of `a` by default.

        Without `watching` nothing is repaired unless asked.
        """
        last = a.entries[-1]
        b = b or policy(entry("protect", [p for s in last.remote for p in s.prefixes()],
                              [p for s in last.local for p in s.prefixes()]))
        plan = make_plan(a, GATEWAY, mtus or {})
        for node, theirs, ends in ((self.ga, plan, outside), (self.gb, make_plan(b, GATEWAY_B, {}), outside[::-1])):
            daemon = Daemon(node, theirs.domain, watching=watching)
            self.daemons.append(daemon)
            daemon.do(daemon.router.start(theirs))
            self.stubs.append((node, stub(node, *ends)))
        return plan

    @property
    def daemon(self) -> Daemon:
        return self.daemons[0]

    def kill(self) -> None:
        """Gateway A's daemon is gone, as after kill -9: its sockets close, the rest stays."""
        self.stop_stub(self.ga)
        self.daemons.pop(0).stop()

    def stop_stub(self, node: Node) -> None:
        for found in [s for s in self.stubs if s[0] is node]:
            node.end(found[1])
            self.stubs.remove(found)

    def down(self) -> None:
        """Back to machines without us."""
        for node in (self.ga, self.gb):
            self.stop_stub(node)
        while self.daemons:
            self.daemons.pop().stop()
        for node in (self.ga, self.gb):
            with node.within(), contextlib.suppress(LocalError):
                in_thread(flush, RoutingDomain())


def in_thread(work: Any, *arguments: Any) -> None:
    """Run synchronously where no loop runs, in this thread's network namespace."""
    failures: list[BaseException] = []

    def target() -> None:
        try:
            work(*arguments)
        except BaseException as e:
            failures.append(e)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def stub(node: Node, address: str, peer: str) -> int:
    """TUN to UDP/4500 and back; adopts the device and leaves it when it ends."""
    with node.within():
        tun = open_tun("ipsec0")
    sock = node.udp(address, 4500, mark=RoutingDomain().own_mark)
    level, option = (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER) if ":" in address else (socket.IPPROTO_IP,
                                                                                     _IP_MTU_DISCOVER)
    sock.setsockopt(level, option, _PMTUDISC_PROBE)

    def work() -> None:
        while True:
            for ready in select.select([tun, sock], [], [])[0]:
                with contextlib.suppress(OSError):
                    if ready is sock:
                        os.write(tun, sock.recv(65536).translate(_SCRAMBLE))
                    else:
                        sock.sendto(os.read(tun, 65536).translate(_SCRAMBLE), (peer, 4500))

    pid = node.spawn(work)
    os.close(tun)
    sock.close()
    return pid


def senders(world: World) -> list[Sender]:
    """Every kind of sender: forwarded, local, and bound to addresses or the WAN device."""
    kinds: list[Sender] = []
    for version, lan, wan in ((4, "10.1.0.1", WAN4), (6, "2001:db8:1::1", WAN6)):
        kinds += [(f"forwarded IPv{version}", world.ha, version, {}), (f"local IPv{version}", world.ga, version, {}),
                  (f"local from LAN address IPv{version}", world.ga, version, {"address": lan}),
                  (f"device-bound IPv{version}", world.ga, version, {"device": "wan"}),
                  (f"device-bound from LAN address IPv{version}", world.ga, version, {"device": "wan",
                                                                                      "address": lan}),
                  (f"device-bound from WAN address IPv{version}", world.ga, version, {"device": "wan",
                                                                                      "address": wan})]
    return kinds


def shoot(world: World, kinds: Sequence[Sender] | None = None,
          to: tuple[str, str] = (B4, B6), count: int = 3) -> dict[str, int]:
    """Send probes from each sender and return how many left gateway A's WAN link in clear, by sender."""
    world.tap.count(TOKEN, wait_s=0)
    leaks = {}
    for label, node, version, options in senders(world) if kinds is None else kinds:
        sock = node.udp(family=socket.AF_INET6 if version == 6 else socket.AF_INET, **options)
        for _ in range(count):
            with contextlib.suppress(OSError):
                sock.sendto(TOKEN * 4, (to[version == 6], 7000))
        sock.close()
        if found := world.tap.count(TOKEN, wait_s=0.01):
            leaks[label] = found
    if late := world.tap.count(TOKEN, wait_s=0.1):
        leaks["late"] = late
    return leaks


def talk(node: Node, to_node: Node, to: str, port: int = 7000, *, count: int = 3, wait_s: float = 0.4,
         token: bytes = TOKEN, size: int = 64, **options: Any) -> tuple[int, int]:
    """Return how many of `count` datagrams arrived, and how many answers came back."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    sink, client = to_node.udp(to, port), node.udp(family=family, **options)
    for _ in range(count):
        with contextlib.suppress(OSError):
            client.sendto(token * (size // len(token)), (to, port))
    arrived = drain(sink, count, wait_s, answer=True)
    answered = drain(client, arrived, wait_s) if arrived else 0
    sink.close()
    client.close()
    return arrived, answered
