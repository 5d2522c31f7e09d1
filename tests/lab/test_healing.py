"""Traffic comes back by itself after everything that happens to a gateway, its peer and the path between them.

One tunnel for the whole module; each test leaves it up.  Figures of a restart count from the moment that the daemon
answers, of a path from the moment that it carries packets again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.lab.command import ike_spis, reload, settled, spis
from tests.lab.daemon import Config, tunnel
from tests.lab.rig import LeakProbe, Rig, answers, ping, seconds_until
from tests.support.netns import LAB, Node, eventually

pytestmark = LAB

RESTART_S, PATH_S = 5.0, 12.0
TOGETHER = 5
SECOND_WAN, OTHER_ADDRESS = "192.0.9.1", "192.0.2.77"
BY_TOKEN = "as its crash token shows"


class World:
    """Two gateways, both `start: always`, with a quick DPD so that tests need not wait for it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.left, self.right = tunnel(rig, start_right="listen" if rig.nat else "always")
        for daemon in (self.left, self.right):
            daemon.change(lambda config: peer(config).update(ike={"dpd": "1s", "dpd_timeout": "3s"}))
        if not rig.nat:                              # wherever the left gateway will be, it is expected
            self.right.change(lambda config: peer(config).update(address=[rig.a.wan4, OTHER_ADDRESS, SECOND_WAN]))
        for daemon in (self.left, self.right):
            reload(daemon)
        settled(self.left, self.right)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Speak all the time from both sites; nothing of it may be seen in clear, and in the end all is well again."""
        with LeakProbe(self.rig.a, self.rig.b), LeakProbe(self.rig.b, self.rig.a):
            yield
        self.rig.witness.assert_clean()
        ping(self.rig.a.host, self.rig.b.host4)
        ping(self.rig.b.host, self.rig.a.host4)

    def carries(self) -> bool:
        """Return whether a packet goes there and back."""
        return answers(self.rig.a.host, self.rig.b.host4)

    def heals(self, within_s: float) -> float:
        """Return after how many seconds traffic is back."""
        return seconds_until(self.carries, within_s=within_s)

    def starts(self, left: str, right: str) -> None:
        """Say who brings the tunnel up."""
        for daemon, start in ((self.left, left), (self.right, right)):
            daemon.change(lambda config, start=start: office(config).update(start=start))
            reload(daemon)

    def patience(self, dpd_timeout: str) -> None:
        """Say for how long the left gateway waits for an answer."""
        self.left.change(lambda config: peer(config)["ike"].update(dpd_timeout=dpd_timeout))
        reload(self.left)


@pytest.fixture(scope="module")
def straight() -> Iterator[World]:
    """Both gateways on the WAN."""
    with Rig() as rig:
        yield World(rig)


@pytest.fixture(scope="module")
def natted() -> Iterator[World]:
    """The left gateway behind a NAT."""
    with Rig(nat=True) as rig:
        yield World(rig)


@pytest.fixture
def world(straight: World) -> World:
    """The straight world, its tunnel up and both ends `start: always`."""
    for daemon in (straight.left, straight.right):
        daemon.revive()
    straight.starts("always", "always")
    settled(straight.left, straight.right)
    straight.rig.witness.strangers()
    return straight


# Restarts

@pytest.mark.parametrize(("survivor", "restarted"), [("always", "always"), ("always", "listen"), ("listen", "always")])
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_traffic_is_back_within_5_s_of_a_peer_restart(world: World, end: str, survivor: str, restarted: str) -> None:
    world.starts(survivor, restarted)
    with world.watched():
        getattr(world.right, end)()
        assert not world.carries()
        world.right.start()
        world.heals(RESTART_S)


@pytest.mark.parametrize("survivor", ["always", "listen"])
def test_killed_peer_is_believed_by_its_crash_token_at_once(world: World, survivor: str) -> None:
    # LV-12, RFC 6290: while a liveness check of the survivor waits for its next try, and long before it gives up.
    world.patience("60s")
    world.starts(survivor, "listen")
    before, shown = ike_spis(world.left), world.left.said().count(BY_TOKEN)
    try:
        with world.watched():
            world.right.kill()
            assert not eventually(lambda: not before & ike_spis(world.left), within_s=2)
            world.right.start()
            answers(world.rig.a.host, world.rig.b.host4)
            assert eventually(lambda: not before & ike_spis(world.left), within_s=2), world.left.log()
            assert world.left.said().count(BY_TOKEN) > shown, world.left.log()
            world.starts("always", "listen")
            world.heals(RESTART_S)
    finally:
        world.patience("3s")


@pytest.mark.long
def test_traffic_is_back_within_5_s_of_a_long_silence(world: World) -> None:
    """A whole attempt of the survivor went by; test_gateway.py tries every moment of its cycle."""
    world.starts("always", "listen")
    with world.watched():
        world.right.stop()
        assert eventually(lambda: bool(world.left.peer_status()["attempts"]), within_s=60)
        assert not world.carries()
        world.right.start()
        world.heals(RESTART_S)


def test_both_ends_started_together_agree_on_one_ike_sa_and_one_pair(world: World) -> None:
    for _ in range(TOGETHER):
        for daemon in (world.left, world.right):
            daemon.stop()
        for daemon in (world.left, world.right):
            daemon.start(wait=False)
        for daemon in (world.left, world.right):
            assert eventually(daemon.answers, within_s=15)
        world.heals(RESTART_S)
        settled(world.left, world.right)
        before = ike_spis(world.left), spis(world.left)
        assert not eventually(lambda: (ike_spis(world.left), spis(world.left)) != before, within_s=1)  # noqa: B023
    world.rig.witness.assert_clean()


# Paths

def test_path_that_was_cut_shortly_carries_at_once_on_the_same_sas(world: World) -> None:
    before = spis(world.left)
    with world.watched():
        world.rig.weather(100)
        assert not world.carries()
        world.rig.weather()
        world.heals(PATH_S)
    assert spis(world.left) == before


def test_dead_peer_is_noticed_and_path_that_returns_carries_within_12_s(world: World) -> None:
    with world.watched():
        world.rig.weather(100)
        cut = time.monotonic()
        assert eventually(lambda: world.left.child_status()["state"] != "up", within_s=15)
        assert time.monotonic() - cut < 10                              # 1 s of quiet and 3 s without an answer
        assert world.left.peer_status()["last_error"]["cause"] in ("peer_dead", "peer_silent")
        world.rig.weather()
        world.heals(PATH_S)


def test_default_route_by_another_interface_moves_the_tunnel(world: World) -> None:
    rig = world.rig
    with world.watched():
        with second_wan(rig):
            rig.a.gateway.ip("route replace default via 192.0.9.254 dev wan1", "addr del 192.0.2.1/24 dev wan0")
            world.heals(PATH_S)                 # perhaps by IPv6 for a moment
            assert eventually(lambda: world.left.peer_status()["local_address"].startswith(SECOND_WAN), within_s=5)
        world.heals(PATH_S)
    assert eventually(lambda: world.left.peer_status()["local_address"].startswith(rig.a.wan4), within_s=5)


def test_default_route_alone_keeps_or_moves_the_tunnel(world: World) -> None:
    rig = world.rig
    with world.watched():
        with second_wan(rig):
            rig.a.gateway.ip("route replace default via 192.0.9.254 dev wan1", "link set wan0 down")
            world.heals(PATH_S)
        world.heals(PATH_S)


def test_local_address_replaced_by_another_moves_the_tunnel(world: World) -> None:
    rig = world.rig
    with world.watched():
        with restored(rig):
            move(rig.a.gateway, rig.a.wan4, OTHER_ADDRESS, "192.0.2.254")
            world.heals(PATH_S)                                         # by IPv6, while IPv4 has no address
            assert eventually(lambda: world.left.peer_status()["local_address"].startswith(OTHER_ADDRESS), within_s=5)
        world.heals(PATH_S)


def test_changed_address_moves_the_same_ike_sa_with_its_children(world: World) -> None:
    # MB-02
    rig = world.rig
    with world.watched(), second_wan(rig):
        assert eventually(lambda: SECOND_WAN in world.left.said(), within_s=5)
        before = ike_spis(world.left), spis(world.left)
        rig.a.gateway.ip("route replace default via 192.0.9.254 dev wan1", "addr del 192.0.2.1/24 dev wan0")
        world.heals(2)
        assert (ike_spis(world.left), spis(world.left)) == before
        assert world.left.peer_status()["local_address"].startswith(SECOND_WAN)


def test_renumbered_lan_changes_the_source_of_the_gateways_own_traffic(world: World) -> None:
    gateway, host = world.rig.a.gateway, world.rig.b.host4

    def source() -> str:
        words = gateway.run("ip", "route", "get", host).split()
        return words[words.index("src") + 1] if "src" in words else ""

    assert source() == "10.1.0.1"
    try:
        gateway.ip("addr add 10.1.7.1/24 dev lan0", "addr del 10.1.0.1/24 dev lan0")
        assert eventually(lambda: source() == "10.1.7.1", within_s=2)
        ping(gateway, host)
    finally:
        gateway.ip("addr add 10.1.0.1/24 dev lan0", check=False)
        gateway.ip("addr del 10.1.7.1/24 dev lan0", check=False)
    assert eventually(lambda: source() == "10.1.0.1", within_s=2)
    world.heals(PATH_S)
    world.rig.witness.assert_clean()


# The peer's word

def test_delete_of_the_ike_sa_by_the_peer_is_healed(world: World) -> None:
    world.starts("always", "listen")
    before = ike_spis(world.left)
    with world.watched():
        world.right.ctl("down", world.right.peer)
        assert eventually(lambda: not before & ike_spis(world.left), within_s=2)      # told, not timed out
        world.right.ctl("up", world.right.peer)
        world.heals(RESTART_S)


def test_delete_of_a_child_by_the_peer_is_healed(world: World) -> None:
    world.starts("always", "listen")
    before, ike = spis(world.left), ike_spis(world.left)
    with world.watched():
        world.right.ctl("down", world.right.child)
        assert eventually(lambda: not before & spis(world.left), within_s=2)
        world.right.ctl("up", world.right.child)
        world.heals(RESTART_S)
        assert ike_spis(world.left) == ike, world.left.log()           # a child only, its IKE SA stands


def test_changed_name_is_followed(world: World) -> None:
    rig, left = world.rig, world.left
    left.hosts({"hq.example.net": rig.b.wan4})
    left.change(lambda config: peer(config).update(address=["hq.example.net"]))
    world.starts("always", "listen")
    try:
        with world.watched():
            move(rig.b.gateway, "198.51.100.2", "198.51.100.3", "198.51.100.254")
            left.hosts({"hq.example.net": "198.51.100.3"})
            seconds_until(world.carries, within_s=PATH_S + 4)          # DPD first has to tell that the old one is dead
            assert left.peer_status()["remote_address"].startswith("198.51.100.3")
    finally:
        move(rig.b.gateway, "198.51.100.3", "198.51.100.2", "198.51.100.254")
        left.change(lambda config: peer(config).update(address=[rig.b.wan4]))


# NAT

@pytest.mark.parametrize("speaker", ["inside", "outside"])
def test_traffic_heals_after_the_nat_forgot_its_mapping(natted: World, speaker: str) -> None:
    rig, before = natted.rig, natted.right.peer_status()["remote_address"]
    rig.rebind_nat(30000 if speaker == "inside" else 40000)
    speak: Callable[[], bool] = ((lambda: answers(rig.a.host, rig.b.host4)) if speaker == "inside" else
                                 (lambda: answers(rig.b.host, rig.a.host4)))
    seconds_until(speak, within_s=PATH_S)
    assert natted.right.peer_status()["remote_address"] != before
    ping(rig.b.host, rig.a.host4)
    ping(rig.a.host, rig.b.host4)
    rig.witness.assert_clean()


def test_traffic_heals_after_the_nat_got_another_address(natted: World) -> None:
    rig, nat = natted.rig, natted.rig.nat_node
    assert nat is not None
    move(nat, "203.0.113.7", "203.0.113.99", "203.0.113.254")
    rig.rebind_nat(50000)
    natted.heals(PATH_S)
    ping(rig.b.host, rig.a.host4)
    assert natted.right.peer_status()["remote_address"].startswith("203.0.113.99")
    rig.witness.assert_clean()


def peer(config: Config) -> Config:
    """Return the first peer."""
    found: Config = next(iter(config["peers"].values()))
    return found


def office(config: Config) -> Config:
    """Return its child."""
    found: Config = peer(config)["children"]["office"]
    return found


def move(node: Node, old: str, new: str, router: str) -> None:
    """Replace the outside address of a node; the kernel takes the default route away with the old one."""
    node.ip(f"addr del {old}/24 dev wan0", f"addr add {new}/24 dev wan0", f"route replace default via {router}")


@contextmanager
def restored(rig: Rig) -> Iterator[None]:
    """Give the left gateway its link to the WAN back as it was."""
    try:
        yield
    finally:
        rig.a.gateway.ip("link set wan0 up", "addr flush dev wan0", "addr add 192.0.2.1/24 dev wan0",
                         "addr add 2001:db8:a::1/64 dev wan0 nodad", "route replace default via 192.0.2.254 dev wan0",
                         "-6 route replace default via 2001:db8:a::fe dev wan0")


@contextmanager
def second_wan(rig: Rig) -> Iterator[None]:
    """Give the left gateway a second link to the WAN."""
    rig.lab.link(rig.a.gateway, "wan1", rig.wan, "wa1")
    rig.a.gateway.address("wan1", f"{SECOND_WAN}/24")
    rig.a.gateway.sysctl(ipv4__conf__wan1__rp_filter=2)
    rig.wan.address("wa1", "192.0.9.254/24")
    try:
        with restored(rig):
            yield
    finally:
        rig.a.gateway.ip("link del wan1")
