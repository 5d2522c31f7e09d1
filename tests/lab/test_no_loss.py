"""No packet is lost: not by reloads, not by rekeys of a child or an IKE SA from either end, by time or by volume.

One tunnel for the whole module, numbered datagrams both ways all the time that a test runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.command import ike_spis, rekey_child, rekey_ike, reload, settled, spis
from tests.lab.daemon import Config, Ipsecd, tunnel
from tests.lab.rig import Rig
from tests.lab.torrent import Torrent
from tests.support.netns import LAB, eventually

pytestmark = LAB

RELOADS, CHILD_REKEYS, IKE_REKEYS = 20, 15, 3       # rekeys from each side
PACKETS_PER_S = 1000                                # each way


class World:
    """Two gateways whose tunnel is up."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.left, self.right = tunnel(rig)
        settled(self.left, self.right)

    @contextmanager
    def steady(self, *, family: int = 4) -> Iterator[None]:
        """Numbered packets both ways while the block runs: all of them arrive, once, and nothing is seen in clear."""
        a, b = self.rig.a, self.rig.b
        with (Torrent(a.host, b.host, b.host_address(family), packets_per_s=PACKETS_PER_S) as there,
              Torrent(b.host, a.host, a.host_address(family), packets_per_s=PACKETS_PER_S) as back):
            yield
        assert not there.lost and not back.lost, (
            f"there: {there.account}; back: {back.account}; {suspects(self.left)}; {suspects(self.right)}")
        assert (there.doubled, back.doubled) == (0, 0)
        self.rig.witness.assert_clean()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Rig() as rig:
        yield World(rig)


def test_reloads_that_rearrange_everything_else_lose_nothing(world: World) -> None:
    before = spis(world.left)
    generation = world.left.status()["config"]["generation"]
    with world.steady():
        for number in range(RELOADS):
            for daemon in (world.left, world.right):
                daemon.change(lambda config, number=number: rearrange(config, number))
            reload(world.left)
            reload(world.right)
    assert world.left.status()["config"]["generation"] == generation + RELOADS
    assert before <= spis(world.left)                       # not even rekeyed


def test_child_rekeys_from_either_side_lose_nothing(world: World) -> None:
    before = spis(world.left, "office")
    with world.steady():
        for _ in range(CHILD_REKEYS):
            for daemon in (world.left, world.right):
                rekey_child(daemon)
    assert not before & spis(world.left, "office")
    settled(world.left, world.right)


def test_ike_rekeys_from_either_side_lose_nothing(world: World) -> None:
    before = ike_spis(world.left)
    with world.steady(family=6):
        for _ in range(IKE_REKEYS):
            for daemon in (world.left, world.right):
                rekey_ike(daemon)
    assert not before & ike_spis(world.left)
    settled(world.left, world.right)


def test_rekeys_of_both_ends_at_once_lose_nothing(world: World) -> None:
    with world.steady():
        for target in (world.left.child, world.left.peer) * 3:
            child = target.partition("/")[2]
            for daemon in (world.left, world.right):
                daemon.ctl("rekey", daemon.child if child else daemon.peer)
        settled(world.left, world.right)


def test_rekeys_by_packet_volume_lose_nothing(world: World) -> None:
    with world.steady():
        for daemon in (world.left, world.right):
            daemon.change(lambda config: office(config).update(esp={"lifetime_packets": 2000}))
            reload(daemon)
        rekey_child(world.left)                             # limits hold from the next pair on
        seen: set[tuple[str, str]] = set()

        def rekeyed() -> bool:
            seen.update(spis(world.left, "office"))
            return len(seen) >= 6
        assert eventually(rekeyed, within_s=30)
    for daemon in (world.left, world.right):
        daemon.change(lambda config: office(config).pop("esp"))
        reload(daemon)
    rekey_child(world.left)
    settled(world.left, world.right)


@pytest.mark.parametrize("side", ["left", "right"])
def test_reauthentication_loses_nothing(world: World, side: str) -> None:
    daemon: Ipsecd = getattr(world, side)
    seen: set[str] = set()

    def renewed() -> bool:
        seen.update(ike_spis(daemon))
        return len(seen) > 3

    daemon.change(lambda config: next(iter(config["peers"].values())).update(ike={"reauth_time": "2s"}))
    with world.steady():
        reload(daemon)
        assert eventually(renewed, within_s=30)
        daemon.change(lambda config: next(iter(config["peers"].values())).pop("ike"))
        reload(daemon)
        settled(world.left, world.right)


def suspects(daemon: Ipsecd) -> str:
    """Return what may explain a loss: every counter that is not zero, and how long the loop stood still."""
    gateway = daemon.status()["gateway"]
    counts = {**gateway["drops"], **gateway["overflows"], **gateway["guard"]["counters"]}
    return f"{daemon.site.name}: {({name: n for name, n in counts.items() if n})}, lag {gateway['loop_lag']}"


def office(config: Config) -> Config:
    """Return the child that carries the flood."""
    found: Config = next(iter(config["peers"].values()))["children"]["office"]
    return found


def rearrange(config: Config, number: int) -> None:
    """Move, add and remove selectors and bypass entries beside the flood's own, and change timers."""
    peer = next(iter(config["peers"].values()))
    left = config["gateway"]["identity"].startswith("branch")
    here, there = (1, 2) if left else (2, 1)
    last = number == RELOADS - 1
    peer["ike"] = {"dpd": f"{10 + number % 3}s", "lifetime": f"{4 + number % 2}h"}
    office(config)["lifetime"] = f"{54 - number % 5}m"
    peer["children"].pop("lab", None)
    if number % 3 and not last:
        # Ahead of the office child, with selectors inside of its own, moving with each reload.
        third = 100 + number % 50
        peer["children"] = {"lab": {"local": [f"10.{here}.{third}.0/24"], "remote": [f"10.{there}.{third}.0/24"],
                                    "start": "on-demand"}, **peer["children"]}
    config["policies"] = [] if last else [
        {"name": f"entry-{entry}", "action": "bypass" if entry % 2 else "discard",
         "remote": [f"10.{there}.{200 + entry}.0/24", f"2001:db8:99:{entry}::/64"]}
        for entry in range(number % 5, number % 5 + number % 4)]
