"""The compiler alone; tests/lab/test_guard_verdicts.py asks the kernel."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecd.guard_plan import COUNTERS, Count, Standing, guard_text, guard_texts, held_text
from ipsecd.guard_sets import entry_boxes
from ipsecd.intervals import disjoint
from ipsecd.policy import Action, SpdEntry
from ipsecd.protected import Host, HostInterface
from ipsecd.routing_plan import make_plan
from ipsecd.selectors import HAS_PORTS, ICMP_PROTOCOLS, OPAQUE_PORTS, TrafficSelector
from tests.support.policies import EVERYWHERE, GATEWAY, SITE_A, SITE_B, entry, policy

PROTOCOLS = (0, 1, 6, 17, 47)
span = st.tuples(st.integers(0, 7), st.integers(0, 7)).map(lambda r: (min(r), max(r)))
port_span = st.one_of(st.just((0, 65535)), st.just(OPAQUE_PORTS), span)
selector = st.builds(lambda a, protocol, p: TrafficSelector(4, *a, protocol, *p), span, st.sampled_from(PROTOCOLS),
                     port_span)
entries = st.builds(lambda local, remote: SpdEntry("e", Action.BYPASS, tuple(local), tuple(remote)),
                    st.lists(selector, min_size=1, max_size=3), st.lists(selector, min_size=1, max_size=3))
packets = st.tuples(st.integers(0, 7), st.integers(0, 7), st.sampled_from(PROTOCOLS[1:]), st.integers(0, 7),
                    st.integers(0, 7))


@settings(max_examples=300, deadline=None)
@given(entries, st.lists(packets, min_size=8, max_size=8))
def test_boxes_of_an_entry_hold_exactly_the_packets_its_selectors_match(
        spd: SpdEntry, found: list[tuple[int, int, int, int, int]]) -> None:
    for local, remote, protocol, local_port, remote_port in found:
        shown: tuple[int | None, int | None] = (None, None)
        if protocol in HAS_PORTS:
            shown = local_port, remote_port
        elif protocol in ICMP_PROTOCOLS:
            shown = local_port, local_port
        wanted = any(a.matches(version=4, address=local, protocol=protocol, port=shown[0])
                     and b.matches(version=4, address=remote, protocol=protocol, port=shown[1])
                     for a in spd.local for b in spd.remote)
        assert in_boxes(spd, (local, remote, protocol, *(p for p in shown if p is not None))) == wanted


@settings(max_examples=100, deadline=None)
@given(st.lists(entries, min_size=1, max_size=4))
def test_elements_of_one_set_never_overlap(spd: list[SpdEntry]) -> None:
    shapes: dict[str, list[tuple[tuple[int, int], ...]]] = {}
    for one in spd:
        for _, shape, box in entry_boxes(one):
            shapes.setdefault(shape, []).append(box)
    for found in shapes.values():
        cut = disjoint(found)
        for i, box in enumerate(cut):
            for other in cut[:i]:
                assert any(a[1] < b[0] or b[1] < a[0] for a, b in zip(box, other, strict=True))


def test_neighbours_with_one_action_share_a_set() -> None:
    many = [entry("bypass", remote=(f"10.2.{i}.0/24",)) for i in range(50)]
    text = guard_of(*many, entry("protect", SITE_A, SITE_B))
    assert text.count("@s0_4a_g0") == 4             # arriving, onward, sending, leaving
    assert "@s2_" not in text


def test_more_varied_side_is_the_first_field() -> None:
    text = guard_of(entry("protect", ("10.1.0.0/16",), [f"10.2.{i}.0/25" for i in range(4)]))
    assert re.search(r"s0_4a_g0 \{[^}]*elements = \{ 10\.2\.0\.0-10\.2\.0\.127 \. 10\.1\.0\.0", text)
    assert "ip daddr . ip saddr @s0_4a_g0 goto clear_out_g0" in text


def test_two_generations_stand_in_one_transaction() -> None:
    plan = make_plan(policy(entry("protect", SITE_A, SITE_B)), GATEWAY, {}).guard
    text = guard_text([plan, plan])
    assert text.startswith("table inet ipsecd {\n}\ndelete table inet ipsecd\ntable inet ipsecd {")
    assert "chain leaving_g0 {" in text
    assert "chain leaving_g1 {" in text
    assert "%" not in text


def test_counters_go_on_from_carried_values() -> None:
    plan = make_plan(policy(entry("protect", SITE_A, SITE_B)), GATEWAY, {}).guard
    text = guard_text([plan], {"clear_out": Count(5, 700)})
    assert "counter clear_out { packets 5 bytes 700 }" in text
    assert all(f"counter {name} {{" in text for name in COUNTERS)


def test_held_copy_has_the_last_word_and_no_marks() -> None:
    text = held_text(make_plan(policy(entry("protect", SITE_A, SITE_B)), GATEWAY, {}).guard)
    assert "table inet ipsecd_held {\nflags owner" in text
    assert "chain leaving_g0 {" in text
    assert "mark set" not in text


def test_tunnelled_packets_to_this_host_get_our_mark_ahead_of_every_verdict() -> None:
    text = guard_of(entry("protect", SITE_A, SITE_B))
    arriving = text.partition("chain arriving_g0 {")[2].partition("}\n}")[0]
    for kind in ("udp dport { 500, 4500 }", "meta l4proto esp", "ip protocol ah", "ip6 nexthdr ah",
                 "ip6 nexthdr { 0, 43, 60 } @nh,320,8 51"):
        assert f"{kind} fib daddr type local meta mark set" in arriving
        assert arriving.index(kind) < arriving.index("goto")


def test_ports_turn_on_reassembly_and_addresses_alone_do_not() -> None:
    assert "tproxy" in guard_of(entry("protect", SITE_A, SITE_B, protocol=6, remote_ports=(80, 80)))
    assert "tproxy" not in guard_of(entry("protect", SITE_A, SITE_B, protocol=6))


def test_ingress_interface_selects_forwarded_packets_and_their_answers() -> None:
    text = guard_of(entry("bypass", remote=("10.2.9.0/24",), interface="lan0"))
    assert 'iifname "lan0" ip saddr . ip daddr @s0_4a_g0 goto mark_bypass_g0' in text
    assert 'fib daddr oifname "lan0" ip daddr . ip saddr @s0_4a_g0 goto mark_bypass_g0' in text


def test_protected_interface_may_leave_only_by_its_own_device_and_no_other_may() -> None:
    text = guard_of(entry("protect", SITE_A, SITE_B, interface="lan1"))
    leaving = text.partition("chain leaving_g0 {")[2].partition("}\n")[0]
    accepted = leaving.index('oifname "ipsec0.lan1" iifname "lan1" accept')
    refused = leaving.index('oifname "ipsec0.lan1" counter name "clear_out" drop')
    common = leaving.index('oifname "ipsec0" iifname "lan1" goto entered_g0')
    assert accepted < refused < common < leaving.index('oifname { "ipsec0", "lo" } accept')
    assert 'iifname "lan1" ip saddr . ip daddr @s0_4a_g0 goto clear_out_i0_g0' in leaving
    assert 'fib daddr oifname "lan1" ip daddr . ip saddr @s0_4a_g0 goto clear_in_i0_g0' in text


def test_local_selectors_of_an_interface_bind_only_what_its_own_device_delivers() -> None:
    text = guard_of(entry("protect", SITE_A, SITE_B, interface="lan1"))
    assert "set local4_g0 { type ipv4_addr; flags interval; }" in text
    assert 'iifname "ipsec0.lan1" oifname . ip daddr != @inside4_i0_g0 counter name "not_inside" drop' in text


def test_entries_without_an_interface_have_no_chains_for_one() -> None:
    text = guard_of(entry("protect", SITE_A, SITE_B))
    assert "_i0" not in text
    assert "entered" not in text


def test_default_discard_drops_at_outside_interfaces_and_marks_nothing_unmatched() -> None:
    text = guard_of(entry("protect", SITE_A, SITE_B), default="discard")
    assert "oifname @outside_if_g0 goto default_discarded_g0" in text
    assert "iifname @outside_if_g0 goto default_discarded_g0" in text
    assert "@routed4_g0 goto mark_bypass_g0" not in text


def test_own_packets_to_the_other_site_are_known_without_their_source_address() -> None:
    leaving = guard_of(entry("protect", SITE_A, SITE_B)).partition("chain leaving_g0 {")[2].partition("}\n")[0]
    for own in ("meta iif 0", "fib saddr type local"):
        assert f"ip daddr @routed4_g0 ip daddr != @home4_g0 ip saddr != @local4_g0 {own} goto clear_out_g0" in leaving


def test_interface_that_cannot_be_named_matches_nothing_in_text_that_nft_takes() -> None:
    text = guard_of(entry("bypass", interface="no such*name"), entry("protect", SITE_A, SITE_B))
    assert 'iifname "/"' in text
    assert '""' not in text


def test_generations_are_numbered_on_from_what_stands_and_take_its_place() -> None:
    plan = make_plan(policy(entry("protect", SITE_A, SITE_B)), GATEWAY, {}).guard
    sets, chains = guard_texts([plan], Standing(("leaving_g3", "clear_out_g3"), ("local4_g3",)))
    assert "set local4_g4 {" in sets
    assert "chain" not in sets
    assert "chain leaving_g4 {" in chains
    assert chains.splitlines()[-5:] == [
        "flush chain inet ipsecd leaving_g3", "flush chain inet ipsecd clear_out_g3",
        "delete chain inet ipsecd leaving_g3", "delete chain inet ipsecd clear_out_g3",
        "delete set inet ipsecd local4_g3"]


def test_interface_names_cannot_write_nft_text() -> None:
    evil = 'x" accept #'
    host = replace(GATEWAY, interfaces=(*GATEWAY.interfaces, HostInterface(evil, ("10.1.9.1/24",)),
                                        HostInterface("lan*", ("10.1.8.1/24",))))
    spd = policy(entry("bypass", interface=evil), entry("protect", SITE_A, SITE_B, interface=evil),
                 entry("protect", SITE_A, SITE_B), inside=(evil, "lan2"))
    text = guard_text([make_plan(spd, host, {}).guard])
    assert evil not in text
    assert "lan*" not in text
    assert '"lan2" . 10.1.0.0-10.1.255.255' in text


def test_any_to_any_exempts_only_connected_networks_of_interfaces_that_do_not_lead_away() -> None:
    text = guard_of(entry("protect", EVERYWHERE, EVERYWHERE))
    assert "set home4_g0 { type ipv4_addr; flags interval; elements = { 10.1.0.0/23 }; }" in text


def test_guard_of_a_bare_host_still_protects() -> None:
    text = guard_text([make_plan(policy(entry("protect", SITE_A, SITE_B)), Host(), {}).guard])
    assert "@s0_4a_g0 goto clear_out_g0" in text


def guard_of(*spd: SpdEntry, default: str = "bypass") -> str:
    return guard_text([make_plan(policy(*spd, default=default), GATEWAY, {}).guard])


def in_boxes(spd: SpdEntry, packet: tuple[int, ...]) -> bool:
    """A set without ports looks at the first fields only, as in nft."""
    needs = {"a": 2, "p": 3, "i": 4, "t": 5}
    return any(len(packet) >= needs[shape] and not (shape == "i" and packet[2] not in ICMP_PROTOCOLS)
               and all(low <= value <= high for value, (low, high) in zip(packet, box, strict=False))
               for _, shape, box in entry_boxes(spd))
