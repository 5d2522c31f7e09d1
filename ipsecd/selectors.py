"""Traffic selectors as RFC 4301 4.4.1.1 and RFC 7296 3.13.1 see them: one value for policy, wire and data path."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network, summarize_address_range

ANY_PORTS = (0, 65535)
OPAQUE_PORTS = (65535, 0)                          # RFC 7296 3.13.1
ICMP_PROTOCOLS = (1, 58)
PROTOCOL_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}
HAS_PORTS = frozenset({6, 17, 33, 132, 136})       # TCP, UDP, DCCP, SCTP, UDP-Lite


@dataclass(frozen=True, slots=True)
class TrafficSelector:
    """One side's addresses, protocol and ports; bounds are inclusive.

    `low` and `high` are addresses as integers of family `version` (4 or 6).  `protocol` 0 means any.  For ICMP the
    ports hold type * 256 + code, as on the wire (RFC 7296 3.13.1); OPAQUE is ports (65535, 0).
    """

    version: int
    low: int
    high: int
    protocol: int = 0
    port_low: int = 0
    port_high: int = 65535

    @property
    def any_port(self) -> bool:
        """True where ports do not select."""
        return (self.port_low, self.port_high) == ANY_PORTS

    @property
    def opaque(self) -> bool:
        """True for the selector that takes only packets whose ports cannot be seen (RFC 4301 4.4.1.1)."""
        return (self.port_low, self.port_high) == OPAQUE_PORTS

    def covers(self, other: TrafficSelector) -> bool:
        """Return whether every packet of `other` is one of ours."""
        return (self.version == other.version and self.low <= other.low and other.high <= self.high
                and self.protocol in (0, other.protocol) and self._covers_ports(other))

    def _covers_ports(self, other: TrafficSelector) -> bool:
        if other.opaque or self.opaque:
            return self.any_port or (self.opaque and other.opaque)
        return self.port_low <= other.port_low and other.port_high <= self.port_high

    def intersect(self, other: TrafficSelector) -> TrafficSelector | None:
        """Return what both select, None where that is nothing (RFC 7296 2.9)."""
        if self.version != other.version or (self.protocol and other.protocol and self.protocol != other.protocol):
            return None
        low, high = max(self.low, other.low), min(self.high, other.high)
        if low > high:
            return None
        if self.opaque or other.opaque:
            if not (self.any_port or self.opaque) or not (other.any_port or other.opaque):
                return None
            ports = OPAQUE_PORTS
        else:
            ports = max(self.port_low, other.port_low), min(self.port_high, other.port_high)
            if ports[0] > ports[1]:
                return None
        return TrafficSelector(self.version, low, high, self.protocol or other.protocol, *ports)

    def matches(self, *, version: int, address: int, protocol: int, port: int | None) -> bool:
        """Return whether a packet's side is selected; `port` is None where the packet does not show one."""
        if version != self.version or not self.low <= address <= self.high:
            return False
        if self.protocol not in (0, protocol):
            return False
        if self.any_port:
            return True
        if port is None:
            return self.opaque
        return self.port_low <= port <= self.port_high

    def prefixes(self) -> list[str]:
        """Return the address range as the fewest CIDR prefixes, for routes."""
        low, high = self.addresses()
        return [str(p) for p in summarize_address_range(low, high)]

    def addresses(self) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
        """Return the first and last address."""
        kind = IPv4Address if self.version == 4 else IPv6Address
        return kind(self.low), kind(self.high)

    def __str__(self) -> str:
        low, high = self.addresses()
        found = self.prefixes()
        text = found[0] if len(found) == 1 else f"{low}-{high}"
        if self.protocol:
            text += f"[{PROTOCOL_NAMES.get(self.protocol, str(self.protocol))}{self._port_text()}]"
        elif not self.any_port:
            text += f"[any{self._port_text()}]"
        return text

    def _port_text(self) -> str:
        if self.any_port:
            return ""
        if self.opaque:
            return "/opaque"
        if self.protocol in ICMP_PROTOCOLS:
            first, last = divmod(self.port_low, 256), divmod(self.port_high, 256)
            if first[0] == last[0]:
                return f"/{first[0]}" + ("" if (first[1], last[1]) == (0, 255) else f".{first[1]}-{last[1]}")
            return f"/{first[0]}.{first[1]}-{last[0]}.{last[1]}"
        return f"/{self.port_low}" + ("" if self.port_low == self.port_high else f"-{self.port_high}")


def from_prefix(text: str, protocol: int = 0, ports: tuple[int, int] = ANY_PORTS) -> TrafficSelector:
    """Build a selector from "10.0.0.0/8", "10.0.0.1" or "10.0.0.1-10.0.0.9"; raise ValueError on anything else."""
    if "%" in text:
        raise ValueError(f"{text!r}: a selector takes no scope id")
    if "-" in text:
        first, _, last = text.partition("-")
        low, high = ip_address(first.strip()), ip_address(last.strip())
        if low.version != high.version or int(low) > int(high):
            raise ValueError(f"{text!r}: the range must rise within one address family")
        return TrafficSelector(low.version, int(low), int(high), protocol, *ports)
    network = ip_network(text, strict=True)
    return TrafficSelector(network.version, int(network.network_address), int(network.broadcast_address), protocol,
                           *ports)


def overlap(ours: tuple[TrafficSelector, ...], theirs: tuple[TrafficSelector, ...]) -> bool:
    """Return whether some packet is in both lists."""
    return any(a.intersect(b) is not None for a in ours for b in theirs)
