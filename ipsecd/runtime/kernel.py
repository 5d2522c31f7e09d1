"""The kernel's routes, rules, device and nft tables, synchronously: one step each, and what of a plan is not there.

Nothing that we did not install is removed: routes and rules are known by the domain's protocol number, in its tables
and priorities.  Needs CAP_NET_ADMIN.  An object belongs to the network namespace and thread that made it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ipsecd.errors import LocalError
from ipsecd.guard_plan import (
    HELD_SUFFIX,
    Count,
    GuardPlan,
    guard_text,
    guard_texts,
    held_text,
    held_texts,
    removal_text,
)
from ipsecd.policy import RoutingDomain
from ipsecd.protected import Host
from ipsecd.routing_plan import WORST_METRIC, Device, DeviceRoute, RoutingPlan, Rule, UnreachableRoute
from ipsecd.runtime.netlink import own_devices, owner_alias, read_host
from ipsecd.runtime.nft import Nft, NftError
from ipsecd.runtime.tun import make_device

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_VERSION = {socket.AF_INET: 4, socket.AF_INET6: 6}
_EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
_UNREACHABLE = 7                                    # RTN_UNREACHABLE
_UNICAST = 1                                        # RTN_UNICAST
_TO_TABLE, _GOTO, _NOP = 1, 2, 3                    # FR_ACT_* of linux/fib_rules.h
_NO_SUPPRESSION = 0xFFFFFFFF
_TC_H_ROOT = 0xFFFFFFFF
_NEVER_UP = "noop"                                  # the queue discipline of a new device
_GEN_MODE_NONE = 1                                  # IN6_ADDR_GEN_MODE_NONE
_PRIORITIES = 10                                    # priorities of a domain, routing_plan.py
_FAMILY_OFF = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES)   # no IPv6 in this kernel, or disable_ipv6
_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Kernel:
    """One routing domain in this network namespace."""

    def __init__(self, domain: RoutingDomain) -> None:
        self.domain = domain
        self._ip: Any = IPRoute(strict_check=True)
        self._nft = Nft()
        self._owner: Nft | None = None
        self.unheld = ""                            # why there is no owned copy of the guard though it was asked for
        self._listed: tuple[str, str] | None = None

    def close(self) -> None:
        """Free the sockets; the owned copy of the guard goes with them, everything else stays."""
        for nft in (self._nft, self._owner):
            if nft:
                nft.close()
        self._ip.close()

    def host(self) -> Host:
        """Return the facts a plan needs."""
        return read_host(self._ip, self.domain)

    # ---- guard

    def put_guard(self, plans: Sequence[GuardPlan], *, hold: bool) -> None:
        """Replace the guard by one or two generations; `hold` keeps the daemon's own copy too.

        The copy takes the last generation.  Never are both changed at once, and a first copy stands before a guard
        that is there already is touched.
        """
        first = hold and self._owner is None
        if first:
            self._hold(plans[-1])
        try:
            self._stage(self._nft, guard_texts(plans, self._nft.standing(self.domain.nft_table)))
        except NftError:                            # somebody tied something of his to our chains: all of it goes
            self._nft.run(guard_text(plans, self.counters()))
        if hold and not first:
            self._hold(plans[-1])
        self._listed = self._listing()

    def _hold(self, plan: GuardPlan) -> None:
        owner = self._owner = self._owner or Nft()
        self.unheld = ""
        try:
            try:
                self._stage(owner, held_texts(plan, owner.standing(self.domain.nft_table + HELD_SUFFIX)))
            except NftError:                        # as above
                owner.run(held_text(plan))
        except NftError as error:                   # a kernel before 5.12 has no owner flag: the repair must do
            self.release_hold()
            self.unheld = str(error) or "nft refused it"

    @staticmethod
    def _stage(nft: Nft, texts: tuple[str, str]) -> None:
        for text in texts:
            nft.run(text)

    def release_hold(self) -> None:
        """Give the owned copy up; better none than one of an older policy."""
        if self._owner:
            self._owner.close()
            self._owner = None

    def guard_changed(self) -> bool:
        """Return whether another program changed the guard since it was put."""
        return self._listed != self._listing()

    def counters(self) -> dict[str, Count]:
        """Return what the guard dropped, by reason; each packet is counted in one of the two tables."""
        sums: dict[str, Count] = {}
        for table in (self.domain.nft_table, self.domain.nft_table + HELD_SUFFIX):
            for counter in self._nft.counters(table):
                old = sums.get(counter["name"], Count())
                sums[counter["name"]] = Count(old.packets + counter["packets"], old.bytes + counter["bytes"])
        return sums

    def remove_guard(self) -> None:
        """Remove the guard, the one step that opens."""
        self.release_hold()
        self._nft.run(removal_text(self.domain.nft_table))

    def _listing(self) -> tuple[str, str]:
        table = self.domain.nft_table
        return self._nft.listing(table), self._nft.listing(table + HELD_SUFFIX)

    # ---- devices

    def put_device(self, device: Device) -> str:
        """Make a device where it is missing and bring it up.

        Returns "device NAME" where it had to be made, so that who reads it must open it again, "link" where it was
        down or had another MTU, and "" where nothing was to be done.
        """
        index = self.device_index(device.name)
        found = index is not None
        if index is None:
            make_device(device.name)
            index = self.device_index(device.name)
            if index is None:
                raise LocalError(f"{device.name} vanished while it was made")
        link = self._ip.link("get", index=index)[0]
        alias = owner_alias(self.domain, device.interface)
        if (found and link["flags"] & 1 and link.get_attr("IFLA_MTU") == device.mtu
                and link.get_attr("IFLA_IFALIAS") == alias):
            return ""
        with contextlib.suppress(NetlinkError):      # a kernel without IPv6
            self._ip.link("set", index=index, IFLA_AF_SPEC={"attrs": [
                ("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _GEN_MODE_NONE)]})]})
        if link.get_attr("IFLA_QDISC") == _NEVER_UP:
            # Its queues are what holds and drops; the default discipline for each of 256 that might be takes 12 MB.
            with contextlib.suppress(NetlinkError):
                self._ip.tc("replace", "noqueue", index=index, parent=_TC_H_ROOT)
        self._ip.link("set", index=index, mtu=device.mtu, ifalias=alias, state="up")
        for key, value in device.sysctls:
            # Not under ProtectKernelTunables= nor without IPv6; the guard drops redirects all the same.
            with contextlib.suppress(OSError):
                Path("/proc/sys/net", key).write_text(value, encoding="ascii")
        return "link" if found else made(device.name)

    def device_index(self, name: str) -> int | None:
        """Return the index of an interface."""
        found = self._ip.link_lookup(ifname=name)
        return found[0] if found else None

    def remove_devices(self, *, but: Iterable[str] = ()) -> None:
        """Remove the domain's devices but those named."""
        kept = set(but)
        for index, name in own_devices(self._ip, self.domain).values():
            if name not in kept:
                _try(_GONE, self._ip.link, "del", index=index)

    def _tables(self) -> dict[int, str]:
        """Return the tables that may hold routes of ours, and the device that those of each lead into."""
        entered = {*own_devices(self._ip, self.domain), *(r.interface for r in self.rules())} - {""}
        return {self.domain.protected_table: self.domain.device, self.domain.wide_table: self.domain.device,
                **{self.domain.table_for(i): self.domain.device_for(i) for i in sorted(entered)}}

    # ---- rules

    def rules(self) -> list[Rule]:
        """Return the rules that are ours."""
        found: list[Rule] = []
        for family in _VERSION:
            with contextlib.suppress(NetlinkError):  # a kernel without this family
                found += [_read_rule(r) for r in self._ip.rule("dump", family=family) if self._is_ours(r)]
        return found

    def add_rules(self, rules: Iterable[Rule]) -> None:
        """Add rules in order; one that is there already stays."""
        for rule in rules:
            _try((errno.EEXIST, *_FAMILY_OFF), self._ip.rule, "add", **self._rule(rule))

    def remove_rules(self, rules: Iterable[Rule]) -> None:
        """Remove rules in order."""
        for rule in rules:
            _try(_GONE, self._ip.rule, "del", **self._rule(rule))

    def _is_ours(self, rule: Any) -> bool:
        priority = rule.get_attr("FRA_PRIORITY") or 0
        return bool(rule.get_attr("FRA_PROTOCOL") == self.domain.protocol
                    and 0 <= priority - self.domain.priority < _PRIORITIES)

    def _rule(self, rule: Rule) -> dict[str, Any]:
        found: dict[str, Any] = {"family": _FAMILY[rule.version], "priority": rule.priority,
                                 "protocol": self.domain.protocol}
        if rule.mask:
            found |= {"fwmark": rule.mark, "fwmask": rule.mask}
        for side, prefix in (("src", rule.source), ("dst", rule.destination)):
            if prefix:
                network = ip_network(prefix)
                found |= {side: str(network.network_address), f"{side}_len": network.prefixlen}
        if rule.interface:
            found["iifname"] = rule.interface
        if rule.suppress_prefixlength is not None:
            found["FRA_SUPPRESS_PREFIXLEN"] = rule.suppress_prefixlength
        if rule.table:
            return found | {"table": rule.table, "action": _TO_TABLE}
        return found | ({"action": _GOTO, "goto": rule.goto} if rule.goto else {"action": _NOP})

    # ---- routes

    def routes(self) -> tuple[list[DeviceRoute], list[UnreachableRoute]]:
        """Return the routes that are ours, into a device and unreachable; `mtu` is 0 where a route has none."""
        through: list[DeviceRoute] = []
        unreachable: list[UnreachableRoute] = []
        for table, device in self._tables().items():
            index = self.device_index(device)
            for version, family in _FAMILY.items():
                for route in self._dump(family, table):
                    prefix = f"{route.get_attr('RTA_DST')}/{route['dst_len']}" if route["dst_len"] else (
                        _EVERYWHERE[version])
                    if route["type"] == _UNREACHABLE:
                        unreachable.append(UnreachableRoute(version, prefix, table))
                    elif route["type"] == _UNICAST and route.get_attr("RTA_OIF") == index:
                        metrics = route.get_attr("RTA_METRICS")
                        through.append(DeviceRoute(version, prefix, table, device,
                                                   route.get_attr("RTA_PREFSRC"),
                                                   (metrics and metrics.get_attr("RTAX_MTU")) or 0))
        return through, unreachable

    def _dump(self, family: int, table: int) -> list[Any]:
        try:
            return [r for r in self._ip.route("dump", family=family, table=table)
                    if r["proto"] == self.domain.protocol and r.get_attr("RTA_TABLE") == table]
        except NetlinkError as e:
            if e.code in _GONE:                     # a table that never had a route
                return []
            raise LocalError(f"cannot list table {table}: {words(e)}") from e

    def put_routes(self, routes: Iterable[DeviceRoute]) -> int:
        """Add or replace routes into the device, in order; return how many the kernel took.

        It refuses IPv6 routes where the family is off: then nothing leaves by IPv6 either.
        """
        found: dict[str, int | None] = {}
        taken = 0
        for route in routes:
            if route.device not in found:
                found[route.device] = self.device_index(route.device)
            fields = self._route(route.version, route.prefix, route.table) | {
                "oif": found[route.device], "metrics": {"mtu": route.mtu}}
            # EINVAL: the source address went away; the next plan follows soon, and until then any source will do.
            sourced = route.source and _try((errno.EINVAL, *_FAMILY_OFF), self._ip.route, "replace", **fields,
                                            prefsrc=route.source)
            taken += bool(sourced) or _try(_FAMILY_OFF, self._ip.route, "replace", **fields)
        return taken

    def put_unreachable(self, routes: Iterable[UnreachableRoute]) -> None:
        """Add the routes beneath, in order; one that is there already stays."""
        for route in routes:
            _try((errno.EEXIST, *_FAMILY_OFF), self._ip.route, "add", **self._beneath(route))

    def remove_routes(self, routes: Iterable[DeviceRoute]) -> None:
        """Remove routes into the device, in order."""
        for route in routes:
            index = self.device_index(route.device)
            if index is not None:
                _try(_GONE, self._ip.route, "del", oif=index,
                       **self._route(route.version, route.prefix, route.table))

    def remove_unreachable(self, routes: Iterable[UnreachableRoute]) -> None:
        """Remove unreachable routes, in order."""
        for route in routes:
            _try(_GONE, self._ip.route, "del", **self._beneath(route))

    def _route(self, version: int, prefix: str, table: int) -> dict[str, Any]:
        return {"family": _FAMILY[version], "dst": prefix, "table": table, "proto": self.domain.protocol}

    def _beneath(self, route: UnreachableRoute) -> dict[str, Any]:
        return self._route(route.version, route.prefix, route.table) | {"type": "unreachable",
                                                                        "priority": WORST_METRIC}

    # ---- the plan as a whole

    def repair(self, plans: Sequence[RoutingPlan], *, hold: bool) -> list[str]:
        """Put back what is missing of the plans (two during a reload); return what, in words, empty for nothing."""
        done = self.repair_guard(plans, hold=hold)
        present = set(self.rules())
        rules = list(dict.fromkeys(r for p in plans for r in p.rules if r not in present))
        if rules:
            self.add_rules(rules)
            done.append(f"{len(rules)} rules")
        for device in {d.name: d for p in plans for d in p.devices}.values():
            if raised := self.put_device(device):
                done.append(raised)
        return done + self._repair_routes(plans)

    def repair_guard(self, plans: Sequence[RoutingPlan], *, hold: bool) -> list[str]:
        """Put back the guard of the plans where another program changed it; return "guard" if so."""
        if not self.guard_changed():
            return []
        self.put_guard([p.guard for p in plans], hold=hold)
        return ["guard"]

    def _repair_routes(self, plans: Sequence[RoutingPlan]) -> list[str]:
        done: list[str] = []
        through, beneath = self.routes()
        mtus = {r.place: r.mtu for r in through}
        lost = [r for r in {r.place: r for p in plans for r in p.routes}.values() if mtus.get(r.place) != r.mtu]
        if lost and (taken := self.put_routes(lost)):
            done.append(f"{taken} routes")
        present = set(beneath)
        sunk = list(dict.fromkeys(u for p in plans for u in p.unreachable if u not in present))
        if sunk:
            self.put_unreachable(sunk)
            done.append(f"{len(sunk)} unreachable routes")
        return done


def _try(harmless: Sequence[int], call: Callable[..., Any], *arguments: Any, **fields: Any) -> bool:
    """Do one netlink request and return whether the kernel took it; `harmless` error numbers are no failure."""
    try:
        call(*arguments, **fields)
        return True
    except NetlinkError as e:
        if e.code not in harmless:
            shown = {k: v for k, v in fields.items() if k in ("dst", "src", "table", "priority")}
            raise LocalError(f"{arguments[0]} {shown}: {words(e)}") from e
        return False


def made(device: str) -> str:
    """Return how a repair names a device that had to be made anew."""
    return f"device {device}"


def words(error: Any) -> str:
    """Return what a NetlinkError says."""
    return os.strerror(int(error.code))


def _read_rule(rule: Any) -> Rule:
    version = _VERSION[rule["family"]]
    suppress = rule.get_attr("FRA_SUPPRESS_PREFIXLEN")
    return Rule(
        version=version, priority=rule.get_attr("FRA_PRIORITY") or 0,
        mark=rule.get_attr("FRA_FWMARK") or 0, mask=rule.get_attr("FRA_FWMASK") or 0,
        source=f"{rule.get_attr('FRA_SRC')}/{rule['src_len']}" if rule["src_len"] else "",
        destination=f"{rule.get_attr('FRA_DST')}/{rule['dst_len']}" if rule["dst_len"] else "",
        table=(rule.get_attr("FRA_TABLE") or 0) if rule["action"] == _TO_TABLE else 0,
        goto=(rule.get_attr("FRA_GOTO") or 0) if rule["action"] == _GOTO else 0,
        suppress_prefixlength=None if suppress in (None, _NO_SUPPRESSION) else suppress,
        interface=rule.get_attr("FRA_IIFNAME") or "")


