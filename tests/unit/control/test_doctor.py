"""Doctor reads a host that the test made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ipsecd.control.doctor import ESP_NAMED, IKE_NAMED, Findings, closed_chains, examine, host_warnings
from ipsecd.control.schema import Check
from ipsecd.policy import Action, Policy, RoutingDomain, SpdEntry
from ipsecd.selectors import from_prefix
from tests.support.control import status_answer

ENTRY = SpdEntry("hq/office", Action.PROTECT, (from_prefix("10.1.0.0/16"),), (from_prefix("10.2.0.0/16"),))
POLICY = Policy(listen=(), peers=(), entries=(ENTRY,), default_action=Action.BYPASS, domain=RoutingDomain(), inside=(),
                exclude=(), cookie_threshold=30, source_limit=64)


def test_healthy_host_has_no_failure(tmp_path: Path) -> None:
    host(tmp_path, forward="1", flags="0x1091")

    found = checks(tmp_path)

    assert [found[name].result for name in ("tun", "device", "forwarding IPv4", "addresses")] == ["ok"] * 4
    assert "forwarding IPv6" not in found


def test_device_of_an_ingress_interface_is_looked_for_too(tmp_path: Path) -> None:
    host(tmp_path, forward="1", flags="0x1091")
    policy = replace(POLICY, entries=(replace(ENTRY, interface="lan1"),))

    found = checks(tmp_path, policy=policy)

    assert (found["device"].result, found["device"].detail) == ("failed", "ipsec0.lan1 does not exist")


def test_each_fault_has_a_cure(tmp_path: Path) -> None:
    host(tmp_path, forward="0", flags="0x1090")

    found = checks(tmp_path, addresses=frozenset(), warnings=("peers.hq.auth: the key is short",))

    assert (found["device"].result, found["device"].hint) == ("failed", "ip link set ipsec0 up")
    assert found["forwarding IPv4"].result == "warning"
    assert found["forwarding IPv4"].hint == "sysctl net.ipv4.ip_forward=1"
    assert found["source checks"].hint == "sysctl net.ipv4.conf.all.src_valid_mark=1"
    assert found["addresses"].result == "failed"
    assert found["configuration"].detail == "peers.hq.auth: the key is short"


def test_peer_that_fails_shows_cause_and_hint(tmp_path: Path) -> None:
    found = checks(tmp_path)

    assert found["peer hq"].result == "ok"
    assert found["peer lab"].detail == "no common IKE proposal"
    assert found["tun"].result == "failed"


def test_host_warnings_name_what_stands_in_the_way(tmp_path: Path) -> None:
    host(tmp_path, forward="0", flags="0x1091")

    found = [w for w in host_warnings(POLICY, root=tmp_path) if not w.startswith("host firewall")]

    assert [w.split(":")[0] for w in found] == ["forwarding IPv4", "source checks"]
    assert "(sysctl net.ipv4.ip_forward=1)" in found[0]


def test_firewall_that_drops_and_does_not_name_our_ports_is_found() -> None:
    assert list(closed_chains(ruleset(22), IKE_NAMED, own_table="ipsecd")) == ["inet filter input"]
    assert list(closed_chains(ruleset(22, 500), IKE_NAMED, own_table="ipsecd")) == ["inet filter input"]
    assert list(closed_chains(ruleset(500, 4500), IKE_NAMED, own_table="ipsecd")) == []
    assert list(closed_chains(ruleset(22), IKE_NAMED, own_table="filter")) == []


def test_firewall_that_drops_and_does_not_name_esp_is_found() -> None:
    assert list(closed_chains(ruleset(500, 4500), ESP_NAMED, own_table="ipsecd")) == ["inet filter input"]
    assert list(closed_chains(ruleset(500, 50), ESP_NAMED, own_table="ipsecd")) == []
    assert list(closed_chains(ruleset("tcp", "esp"), ESP_NAMED, own_table="ipsecd")) == []


def ruleset(*named: object) -> list[dict[str, Any]]:
    """What nft lists of a chain that drops by default, but for what a set names."""
    rule = {"family": "inet", "table": "filter", "chain": "input", "expr": [{"right": {"set": [*named]}}]}
    chain = {"family": "inet", "table": "filter", "name": "input", "hook": "input", "policy": "drop"}
    return [{"metainfo": {}}, {"chain": chain}, {"rule": rule}]


def host(root: Path, *, forward: str, flags: str) -> None:
    """Make the files of a host."""
    for name, text in (("dev/net/tun", ""), ("sys/class/net/ipsec0/flags", flags),
                       ("proc/sys/net/ipv4/ip_forward", forward), ("proc/sys/net/ipv4/conf/wan/rp_filter", "1"),
                       ("proc/sys/net/ipv4/conf/all/src_valid_mark", forward)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")


def checks(root: Path, *, addresses: frozenset[str] = frozenset({"192.0.2.1"}),
           warnings: tuple[str, ...] = (), policy: Policy = POLICY) -> dict[str, Check]:
    found = Findings(policy, warnings, status_answer(), addresses)
    return {check.name: check for check in examine(found, root=root)}


def test_doctor_says_why_the_native_engine_is_not_used(tmp_path: Path) -> None:
    found = Findings(POLICY, (), status_answer(), frozenset(), not_native="the native engine is not built")
    [engine] = [check for check in examine(found, root=tmp_path) if check.name == "engine"]
    assert (engine.result, engine.detail) == ("warning", "reference: the native engine is not built")
    assert checks(tmp_path)["engine"].result == "ok"
