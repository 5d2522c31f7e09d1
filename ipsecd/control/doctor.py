"""`ipsecctl doctor`: what commonly breaks a gateway, looked up on this host.  Blocking: run it in a thread.

Each check reads files or asks one tool; what cannot be looked up is `skipped`, never a failure.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipsecd.control.schema import Check, StatusAnswer
from ipsecd.ike.consts import ProtocolId
from ipsecd.policy import Encapsulation, Policy
from ipsecd.protected import own_devices

_TOOL_S = 5.0                       # a ruleset of 100,000 elements lists in under 2 s
_BUILT_S = 1_700_000_000.0          # no clock that is right shows less
_NFT = "/usr/sbin/nft"
# What names our packets in a listed ruleset; nft writes a protocol's name where it knows it.
IKE_NAMED = (r"\b500\b", r"\b4500\b")
ESP_NAMED = (r'"esp"|\b50\b',)
AH_NAMED = (r'"ah"|\b51\b',)


@dataclass(frozen=True, slots=True)
class Findings:
    """What the daemon knows when it is asked."""

    policy: Policy
    warnings: tuple[str, ...]
    status: StatusAnswer
    addresses: frozenset[str]       # local addresses that IKE listens on
    not_native: str = ""            # why the native engine is not used, empty where it is or nobody asked for it


def examine(found: Findings, *, root: Path = Path("/")) -> list[Check]:
    """Return every check in the order of a packet's way; `root` is where /proc, /dev and /sys are looked for."""
    return [_tun(root), *(_device(root, name) for name in own_devices(found.policy)), *_forwarding(root, found.policy),
            *_source_checks(root), _addresses(found.addresses), _engine(found), _guard(found.status),
            _host_firewall(found.policy), _clock(), *_peers(found.status), *_configuration(found.warnings)]


def host_warnings(policy: Policy, *, root: Path = Path("/")) -> tuple[str, ...]:
    """Return what on this host stands in the way of the tunnels, for --check, the log and status.  Blocking."""
    found = (*_forwarding(root, policy), *_source_checks(root), _host_firewall(policy))
    return tuple(f"{c.name}: {c.detail} ({c.hint})" for c in found if c.result == "warning")


def _tun(root: Path) -> Check:
    if (root / "dev/net/tun").exists():
        return Check(name="tun", result="ok", detail="/dev/net/tun is there")
    return Check(name="tun", result="failed", detail="/dev/net/tun is missing",
                 hint="load the module tun, or give the container that device")


def _device(root: Path, device: str) -> Check:
    flags = _read(root / "sys/class/net" / device / "flags")
    if flags is None:
        return Check(name="device", result="failed", detail=f"{device} does not exist", hint="restart ipsecd")
    if not int(flags, 16) & 1:
        return Check(name="device", result="failed", detail=f"{device} is down", hint=f"ip link set {device} up")
    return Check(name="device", result="ok", detail=f"{device} is up")


def _forwarding(root: Path, policy: Policy) -> Iterator[Check]:
    families = sorted({ts.version for entry in policy.entries for ts in (*entry.local, *entry.remote)})
    for version, name in ((4, "ipv4/ip_forward"), (6, "ipv6/conf/all/forwarding")):
        if version not in families:
            continue
        value = _read(root / "proc/sys/net" / name)
        key = "net." + name.replace("/", ".")
        if value is None:
            yield Check(name=f"forwarding IPv{version}", result="skipped", detail=f"{key} cannot be read")
        elif value == "0":
            yield Check(name=f"forwarding IPv{version}", result="warning", detail=f"{key} is 0: only this host's own "
                        "traffic passes the tunnels", hint=f"sysctl {key}=1")
        else:
            yield Check(name=f"forwarding IPv{version}", result="ok", detail=f"{key} is {value}")


def _source_checks(root: Path) -> Iterator[Check]:
    base = root / "proc/sys/net/ipv4/conf"
    strict = sorted(path.parent.name for path in base.glob("*/rp_filter") if _read(path) == "1")
    marks = _read(base / "all/src_valid_mark")
    if strict and marks != "1":
        yield Check(name="source checks", result="warning", hint="sysctl net.ipv4.conf.all.src_valid_mark=1",
                    detail=f"rp_filter is strict on {', '.join(strict[:6])}; src_valid_mark is off: answers may drop")
    else:
        yield Check(name="source checks", result="ok", detail="rp_filter does not stand in the way")


def _addresses(addresses: Iterable[str]) -> Check:
    names = sorted(addresses)
    if not names:
        return Check(name="addresses", result="failed", detail="no local address to speak IKE from",
                     hint="check gateway.listen and gateway.exclude against `ip address`")
    return Check(name="addresses", result="ok", detail=f"IKE on {', '.join(names)}")


def _engine(found: Findings) -> Check:
    name = found.status.gateway.engine
    if found.not_native:
        return Check(name="engine", result="warning", detail=f"{name}: {found.not_native}",
                     hint="build it with cargo, or set gateway.engine: python")
    return Check(name="engine", result="ok", detail=name)


def _guard(status: StatusAnswer) -> Check:
    if status.gateway.guard.installed:
        return Check(name="guard", result="ok", detail=f"stands; {status.gateway.guard.repairs} repairs")
    return Check(name="guard", result="failed", detail="the nft table is missing", hint="see the log for nft's error")


def _host_firewall(policy: Policy) -> Check:
    """Look for input chains of others that drop by default and never name what we need: best effort by nature."""
    try:
        listed = subprocess.run([_NFT, "-j", "list", "ruleset"], capture_output=True, timeout=_TOOL_S, check=True)
        rules = json.loads(listed.stdout)["nftables"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        return Check(name="host firewall", result="skipped", detail=f"nft cannot list it ({type(error).__name__})")
    needs: list[tuple[str, str, tuple[str, ...]]] = [("UDP 500 and 4500", "udp dport { 500, 4500 }", IKE_NAMED)]
    if any(peer.enabled and peer.encapsulation is Encapsulation.RAW for peer in policy.peers):
        needs.append(("ESP, which a peer with encapsulation: raw sends", "meta l4proto esp", ESP_NAMED))
    if any(peer.enabled and child.protocol == ProtocolId.AH for peer in policy.peers for child in peer.children):
        needs.append(("AH, which a child with ah needs", "meta l4proto ah", AH_NAMED))
    for what, match, names in needs:
        closed = list(closed_chains(rules, names, own_table=policy.domain.nft_table))
        if closed:
            return Check(name="host firewall", result="warning", hint=f"accept {match} there",
                         detail=f"{', '.join(closed)} drops by default and does not name {what}")
    return Check(name="host firewall", result="ok",
                 detail=f"no input chain drops {' or '.join(what for what, *_ in needs)} by default")


def closed_chains(rules: list[dict[str, Any]], names: Iterable[str], *, own_table: str) -> Iterator[str]:
    """Yield the input chains of `nft -j list ruleset` with policy drop whose table lacks one of the patterns."""
    for chain in (item["chain"] for item in rules if "chain" in item):
        if chain.get("hook") != "input" or chain.get("policy") != "drop" or chain["table"] == own_table:
            continue
        place = (chain["family"], chain["table"])
        text = json.dumps([r for item in rules for r in item.values() if (r.get("family"), r.get("table")) == place])
        if not all(re.search(name, text) for name in names):
            yield f"{chain['family']} {chain['table']} {chain['name']}"


def _clock() -> Check:
    if time.time() < _BUILT_S:
        return Check(name="clock", result="warning", detail="the clock is years behind: certificates will not verify",
                     hint="set it, or enable systemd-timesyncd")
    return Check(name="clock", result="ok", detail=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))


def _peers(status: StatusAnswer) -> Iterator[Check]:
    for peer in status.peers:
        name = f"peer {peer.name}"
        if not peer.enabled:
            yield Check(name=name, result="skipped", detail="asleep (enabled: false)")
        elif peer.state in ("up", "rekeying"):
            yield Check(name=name, result="ok", detail=f"up with {peer.remote_address}")
        elif peer.last_error is not None:
            yield Check(name=name, result="failed", detail=peer.last_error.summary, hint=peer.last_error.hint)
        else:
            waiting_for = peer.waiting_for or next((ike.waiting_for for ike in peer.ike), None)
            yield Check(name=name, result="skipped" if peer.state in ("idle", "listening") else "warning",
                        detail=peer.state + (f", {waiting_for.why}" if waiting_for else ""))


def _configuration(warnings: tuple[str, ...]) -> Iterator[Check]:
    for warning in warnings:
        yield Check(name="configuration", result="warning", detail=warning)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
