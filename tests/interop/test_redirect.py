"""Redirect by strongSwan (RFC 5685): it sends us to its other address, where all is made before the old one goes."""

from __future__ import annotations

import pytest

from tests.interop.world import World, peer
from tests.lab.command import ike_spis
from tests.lab.rig import answers
from tests.support.netns import LAB, eventually

pytestmark = [*LAB, pytest.mark.interop]

OTHER = "198.51.100.3"


@pytest.mark.parametrize(("redirect", "follows"), [(True, True), ([OTHER], True), (["198.51.100.9"], False)])
def test_redirect_of_an_ike_sa_that_is_up_is_followed_as_the_entry_says(world: World, redirect: object,
                                                                        follows: bool) -> None:
    a, b = world.rig.a, world.rig.b
    theirs = {"ike_extra": "mobike = no", "local": f"{b.wan4},{OTHER}"}
    b.gateway.ip(f"addr add {OTHER}/24 dev wan0")
    try:
        with world.connected(theirs=theirs, ours={"ike": {"redirect": redirect, "mobike": False}}):
            before = ike_spis(world.ours)
            world.swan.swanctl("--redirect", "--ike", "lab", "--gateway", OTHER)
            if follows:
                assert eventually(lambda: world.ours.peer_status()["remote_address"].startswith(OTHER), within_s=10)
                assert world.ours.peer_status()["redirected_to"] == OTHER
                assert eventually(world.same, within_s=10)
                assert ike_spis(world.ours) != before
            else:
                assert eventually(lambda: "redirect_refused" in world.ours.said(), within_s=10)
                assert world.ours.peer_status()["last_error"]["cause"] == "redirect_refused"
                assert ike_spis(world.ours) == before
            assert eventually(lambda: answers(a.host, b.host4), within_s=10)
            assert peer(world.ours.config)["ike"]["redirect"] == redirect
    finally:
        b.gateway.ip(f"addr del {OTHER}/24 dev wan0")
