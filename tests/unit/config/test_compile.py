"""What the keys mean: defaults, order, warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsecd.config import defaults as d
from ipsecd.ike.consts import EsnId, KeId, ProtocolId, TransformType
from ipsecd.policy import Action, EsnPolicy, Mode, Pfs, RoutingDomain, Start, TsStyle
from ipsecd.sa import NO_TFC, ChildKey, Tfc, Volume
from ipsecd.selectors import from_prefix
from ipsecd.suites import DEFAULT_AH_PROPOSALS
from tests.unit.config.support import GOOD, KEY, changed, compiled, errors_of

LOCAL = 'local: [10.1.0.0/16, "2001:db8:1::/48"]'
REMOTE = 'remote: [10.2.0.0/16, "2001:db8:2::/48"]'
CHILD = "      {name}:\n        local: [{local}]\n        remote: [{remote}]\n"


def test_defaults_are_those_of_one_place(tmp_path: Path) -> None:
    loaded = compiled(tmp_path, GOOD)
    peer = loaded.policy.peers[0]
    child = peer.children[0]
    assert (peer.ike.lifetime_s, child.lifetime_s) == (14400, 3240)
    assert (peer.ike.dpd_s, peer.ike.dpd_timeout_s, peer.ike.init_timeout_s, peer.ike.request_timeout_s) == (
        10, 30, 15, 165)
    assert (peer.ike.fragment_bytes, peer.ike.childless, peer.ike.unique) == (1280, "allow", "replace")
    assert (child.mode, child.start, child.ts_style) == (Mode.TUNNEL, Start.ALWAYS, TsStyle.COMBINED)
    assert (child.replay_window, child.esn, child.pfs, child.volume) == (1024, EsnPolicy.AUTO, Pfs.OFFER, Volume())
    assert peer.psk.reveal() == KEY
    assert loaded.policy.domain == RoutingDomain()
    assert loaded.policy.default_action == Action.BYPASS
    assert (loaded.policy.cookie_threshold, loaded.policy.source_limit) == (30, 64)
    assert loaded.settings.control_socket == d.CONTROL_SOCKET
    assert loaded.settings.metrics_listen is None
    assert loaded.warnings == ()


def test_child_says_more_than_defaults_and_defaults_more_than_nothing(tmp_path: Path) -> None:
    text = changed((LOCAL, LOCAL + "\n        esp: {replay_window: 256}")) + """\
defaults:
  ike: {dpd: 20s, proposals: aes128gcm16-prfsha256-ecp256}
  child: {lifetime: 30m, start: on-demand, esp: {replay_window: 512, pfs: required, lifetime_packets: 1000}}
"""
    peer = compiled(tmp_path, text).policy.peers[0]
    child = peer.children[0]
    assert peer.ike.dpd_s == 20
    assert [str(p) for p in peer.ike.proposals] == ["aes128gcm16-prfsha256-ecp256"]
    assert (child.lifetime_s, child.start, child.replay_window, child.pfs) == (
        1800, Start.ON_DEMAND, 256, Pfs.REQUIRED)
    assert child.volume == Volume(0, 0, 1000, 1100)


@pytest.mark.parametrize(("said", "ids"), [
    ("auto", [EsnId.ESN, EsnId.NO_ESN]), ("yes", [EsnId.ESN]), ("no", [EsnId.NO_ESN])])
def test_esn_decides_what_is_offered(said: str, ids: list[EsnId], tmp_path: Path) -> None:
    child = compiled(tmp_path, changed((LOCAL, LOCAL + f"\n        esp: {{esn: {said}}}"))).policy.peers[0].children[0]
    assert all([t.id for t in p.of_type(TransformType.ESN)] == ids for p in child.proposals)


def test_pfs_off_offers_no_key_exchange(tmp_path: Path) -> None:
    child = compiled(tmp_path, changed((LOCAL, LOCAL + "\n        esp: {pfs: off}"))).policy.peers[0].children[0]
    assert not any(p.of_type(TransformType.KE) for p in child.proposals)


def test_ah_child_has_its_own_proposals_and_nothing_of_the_defaults_of_esp(tmp_path: Path) -> None:
    text = changed((LOCAL, LOCAL + "\n        ah: {esn: yes}")) + """\
defaults:
  child: {lifetime: 30m, esp: {replay_window: 512, pfs: required, proposals: aes128gcm16-x25519}}
"""
    peer = compiled(tmp_path, text).policy.peers[0]
    child = peer.children[0]
    assert child.protocol == ProtocolId.AH
    assert [str(p) for p in child.proposals] == [f"{proposal}-esn" for proposal in DEFAULT_AH_PROPOSALS]
    assert (child.lifetime_s, child.replay_window, child.pfs) == (1800, 1024, Pfs.OFFER)
    assert peer.tells_nat


@pytest.mark.parametrize("name", ["5h", "2001db8.example", "0x10"])
def test_peer_name_that_begins_with_a_digit_is_a_name(name: str, tmp_path: Path) -> None:
    assert compiled(tmp_path, changed(("198.51.100.2", name))).policy.peers[0].addresses == (name,)


def test_legacy_allows_weak_groups(tmp_path: Path) -> None:
    text = changed(("    identity: hq", "    legacy: true\n    ike: {proposals: aes128-sha1-modp1024}\n"
                    "    identity: hq"))
    assert compiled(tmp_path, text).policy.peers[0].ike.proposals[0].of_type(TransformType.KE)[0].id == KeId.MODP_1024


def test_policies_stand_ahead_of_children_in_the_order_written(tmp_path: Path) -> None:
    text = GOOD + """\
policies:
  - {name: printers, action: bypass, remote: [10.2.9.0/24]}
  - {name: no-smb, action: discard, remote: [{prefix: 0.0.0.0/0, protocol: tcp, port: 445}], interface: lan0}
"""
    entries = compiled(tmp_path, text).policy.entries
    assert [(e.name, e.action, e.child) for e in entries] == [
        ("printers", Action.BYPASS, None), ("no-smb", Action.DISCARD, None),
        ("hq/office", Action.PROTECT, ChildKey("hq", "office"))]
    assert entries[0].local == (from_prefix("0.0.0.0/0"),)
    assert entries[1].local == (from_prefix("0.0.0.0/0", 6),)
    assert entries[1].interface == "lan0"


def test_a_protocol_named_on_one_side_holds_for_both(tmp_path: Path) -> None:
    text = changed((LOCAL, "local: [10.1.0.0/16]"), (REMOTE, "remote: [{prefix: 10.2.0.0/16, protocol: icmp, "
                                                             "icmp_type: 8}]"))
    child = compiled(tmp_path, text).policy.peers[0].children[0]
    assert (child.local[0].protocol, child.remote[0].port_low, child.remote[0].port_high) == (1, 2048, 2303)


def test_sleeping_peer_stands_last_and_shadows_nobody(tmp_path: Path) -> None:
    text = changed(("    identity: hq", "    enabled: false\n    identity: hq")) + """\
  backup:
    address: 203.0.113.9
    auth: {psk_file: KEYFILE}
    children: {office: {local: [10.1.0.0/16, "2001:db8:1::/48"], remote: [10.2.0.0/16, "2001:db8:2::/48"]}}
"""
    loaded = compiled(tmp_path, text)
    assert [e.name for e in loaded.policy.entries] == ["backup/office", "hq/office"]
    assert loaded.warnings == ()


def add_children(*children: tuple[str, str, str]) -> str:
    return GOOD + "".join(CHILD.format(name=n, local=lo, remote=re) for n, lo, re in children)


def test_child_wholly_shadowed_by_one_earlier_is_an_error(tmp_path: Path) -> None:
    assert errors_of(tmp_path, add_children(("inner", "10.1.5.0/24", "10.2.5.0/24"))) == [
        "ipsecd.yaml:12:7: peers.hq.children.inner: found an entry wholly shadowed by hq/office, which comes first; "
        "expected selectors of its own"]


def test_child_shadowed_by_two_halves_together_is_an_error(tmp_path: Path) -> None:
    text = add_children(("low", "10.3.0.0/17", "10.4.0.0/16"), ("high", "10.3.128.0/17", "10.4.0.0/16"),
                        ("all", "10.3.0.0/16", "10.4.0.0/16"))
    assert "wholly shadowed by hq/low, hq/high" in errors_of(tmp_path, text)[0]


def test_child_shadowed_by_a_discard_is_an_error(tmp_path: Path) -> None:
    text = GOOD + "policies:\n  - {name: stop, action: discard, remote: [0.0.0.0/0, '::/0']}\n"
    assert "wholly shadowed by discard entry stop" in errors_of(tmp_path, text)[0]


def test_children_that_overlap_are_a_warning_with_both_names(tmp_path: Path) -> None:
    loaded = compiled(tmp_path, add_children(("wide", "10.1.0.0/16", "10.2.128.0/17, 10.3.0.0/16")))
    assert [w.split(": ", 1)[1] for w in loaded.warnings] == [
        "peers.hq.children.wide: overlaps hq/office, which comes first and takes what both select"]


def test_narrower_child_first_is_how_one_writes_an_exception(tmp_path: Path) -> None:
    text = changed(("      office:", CHILD.format(name="voice", local="10.1.5.0/24", remote="10.2.5.0/24")
                    + "      office:"))
    assert compiled(tmp_path, text).warnings == ()


def test_ports_keep_children_apart(tmp_path: Path) -> None:
    side = "{{prefix: {}, protocol: tcp, port: {}}}"
    text = changed((LOCAL, "local: [10.1.0.0/16]"), (REMOTE, f"remote: [{side.format('10.2.0.0/16', '1-99')}]"))
    text += CHILD.format(name="web", local="10.1.0.0/16", remote=side.format("10.2.0.0/16", "100-200"))
    assert not any("overlap" in w for w in compiled(tmp_path, text).warnings)


@pytest.mark.parametrize(("old", "new", "warning"), [
    (REMOTE, 'remote: [0.0.0.0/0, "::/0"]', "peers.hq.children.office.remote: takes in 198.51.100.2 of peer hq"),
    (LOCAL, LOCAL + "\n        esp: {replay_window: 0}", "esp.replay_window: anti-replay is off"),
    (LOCAL, LOCAL + "\n        lifetime: 10s", "office.lifetime: 10s is short: below 5m"),
    ("    identity: hq", "    ike: {lifetime: 4m}\n    identity: hq", "peers.hq.ike.lifetime: 4m is short"),
    ("gateway:", "gateway:\n  certificate: /x", "gateway.certificate: is unused"),
    ("    identity: hq", "    ike: {proposals: [aes128gcm16-prfsha256-x25519]}\n    identity: hq",
     "children.office.esp.proposals: offers a cipher of 256 bits under an IKE SA of at most 128"),
])
def test_warning_names_its_key(old: str, new: str, warning: str, tmp_path: Path) -> None:
    assert any(warning in line for line in compiled(tmp_path, changed((old, new))).warnings)


def test_child_no_stronger_than_its_ike_sa_is_no_warning(tmp_path: Path) -> None:
    text = changed(("    identity: hq", "    ike: {proposals: [aes128gcm16-prfsha256-x25519]}\n    identity: hq"),
                   (LOCAL, LOCAL + "\n        esp: {proposals: [aes128gcm16-x25519]}"))
    assert compiled(tmp_path, text).warnings == ()


def test_unprotected_family_is_a_warning_until_a_policy_speaks_of_it(tmp_path: Path) -> None:
    text = changed((LOCAL, "local: [10.1.0.0/16]"), (REMOTE, "remote: [10.2.0.0/16]"))
    assert "IPv6 is not protected, only IPv4 is, for: hq" in compiled(tmp_path, text).warnings[0]
    assert compiled(tmp_path, text + "policies: [{name: six, action: discard, remote: ['::/0']}]\n").warnings == ()
    assert compiled(tmp_path, text + "policies_default: discard\n").warnings == ()


def test_replay_window_zero_offers_no_esn(tmp_path: Path) -> None:
    # RFC 4303 2.2.1: without a window the receiver cannot infer the high half.
    text = changed((LOCAL, LOCAL + "\n        esp: {replay_window: 0}"))
    child = compiled(tmp_path, text).policy.peers[0].children[0]
    assert (child.replay_window, child.esn) == (0, EsnPolicy.NO)
    assert "defaults.child.esp.replay_window: found '0'" in errors_of(
        tmp_path, GOOD + "defaults: {child: {esp: {replay_window: 0}}}\n")[0]


@pytest.mark.parametrize(("socket", "state"), [
    ("/run/ipsecd/control.sock", "/var/lib/ipsecd/control"), ("/run/ipsecd/left.sock", "/var/lib/ipsecd/left"),
    ("/tmp/lab/left.sock", "/tmp/lab/left.state"), ("/tmp/lab/left", "/tmp/lab/left.state")])
def test_state_directory_follows_the_control_socket(socket: str, state: str, tmp_path: Path) -> None:
    loaded = compiled(tmp_path, GOOD + f"control: {{socket: {socket}, admins: [operator]}}\n")
    assert (loaded.settings.state_directory, loaded.settings.admins) == (state, ("operator",))


def test_routing_numbers_are_settable(tmp_path: Path) -> None:
    text = changed(("gateway:", "gateway:\n  interface: left0\n  tables: {protected: 100, wide: 101}\n  priority: 50\n"
                    "  mark: {own: 1, bypass: 0x2, mask: 3}\n  route_protocol: 99"))
    assert compiled(tmp_path, text).policy.domain == RoutingDomain("left0", 100, 101, 50, 1, 2, 3, 99, "ipsecd_left0")


def test_a_head_end_of_2000_children_compiles_soon(tmp_path: Path) -> None:
    # Sharing one local prefix, which makes every pair of entries meet on that side.
    children = "".join(CHILD.format(name=f"c{i}", local="10.0.0.0/9", remote=f"10.{128 + i // 256}.{i % 256}.0/24")
                       for i in range(2000))
    loaded = compiled(tmp_path, changed((GOOD[GOOD.index("      office:"):], children)))
    assert len(loaded.policy.entries) == 2000


def test_child_of_an_interface_takes_nothing_from_its_equal_of_another(tmp_path: Path) -> None:
    guests = CHILD.format(name="guests", local="10.1.0.0/16", remote="10.2.0.0/16") + "        interface: lan1\n"
    staff = guests.replace("guests", "staff").replace("lan1", "lan0")
    text = changed((GOOD[GOOD.index("      office:"):], guests + staff))
    policy = compiled(tmp_path, text).policy
    assert [e.interface for e in policy.entries] == ["lan1", "lan0"]
    assert policy.protected_interfaces == ("lan0", "lan1")


def test_tables_of_interfaces_are_settable_and_their_own(tmp_path: Path) -> None:
    guests = CHILD.format(name="guests", local="10.1.0.0/16", remote="10.2.0.0/16") + "        interface: lan1\n"
    text = changed((GOOD[GOOD.index("      office:"):], guests), ("gateway:", "gateway:\n  tables: {interfaces: 5000}"))
    table = compiled(tmp_path, text).policy.domain.table_for("lan1")
    assert 5000 <= table < 1_005_000
    assert f"found table {table} for interface lan1 and tables.wide; expected two different" in "\n".join(
        errors_of(tmp_path, text.replace("interfaces: 5000", f"interfaces: 5000, wide: {table}")))
    assert "expected at most 4293967295" in "\n".join(
        errors_of(tmp_path, text.replace("interfaces: 5000", "interfaces: 4294967295")))


@pytest.mark.parametrize(("written", "tfc"), [
    ("{pad_to: 512}", Tfc(512)), ("{pad_to: random, dummies_per_s: 5}", Tfc(0, randomly=True, dummies_per_s=5)),
    ("{dummies_per_s: 1000}", Tfc(dummies_per_s=1000)), ("{}", NO_TFC)])
def test_traffic_flow_confidentiality_is_a_childs_own_or_shared(tmp_path: Path, written: str, tfc: Tfc) -> None:
    own = changed(("      office:\n", f"      office:\n        tfc: {written}\n"))
    shared = GOOD + f"defaults: {{child: {{tfc: {written}}}}}\n"
    for text in (own, shared):
        assert compiled(tmp_path, text).policy.peers[0].children[0].tfc == tfc


@pytest.mark.parametrize("written", ["{pad_to: 63}", "{pad_to: sometimes}", "{dummies_per_s: 1001}", "{pad: 512}"])
def test_padding_that_is_none_is_refused(tmp_path: Path, written: str) -> None:
    assert errors_of(tmp_path, changed(("      office:\n", f"      office:\n        tfc: {written}\n")))
