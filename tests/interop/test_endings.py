"""How tunnels with strongSwan end, from either side and in every way, and come back."""

from __future__ import annotations

import pytest

from tests.interop.world import World
from tests.lab.command import ike_spis
from tests.lab.rig import answers, ping, seconds_until
from tests.support.netns import LAB, eventually

pytestmark = [*LAB, pytest.mark.interop]

QUICK = {"dpd": "1s", "dpd_timeout": "3s"}
BACK_WITHIN_S = 15                      # judged in tests/lab without strongSwan's share; here it must come back at all


def test_child_that_we_delete_is_gone_on_both_sides_and_comes_back(world: World) -> None:
    with world.connected():
        ike = ike_spis(world.ours)
        world.ours.ctl("down", world.ours.child, "--wait")
        assert eventually(lambda: world.swan.installed() == 0, within_s=10)
        world.ours.ctl("up", world.ours.child, "--wait")
        carries_on(world)
        assert ike_spis(world.ours) == ike


def test_child_that_strongswan_deletes_comes_back(world: World) -> None:
    with world.connected():
        ike, before = ike_spis(world.ours), world.pairs()
        world.swan.swanctl("--terminate", "--child", "office")
        assert eventually(lambda: world.pairs().isdisjoint(before), within_s=10)
        carries_on(world)
        assert ike_spis(world.ours) == ike


def test_ike_sa_that_we_delete_is_gone_on_both_sides_and_comes_back(world: World) -> None:
    with world.connected():
        world.ours.ctl("down", world.ours.peer, "--wait")
        assert eventually(lambda: not world.swan.sas().strip(), within_s=10)
        world.ours.ctl("up", world.ours.peer, "--wait")
        carries_on(world)


def test_ike_sa_that_strongswan_deletes_comes_back(world: World) -> None:
    with world.connected():
        before = ike_spis(world.ours)
        world.swan.swanctl("--terminate", "--ike", "lab")
        assert eventually(lambda: ike_spis(world.ours).isdisjoint(before), within_s=10)
        carries_on(world)


def test_dead_strongswan_is_noticed_and_its_restart_heals(world: World) -> None:
    with world.connected(ours={"ike": QUICK}):
        world.swan.kill()
        assert eventually(lambda: world.ours.child_status()["state"] != "up", within_s=20)
        assert world.ours.peer_status()["last_error"]["cause"] in ("peer_dead", "peer_silent")
        assert not answers(world.rig.a.host, world.rig.b.host4)
        world.swan.start()
        carries_on(world)


def test_dead_ipsecd_is_noticed_by_strongswan_and_its_restart_heals(world: World) -> None:
    with world.connected(theirs={"ike_extra": "dpd_delay = 1s"}):
        world.ours.kill()
        assert eventually(lambda: world.swan.installed() == 0, within_s=30)
        world.ours.start()
        carries_on(world)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_restarted_ipsecd_leaves_no_second_ike_sa(world: World, end: str) -> None:
    with world.connected():
        getattr(world.ours, end)()
        world.ours.start()
        carries_on(world)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_restarted_strongswan_is_connected_again(world: World, end: str) -> None:
    with world.connected(ours={"ike": QUICK}):
        getattr(world.swan, end)()
        world.swan.start()
        carries_on(world)


def test_strongswan_that_starts_again_reaches_a_listening_ipsecd(world: World) -> None:
    with world.connected(initiator="strongswan"):
        world.swan.kill()
        world.swan.start()
        world.swan.initiate()
        carries_on(world)


def carries_on(world: World) -> None:
    """Wait until traffic passes both ways and both sides hold the same, and nothing else."""
    a, b = world.rig.a, world.rig.b
    seconds_until(lambda: answers(a.host, b.host4), within_s=BACK_WITHIN_S)
    ping(b.host, a.host6)
    assert eventually(world.same, within_s=15), world.swan.sas()
