"""Selector keys -> traffic selectors, and the pairing of a local and a remote side (RFC 4301 4.4.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ipsecd.config import values
from ipsecd.config.model import SelectorKeys
from ipsecd.selectors import ANY_PORTS, TrafficSelector, from_prefix

ANY_SELECTORS = (from_prefix("0.0.0.0/0"), from_prefix("::/0"))


def compile_selector(form: SelectorKeys) -> TrafficSelector:
    """Return the selector that one mapping describes; raise ValueError with a whole message."""
    addresses = form.prefix or form.range
    if addresses is None or (form.prefix and form.range):
        raise ValueError("expected exactly one of prefix and range")
    protocol = form.protocol or 0
    ports = ANY_PORTS
    if form.port is not None and form.port != ANY_PORTS:
        if not values.takes_ports(protocol):
            raise ValueError("found `port` without a protocol that has ports; expected for example protocol: tcp")
        ports = form.port
    if form.icmp_type is not None or form.icmp_code is not None:
        ports = _icmp_ports(form, protocol)
    return replace(addresses, protocol=protocol, port_low=ports[0], port_high=ports[1])


def _icmp_ports(form: SelectorKeys, protocol: int) -> tuple[int, int]:
    """Return type and code as the wire writes them in the port fields (RFC 7296 3.13.1)."""
    if not values.is_icmp(protocol):
        raise ValueError("found icmp_type or icmp_code without protocol: icmp or ipv6-icmp")
    if form.icmp_type is None:
        raise ValueError("found icmp_code without icmp_type; expected both")
    low = form.icmp_type * 256
    return (low, low + 255) if form.icmp_code is None else (low + form.icmp_code, low + form.icmp_code)


def pair(local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector],
         ) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]:
    """Give both sides the same protocol and check that each selector can meet one of the other side.

    A packet has one protocol, so naming it on one side names it on both, as IKE needs it (RFC 7296 3.13.1).
    Raises ValueError naming the selector that meets none.
    """
    left, right = _share_protocol(local, remote), _share_protocol(remote, local)
    for side, mine, others in (("local", left, right), ("remote", right, left)):
        for selector in mine:
            if not any(_meet(selector, other) for other in others):
                other_side = "remote" if side == "local" else "local"
                raise ValueError(f"{side} {selector} has no {other_side} selector of its address family and protocol")
    return left, right


def _share_protocol(mine: Sequence[TrafficSelector], others: Sequence[TrafficSelector]) -> tuple[TrafficSelector, ...]:
    named = {s.protocol for s in others}
    if len(named) != 1 or named == {0}:
        return tuple(mine)
    protocol = named.pop()
    return tuple(s if s.protocol else replace(s, protocol=protocol) for s in mine)


def _meet(one: TrafficSelector, other: TrafficSelector) -> bool:
    return one.version == other.version and (0 in (one.protocol, other.protocol) or one.protocol == other.protocol)
