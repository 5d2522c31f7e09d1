"""MOBIKE with strongSwan (RFC 4555): whichever end made the IKE SA, and whichever end's address changes, it stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.interop.world import World
from tests.lab.command import ike_spis
from tests.lab.rig import answers, seconds_until
from tests.support.netns import LAB, Node, eventually

pytestmark = [*LAB, pytest.mark.interop]

OUR_OTHER, THEIR_OTHER = "192.0.2.77", "198.51.100.3"
MOVED_WITHIN_S = 12


@pytest.mark.parametrize("initiator", ["ipsecd", "strongswan"])
@pytest.mark.parametrize("mover", ["ipsecd", "strongswan"])
def test_ike_sa_outlives_a_change_of_address(world: World, initiator: str, mover: str) -> None:
    a, b = world.rig.a, world.rig.b
    theirs = {"ike_extra": "mobike = yes", "local": f"{b.wan4},{THEIR_OTHER}", "remote": f"{a.wan4},{OUR_OTHER}"}
    with world.connected(initiator=initiator, theirs=theirs, ours={"ike": {"dpd": "2s"}}):
        before = ike_spis(world.ours)
        node, new, router = ((a.gateway, OUR_OTHER, "192.0.2.254") if mover == "ipsecd" else
                             (b.gateway, THEIR_OTHER, "198.51.100.254"))
        old = a.wan4 if mover == "ipsecd" else b.wan4
        with moved(node, old, new, router):
            seconds_until(lambda: answers(a.host, b.host4), within_s=MOVED_WITHIN_S)
            # strongSwan asks on all paths at once, by IPv6 too, and takes the one whose answer is first.
            side, by_ipv6 = ("local_address", a.wan6) if mover == "ipsecd" else ("remote_address", b.wan6)
            assert eventually(lambda: world.ours.peer_status()[side].startswith((new, f"[{by_ipv6}]")), within_s=5)
            assert ike_spis(world.ours) == before
            assert eventually(lambda: answers(b.host, a.host4), within_s=5)
        seconds_until(lambda: answers(a.host, b.host4), within_s=MOVED_WITHIN_S)


@contextmanager
def moved(node: Node, old: str, new: str, router: str) -> Iterator[None]:
    """Give a gateway another outside address for a while; it holds both for a moment, as after a new lease.

    At no time is it without a path by IPv4.
    """
    def move(gone: str, here: str) -> None:
        node.ip(f"addr add {here}/24 dev wan0", f"route replace default via {router} dev wan0 src {here}",
                f"addr del {gone}/24 dev wan0")
    node.sysctl(ipv4__conf__wan0__promote_secondaries=1)        # else the new address would go with the old one
    move(old, new)
    try:
        yield
    finally:
        move(new, old)
