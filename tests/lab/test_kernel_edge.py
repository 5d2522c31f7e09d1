"""TUN, netlink watch and libnftables, one at a time, in a namespace of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from ipsecd.errors import LocalError
from ipsecd.policy import RoutingDomain
from ipsecd.protected import HostInterface
from ipsecd.routing_plan import make_plan
from ipsecd.runtime.kernel import Kernel
from ipsecd.runtime.netlink import Watcher
from ipsecd.runtime.nft import Nft, NftError
from ipsecd.runtime.routing import Router
from ipsecd.runtime.tun import DeviceBusyError, lock_device, make_device, open_tun
from tests.support.netns import LAB, Lab, Node
from tests.support.policies import GATEWAY, SITE_A, SITE_B, entry, policy

pytestmark = LAB


@pytest.fixture
def node() -> Iterator[Node]:
    with Lab() as lab:
        found, far = lab.node("g"), lab.node("far")
        for name in ("lan0", "wan", "wan2"):
            lab.link(found, name, far, name)
        for interface in GATEWAY.interfaces:
            if interface.name != "lan1":
                found.address(interface.name, *interface.addresses)
        found.ip("route add default via 192.0.2.254", "-6 route add default via 2001:db8:a::254 dev wan")
        yield found


def test_device_outlives_its_reader_and_is_adopted_with_the_same_index(node: Node) -> None:
    with node.within():
        first = open_tun("ipsec0")
        index = socket.if_nametoindex("ipsec0")
        os.close(first)
        second = open_tun("ipsec0", vnet_hdr_bytes=10)
        assert socket.if_nametoindex("ipsec0") == index
        os.close(second)


def test_device_with_a_reader_is_busy_and_making_it_again_leaves_it_alone(node: Node) -> None:
    with node.within():
        descriptor = open_tun("ipsec0")
        node.ip("link set ipsec0 up")
        with pytest.raises(DeviceBusyError):
            open_tun("ipsec0")
        make_device("ipsec0")
        os.close(descriptor)


def test_name_that_is_no_interface_is_refused(node: Node) -> None:
    with node.within():
        for name in ("", "x" * 16):
            with pytest.raises(LocalError):
                open_tun(name)


def test_lock_is_held_once_in_each_namespace_and_gone_with_its_holder(node: Node) -> None:
    with Lab() as lab:
        other = lab.node("o")
        with node.within(), lock_device("ipsec0"):
            with pytest.raises(DeviceBusyError):
                lock_device("ipsec0")
            with other.within():
                lock_device("ipsec0").close()
        with node.within():
            lock_device("ipsec0").close()


def test_nft_refusal_is_an_error_with_its_words_and_changes_nothing(node: Node) -> None:
    with node.within(), contextlib.closing(Nft()) as nft:
        with pytest.raises(NftError, match="syntax error"):
            nft.run("table inet x { }\nnonsense")
        assert nft.listing("x") == ""
        assert nft.counters("x") == []


def test_host_facts_are_read_from_the_kernel(node: Node) -> None:
    with node.within():
        kernel = Kernel(RoutingDomain())
        kernel.put_device(make_plan(policy(entry("protect", SITE_A, SITE_B)), GATEWAY, {}).devices[0])
        host = kernel.host()
        kernel.close()
    assert host.interfaces[0].name == "lan0"
    assert {"10.1.0.1/24", "2001:db8:1::1/64"} <= set(host.interfaces[0].addresses)
    assert [i.name for i in host.interfaces] == ["lan0", "wan", "wan2"]
    assert host.outside == ("wan",)
    assert host.next_hops == ("192.0.2.254", "2001:db8:a::254")


def test_multipath_default_routes_name_every_way_out(node: Node) -> None:
    node.ip("addr add 198.51.100.1/24 dev wan2",
            "route replace default nexthop via 192.0.2.254 nexthop via 198.51.100.254")
    with node.within():
        kernel = Kernel(RoutingDomain())
        host = kernel.host()
        kernel.close()
    assert host.outside == ("wan", "wan2")
    assert host.next_hops == ("192.0.2.254", "198.51.100.254", "2001:db8:a::254")
    assert HostInterface("wan2", ("198.51.100.1/24",)) in [
        HostInterface(i.name, tuple(a for a in i.addresses if ":" not in a)) for i in host.interfaces]


@pytest.mark.parametrize(("command", "told"), [
    ("addr add 10.9.9.9/32 dev lan0", "moved"),
    ("link add new0 type veth peer name new1", "moved"),
    ("route del default", "moved"),
    ("route del 10.77.0.0/16 table 7710", "damaged"),
    ("route replace 10.77.0.0/16 via 192.0.2.254 table 7710", "damaged"),
    ("rule del pref 7705", "damaged"),
    ("link set ipsec0 down", "damaged"),
    ("link del ipsec0", "damaged"),
])
def test_watch_tells_what_changed(node: Node, command: str, told: str) -> None:
    with node.within():
        make_device("ipsec0")
        node.ip("link set ipsec0 up", "rule add pref 7705 lookup 7710 protocol 77",
                "route add 10.77.0.0/16 dev lan0 table 7710 proto 77")
        heard = asyncio.run(listen(lambda: node.ip(command)))
    assert told in heard


def test_watch_tells_a_change_of_the_guard_from_one_of_routes(node: Node) -> None:
    with node.within():
        heard = asyncio.run(listen(lambda: node.nft("table inet ipsecd {\nchain x {\n}\n}")))
    assert heard == {"guard"}


def test_repair_of_the_guard_alone_leaves_routes_to_the_next_one(node: Node) -> None:
    asyncio.run(repair_in_parts(node))


async def repair_in_parts(node: Node) -> None:
    plan = make_plan(policy(entry("protect", SITE_A, SITE_B)), GATEWAY, {})
    with node.within():
        router = Router(RoutingDomain(), repaired=lambda _: None, failed=lambda _: None, unheld=lambda _: None)
    await router.start(plan)
    node.run("nft", "flush", "ruleset")
    node.ip("route flush table 7710")
    assert await router.repair(only_guard=True) == ["guard"]
    assert not node.run("ip", "route", "show", "table", "7710")
    assert await router.repair(only_guard=True) == []
    assert len(await router.repair()) == 2
    await router.close()


def test_watch_is_silent_about_what_concerns_others(node: Node) -> None:
    with node.within():
        heard = asyncio.run(listen(lambda: node.ip("route add 10.78.0.0/16 dev lan0", "route del 10.78.0.0/16",
                                                   "rule add pref 9000 lookup main")))
    assert heard == set()


def test_watch_that_lost_messages_takes_everything_as_changed_and_goes_on(node: Node) -> None:
    batch = "".join(f"route {verb} 10.80.{i}.0/24 dev lan0\n" for verb in ("add", "del") for i in range(250))
    with node.within():
        heard = asyncio.run(listen(lambda: node.run("ip", "-batch", "-", text=batch), buffer_bytes=4096))
    assert heard == {"moved", "guard", "damaged"}


def test_family_that_is_switched_off_stops_nothing(node: Node) -> None:
    plan = make_plan(policy(entry("protect", SITE_A, SITE_B)), GATEWAY, {})
    node.sysctl(ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
    with node.within(), contextlib.closing(Kernel(plan.domain)) as kernel:
        kernel.put_guard([plan.guard], hold=True)
        kernel.add_rules(plan.rules)
        kernel.put_device(plan.devices[0])
        assert kernel.put_routes(plan.routes) == 1
        kernel.put_unreachable(plan.unreachable)
        assert kernel.repair([plan], hold=True) == []


def test_copy_of_the_guard_that_cannot_be_held_is_reported_once(node: Node) -> None:
    plan = make_plan(policy(entry("protect", SITE_A, SITE_B)), GATEWAY, {})
    heard: list[str] = []

    async def body() -> None:
        router = Router(plan.domain, repaired=lambda _: None, failed=lambda _: None, unheld=heard.append)
        await router.start(plan)
        await router.repair()
        await router.close()

    with node.within(), contextlib.closing(Kernel(plan.domain)) as other:
        other.put_guard([plan.guard], hold=True)           # the table has an owner, and it is not the router
        assert not other.unheld
        asyncio.run(body())
    assert len(heard) == 1


def test_router_refuses_another_domain_and_goes_back_after_a_failure(node: Node) -> None:
    asyncio.run(within_router(node))


async def within_router(node: Node) -> None:
    one = make_plan(policy(entry("protect", SITE_A, SITE_B)), GATEWAY, {})
    two = make_plan(policy(entry("protect", SITE_A, ("10.3.0.0/16",))), GATEWAY, {})
    elsewhere = make_plan(policy(entry("protect", SITE_A, SITE_B), domain=RoutingDomain(device="vpn1")), GATEWAY, {})
    with node.within():
        router = Router(RoutingDomain(), repaired=lambda _: None, failed=lambda _: None, unheld=lambda _: None)
    await router.start(one)
    with pytest.raises(LocalError, match="restart"):
        await router.widen(one, elsewhere)
    await router.widen(one, two)
    await router.shrink(two, one)
    assert router.plan == one
    assert await router.repair() == []
    assert "10.3.0.0/16" not in node.run("ip", "route", "show", "table", "7710")
    await router.close()


async def listen(change: object, *, buffer_bytes: int = 0) -> set[str]:
    """Return what a watch told about a change."""
    heard: set[str] = set()
    watcher = Watcher(RoutingDomain(), damaged=lambda: heard.add("damaged"),
                      guard_touched=lambda: heard.add("guard"), moved=lambda: heard.add("moved"))
    watcher.start()
    if buffer_bytes:
        for sock in watcher._sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    change()  # type: ignore[operator]
    await asyncio.sleep(0.05)
    if buffer_bytes:
        assert heard
    watcher.close()
    return heard
