"""The status answer from views and readings: states, sums that never fall, no secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ipsecd.causes import Cause, Failure
from ipsecd.control.schema import ConfigView, GatewayView, GuardView, StatusAnswer
from ipsecd.control.status import Readings, build_peers, installed_pairs
from ipsecd.drops import DropReason
from ipsecd.engine.contract import EngineStats
from ipsecd.policy import PeerPolicy, Secret
from ipsecd.sa import ChildKey, Deadline, Endpoint, Path, SaStats
from ipsecd.views import Failed, IkeView, PairView, PeerView
from tests.support.esp_packets import pair
from tests.unit.supervisor.rig import child, peer

KEY = ChildKey("hq", "office")
PATH = Path(Endpoint("192.0.2.1", 4500), Endpoint("203.0.113.7", 4500))
POLICY = replace(peer(child()), psk=Secret(b"swordfish-swordfish-swordfish-32"))


def pair_view(spi: int, *, state: str = "up", local: str = "10.1.0.0/16") -> PairView:
    return PairView(KEY, 0, spi, spi + 1, state, "aes256gcm16", (local,), ("10.2.0.0/16",), 10.0, 900.0, 1200.0)


def ike_view(*pairs: PairView, state: str = "Established") -> IkeView:
    return IkeView(1, "hq", state, True, "a" * 16, "b" * 16, "suite", "a.example", "b.example", PATH, "remote", True,
                   10.0, 900.0, None, pairs)


def peer_view(*ike: IkeView, phase: str = "idle", **changes: object) -> PeerView:
    base = PeerView("hq", True, phase, Deadline(105.0, "next attempt"), None, {}, 0, (), ike)
    return replace(base, **changes)  # type: ignore[arg-type]


def status(view: PeerView, policy: PeerPolicy = POLICY, *, installed: Mapping[int, SaStats] | None = None,
           drops: Mapping[int, Mapping[DropReason, int]] | None = None, past: SaStats | None = None,
           past_drops: Mapping[DropReason, int] | None = None) -> StatusAnswer:
    stats = EngineStats(installed or {}, {}, drops or {}, {})
    pairs = {spi: replace(pair(spi_in=spi), child=KEY, path=PATH) for spi in installed or {}}
    readings = Readings(100.0, stats, pairs, {KEY: past} if past else {}, {KEY: past_drops} if past_drops else {},
                        {KEY: 1400}, {"hq": 1500})
    return StatusAnswer(gateway=GATEWAY, config=CONFIG,
                        peers=build_peers((view,), {"hq": policy}, readings, installed_pairs(readings)))


GATEWAY = GatewayView.model_construct(version="1", engine="reference", uptime_s=1.0, interface="ipsec0",
                                      guard=GuardView.model_construct())
CONFIG = ConfigView(file="/etc/ipsecd/ipsecd.yaml", generation=1, age_s=1.0)


@pytest.mark.parametrize(("view", "policy", "peer_state", "child_state"), [
    (peer_view(ike_view(pair_view(1))), POLICY, "up", "up"),
    (peer_view(phase="connecting"), POLICY, "connecting", "connecting"),
    (peer_view(phase="resolving"), POLICY, "connecting", "connecting"),
    (peer_view(phase="waiting"), POLICY, "waiting", "waiting"),
    (peer_view(), POLICY, "idle", "idle"),
    (peer_view(down=("office",)), POLICY, "down", "down"),
    (peer_view(enabled=False), POLICY, "asleep", "asleep"),
    (peer_view(), peer(child(start="listen"), addresses=()), "listening", "listening"),
    (peer_view(ike_view(pair_view(1, state="rekeying"))), POLICY, "up", "rekeying"),
])
def test_states_follow_from_what_exists(view: PeerView, policy: PeerPolicy, peer_state: str, child_state: str) -> None:
    [found] = status(view, policy).peers
    assert (found.state, found.children[0].state) == (peer_state, child_state)


def test_counters_do_not_fall_while_a_rekeyed_pair_lingers_and_goes() -> None:
    old, new = SaStats(packets_in=10, bytes_out=100), SaStats(packets_in=1, bytes_out=5)
    replayed = {DropReason.ESP_REPLAYED: 4}
    both = peer_view(ike_view(pair_view(1), pair_view(2)))
    only_new = peer_view(ike_view(pair_view(2)))             # the core no longer shows the old one
    answers = [status(both, installed={1: old, 2: new}, drops={1: replayed}),
               status(only_new, installed={1: old, 2: new}, drops={1: replayed}),
               status(only_new, installed={2: new}, past=old, past_drops=replayed)]
    for answer in answers:
        [shown] = answer.peers[0].children
        assert (shown.traffic.packets_in, shown.traffic.bytes_out) == (11, 105)
        assert shown.drops == {"esp_replayed": 4}


def test_waiting_peer_says_what_for_and_why_it_failed() -> None:
    failure = Failure(Cause.NO_PROPOSAL, "peer offers modp2048 only", ours="x25519", theirs="modp2048")
    [found] = status(peer_view(phase="waiting", attempts=3, last_failure=Failed(failure, 90.0))).peers
    assert found.waiting_for is not None
    assert (found.waiting_for.why, found.waiting_for.in_s) == ("next attempt", 5.0)
    assert found.last_error is not None
    assert found.last_error.age_s == 10.0
    assert found.attempts == 3


def test_narrowed_selectors_are_told_from_configured_ones() -> None:
    for local, narrowed in (("10.1.0.0/16", False), ("10.1.7.0/24", True)):
        [found] = status(peer_view(ike_view(pair_view(1, local=local)))).peers
        assert found.children[0].narrowed is narrowed


def test_answer_names_path_nat_and_sizes_and_no_secret() -> None:
    answer = status(peer_view(ike_view(pair_view(1))), installed={1: SaStats()})
    [found] = answer.peers
    assert (found.remote_address, found.nat, found.path_mtu) == ("203.0.113.7:4500", "remote", 1500)
    assert (found.children[0].path_mtu, found.children[0].sas[0].path) == (1400, str(PATH))
    assert "swordfish" not in repr(answer)


def test_answer_names_the_gateway_that_the_peer_sent_us_to() -> None:
    [found] = status(replace(peer_view(ike_view(pair_view(1))), redirected="gw2.example"), installed={}).peers
    assert found.redirected_to == "gw2.example"


@pytest.mark.parametrize(("seen", "ike", "expected"), [
    ({}, {}, (1500, "route")),
    ({}, {"path_mtu": 1500}, (1500, "fixed")),
    ({"path_mtu": 1300, "path_mtu_origin": "probed"}, {}, (1300, "probed")),
    ({"path_mtu": 1300, "path_mtu_origin": "probed"}, {"probe_path": False}, (1500, "route"))])
def test_size_of_the_path_says_where_it_came_from(seen: dict[str, Any], ike: dict[str, Any],
                                                  expected: tuple[int, str]) -> None:
    policy = replace(POLICY, ike=replace(POLICY.ike, **ike))
    [found] = status(peer_view(replace(ike_view(pair_view(1)), **seen)), policy=policy).peers
    assert (found.path_mtu, found.path_mtu_origin) == expected


def test_peer_that_a_reload_removed_is_left_out() -> None:
    stats = EngineStats({}, {}, {}, {})
    readings = Readings(100.0, stats, {}, {}, {}, {}, {})
    assert build_peers((peer_view(),), {}, readings, installed_pairs(readings)) == []


def test_one_remote_of_many_counts_its_own_pairs_and_the_entry_counts_all() -> None:
    other = replace(ike_view(replace(pair_view(3), slot=1 << 17)), peer="hq[b]", handle=2)
    mine = replace(ike_view(pair_view(1)), peer="hq[a]")
    views = (peer_view(), peer_view(mine, name="hq[a]", entry="hq"), peer_view(other, name="hq[b]", entry="hq"))
    installed = {1: SaStats(packets_in=5), 3: SaStats(packets_in=7)}
    readings = Readings(100.0, EngineStats(installed, {}, {}, {}),
                        {spi: replace(pair(spi_in=spi), child=KEY, path=PATH) for spi in installed},
                        {KEY: SaStats(packets_in=100)}, {}, {KEY: 1400}, {})
    peers = build_peers(views, {"hq": replace(POLICY, addresses=())}, readings, installed_pairs(readings))
    assert [(p.name, p.state, p.children[0].traffic.packets_in) for p in peers] == [
        ("hq", "listening", 112), ("hq[a]", "up", 5), ("hq[b]", "up", 7)]


def test_pair_that_is_being_replaced_shows_no_next_rekey() -> None:
    [up], [rekeying] = ([c.sas[0] for p in status(peer_view(ike_view(pair_view(1, state=state)))).peers
                         for c in p.children] for state in ("up", "rekeying"))
    assert (up.rekey_in_s, rekeying.rekey_in_s) == (800.0, None)


def test_disabled_peer_shows_no_held_packets() -> None:
    held = EngineStats({}, {}, {}, {KEY: 3})
    readings = Readings(100.0, held, {}, {}, {}, {}, {})
    for enabled, shown in ((True, 3), (False, 0)):
        [found] = build_peers((peer_view(enabled=enabled),), {"hq": POLICY}, readings, installed_pairs(readings))
        assert found.children[0].held_packets == shown
