"""The plan: what each kind of change is called, and what it disturbs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ipsecd.config import diff as diff_module
from ipsecd.config.diff import (
    Change,
    ChildAdded,
    ChildChanged,
    ChildRemoved,
    DefaultActionChanged,
    DomainChanged,
    EntriesChanged,
    GatewayChanged,
    PeerAdded,
    PeerChanged,
    PeerRemoved,
    diff,
    plan_lines,
)
from ipsecd.config.settings import changed_settings
from ipsecd.sa import ChildKey
from tests.unit.config.support import GOOD, KEY, changed, compiled

OFFICE = ChildKey("hq", "office")
LOCAL = 'local: [10.1.0.0/16, "2001:db8:1::/48"]'
LAB = "      lab:\n        local: [10.8.0.0/16]\n        remote: [10.9.0.0/16]\n"
BRANCH = """\
  b:
    address: 203.0.113.9
    auth: {psk_file: KEYFILE}
    children: {c: {local: [10.1.0.0/16], remote: [10.7.0.0/16]}}
"""
PRINTERS = "policies: [{name: printers, action: bypass, remote: [10.2.9.0/24]}]\n"


@pytest.mark.parametrize(("old", "new", "changes"), [
    (GOOD, GOOD + BRANCH, [PeerAdded("b", ("c",), enabled=True)]),
    (GOOD + BRANCH, GOOD, [PeerRemoved("b", ("c",))]),
    (GOOD, GOOD + LAB, [ChildAdded(ChildKey("hq", "lab"))]),
    (GOOD + LAB, GOOD, [ChildRemoved(ChildKey("hq", "lab"))]),
    (GOOD, changed(("198.51.100.2", "198.51.100.3")), [PeerChanged("hq", ("addresses",), disruptive=True)]),
    (GOOD, changed(("identity: hq.", "identity: hq2.")), [PeerChanged("hq", ("remote_identity",), disruptive=True)]),
    (GOOD, changed(("branch-a", "branch-b")), [PeerChanged("hq", ("local_identity",), disruptive=True)]),
    (GOOD, changed(("    identity: hq", "    enabled: false\n    identity: hq")),
     [PeerChanged("hq", ("enabled",), disruptive=False)]),
    (GOOD, GOOD + "defaults: {ike: {lifetime: 2h, dpd: 20s}}\n",
     [PeerChanged("hq", ("ike.lifetime_s", "ike.dpd_s"), disruptive=False)]),
    (GOOD, GOOD + "defaults: {ike: {proposals: aes128gcm16-prfsha256-x25519}}\n",
     [PeerChanged("hq", ("ike.proposals",), disruptive=True)]),
    (GOOD, changed((LOCAL, LOCAL + "\n        lifetime: 30m\n        start: on-demand")),
     [ChildChanged(OFFICE, ("start", "lifetime_s"), disruptive=False)]),
    (GOOD, changed(("10.1.0.0/16", "10.3.0.0/16")), [ChildChanged(OFFICE, ("local",), disruptive=True)]),
    (GOOD, GOOD + PRINTERS, [EntriesChanged(("printers",), (), (), ())]),
    (GOOD + PRINTERS, GOOD, [EntriesChanged((), ("printers",), (), ())]),
    (GOOD + PRINTERS, GOOD + PRINTERS.replace("bypass", "discard"), [EntriesChanged((), (), ("printers",), ())]),
    (GOOD, GOOD + "policies_default: discard\n", [DefaultActionChanged("bypass", "discard")]),
    (GOOD, changed(("gateway:", "gateway:\n  priority: 99\n  inside: [lan0]")),
     [GatewayChanged(("inside",)), DomainChanged(("priority",))]),
])
def test_diff_names_the_change_and_what_it_disturbs(old: str, new: str, changes: list[Change], tmp_path: Path) -> None:
    before, after = compiled(tmp_path, old).policy, compiled(tmp_path, new).policy
    found = diff(before, after)
    assert list(found) == changes
    assert all("\n" not in change.describe() for change in found)
    assert diff(before, before) == diff(after, after) == ()


def test_diff_of_a_new_key_says_so_and_not_the_key(tmp_path: Path) -> None:
    before = compiled(tmp_path, GOOD).policy
    (tmp_path / "good.psk").write_bytes(KEY[::-1])
    after = compiled(tmp_path, GOOD).policy
    assert diff(before, after) == (PeerChanged("hq", ("psk",), disruptive=True),)
    assert plan_lines(diff(before, after), before, after, ()) == [
        "~ peer hq: psk changed; a new IKE SA is made before the old one is deleted"]


def test_comments_and_the_order_of_what_does_not_meet_change_nothing(tmp_path: Path) -> None:
    # RL-01: an unchanged file, a comment, or another order of keys is an empty plan.
    head, office = GOOD.split("    children:\n")
    gateway, peer = head.split("peers:\n")
    first = f"{gateway}peers:\n{peer}    children:\n{office}{LAB}{BRANCH}"
    second = f"# moved\npeers:\n{BRANCH}{peer}    children:\n{LAB}{office}{gateway}"
    before, after = compiled(tmp_path, first).policy, compiled(tmp_path, second).policy
    assert before != after
    assert diff(before, after) == ()
    assert plan_lines((), before, after, ("w",)) == ["no change: nothing is disturbed", "warning: w"]


def test_order_of_entries_that_meet_is_a_change(tmp_path: Path) -> None:
    one = "{name: one, action: bypass, remote: [10.2.9.0/24]}"
    two = "{name: two, action: discard, remote: [10.2.9.0/25]}"
    before = compiled(tmp_path, GOOD + f"policies: [{two}, {one}]\n").policy
    after = compiled(tmp_path, GOOD + f"policies: [{one}, {two}]\n").policy
    assert diff(before, after) == (EntriesChanged((), (), (), ("one",)),)


def test_plan_lists_untouched_peers_and_warnings(tmp_path: Path) -> None:
    before, after = compiled(tmp_path, GOOD).policy, compiled(tmp_path, GOOD + BRANCH).policy
    assert plan_lines(diff(before, after), before, after, ("careful",)) == [
        "+ peer b: added with 1 child", "  1 peer untouched: hq", "warning: careful"]


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    before = compiled(tmp_path, GOOD).settings
    after = compiled(tmp_path, GOOD + "log: {level: debug}\nmetrics: {listen: '[::1]:9469'}\n").settings
    assert changed_settings(before, after) == ("metrics_listen", "log_level")


def test_diff_imports_only_the_pure_layers() -> None:
    for name in ("diff", "overlap"):
        source = Path(diff_module.__file__).with_name(f"{name}.py")
        imported = {node.module for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.ImportFrom)}
        assert imported <= {"__future__", "collections.abc", "dataclasses", "typing", "ipsecd.config.overlap",
                            "ipsecd.policy", "ipsecd.sa", "ipsecd.selectors"}
