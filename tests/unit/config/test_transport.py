"""Children in transport mode: their selectors are this host's address and the peer's (RFC 7296 2.23.1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsecd.ike.consts import ProtocolId
from ipsecd.policy import Mode
from tests.unit.config.support import changed, compiled, errors_of

LOCAL = 'local: [10.1.0.0/16, "2001:db8:1::/48"]'
REMOTE = 'remote: [10.2.0.0/16, "2001:db8:2::/48"]'
ADDRESS = "address: [198.51.100.2]"
IDENTITY = "identity: branch-a.example.net"
TCP = "{prefix: 192.0.2.1, protocol: tcp, port: 443}"


def text(local: str, remote: str, *more: tuple[str, str], keys: str = "") -> str:
    return changed((LOCAL, f"mode: transport\n        local: [{local}]{keys}"), (REMOTE, f"remote: [{remote}]"), *more)


def test_child_between_two_addresses_may_have_ah(tmp_path: Path) -> None:
    loaded = compiled(tmp_path, text("192.0.2.1", "198.51.100.2", keys="\n        ah: {}"))
    child, = loaded.policy.peers[0].children
    assert (child.mode, child.protocol) == (Mode.TRANSPORT, ProtocolId.AH)


@pytest.mark.parametrize(("local", "remote", "more"), [
    ("192.0.2.1", "198.51.100.2", ()),
    (f"{TCP}, {{prefix: 192.0.2.1, protocol: udp}}", "198.51.100.2", ()),
    ("192.0.2.1", "198.51.100.2", ((IDENTITY, IDENTITY + "\n  listen: [192.0.2.1, 192.0.2.9]"),)),
    ("192.0.2.1", "203.0.113.9", ((ADDRESS, "address: [198.51.100.2, hq.example.net]"),)),
    ("192.0.2.1", "203.0.113.9", ((ADDRESS + "\n    ", ""),)),
])
def test_child_between_two_addresses_is_taken_without_a_warning(tmp_path: Path, local: str, remote: str,
                                                                more: tuple[tuple[str, str], ...]) -> None:
    loaded = compiled(tmp_path, text(local, remote, *more))
    assert [c.mode for peer in loaded.policy.peers for c in peer.children] == [Mode.TRANSPORT]
    assert not [w for w in loaded.warnings if "children" in str(w)]


@pytest.mark.parametrize(("text", "problem"), [
    (text("192.0.2.0/24", "198.51.100.2"), "local: found 192.0.2.0/24 with mode: transport; expected one address, this "
                                           "host's own, or mode: tunnel"),
    (text("192.0.2.1, 192.0.2.2", "198.51.100.2"), "local: found 192.0.2.1/32, 192.0.2.2/32 with mode"),
    (text("192.0.2.1", "198.51.100.2-198.51.100.3"), "remote: found 198.51.100.2/31 with mode: transport; expected one "
                                                     "address, the peer's own"),
    (text("192.0.2.1", "198.51.100.9"), "remote: found 198.51.100.9 with mode: transport; expected 198.51.100.2, as in "
                                        "the peer's address"),
    (text("192.0.2.7", "198.51.100.2", (IDENTITY, IDENTITY + "\n  listen: [192.0.2.1]")),
     "local: found 192.0.2.7 with mode: transport; expected 192.0.2.1, as in gateway.listen"),
    (text("192.0.2.1", "198.51.100.2", keys="\n        interface: lan0"),
     "interface: found an ingress interface with mode: transport; expected no such key"),
])
def test_child_that_could_never_come_up_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert any(problem in line for line in errors_of(tmp_path, text)), errors_of(tmp_path, text)


def test_mode_of_defaults_counts_for_children_that_say_nothing(tmp_path: Path) -> None:
    common = (IDENTITY, IDENTITY + "\ndefaults: {child: {mode: transport}}")
    hosts = (LOCAL, "local: [192.0.2.1]"), (REMOTE, "remote: [198.51.100.2]")
    policy = compiled(tmp_path, changed(*hosts, common)).policy
    assert policy.peers[0].children[0].mode is Mode.TRANSPORT
    tunnel = compiled(tmp_path, changed((LOCAL, LOCAL + "\n        mode: tunnel"), common)).policy
    assert tunnel.peers[0].children[0].mode is Mode.TUNNEL
