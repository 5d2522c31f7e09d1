"""Several peers behind one address: SPIs tell them apart, whatever their NAT does with ports (RFC 7296 2.1, 2.23)."""

from __future__ import annotations

import pytest

from ipsecd.events import PathChanged
from ipsecd.reports import ChildRequest, IkeGone
from ipsecd.sa import Endpoint, Path
from tests.support.exchange import PSK, A, B, Two, child_policy, ike_policy, peer_policy, policy
from tests.support.mobile import traffic
from tests.support.mobile import up as mobile_up
from tests.support.sim import Datagram, Host, Nat, SimNet

OUTSIDE = "198.51.100.1"
DPD = ike_policy(dpd_s=10)


class Behind:
    """A hub, and two spokes behind one NAT."""

    def __init__(self) -> None:
        self.net, self.nat = SimNet("one nat"), Nat(OUTSIDE)
        names = ("one", "two")
        self.hub = self.net.add("hub", B, policy(*(peer_policy(
            name, None, own="hub.example", other=f"{name}.example", psk=PSK, ike=DPD,
            children=(child_policy(name, "lan", "10.1.0.0/16", f"10.{n}.0.0/16"),))
            for n, name in enumerate(names, 2))))
        self.spokes: list[Host] = []
        for n, name in enumerate(names, 2):
            entry = peer_policy("hub", B, own=f"{name}.example", other="hub.example", psk=PSK, ike=DPD, children=(
                child_policy("hub", "lan", f"10.{n}.0.0/16", "10.1.0.0/16"),))
            spoke = self.net.add(name, f"172.16.0.{n}", policy(entry), nat=self.nat)
            child = entry.children[0]
            spoke.endpoint.initiate("hub", Path(Endpoint(spoke.address, 500), Endpoint(B, 500)),
                                    (ChildRequest(child.key, 0, child.local, child.remote),), self.net.now)
            self.spokes.append(spoke)
        self.net.run(2)
        assert len(self.hub.established()) == len(self.hub.pairs) == 2

    def ports(self) -> dict[str, int]:
        """Return where the hub sends to each, by name."""
        return {v.peer: v.path.remote.port for v in self.hub.endpoint.views()}

    def ask(self, spoke: Host) -> None:
        spoke.endpoint.check_liveness(spoke.endpoint.views()[0].handle, self.net.now)
        spoke.collect()

    def whole(self) -> None:
        """Each spoke has the twin of its pair at the hub, and nobody went."""
        for spoke in self.spokes:
            (pair,) = spoke.pairs.values()
            assert self.hub.pairs[pair.outbound.spi].outbound.spi == pair.spi_in
            assert not spoke.reports(IkeGone)
        assert not self.hub.reports(IkeGone)


def test_mappings_that_change_places_cause_no_cross_talk() -> None:
    world = Behind()
    before = world.ports()
    one, two = (Endpoint(s.address, 4500) for s in world.spokes)
    out = world.nat._out
    out[one], out[two] = out[two], out[one]
    world.nat._in.update({out[one]: one, out[two]: two})
    for spoke in world.spokes:
        world.ask(spoke)
        world.net.run(1)
    assert world.ports() == {"one": before["two"], "two": before["one"]}
    world.net.run(60)
    world.whole()


def test_peer_that_dies_takes_nobody_behind_its_address_along() -> None:
    world = Behind()
    dead, alive = world.spokes
    dead.alive = False
    world.net.run(120)
    assert [v.peer for v in world.hub.endpoint.views()] == ["two"]
    assert not alive.reports(IkeGone)
    (pair,) = alive.pairs.values()
    assert list(world.hub.pairs) == [pair.outbound.spi]


def test_last_fresh_message_decides_between_two_sources_and_the_next_genuine_one_repairs() -> None:
    # An attacker on the path copies each fresh datagram from an address of its own, and is faster.
    two = Two(nat=Nat(A))
    two.establish()
    thief = Endpoint("203.0.113.66", 4500)
    def copied(datagram: Datagram) -> Datagram:
        if datagram.source.address == A:
            two.net.inject(Datagram(thief, datagram.destination, datagram.data))
        return datagram
    two.net.rewrite(copied)
    two.a.endpoint.check_liveness(1, two.net.now)
    two.net.run(1)
    assert two.b.endpoint.views()[0].path.remote == thief
    two.net._rewrite.clear()
    two.a.endpoint.check_liveness(1, two.net.now)
    two.net.run(10)
    assert two.b.endpoint.views()[0].path.remote.address == A
    assert len(two.b.events(PathChanged)) == 2, "each move is an event"
    two.check(children=1)


@pytest.mark.parametrize("by", ["a", "b"])
def test_ike_rekey_of_a_peer_behind_a_nat_moves_nothing(by: str) -> None:
    # RFC 4555 3.8: with other SPIs the hashes of NAT detection differ though no address does.
    two = mobile_up(nat=Nat(A))
    before = traffic(two.b)
    two.net.hosts[by].endpoint.rekey_ike(1, two.net.now)
    two.net.run(90)
    two.check(children=1)
    assert traffic(two.b) == before
    for host in (two.a, two.b):
        assert not host.events(PathChanged)
        assert not host.reports(IkeGone)
