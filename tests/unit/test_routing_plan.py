from __future__ import annotations

from dataclasses import replace

from ipsecd.policy import RoutingDomain, SpdEntry
from ipsecd.protected import DEFAULT_MTU, IPV6_MINIMUM_MTU, Host, HostInterface
from ipsecd.routing_plan import RoutingPlan, Rule, make_plan
from ipsecd.sa import ChildKey
from tests.support.policies import EVERYWHERE, GATEWAY, SITE_A, SITE_B, entry, policy

PEER4 = "198.51.100.2"


def test_remote_selector_is_routed_with_source_and_mtu_over_an_unreachable_route() -> None:
    plan = plan_of(entry("protect", SITE_A, SITE_B), mtu=1400)
    assert [(r.prefix, r.table, r.source, r.mtu) for r in plan.routes] == [
        ("10.2.0.0/16", 7710, "10.1.0.1", 1400), ("2001:db8:2::/48", 7710, "2001:db8:1::1", 1400)]
    assert [(u.prefix, u.table) for u in plan.unreachable] == [("10.2.0.0/16", 7710), ("2001:db8:2::/48", 7710)]


def test_remote_range_is_routed_as_prefixes() -> None:
    plan = plan_of(entry("protect", ("10.1.0.0/16",), ("10.2.0.1-10.2.0.2",)))
    assert [r.prefix for r in plan.routes] == ["10.2.0.1/32", "10.2.0.2/32"]


def test_children_on_one_prefix_share_the_smallest_mtu_and_ipv6_keeps_its_minimum() -> None:
    spd = policy(entry("protect", SITE_A, SITE_B, protocol=17, remote_ports=(5060, 5060), name="voice"),
                 entry("protect", SITE_A, SITE_B, name="office"))
    mtus = {ChildKey("hq", "voice"): 1000, ChildKey("hq", "office"): 1400}
    assert [r.mtu for r in make_plan(spd, GATEWAY, mtus).routes] == [1000, IPV6_MINIMUM_MTU]


def test_connections_of_ipv6_are_clamped_to_what_a_narrow_path_carries_though_its_route_is_not() -> None:
    plan = plan_of(entry("protect", SITE_A, SITE_B), mtu=1218)
    assert {(r.version, r.mtu) for r in plan.routes} == {(4, 1218), (6, IPV6_MINIMUM_MTU)}
    for size in (1218 - 40, 1218 - 60):
        assert f"maxseg size set {size}" in plan.guard.chains


def test_child_without_a_figure_has_one_that_fits_every_suite() -> None:
    assert {r.mtu for r in plan_of(entry("protect", SITE_A, SITE_B)).routes} == {DEFAULT_MTU}


def test_wide_prefixes_have_a_table_asked_only_from_local_selectors() -> None:
    plan = plan_of(entry("protect", SITE_A, EVERYWHERE))
    assert {r.table for r in plan.routes} == {7711}
    assert [r.source for r in rules(plan, 4, 7706)] == ["10.1.0.0/16"]


def test_prefix_that_contains_an_outside_network_address_or_next_hop_is_wide() -> None:
    for remote in ("192.0.2.0/24", "192.0.2.1", "192.0.2.254", "192.0.0.0/16"):
        assert plan_of(entry("protect", ("10.1.0.0/16",), (remote,))).routes[0].table == 7711
    assert plan_of(entry("protect", ("10.1.0.0/16",), ("198.51.100.0/24",))).routes[0].table == 7710


def test_sources_of_entries_without_wide_selectors_are_not_asked_for() -> None:
    plan = plan_of(entry("protect", ("10.1.0.0/24",), ("0.0.0.0/0",)),
                   entry("protect", ("10.1.1.0/24",), ("10.2.0.0/16",)))
    assert [r.source for r in rules(plan, 4, 7706)] == ["10.1.0.0/24"]


def test_local_inside_remote_goes_home_less_what_is_more_specific_there() -> None:
    plan = plan_of(entry("protect", ("10.1.0.0/16",), ("10.0.0.0/8", "10.1.128.0/17")))
    assert [r.destination for r in rules(plan, 4, 7704)] == ["10.1.0.0/17"]
    assert rules(plan, 4, 7704)[0].suppress_prefixlength == 0


def test_rules_stand_in_an_order_that_never_catches_our_own_packets() -> None:
    found = rules(plan_of(entry("protect", SITE_A, SITE_B)), 4)
    assert found == [Rule(4, 7709), Rule(4, 7700, mark=0x01000000, mask=0x03000000, goto=7709),
                     Rule(4, 7701, mark=0x02000000, mask=0x03000000, goto=7709), Rule(4, 7705, table=7710)]


def test_domain_numbers_reach_every_part_of_the_plan() -> None:
    domain = RoutingDomain("vpn1", 1, 2, 300, 0x10, 0x20, 0x30, 99, "other")
    plan = make_plan(policy(entry("protect", SITE_A, SITE_B), domain=domain), GATEWAY, {})
    assert {r.device for r in plan.routes} == {"vpn1"}
    assert {r.table for r in plan.routes} == {1}
    assert {r.priority for r in plan.rules} == {300, 301, 305, 309}
    assert plan.guard.table == "other"
    assert "0x30 == 0x10" in plan.guard.chains


def test_same_input_gives_an_equal_plan_and_a_moved_selector_does_not() -> None:
    assert plan_of(entry("protect", SITE_A, SITE_B)) == plan_of(entry("protect", SITE_A, SITE_B))
    assert plan_of(entry("protect", SITE_A, SITE_B)) != plan_of(entry("protect", SITE_A, ("10.3.0.0/16",)))


def test_route_source_is_an_address_of_the_entry_that_uses_the_route() -> None:
    plan = plan_of(entry("protect", ("10.1.1.0/24",), ("10.2.0.0/16",)),
                   entry("protect", ("10.9.0.0/24",), ("10.3.0.0/16",)))
    assert [r.source for r in plan.routes] == ["10.1.1.1", None]


def test_listen_address_makes_an_interface_outside_and_inside_keeps_one_in() -> None:
    host = Host((HostInterface("wan2", ("198.51.100.9/30",)), *GATEWAY.interfaces), ("wan",), ())
    spd = policy(entry("protect", ("10.1.0.0/16",), ("198.51.100.0/24",)))
    assert make_plan(spd, host, {}).routes[0].table == 7710
    assert make_plan(replace(spd, listen=("198.51.100.9",)), host, {}).routes[0].table == 7711
    inside = replace(spd, listen=("198.51.100.9",), inside=("wan2",))
    assert make_plan(inside, host, {}).routes[0].table == 7710


def test_ingress_interface_has_a_device_and_table_asked_for_what_comes_in_there() -> None:
    plan = plan_of(entry("protect", SITE_A, SITE_B, interface="lan1"), entry("protect", SITE_A, ("10.3.0.0/16",)))
    own = RoutingDomain().table_for("lan1")
    assert [(d.name, d.interface) for d in plan.devices] == [("ipsec0", None), ("ipsec0.lan1", "lan1")]
    assert [(r.prefix, r.table, r.device, r.source) for r in plan.routes] == [
        ("10.3.0.0/16", 7710, "ipsec0", "10.1.0.1"), ("10.2.0.0/16", own, "ipsec0.lan1", None),
        ("2001:db8:2::/48", own, "ipsec0.lan1", None)]
    assert {(u.prefix, u.table) for u in plan.unreachable} >= {("10.2.0.0/16", own), ("2001:db8:2::/48", own)}
    assert rules(plan, 4, 7703) == [Rule(4, 7703, table=own, interface="lan1")]
    assert not [r for r in plan.rules if r.interface and r.priority != 7703]


def test_packets_of_an_interface_go_home_and_everything_else_is_wide_for_nobody() -> None:
    plan = plan_of(entry("protect", ("10.1.1.0/24",), ("0.0.0.0/0",), interface="lan1"))
    own = RoutingDomain().table_for("lan1")
    assert rules(plan, 4, 7702) == [Rule(4, 7702, destination="10.1.1.0/24", table=254, suppress_prefixlength=0,
                                         interface="lan1")]
    assert [(r.prefix, r.table) for r in plan.routes] == [("0.0.0.0/0", own)]
    assert rules(plan, 4, 7706) == []


def test_interfaces_come_and_go_without_moving_one_another() -> None:
    one, two = entry("protect", SITE_A, SITE_B, interface="lan1"), entry("protect", SITE_A, SITE_B, interface="eth7")
    alone, both = plan_of(one), plan_of(two, one)
    assert set(alone.routes) <= set(both.routes)
    assert set(alone.rules) <= set(both.rules)
    assert set(alone.devices) <= set(both.devices)


def test_device_names_are_apart_and_fit_into_15_characters() -> None:
    domains = RoutingDomain(), RoutingDomain(device="vpn1"), RoutingDomain(device="a-long-name-too")
    interfaces = ("lan1", "enp0s31f6", "enp0s31f7", "br-0123456789ab", None)
    names = [d.device_for(i) for d in domains for i in interfaces]
    assert max(map(len, names)) <= 15
    assert len(set(names)) == len(names)
    assert {"ipsec0.lan1", "vpn1.enp0s31f6"} <= set(names)


def plan_of(*spd: SpdEntry, mtu: int | None = None) -> RoutingPlan:
    return make_plan(policy(*spd), GATEWAY, {} if mtu is None else {ChildKey("hq", "e"): mtu})


def rules(plan: RoutingPlan, version: int, priority: int | None = None) -> list[Rule]:
    return [r for r in plan.rules if r.version == version and priority in (None, r.priority)]
