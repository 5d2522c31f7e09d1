"""Whole gateways on the simulated network: SimNet's hosts with a Gateway where otherwise a bare endpoint is."""

from __future__ import annotations

from dataclasses import replace

from ipsecd.effects import Effect, Resolve
from ipsecd.gateway import Gateway
from ipsecd.policy import Policy
from ipsecd.sa import ChildKey, Deadline, Endpoint, Path
from ipsecd.views import IkeView, PeerView
from tests.support.exchange import A, B, policy_a, policy_b
from tests.support.seeded_rng import SeededRng
from tests.support.sim import Host, Nat, SimNet

LOOKUP_S = 0.005


class Node:
    """A Gateway in the shape of the endpoint that a Host has; names resolve after a moment."""

    def __init__(self, net: SimNet, address: str, policy: Policy, rng: SeededRng) -> None:
        self.net = net
        self.address = address
        self.heard: dict[int, float] = {}
        self.gateway = Gateway(policy, rng, now=net.now, last_inbound=self.heard.get, wall_clock=net.wall_now)
        self.lookups = 0
        self.names: dict[str, str] = {}              # what names resolve to
        self.host: Host | None = None

    def start(self) -> None:
        self.gateway.start(self.net.now)

    def receive(self, datagram: bytes, path: Path, now: float) -> None:
        self.gateway.ike_received(datagram, path, now)

    def work_done(self, work_id: int, value: object, now: float) -> None:
        self.gateway.work_done(work_id, value, now)

    def handle_timeout(self, now: float) -> None:
        self.gateway.handle_timeout(now)

    def next_deadline(self) -> Deadline | None:
        return self.gateway.next_deadline()

    def views(self) -> tuple[IkeView, ...]:
        return tuple(v for p in self.gateway.view().peers for v in p.ike)

    def take_effects(self) -> list[Effect]:
        effects = self.gateway.take_effects()
        for effect in effects:
            if isinstance(effect, Resolve):
                self.lookups += 1
                self.net.after(LOOKUP_S, lambda e=effect: self._resolved(e))  # type: ignore[misc]
        return [e for e in effects if not isinstance(e, Resolve)]

    def _resolved(self, effect: Resolve) -> None:
        if self.host is None or self.host.endpoint is not self:
            return                                   # the daemon died meanwhile
        paths = tuple(Path(Endpoint(self.address, 500), Endpoint(self.names.get(name, name), 500))
                      for name in effect.names)
        self.gateway.resolved(effect.peer, paths, self.net.now)


class Pair:
    """Gateways A and B, started together."""

    def __init__(self, a: Policy | None = None, b: Policy | None = None, *, seed: object = 0,
                 latency_s: float = 0.01, nat: Nat | None = None) -> None:
        self.net = SimNet(seed, latency_s=latency_s)
        self.a = self._add("a", A if nat is None else "10.9.9.9", a or policy_a(), nat)
        self.b = self._add("b", B, b or policy_b())

    def _add(self, name: str, address: str, policy: Policy, nat: Nat | None = None) -> Host:
        host = self.net.add(name, address, policy, nat=nat)
        return self._boot(host, policy)

    def _boot(self, host: Host, policy: Policy) -> Host:
        host.rng = SeededRng((self.net._seed, host.name, self.net.now))
        node = Node(self.net, host.address, policy, host.rng)
        host.endpoint, node.host = node, host  # type: ignore[assignment]
        return host

    def gateway(self, host: Host) -> Gateway:
        node = host.endpoint
        assert isinstance(node, Node)
        return node.gateway

    def start(self, seconds: float = 5.0) -> None:
        for host in (self.a, self.b):
            self.gateway(host).start(self.net.now)
        self.net.run(seconds)

    def restart(self, host: Host, policy: Policy | None = None) -> None:
        """kill -9, and at once a new start; with another policy where one is given."""
        policy = policy or self.gateway(host).policy
        host.pairs.clear()
        host.outbound.clear()
        self._boot(host, policy)
        self.gateway(host).start(self.net.now)

    def reload(self, host: Host, policy: Policy) -> None:
        self.gateway(host).replace_policy(policy, self.net.now)
        host.collect()

    def peer(self, host: Host) -> PeerView:
        return self.gateway(host).view().peers[0]

    def spis(self, host: Host) -> dict[str, list[int]]:
        """The inbound SPIs that a host's engine holds, by child."""
        found: dict[str, list[int]] = {}
        for spi, pair in host.pairs.items():
            found.setdefault(pair.child.child, []).append(spi)
        return found

    def sends(self, host: Host, child: str) -> bool:
        """Return whether a packet of the child would leave: a pair for it, whose other end is installed there."""
        other = self.b if host is self.a else self.a
        spi = host.outbound.get((ChildKey(other.name, child), 0))
        return spi is not None and any(p.inbound.spi == host.pairs[spi].outbound.spi for p in other.pairs.values())

    def check(self, *children: str) -> None:
        """Both ends have one IKE SA, the same, and exactly one pair for each of these children."""
        ends = [[v for v in host.endpoint.views() if v.state == "Established"] for host in (self.a, self.b)]
        assert [len(end) for end in ends] == [1, 1], ends
        assert (ends[0][0].spi_i, ends[0][0].spi_r) == (ends[1][0].spi_i, ends[1][0].spi_r)
        for host, end in zip((self.a, self.b), ends, strict=True):
            assert sorted(p.child.child for p in end[0].pairs) == sorted(children)
            assert {c: len(s) for c, s in self.spis(host).items()} == dict.fromkeys(children, 1)
            assert all(self.sends(host, child) for child in children)


def without_address(policy: Policy) -> Policy:
    """Return the policy with peers that only listen."""
    return replace(policy, peers=tuple(replace(p, addresses=()) for p in policy.peers))
