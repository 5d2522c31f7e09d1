"""Routes and guard in network namespaces: nothing leaves in clear, whatever is taken away, and what may pass passes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipsecd.errors import LocalError
from ipsecd.policy import RoutingDomain
from ipsecd.routing_plan import make_plan
from ipsecd.runtime.routing import flush, install
from ipsecd.runtime.state import load_plan, save_plan
from ipsecd.runtime.tun import lock_device
from tests.lab.guard_world import (
    A4,
    A6,
    B4,
    B6,
    BYPASS_TOKEN,
    C4,
    C6,
    EXTRAS,
    NEAR4,
    NEAR6,
    NET4,
    NET6,
    PEER4,
    PEER6,
    PORT4,
    PORT6,
    SITES,
    TOKEN,
    WAN4,
    WAN6,
    Daemon,
    Sender,
    World,
    in_thread,
    senders,
    shoot,
    talk,
)
from tests.support.netns import LAB, Lab, drain, eventually
from tests.support.policies import EVERYWHERE, GATEWAY, SITE_A, SITE_B, entry, policy

pytestmark = LAB
REPAIRED_S = 1.0
PASSES = (3, 3)
POLICIES = {                                        # gateway A; gateway B mirrors the last entry
    "site to site": SITES,
    "everything": policy(*EXTRAS, entry("protect", SITE_A, EVERYWHERE)),
    "remote contains local": policy(*EXTRAS, entry("protect", SITE_A, ("10.0.0.0/8", "2001:db8::/44"))),
    "peer inside remote": policy(*EXTRAS, entry("protect", SITE_A, (*SITE_B, "198.51.100.0/24"))),
}


@pytest.fixture(scope="module")
def built() -> Iterator[World]:
    with Lab() as lab:
        yield World(lab)


@pytest.fixture
def world(built: World) -> Iterator[World]:
    built.rp_filter(0)
    yield built
    built.down()


def bound_by(world: World, name: str) -> list[Sender]:
    """Return the senders that a policy binds: a wide selector leaves alone, by design, what the gateway sends from
    an outside address, its own queries among them.
    """
    wide = {"everything": (4, 6), "remote contains local": (6,)}.get(name, ())
    return [s for s in senders(world) if s[2] not in wide or s[1] is world.ha or "LAN" in s[0]]


def test_without_us_every_sender_is_seen(world: World) -> None:
    # The control: were this not so, the zeros of the other tests would mean nothing.
    assert shoot(world) == {label: 3 for label, *_ in senders(world)}


@pytest.mark.parametrize("rp", [0, 1, 2])
@pytest.mark.parametrize("name", POLICIES)
def test_policy_protects_and_lets_pass_what_it_says(world: World, name: str, rp: int) -> None:
    world.up(POLICIES[name])
    world.rp_filter(rp)
    full = name == "everything"
    assert shoot(world, bound_by(world, name)) == {}
    local = {"address": "10.1.0.1"} if full else {}
    local6 = {"address": "2001:db8:1::1"} if full else {}
    passes = {
        "A to B": talk(world.ha, world.hb, B4), "A to B IPv6": talk(world.ha, world.hb, B6),
        "gateway to B": talk(world.ga, world.hb, B4, **local), "gateway to B IPv6": talk(world.ga, world.hb, B6,
                                                                                         **local6),
        "A to C": talk(world.ha, world.hc, C4), "A to C IPv6": talk(world.ha, world.hc, C6),
        "C to gateway": talk(world.hc, world.ga, "10.1.0.1"), "gateway to A": talk(world.ga, world.ha, A6),
        "A to gateway's WAN address": talk(world.ha, world.ga, WAN4),
        "gateway's own query": talk(world.ga, world.w, NET4, 53),
        "gateway's own query IPv6": talk(world.ga, world.w, NET6, 53),
        **{f"bypass {node.name} {to}": talk(node, world.w, to, port, token=BYPASS_TOKEN)
           for node in (world.ha, world.ga) for to, port in ((NEAR4, 7000), (NEAR6, 7000), (PORT4, 5060),
                                                             (PORT6, 5060))},
        "bypass of fragments": talk(world.ha, world.w, PORT4, 5060, token=BYPASS_TOKEN, size=3008),
        "bypass of fragments IPv6": talk(world.ha, world.w, PORT6, 5060, token=BYPASS_TOKEN, size=3008),
    }
    if name == "peer inside remote":
        passes["A to the peer's address"] = talk(world.ha, world.gb, PEER4)
        passes["gateway to the peer's address"] = talk(world.ga, world.gb, PEER4)
    assert {k: v for k, v in passes.items() if v != PASSES} == {}
    discarded = [talk(node, world.w, NET4, 445, wait_s=0.05) for node in (world.ha, world.ga)]
    assert discarded == [(0, 0)] * 2
    assert world.daemon.do(world.daemon.router.counters())["discard"].packets >= 6


def test_tunnel_over_ipv6_whose_peer_is_inside_the_remote_selector_passes(world: World) -> None:
    world.up(policy(entry("protect", SITE_A, (*SITE_B, "2001:db8:b::/64"))), outside=(WAN6, PEER6))
    assert shoot(world) == {}
    assert [talk(node, world.hb, to) for node in (world.ha, world.ga) for to in (B4, B6)] == [PASSES] * 4
    assert talk(world.ha, world.gb, PEER6) == PASSES


@pytest.mark.parametrize("name", ["site to site", "remote contains local"])
def test_rogue_routes_lead_nowhere(world: World, name: str) -> None:
    world.up(POLICIES[name])
    rogue = ["10.2.0.0/25 via 192.0.2.254", f"{B4}/32 via 192.0.2.254", f"-6 {B6}/128 via 2001:db8:a::254",
             f"{A4}/32 via 192.0.2.254", f"-6 {A6}/128 via 2001:db8:a::254"]
    route = [(f"-6 route {{}} {r[3:]}" if r.startswith("-6") else f"route {{}} {r}") for r in rogue]
    world.ga.ip(*(r.format("add") for r in route))
    try:
        assert shoot(world, bound_by(world, name)) == {}
        back = [("decrypted", world.hb, 4, {}), ("decrypted IPv6", world.hb, 6, {}), ("C to A", world.hc, 4, {}),
                ("C to A IPv6", world.hc, 6, {})]
        assert shoot(world, back, (A4, A6)) == {}
        assert world.daemon.do(world.daemon.router.counters())["not_inside"].packets > 0
    finally:
        world.ga.ip(*(r.format("del") for r in route))


@pytest.mark.parametrize("rp", [0, 1])
def test_clear_packets_from_outside_do_not_get_in(world: World, rp: int) -> None:
    world.up(SITES)
    world.rp_filter(rp)
    world.w.ip(f"addr add {B4}/32 dev lo", f"addr add {B6}/128 dev lo nodad")
    try:
        got = [talk(world.w, node, to, address=claimed, wait_s=0.1)[0]
               for node, to, claimed in ((world.ha, A4, B4), (world.ha, A6, B6), (world.ga, "10.1.0.1", B4))]
    finally:
        world.w.ip(f"addr del {B4}/32 dev lo", f"addr del {B6}/128 dev lo")
    assert got == [0, 0, 0]


def test_default_discard_lets_nothing_but_entries_cross(world: World) -> None:
    world.up(policy(*EXTRAS, entry("protect", SITE_A, SITE_B), default="discard"))
    assert talk(world.ha, world.hb, B4) == PASSES
    assert talk(world.ha, world.w, NEAR4, token=BYPASS_TOKEN) == PASSES
    assert talk(world.ha, world.hc, C4) == PASSES
    assert [talk(node, world.w, to, 53, wait_s=0.1) for node in (world.ha, world.ga) for to in (NET4, NET6)] == [
        (0, 0)] * 4
    assert talk(world.w, world.ga, WAN4, wait_s=0.1) == (0, 0)
    assert world.daemon.do(world.daemon.router.counters())["default_discard"].packets > 0


def test_servers_own_source_port_is_no_remote_port(world: World) -> None:
    spd = policy(entry("bypass", protocol=17, remote_ports=(53, 53)), entry("discard", protocol=17,
                                                                            remote_ports=(445, 445)),
                 entry("protect", SITE_A, SITE_B))
    world.up(spd)
    assert talk(world.ha, world.hb, B4, address=A4, port=7000) == PASSES
    for port in (53, 445):
        server, client = world.ha.udp(A4, port), world.hb.udp(B4, 9999)
        server.sendto(TOKEN, (B4, 9999))
        assert drain(client, 1, 0.4) == 1
        server.close()
        client.close()


def flush_rules(world: World) -> None:
    for family in ("-4", "-6"):
        world.ga.ip(f"{family} rule flush", f"{family} rule add pref 32766 lookup main", check=False)


def flush_tables(world: World) -> None:
    world.ga.ip("route flush table 7710", "-6 route flush table 7710", check=False)


def flush_nft(world: World) -> None:
    world.ga.run("nft", "flush", "ruleset")


def delete_rule(world: World) -> None:
    found = re.search(r"chain (leaving_g\d+)", world.ga.run("nft", "list", "table", "inet", "ipsecd"))
    assert found is not None
    world.ga.run("nft", "flush", "chain", "inet", "ipsecd", found[1])


def link_down(world: World) -> None:
    world.ga.ip("link set ipsec0 down")


def link_del(world: World) -> None:
    world.ga.ip("link del ipsec0")


REMOVALS = [flush_rules, flush_tables, flush_nft, delete_rule, link_down, link_del]


@pytest.mark.parametrize("remove", REMOVALS)
def test_what_others_remove_leaks_nothing_and_is_back_within_a_second(world: World,
                                                                     remove: Callable[[World], None]) -> None:
    plan = world.up(SITES)
    before = len(world.daemon.repairs)
    remove(world)
    start = time.monotonic()
    assert shoot(world, count=1) == {}
    assert eventually(lambda: len(world.daemon.repairs) > before, within_s=REPAIRED_S - (time.monotonic() - start))
    assert world.daemon.failures == []
    assert world.daemon.do(world.daemon.router.repair()) == []
    assert world.daemon.router.plan == plan
    if remove is not link_del:                      # the stub does not open a new device
        assert talk(world.ha, world.hb, B4) == PASSES
        assert talk(world.ha, world.hb, B6) == PASSES


def test_flushed_ruleset_leaves_the_owned_copy_that_holds_device_bound_senders(world: World) -> None:
    world.up(SITES, watching=False)
    flush_nft(world)
    assert world.ga.run("nft", "list", "tables") == "table inet ipsecd_held\n"
    assert shoot(world) == {}
    assert world.daemon.do(world.daemon.router.repair()) == ["guard"]


@pytest.mark.parametrize("remove", [None, flush_rules, flush_tables, link_down, link_del])
def test_after_kill_nothing_leaks_even_when_one_line_goes(world: World, remove: Callable[[World], None] | None) -> None:
    world.up(SITES)
    world.kill()
    if remove:
        remove(world)
    assert shoot(world) == {}
    assert talk(world.ga, world.w, NET4, 53) == PASSES


def test_after_kill_routes_alone_hold_forwarded_and_ordinary_traffic(world: World) -> None:
    world.up(SITES)
    world.kill()
    flush_nft(world)
    assert shoot(world, [s for s in senders(world) if "device" not in s[0]]) == {}


def test_next_start_adopts_what_stands_and_drops_what_policy_no_longer_names(world: World) -> None:
    world.up(SITES)
    index = world.ga.run("cat", "/sys/class/net/ipsec0/ifindex")
    world.kill()
    plan = make_plan(policy(entry("protect", SITE_A, ("10.2.0.0/24",))), GATEWAY, {})
    daemon = Daemon(world.ga, plan.domain)
    world.daemons.insert(0, daemon)
    daemon.do(daemon.router.start(plan))
    assert world.ga.run("cat", "/sys/class/net/ipsec0/ifindex") == index
    assert daemon.do(daemon.router.repair()) == []
    routes = world.ga.run("ip", "route", "show", "table", "7710")
    assert "10.2.0.0/24 dev ipsec0" in routes
    assert "10.2.0.0/16" not in routes


def test_counters_go_on_through_reloads(world: World) -> None:
    plan = world.up(SITES)
    router = world.daemon.router
    shoot(world, [s for s in senders(world) if "device-bound" in s[0]])
    before = world.daemon.do(router.counters())["clear_out"].packets
    other = make_plan(policy(entry("protect", SITE_A, ("10.0.0.0/8",))), GATEWAY, {})
    world.daemon.do(router.widen(plan, other))
    world.daemon.do(router.shrink(plan, other))
    assert before > 0
    assert world.daemon.do(router.counters())["clear_out"].packets >= before


def test_foreign_routes_rules_and_tables_stay(world: World) -> None:
    world.ga.nft("table inet theirs { chain c { type filter hook output priority 0; }; }")
    world.ga.ip("rule add pref 7705 to 203.0.113.99 lookup main", "route add 203.0.113.98/32 dev lo table 7710")
    plan = world.up(SITES)
    other = make_plan(policy(entry("protect", SITE_A, ("10.9.0.0/16",))), GATEWAY, {})
    world.daemon.do(world.daemon.router.widen(plan, other))
    world.daemon.do(world.daemon.router.shrink(plan, other))
    world.down()
    assert "203.0.113.99" in world.ga.run("ip", "rule")
    assert "203.0.113.98" in world.ga.run("ip", "route", "show", "table", "7710")
    assert world.ga.run("nft", "list", "tables") == "table inet theirs\n"
    world.ga.run("nft", "delete", "table", "inet", "theirs")
    world.ga.ip("rule del pref 7705", "route del 203.0.113.98/32 table 7710")
    assert world.ga.run("ip", "-N", "route", "show", "table", "all", "proto", "77") == ""


def test_flush_waits_for_the_daemon_to_go(world: World) -> None:
    world.up(SITES)
    with world.ga.within(), lock_device("ipsec0"), pytest.raises(LocalError):
        in_thread(flush, RoutingDomain())
    assert "ipsecd" in world.ga.run("nft", "list", "tables")


def test_boot_state_from_the_state_directory_holds_without_device(world: World, tmp_path: Path) -> None:
    directory = tmp_path / "state"
    save_plan(directory, make_plan(SITES, GATEWAY, {}))
    stored = load_plan(directory)
    assert stored == make_plan(SITES, GATEWAY, {})
    with world.ga.within():
        in_thread(install, stored)
    assert shoot(world) == {}
    own = talk(world.ga, world.gb, PEER4, 500, token=BYPASS_TOKEN, mark=RoutingDomain().own_mark, address=WAN4)
    assert own == PASSES


def test_address_and_default_route_changes_are_told(world: World) -> None:
    world.up(SITES)
    before = world.daemon.moves
    world.ga.ip("addr add 10.1.0.3/24 dev lan0")
    assert eventually(lambda: world.daemon.moves > before, within_s=1)
    host = world.daemon.do(world.daemon.router.read_host())
    world.ga.ip("addr del 10.1.0.3/24 dev lan0")
    held = {i.name: i.addresses for i in host.interfaces}
    assert "10.1.0.3/24" in held["lan0"]
    assert (host.outside, host.next_hops) == (("wan",), ("192.0.2.254", "2001:db8:a::254"))


def test_renumbered_lan_address_moves_route_sources(world: World) -> None:
    world.up(SITES)
    world.ga.ip("addr del 10.1.0.1/24 dev lan0")
    try:
        host = world.daemon.do(world.daemon.router.read_host())
        world.daemon.do(world.daemon.router.update(make_plan(SITES, host, {})))
        assert "dev ipsec0 proto 77 src 10.1.1.1 " in world.ga.run("ip", "route", "show", "table", "7710")
        assert shoot(world, [s for s in senders(world) if "LAN" not in s[0]]) == {}
        assert talk(world.ga, world.hb, B4) == PASSES
    finally:
        world.ga.ip("addr add 10.1.0.1/24 dev lan0")
