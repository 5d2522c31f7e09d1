"""Reload under a flood, and what senders learn of the path: the parts of the guard's labs that take sizes and time."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator

import pytest

from ipsecd.routing_plan import make_plan
from ipsecd.sa import ChildKey
from tests.lab.guard_world import (
    A4,
    B4,
    B6,
    EXTRAS,
    MOVED4,
    SITES,
    TOKEN,
    World,
    talk,
)
from tests.support.netns import LAB, Lab, drain, eventually
from tests.support.policies import GATEWAY, SITE_A, SITE_B, entry, policy

pytestmark = LAB
REPAIRED_S = 1.0
PASSES = (3, 3)

@pytest.fixture(scope="module")
def built() -> Iterator[World]:
    with Lab() as lab:
        yield World(lab)


@pytest.fixture
def world(built: World) -> Iterator[World]:
    built.rp_filter(0)
    yield built
    built.down()


def test_senders_learn_the_route_mtu_and_fragments_are_made_for_those_that_do_not_ask(world: World) -> None:
    world.up(SITES, mtus={ChildKey("hq", "e"): 1300})
    for address, level, discover, option in ((B4, socket.IPPROTO_IP, 10, 14), (B6, socket.IPPROTO_IPV6, 23, 24)):
        sock = world.ha.udp(family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setsockopt(level, discover, 2)
        sock.connect((address, 7000))
        sock.send(TOKEN * 87)
        assert eventually(lambda s=sock, a=(level, option): s.getsockopt(*a) == 1300, within_s=1)
        sock.close()
        assert talk(world.ha, world.hb, address, size=1392)[0] == 3
    world.ha.ip("route flush cache")
    sock, sink = world.ha.udp(), world.hb.udp(B4, 7000)
    sock.setsockopt(socket.IPPROTO_IP, 10, 0)
    for _ in range(3):
        sock.sendto(TOKEN * 87, (B4, 7000))
    assert drain(sink, 3, 0.5) == 3
    sock.close()
    sink.close()


@pytest.mark.parametrize(("address", "mss"), [(B4, 1260), (B6, 1240)])
def test_mss_is_lowered_to_the_route_mtu_both_ways(world: World, address: str, mss: int) -> None:
    world.up(SITES, mtus={ChildKey("hq", "e"): 1300})
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with world.hb.within():
        server = socket.create_server((address, 7070), family=family)
    with world.ha.within():
        client = socket.socket(family)
    with server, client:
        client.settimeout(2)
        client.connect((address, 7070))
        accepted, _ = server.accept()
        with accepted:
            sizes = [s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) for s in (client, accepted)]
    # TCP_MAXSEG shows what the other side announced, less 12 bytes of timestamps.
    assert [s in (mss, mss - 12) for s in sizes] == [True, True]


def test_reloads_under_a_flood_lose_nothing_and_show_nothing(world: World) -> None:
    one = policy(EXTRAS[0], entry("bypass", remote=("10.2.9.0/24",)),
                 entry("protect", SITE_A, ("10.2.0.0/24", "10.2.1.0/24", "2001:db8:2::/48")))
    two = policy(EXTRAS[0], entry("bypass", remote=("10.2.8.0/24",)),
                 entry("protect", ("10.1.0.0/24",), ("10.2.1.0/24",)),
                 entry("protect", SITE_A, ("10.2.0.0/24", "10.0.0.0/8", "2001:db8:2::/47")))
    world.up(one, policy(entry("protect", SITE_B, SITE_A)))
    plans = [make_plan(p, GATEWAY, {}) for p in (one, two)]
    router = world.daemon.router
    world.tap.count(TOKEN, wait_s=0)
    targets = (B4, MOVED4, B6)
    talk(world.ha, world.hb, B4)                    # neighbours are known
    talk(world.ha, world.hb, MOVED4)
    talk(world.ha, world.hb, B6)
    talk(world.hb, world.ha, A4)
    sinks = [world.hb.udp(a, 7100) for a in targets] + [world.ha.udp(A4, 7100)]
    (reader, writer), (told, tell) = os.pipe(), os.pipe()

    def flood() -> None:
        out = [(world.ha.udp(family=socket.AF_INET6 if ":" in a else socket.AF_INET), a) for a in targets]
        out.append((world.hb.udp(), A4))
        sent = 0
        while not select.select([told], [], [], 0.001)[0]:
            for sock, to in out:
                with contextlib.suppress(OSError):
                    sock.sendto(TOKEN * 4, (to, 7100))
            sent += 1
        os.write(writer, str(sent).encode())

    world.ha.spawn(flood)
    until, reloads = time.monotonic() + 2.7, 0
    while time.monotonic() < until or reloads < 10:
        world.daemon.do(router.widen(*plans))
        world.daemon.do(router.shrink(*plans))
        plans.reverse()
        reloads += 1
    os.write(tell, b"enough")
    sent = int(os.read(reader, 99))
    got = [drain(s, sent, 0.3) for s in sinks]
    for sock in sinks:
        sock.close()
    for end in (reader, writer, told, tell):
        os.close(end)
    assert sent > 100
    assert world.tap.count(TOKEN) == 0
    assert got == [sent] * 4
