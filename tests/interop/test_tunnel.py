"""How a tunnel with strongSwan comes up, what it carries, and rekeys under traffic."""

from __future__ import annotations

import pytest

from tests.interop.world import ESP, World
from tests.lab.command import ike_spis, rekey_child, rekey_ike
from tests.lab.rig import Flood, answers, ping
from tests.support.netns import LAB, Tap, eventually

pytestmark = [*LAB, pytest.mark.interop]

ROUNDS = 4
SKF = 53                                # RFC 7383 2.5


@pytest.mark.parametrize("initiator", ["ipsecd", "strongswan"])
@pytest.mark.parametrize("family", [4, 6])
def test_tunnel_is_up_in_either_role(world: World, initiator: str, family: int) -> None:
    with world.connected(initiator=initiator, family=family):
        a, b = world.rig.a, world.rig.b
        for target in (b.host4, b.host6):
            ping(a.host, target)
        ping(b.host, a.host4)
        assert world.same()
        assert world.ours.peer_status()["ike"][0]["role"] == ("initiator" if initiator == "ipsecd" else "responder")


def test_one_ike_sa_stays_where_both_ends_start(world: World) -> None:
    for _ in range(3):
        with world.connected(theirs={"child_extra": "start_action = start"}):
            # Two exchanges may cross at first; which IKE SA stays is settled within seconds and then for good.
            assert eventually(world.same, within_s=30)
            before = world.pairs()
            with Flood(world.rig.a.host, world.rig.b.host, world.rig.b.host4) as flood:
                assert not eventually(lambda before=before: world.pairs() != before, within_s=2)
            assert not flood.lost, flood.missing


@pytest.mark.parametrize("by", ["ipsecd", "strongswan"])
def test_rekeys_of_child_and_ike_lose_nothing(world: World, by: str) -> None:
    a, b = world.rig.a, world.rig.b
    with world.connected():
        with Flood(a.host, b.host, b.host4) as there, Flood(b.host, a.host, a.host4) as back:
            for _ in range(ROUNDS):
                for kind in ("child", "ike"):
                    rekey(world, by, kind)
        assert not there.lost and not back.lost, (there.missing, back.missing)
        assert eventually(world.same, within_s=15)


@pytest.mark.parametrize("kind", ["child", "ike"])
def test_rekeys_of_both_ends_at_once_leave_one_and_lose_nothing(world: World, kind: str) -> None:
    a, b = world.rig.a, world.rig.b
    with world.connected():
        with Flood(a.host, b.host, b.host4) as there, Flood(b.host, a.host, a.host4) as back:
            for _ in range(ROUNDS):
                before = ike_spis(world.ours), world.pairs()
                world.ours.ctl("rekey", world.ours.child if kind == "child" else world.ours.peer)
                world.swan.swanctl("--rekey", f"--{kind}", "office" if kind == "child" else "lab")
                assert eventually(
                    lambda before=before: before != (ike_spis(world.ours), world.pairs()) and world.same(),
                    within_s=30)
        assert not there.lost and not back.lost, (there.missing, back.missing)


@pytest.mark.parametrize("initiator", ["ipsecd", "strongswan"])
def test_large_messages_are_fragmented_both_ways(world: World, initiator: str) -> None:
    # Many selectors make IKE_AUTH larger than one datagram (RFC 7383); strongSwan fragments at 1280 too.
    # All of them on our side: kernel-libipsec installs a route for each pair of selectors, and is slow to remove it.
    local = many("10.1", 100)
    sides = [world.rig.wan.tap(side) for side in ("wa", "wb")]
    for tap in sides:
        tap.keep("ip[6:2] & 0x3fff != 0 or (udp port 4500 and udp[8:4] = 0)")
    with world.connected(initiator=initiator, local=local, remote=(world.rig.b.prefix4,)):
        ping(world.rig.a.host, world.rig.b.host4)
        assert world.same()
        assert world.ours.peer_status()["ike"][0]["fragmentation"] is True
        assert all(map(holds_fragments_of_ike_alone, sides))


@pytest.mark.parametrize("initiator", ["ipsecd", "strongswan"])
def test_childless_ike_sa_gets_its_child_in_an_exchange_of_its_own(world: World, initiator: str) -> None:
    # RFC 6023: IKE_AUTH without SA and selectors, CREATE_CHILD_SA after it.
    sent_by_us = initiator == "ipsecd"
    ours = {"ike": {"childless": "prefer"}} if sent_by_us else {}
    with world.connected(initiator=initiator, ours=ours, theirs={"ike_extra": "childless = force"}):
        ping(world.rig.a.host, world.rig.b.host4)
        assert world.same()
        said = "parsed" if sent_by_us else "generating"
        requests = [line for line in world.swan.said().splitlines() if f"{said} IKE_AUTH request 1 [" in line]
        assert " SA " not in requests[-1]
        assert " AUTH " in requests[-1]


def test_wider_proposal_is_narrowed(world: World) -> None:
    theirs = {"local_ts": "10.2.0.0/24", "remote_ts": "10.1.0.0/24"}
    with world.connected(theirs=theirs):
        ping(world.rig.a.host, world.rig.b.host4)
        assert world.ours.child_status()["narrowed"] is True
        assert not answers(world.rig.a.host, world.rig.b.host6)     # not carried, and not let go in clear either


def test_child_of_one_family_is_joined_by_a_second_child(world: World) -> None:
    a, b = world.rig.a, world.rig.b
    ours = {"children": {
        name: {"start": "always", "esp": {"proposals": [ESP]}, "local": [local], "remote": [remote]}
        for name, local, remote in (("four", a.prefix4, b.prefix4), ("six", a.prefix6, b.prefix6))}}
    with world.connected(ours=ours):
        for target in (b.host4, b.host6):
            ping(a.host, target)
        assert (len(ike_spis(world.ours)), len(world.pairs()), world.swan.installed()) == (1, 2, 2)


def rekey(world: World, by: str, kind: str) -> None:
    """Rekey from one side and wait until both have the same new ones."""
    before = ike_spis(world.ours) if kind == "ike" else world.pairs()
    if by == "strongswan":
        world.swan.swanctl("--rekey", f"--{kind}", "lab" if kind == "ike" else "office")
    elif kind == "ike":
        rekey_ike(world.ours)
    else:
        rekey_child(world.ours)
    assert eventually(lambda: before.isdisjoint(ike_spis(world.ours) if kind == "ike" else world.pairs())
                      and world.same(), within_s=15)


def many(start: str, count: int) -> tuple[str, ...]:
    """Return the site's own /24 and more of them that do not touch, so that nobody joins them."""
    return (f"{start}.0.0/24", *(f"{start}.{2 * number}.0/24" for number in range(1, count)))


def holds_fragments_of_ike_alone(tap: Tap) -> bool:
    """Return whether what left by this link has fragments of IKE messages, and none of IP packets."""
    frames = tap.frames()
    assert not [frame for frame in frames if int.from_bytes(frame[20:22], "big") & 0x3FFF]
    return any(frame[14 + 20 + 8 + 4 + 16] == SKF for frame in frames)
