"""Transport mode with strongSwan, whose kernel-libipsec has none: it is asked for, refused, declined, and granted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop.world import World
from tests.lab.rig import ping
from tests.support.netns import LAB, CommandError, eventually

pytestmark = [*LAB, pytest.mark.interop]


@pytest.mark.parametrize(("theirs", "cause"), [("tunnel", "mode_mismatch"), ("transport", "no_child_proposal")])
def test_strongswan_that_makes_no_transport_mode_leaves_no_child_and_the_cause(world: World, theirs: str, cause: str,
                                                                               ) -> None:
    # A tunnel is answered by a tunnel, which we delete; what its backend cannot install it refuses.
    separate(world, "transport", theirs)
    world.begin()
    assert eventually(lambda: failure(world).get("cause") == cause, within_s=20), failure(world)
    assert eventually(lambda: world.ours.peer_status()["ike"], within_s=20)
    assert not world.ours.child_status()["sas"]
    assert eventually(lambda: not world.swan.sas(), within_s=10) or "INSTALLED" not in world.swan.sas()


def test_strongswan_takes_our_agreement_to_transport_mode_as_such(world: World) -> None:
    # It asks, we agree, and only then its backend says "unsupported mode": so it deletes the Child SA again.
    separate(world, "transport", "transport", start="listen")
    world.begin()
    with pytest.raises(CommandError):
        world.swan.initiate(within_s=5)
    assert eventually(lambda: not world.ours.child_status()["sas"], within_s=10)
    assert "unsupported mode" in world.swan.said()


def test_strongswan_that_asks_for_transport_mode_gets_a_tunnel_where_we_have_one(world: World) -> None:
    separate(world, "tunnel", "transport", start="listen")
    world.begin()
    world.swan.initiate()
    world.ours.wait_up()
    assert [sa["mode"] for sa in world.ours.child_status()["sas"]] == ["tunnel"]
    ping(world.rig.a.gateway, world.rig.b.wan4)
    world.rig.witness.assert_clean()


def separate(world: World, ours: str, theirs: str, *, start: str = "always") -> None:
    """Settle both ends to one child between their own addresses, each in its mode."""
    a, b = world.rig.a.wan4, world.rig.b.wan4
    world.separate(start=start, local=[a], remote=[b], theirs={"child_extra": f"mode = {theirs}"})
    world.ours.change(lambda config: config["peers"][world.ours.peer]["children"]["office"].update(mode=ours))


def failure(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.ours.child_status()["last_error"] or {}
    return found
