"""Two sites, joined by a WAN that a stranger watches: the world that the demo, the bench and the labs share.

    host a --- gateway a ---[nat]--- wan router --- gateway b --- host b

The left side is what etc/ipsecd.yaml is written for; the right side is its mirror image.

    with Rig(nat=True) as rig:
        rig.a.gateway, rig.b.host            # nodes
        rig.witness.assert_clean()           # only IKE and ESP crossed the WAN
        rig.directory                        # temporary, for configurations, sockets and logs
"""

from __future__ import annotations

import contextlib
import math
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.lab.witness import Witness
from tests.support.netns import Lab, Node, eventually

NAT4 = "203.0.113.7"                             # the NAT's outside address
OUTER_FRAGMENTS = "ip[6:2] & 0x3fff != 0 or (ip6 and ip6[6] = 44)"      # for a tap
_WEATHER = "table inet weather {{ chain loss {{ type filter hook forward priority 0; {rule}\n}}\n}}"


@dataclass(frozen=True)
class Site:
    """One side: its nodes and addresses. A LAN is one /24 (or /64) of the site's prefixes."""

    name: str
    host: Node
    gateway: Node
    wan4: str                                    # the gateway's outside address
    wan6: str
    lan4: str                                    # the gateway's inside address
    lan6: str
    host4: str
    host6: str
    prefix4: str                                 # what the site's selectors say
    prefix6: str

    def wan(self, family: int = 4) -> str:
        return self.wan4 if family == 4 else self.wan6

    def host_address(self, family: int = 4) -> str:
        return self.host4 if family == 4 else self.host6


class Rig:
    """The lab; ends with its `with` block, whatever happened in it."""

    def __init__(self, *, nat: bool = False, wan_mtu: int = 1500, lan_mtu: int = 1500, watched: bool = True) -> None:
        self.nat = nat
        self._lan_mtu = lan_mtu
        self._watched = watched
        self._wan_mtu = wan_mtu
        self.lab = Lab()
        self.directory = Path(tempfile.mkdtemp(prefix="ipsecd-lab-"))
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every program, remove namespaces and files; safe to call twice."""
        self.lab.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def weather(self, loss_percent: int = 0, *, rule: str = "") -> None:
        """Lose this share of what the WAN forwards, or apply an nft rule there; nothing: fair weather."""
        self.wan.run("nft", "delete", "table", "inet", "weather", check=False)
        if loss_percent or rule:
            rule = rule or ("drop" if loss_percent == 100 else f"numgen random mod 100 < {loss_percent} drop")
            self.wan.nft(_WEATHER.format(rule=rule))

    def rebind_nat(self, low: int) -> None:
        """Forget the NAT's mappings and draw ports from another range, as a rebooted NAT does."""
        assert self.nat_node is not None
        self.nat_node.nft(f"table ip nat {{}}\ndelete table ip nat\n{_masquerade(low)}")
        # A new table alone leaves old mappings in place; masquerading forgets them when its device goes down.
        self.nat_node.ip("link set wan0 down", "link set wan0 up", "route replace default via 203.0.113.254")

    def _build(self) -> None:
        node = self.lab.node
        self.wan = node("wan")
        self.a = Site("a", node("host-a"), node("gw-a"), "192.0.2.1", "2001:db8:a::1", "10.1.0.1", "2001:db8:1::1",
                      "10.1.0.10", "2001:db8:1::10", "10.1.0.0/16", "2001:db8:1::/48")
        self.b = Site("b", node("host-b"), node("gw-b"), "198.51.100.2", "2001:db8:b::2", "10.2.0.1", "2001:db8:2::1",
                      "10.2.0.10", "2001:db8:2::10", "10.2.0.0/16", "2001:db8:2::/48")
        self.nat_node = node("nat") if self.nat else None
        self.wan.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        for site in (self.a, self.b):
            self._build_lan(site)
        self._join_b()
        if self.nat_node:
            self._join_a_by_nat(self.nat_node)
        else:
            self._join_a()
        if self._watched:
            self.witness = Witness(self.wan, ("wa", "wb"))

    def _build_lan(self, site: Site) -> None:
        self.lab.link(site.host, "eth0", site.gateway, "lan0", mtu=self._lan_mtu)
        site.host.address("eth0", f"{site.host4}/24", f"{site.host6}/64")
        site.gateway.address("lan0", f"{site.lan4}/24", f"{site.lan6}/64")
        site.host.ip(f"route add default via {site.lan4}", f"-6 route add default via {site.lan6}")
        site.gateway.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1, ipv4__conf__all__src_valid_mark=1,
                            ipv4__conf__all__rp_filter=2)

    def _join_a(self) -> None:
        self.lab.link(self.a.gateway, "wan0", self.wan, "wa", mtu=self._wan_mtu)
        self.a.gateway.address("wan0", f"{self.a.wan4}/24", f"{self.a.wan6}/64")
        self.wan.address("wa", "192.0.2.254/24", "2001:db8:a::fe/64")
        self.a.gateway.ip("route add default via 192.0.2.254", "-6 route add default via 2001:db8:a::fe")

    def _join_b(self) -> None:
        self.lab.link(self.b.gateway, "wan0", self.wan, "wb", mtu=self._wan_mtu)
        self.b.gateway.address("wan0", f"{self.b.wan4}/24", f"{self.b.wan6}/64")
        self.wan.address("wb", "198.51.100.254/24", "2001:db8:b::fe/64")
        self.b.gateway.ip("route add default via 198.51.100.254", "-6 route add default via 2001:db8:b::fe")

    def _join_a_by_nat(self, nat: Node) -> None:
        """IPv4 only, as behind most NATs; the peer sees NAT4."""
        self.lab.link(self.a.gateway, "wan0", nat, "in0", mtu=self._wan_mtu)
        self.lab.link(nat, "wan0", self.wan, "wa", mtu=self._wan_mtu)
        self.a.gateway.address("wan0", f"{self.a.wan4}/24")
        nat.address("in0", "192.0.2.254/24")
        nat.address("wan0", f"{NAT4}/24")
        self.wan.address("wa", "203.0.113.254/24")
        self.a.gateway.ip("route add default via 192.0.2.254")
        nat.ip("route add default via 203.0.113.254")
        nat.sysctl(ipv4__ip_forward=1)
        nat.nft(_masquerade(20000))


class Flood:
    """Numbered datagrams from one host to the other while the `with` block runs, and which of them arrived."""

    def __init__(self, sender: Node, receiver: Node, target: str, *, packets_per_s: int = 200,
                 payload: int = 64) -> None:
        self.sent = self.received = 0
        family_any = "::" if ":" in target else "0.0.0.0"
        self._sink = receiver.udp(family_any, 7007)
        self._source = sender.udp(family_any)
        self._target = (target, 7007)
        self._interval_s = 1 / packets_per_s
        self._payload = payload
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]
        self._seen: set[int] = set()
        self._until = math.inf                   # when to stop waiting for what is on its way

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def lost(self) -> int:
        """Datagrams that never came; meaningful after `stop`."""
        return self.sent - len(self._seen)

    @property
    def missing(self) -> str:
        """Which of them, and of how many: for the message of a failed assertion."""
        return f"{sorted(set(range(self.sent)) - self._seen)[:20]} of {self.sent}"

    def stop(self, *, linger_s: float = 2.0) -> None:
        """End sending, wait up to `linger_s` for what is on its way: on a busy machine that takes its time."""
        self._stop.set()
        self._threads[0].join()
        self._until = time.monotonic() + linger_s
        self._threads[1].join()

    def _send(self) -> None:
        filler = bytes(self._payload)
        while not self._stop.wait(self._interval_s):
            number = self.sent.to_bytes(4, "big")
            with contextlib.suppress(OSError):   # "unreachable" while a tunnel is down counts as lost
                self._source.sendto(number + filler, self._target)
            self.sent += 1

    def _receive(self) -> None:
        self._sink.settimeout(0.1)
        while time.monotonic() < self._until and (self._until == math.inf or self.lost):
            with contextlib.suppress(TimeoutError):
                self._seen.add(int.from_bytes(self._sink.recv(65536)[:4], "big"))


class LeakProbe:
    """Everybody on a site who has something to say to the other one: its host, and its gateway with and without a bound
    device, over IPv4 and IPv6, all the time while the `with` block runs.
    """

    def __init__(self, site: Site, peer: Site, *, bound: bool = True) -> None:
        self.sent = 0
        self._stop = threading.Event()
        speakers = [(site.host, None), (site.gateway, None)] + [(site.gateway, "wan0")] * bound
        self._senders = [(node.udp("::" if ":" in target else "0.0.0.0", device=device), target)
                         for node, device in speakers for target in (peer.host4, peer.host6)]
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        while not self._stop.wait(0.005):
            for sock, target in self._senders:
                with contextlib.suppress(OSError):   # the guard's refusal, or "unreachable": just what it must get
                    sock.sendto(b"in clear on the wire this is a leak", (target, 7008))
                self.sent += 1


def ping(node: Node, target: str, *, count: int = 3, size: int = 56, source: str = "", options: str = "") -> str:
    """Ping; raise CommandError, with what ping said, if one answer is missing.

    One at a time: of several, ping waits only twice the time of the first answers for the last, too short on a busy
    machine.
    """
    return "".join(node.run("ping", "-n", "-q", "-c", "1", "-W", "5", "-s", str(size),
                            *(("-I", source) if source else ()), *options.split(), target) for _ in range(count))


def ping_every_size(node: Node, target: str, inner_mtu: int) -> None:
    """Ping with the largest packet that goes whole, and with one that is fragmented inside."""
    ping(node, target, size=inner_mtu - (48 if ":" in target else 28), options="-M do")
    # IPv6 is fragmented by its sender, which learns the figure by losing a packet: here each end once.
    node.run("ping", "-c", "2", "-i", "0.2", "-W", "1", "-s", "3000", target, check=False)
    ping(node, target, size=3000)


def seconds_until(claim: Callable[[], bool], *, within_s: float) -> float:
    """Return how long it takes until `claim` holds; fail after `within_s`."""
    start = time.monotonic()
    if not eventually(claim, within_s=within_s):
        raise AssertionError(f"not within {within_s} s")
    return time.monotonic() - start


def answers(node: Node, target: str, *, wait_s: int = 1, source: str = "") -> bool:
    """Return whether a single ping is answered."""
    done = subprocess.run(("ip", "netns", "exec", node.namespace, "ping", "-n", "-c", "1", "-W", str(wait_s),
                           *(("-I", source) if source else ()), target), capture_output=True, check=False)
    return done.returncode == 0


def _masquerade(low: int) -> str:
    return (f"table ip nat {{ chain out {{ type nat hook postrouting priority srcnat;\n"
            f"  oifname wan0 meta l4proto udp masquerade to :{low}-{low + 9999}\n"
            f"  oifname wan0 masquerade\n}}\n}}")
