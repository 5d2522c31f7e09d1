"""Children that select by ingress interface: what one LAN sends is protected, whatever another sends to the same place.

    host a --- lan0 --- gateway a --- wan router --- gateway b --- host b
    host c --- lan1 ---/
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self

import pytest

from tests.lab.daemon import Config, Ipsecd, default_config
from tests.lab.rig import Rig, answers, ping, seconds_until
from tests.lab.torrent import Torrent
from tests.lab.witness import describe
from tests.support.netns import LAB, Node, Tap, eventually

pytestmark = LAB

TOKEN = b"from lan1, and in clear on the wire"
C4, C6 = "10.1.1.10", "2001:db8:1:1::10"
SITE_A, SITE_B, GUESTS = ["10.1.0.0/16", "2001:db8:1::/48"], ["10.2.0.0/16", "2001:db8:2::/48"], [
    "10.1.1.0/24", "2001:db8:1:1::/64"]


class World:
    """A rig with a second LAN on the left, and a WAN router that delivers packets in clear, so that leaks show."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.guest: Node = rig.lab.node("host-c")
        rig.lab.link(self.guest, "eth0", rig.a.gateway, "lan1")
        self.guest.address("eth0", f"{C4}/24", f"{C6}/64")
        rig.a.gateway.address("lan1", "10.1.1.1/24", "2001:db8:1:1::1/64")
        self.guest.ip("route add default via 10.1.1.1", "-6 route add default via 2001:db8:1:1::1")
        rig.wan.ip(f"route add 10.1.0.0/16 via {rig.a.wan4}", f"route add 10.2.0.0/16 via {rig.b.wan4}",
                   f"-6 route add 2001:db8:1::/48 via {rig.a.wan6}", f"-6 route add 2001:db8:2::/48 via {rig.b.wan6}")
        self.tap: Tap = rig.wan.tap("wa")
        self._daemons: list[Ipsecd] = []
        self._number = 0

    def up(self, left: Config, right: Config) -> tuple[Ipsecd, Ipsecd]:
        """Start a gateway on each side with these children, the right one listening."""
        rig = self.rig
        self._number += 1
        right = {name: {**child, "start": "listen"} for name, child in right.items()}
        made: list[Ipsecd] = []
        for site, peer, children in ((rig.b, rig.a, right), (rig.a, rig.b, left)):
            config = default_config(site, peer)
            next(iter(config["peers"].values()))["children"] = children
            made.append(Ipsecd(rig, site, peer, name=f"{site.name}{self._number}", config=config))
            self._daemons.append(made[-1])
            made[-1].start()
        made[1].wait_up()
        return made[1], made[0]

    def clear(self) -> None:
        for daemon in self._daemons:
            if daemon.running:
                daemon.kill()
            daemon.ctl("flush", "--yes")
        self._daemons.clear()


class Guest:
    """The second LAN's host, which talks to the far side all the time, and what of it crossed the WAN in clear."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self.sent = 0

    def __enter__(self) -> Self:
        self._world.tap.count(TOKEN, wait_s=0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def leaks(self) -> list[str]:
        """Return what it was that crossed in clear since the last call, if anything."""
        return [describe(frame) for frame in self._world.tap.frames(outgoing=False) if TOKEN in frame]

    def _send(self) -> None:
        rig = self._world.rig
        out = [(self._world.guest.udp("::" if ":" in a else "0.0.0.0"), a) for a in (rig.b.host4, rig.b.host6)]
        while not self._stop.wait(0.005):
            for sock, target in out:
                with contextlib.suppress(OSError):   # "unreachable" while it is down is what it must get
                    sock.sendto(TOKEN, (target, 7010))
                self.sent += 1


@pytest.fixture(scope="module")
def built() -> Iterator[World]:
    with Rig(watched=False) as rig:
        yield World(rig)


@pytest.fixture
def world(built: World) -> Iterator[World]:
    yield built
    built.clear()


def child(local: list[str], remote: list[str], interface: str = "") -> dict[str, Any]:
    return {"local": [*local], "remote": [*remote], **({"interface": interface} if interface else {})}


def sent_by(daemon: Ipsecd, name: str) -> int:
    """Return how many packets a child carried outward."""
    found = next(c for c in daemon.peer_status()["children"] if c["name"] == name)
    count: int = found["traffic"]["packets_out"]
    return count


@pytest.mark.parametrize("rp_filter", [0, 1])
def test_one_lan_is_encrypted_and_the_other_in_clear_to_the_same_place(world: World, rp_filter: int) -> None:
    rig = world.rig
    rig.a.gateway.sysctl(**{f"ipv4__conf__{name}__rp_filter": rp_filter
                            for name in ("all", "default", "wan0", "lan0", "lan1")})
    left, _ = world.up({"guests": child(SITE_A, SITE_B, "lan1")}, {"guests": child(SITE_B, GUESTS)})
    for target in (rig.b.host4, rig.b.host6):
        seconds_until(partial(answers, world.guest, target), within_s=2)
        ping(world.guest, target)
        ping(rig.a.host, target)
    ping(rig.b.host, C4)
    before = sent_by(left, "guests")
    ping(rig.a.host, rig.b.host4, count=2)
    assert sent_by(left, "guests") == before
    ping(world.guest, rig.b.host4, count=2)
    assert sent_by(left, "guests") == before + 2
    with Guest(world) as guest:
        assert eventually(lambda: guest.sent > 100, within_s=5)
        assert guest.leaks() == []
    for words, decides in (("--interface lan1", "branch-a/guests hq/guests"), ("", "policies_default")):
        said = left.ctl("policy", *words.split(), C4, rig.b.host4)
        assert any(name in said for name in decides.split()), said


@pytest.mark.parametrize("taken", ["nothing", "rules", "its device", "its table"])
def test_killed_gateway_leaks_nothing_of_the_protected_lan_and_lets_the_other_pass(world: World, taken: str) -> None:
    rig = world.rig
    left, _ = world.up({"guests": child(SITE_A, SITE_B, "lan1")}, {"guests": child(SITE_B, GUESTS)})
    table = next(line.split()[-3] for line in rig.a.gateway.run("ip", "rule").splitlines() if "iif lan1 lookup" in line)
    remove: dict[str, Callable[[], None]] = {
        "nothing": lambda: None,
        "rules": lambda: rig.a.gateway.ip(*(f"{f} rule {w}" for f in ("-4", "-6")
                                            for w in ("flush", "add pref 32766 lookup main")), check=False),
        "its device": lambda: rig.a.gateway.ip("link del ipsec0.lan1"),
        "its table": lambda: rig.a.gateway.ip(f"route flush table {table}", f"-6 route flush table {table}")}
    with Guest(world) as guest:
        left.kill()
        remove[taken]()
        assert not answers(world.guest, rig.b.host4)
        ping(rig.a.host, rig.b.host4)
        left.start()
        seconds_until(lambda: answers(world.guest, rig.b.host4), within_s=5)
        assert guest.leaks() == []


@pytest.mark.parametrize("taken", ["ip rule flush", "ip link del ipsec0.lan1", "ip link set ipsec0.lan1 down"])
def test_what_others_remove_is_back_within_a_second(world: World, taken: str) -> None:
    rig = world.rig
    left, _ = world.up({"guests": child(SITE_A, SITE_B, "lan1")}, {"guests": child(SITE_B, GUESTS)})
    with Guest(world) as guest:
        before = left.status()["gateway"]["guard"]["repairs"]
        rig.a.gateway.run(*taken.split())
        rig.a.gateway.ip("rule add pref 32766 lookup main", check=False)
        assert eventually(lambda: left.status()["gateway"]["guard"]["repairs"] > before, within_s=1)
        seconds_until(lambda: answers(world.guest, rig.b.host4), within_s=2)
        assert guest.leaks() == []


def test_reload_adds_and_removes_the_child_of_an_interface_without_loss_for_the_other(world: World) -> None:
    rig = world.rig
    office, guests = child(SITE_A, SITE_B), child(GUESTS, SITE_B, "lan1")
    left, _ = world.up({"office": office}, {"guests": child(SITE_B, GUESTS), "office": child(SITE_B, SITE_A)})
    ping(rig.a.host, rig.b.host4)
    ping(rig.b.host, rig.a.host4)
    with Guest(world) as guest, Torrent(rig.a.host, rig.b.host, rig.b.host4, packets_per_s=400) as there, \
            Torrent(rig.b.host, rig.a.host, rig.a.host4, packets_per_s=400) as back:
        for _ in range(3):
            left.change(lambda c: c["peers"][left.peer].update(children={"guests": guests, "office": office}))
            left.reload()
            left.wait_up()
            seconds_until(lambda: answers(world.guest, rig.b.host4), within_s=5)
            assert sent_by(left, "guests") > 0
            left.change(lambda c: c["peers"][left.peer].update(children={"office": office}))
            left.reload()
            assert "ipsec0.lan1" not in rig.a.gateway.run("ip", "link")
            assert "lan1" not in rig.a.gateway.run("ip", "rule")
        assert guest.leaks() == []
    assert (there.lost, back.lost) == ([], [])


def test_equal_children_of_two_interfaces_each_use_their_own_sa(world: World) -> None:
    rig = world.rig
    for site in (rig.a, rig.b):                      # the far side cannot tell its answers apart
        site.gateway.sysctl(**{f"ipv4__conf__{name}__rp_filter": 0 for name in ("all", "default", "lan0")})
    left, right = world.up(
        {"staff": child(SITE_A, SITE_B, "lan0"), "guests": child(SITE_A, SITE_B, "lan1")},
        {"staff": child(SITE_B, SITE_A, "lan0"), "guests": child(SITE_B, SITE_A, "lan7")})
    assert [c["state"] for c in right.peer_status()["children"]] == ["up", "up"]
    for sender, name, other in ((rig.a.host, "staff", "guests"), (world.guest, "guests", "staff")):
        before = sent_by(left, name), sent_by(left, other)
        ping(sender, rig.b.host4, count=3)
        assert (sent_by(left, name), sent_by(left, other)) == (before[0] + 3, before[1])


def test_flush_takes_every_device_and_table_away(world: World) -> None:
    rig = world.rig
    left, _ = world.up({"guests": child(SITE_A, SITE_B, "lan1")}, {"guests": child(SITE_B, GUESTS)})
    left.stop()
    rig.a.gateway.ip("rule add pref 7799 lookup main")
    left.ctl("flush", "--yes")
    assert "ipsec0" not in rig.a.gateway.run("ip", "link")
    assert rig.a.gateway.run("ip", "-N", "route", "show", "table", "all", "proto", "77") == ""
    assert "lan1" not in rig.a.gateway.run("ip", "rule")
    assert "ipsecd" not in rig.a.gateway.run("nft", "list", "tables")
    assert "7799:" in rig.a.gateway.run("ip", "rule")
    rig.a.gateway.ip("rule del pref 7799")
