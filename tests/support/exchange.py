"""Two gateways with a policy each, the steps that tests share, and what must hold after every scenario."""

from __future__ import annotations

from dataclasses import replace

from ipsecd.ike.consts import IdType, ProtocolId
from ipsecd.ike.endpoint import IkeEndpoint
from ipsecd.policy import (
    Action,
    ChildPolicy,
    EsnPolicy,
    Identity,
    IkePolicy,
    Mode,
    PeerPolicy,
    Pfs,
    Policy,
    RoutingDomain,
    Start,
    TsStyle,
)
from ipsecd.reports import ChildRequest, ChildUp, IkeUp
from ipsecd.sa import ChildKey, Endpoint, Path, Volume
from ipsecd.secret import Secret
from ipsecd.selectors import from_prefix
from ipsecd.suites import Proposal, parse_proposal
from tests.support.sim import Host, Nat, SimNet

A, B = "192.0.2.1", "203.0.113.2"
PSK = Secret(b"a pre-shared key of thirty-two b")
IKE = parse_proposal("aes256gcm16-prfsha256-x25519-ecp256", protocol=ProtocolId.IKE)
ESP = parse_proposal("aes256gcm16-x25519-ecp256", protocol=ProtocolId.ESP)


def fqdn(name: str) -> Identity:
    return Identity(IdType.FQDN, name.encode(), name)


def esp(text: str) -> Proposal:
    return parse_proposal(text, protocol=ProtocolId.ESP)


def ike(text: str) -> Proposal:
    return parse_proposal(text, protocol=ProtocolId.IKE)


def ike_policy(**changes: object) -> IkePolicy:
    base = IkePolicy((IKE,), lifetime_s=14400, dpd_s=0, dpd_timeout_s=30, fragment_bytes=1280, childless="allow",
                     unique="replace", init_timeout_s=15, request_timeout_s=165)
    return replace(base, **changes)  # type: ignore[arg-type]


def child_policy(peer: str, name: str, local: str | tuple[str, ...], remote: str | tuple[str, ...],
                 **changes: object) -> ChildPolicy:
    texts = [(t,) if isinstance(t, str) else t for t in (local, remote)]
    base = ChildPolicy(ChildKey(peer, name), *(tuple(from_prefix(p) for p in t) for t in texts), Mode.TUNNEL,
                       Start.ALWAYS, TsStyle.COMBINED, (ESP,), Pfs.OFFER, 3240, Volume(), 1024, EsnPolicy.AUTO)
    return replace(base, **changes)  # type: ignore[arg-type]


def peer_policy(name: str, address: str | None, *, own: str, other: str, children: tuple[ChildPolicy, ...],
                psk: Secret = PSK, ike: IkePolicy | None = None) -> PeerPolicy:
    return PeerPolicy(name, True, (address,) if address else (), fqdn(own), fqdn(other), psk, ike or ike_policy(),
                      children)


def policy(*peers: PeerPolicy, **changes: object) -> Policy:
    base = Policy((), peers, (), Action.BYPASS, RoutingDomain(), (), (), cookie_threshold=30, source_limit=64)
    return replace(base, **changes)  # type: ignore[arg-type]


NETS = {"lan": ("10.1.0.0/16", "10.2.0.0/16"), "voice": ("10.3.0.0/16", "10.4.0.0/16"),
        "guest": ("10.5.0.0/16", "10.6.0.0/16")}


def policy_a(*children: str, ike: IkePolicy | None = None, psk: Secret = PSK, **changes: object) -> Policy:
    made = tuple(child_policy("b", c, *NETS[c], **changes) for c in children or ("lan",))
    return policy(peer_policy("b", B, own="a.example", other="b.example", children=made, ike=ike, psk=psk))


def policy_b(*children: str, ike: IkePolicy | None = None, psk: Secret = PSK, address: str | None = A,
             **changes: object) -> Policy:
    made = tuple(child_policy("a", c, *reversed(NETS[c]), **changes) for c in children or ("lan",))
    return policy(peer_policy("a", address, own="b.example", other="a.example", children=made, ike=ike, psk=psk))


class Two:
    """A and B on one network."""

    def __init__(self, a: Policy | None = None, b: Policy | None = None, *, seed: object = 0,
                 nat: Nat | None = None) -> None:
        self.net = SimNet(seed)
        self.a = self.net.add("a", A if nat is None else "10.9.9.9", a or policy_a(), nat=nat)
        self.b = self.net.add("b", B, b or policy_b())

    def path(self, host: Host, port: int = 500) -> Path:
        other = B if host is self.a else A
        return Path(Endpoint(host.address, port), Endpoint(other, port))

    def requests(self, host: Host, *names: str) -> tuple[ChildRequest, ...]:
        peer = "b" if host is self.a else "a"
        entry = host.endpoint._table.policy.peer(peer)
        assert entry is not None
        return tuple(ChildRequest(c.key, 0, c.local, c.remote) for c in entry.children if c.key.child in names)

    def initiate(self, host: Host, *names: str) -> int:
        """Start an attempt with these children; "lan" where none is named."""
        peer = "b" if host is self.a else "a"
        return host.endpoint.initiate(peer, self.path(host), self.requests(host, *(names or ("lan",))), self.net.now)

    def establish(self, *names: str) -> int:
        """A makes an IKE SA with its first child; nothing is left to do after it."""
        handle = self.initiate(self.a, *names)
        self.net.run(1.0)
        assert self.a.reports(IkeUp), [str(e) for e in self.a.log]
        assert len(self.a.reports(ChildUp)) == len(names or ("lan",)), self.a.log
        self.check()
        return handle

    def pair(self, host: Host, child: str = "lan") -> int:
        """Return the inbound SPI of the pair that sends for a child."""
        peer = "b" if host is self.a else "a"
        return host.outbound[ChildKey(peer, child), 0]

    def outbound_lan(self, host: Host) -> bool:
        """Return whether a host sends the traffic of the child "lan"."""
        return (ChildKey("b" if host is self.a else "a", "lan"), 0) in host.outbound

    def check(self, *, children: int | None = None, ike: int | None = 1, duplicates: bool = False) -> None:
        """What must hold on both ends after every scenario (G1, G2, G3, G5).

        `duplicates`: both ends made one pair each for a slot; closing one is the supervisor's part.
        """
        a, b = self.a, self.b
        if ike is not None:
            assert (len(a.endpoint.views()), len(b.endpoint.views())) == (ike, ike), (a.endpoint.views(),
                                                                                       b.endpoint.views())
        if children is not None:
            assert (len(a.pairs), len(b.pairs)) == (children, children)
        for one, other in ((a, b), (b, a)):
            assert set(one.outbound.values()) <= set(one.pairs)
            assert duplicates or len(one.outbound) == len(one.pairs), "pairs that send nothing are left"
            for pair in one.pairs.values():
                twin = other.pairs[pair.outbound.spi]
                assert twin.outbound.spi == pair.spi_in
                assert (twin.inbound.encr_key, twin.outbound.encr_key) == (pair.outbound.encr_key,
                                                                           pair.inbound.encr_key)
                assert (twin.ts_local, twin.ts_remote) == (pair.ts_remote, pair.ts_local)
                assert twin.suite == pair.suite
        at_rest(a.endpoint, b.endpoint)


def at_rest(a: IkeEndpoint, b: IkeEndpoint) -> None:
    """Nothing half-open, queued or outstanding, and both ends count the same messages (G2, G3)."""
    for endpoint in (a, b):
        assert endpoint.half_open == 0
        for sa in endpoint._table.sas.values():
            assert not sa.session.tasks()
            assert not sa.runner.busy
    for mine in a._table.sas.values():
        twin = next(s for s in b._table.sas.values() if s.session.crypto.spi_i == mine.session.crypto.spi_i)
        assert mine.requests._next_id == twin.responses.expected
        assert twin.requests._next_id == mine.responses.expected
