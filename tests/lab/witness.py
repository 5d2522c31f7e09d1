"""The stranger on the WAN: sees every frame there and reports what is neither IKE nor ESP nor AH.

What AH carries is readable by intention: it counts as protected here.  A packet filter in the kernel discards all of
these before they reach us, so that the witness keeps up with any load and what it holds is evidence.  ARP, neighbour
discovery and multicast listener reports belong to the link, not to traffic.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable

from tests.support.netns import Node

IPSEC = "(udp port 500 or udp port 4500 or esp or ah)"
LINK = ("arp or (icmp6 and (ip6[40] >= 130 and ip6[40] <= 137 or ip6[40] == 143)) "
        "or (ip6[6] == 0 and ip6[40] == 58 and ip6[48] == 143)")
_ICMP_ERRORS = frozenset({3, 11, 12})            # of RFC 792: what quotes the packet it is about
_ICMP6_ERRORS = frozenset({1, 2, 3, 4})          # RFC 4443


class Witness:
    """Taps on the links of the WAN router that hold only what should not be there."""

    def __init__(self, wan: Node, interfaces: Iterable[str]) -> None:
        self._wan = wan
        self._taps = [wan.tap(name) for name in interfaces]
        for tap in self._taps:
            tap.keep(f"not ({IPSEC}) and not ({LINK})")
            tap.frames(wait_s=0, outgoing=False)     # what came between the tap and its filter
        wan.nft("table inet witness { chain seen { type filter hook prerouting priority raw;\n"
                "  udp dport 500 counter comment \"ike\"\n"
                "  udp dport 4500 @th,64,32 0 counter comment \"ike_natt\"\n"
                "  udp dport 4500 @th,64,32 != 0 counter comment \"esp\"\n"
                "  meta l4proto esp counter comment \"raw_esp\"\n"
                "  ip protocol ah counter comment \"ah\"\n"
                "  ip6 nexthdr ah counter comment \"ah6\"\n"
                "}\n}")

    def strangers(self) -> list[bytes]:
        """Return the frames since the last call that are neither IKE nor ESP nor AH, nor errors about those."""
        # What the router was given counts, not only what it forwards: for a leak it may well have no route.
        return [frame for tap in self._taps for frame in tap.frames(outgoing=False)
                if not _is_error_about_ipsec(frame)]

    def assert_clean(self) -> None:
        """Fail with the first frames if anything but IKE, ESP and AH crossed since the last call."""
        found = self.strangers()
        assert not found, f"{len(found)} frames in clear, such as " + "; ".join(map(describe, found[:5]))

    def counts(self) -> dict[str, int]:
        """Return the packets so far by kind: ike (port 500), ike_natt and esp (both port 4500), raw_esp, ah, ah6."""
        text = self._wan.run("nft", "list", "table", "inet", "witness")
        return {kind: int(count) for count, kind in re.findall(r'packets (\d+) bytes \d+ comment "(\w+)"', text)}


def describe(frame: bytes) -> str:
    """Return addresses and protocol of an Ethernet frame, for messages."""
    kind, packet = int.from_bytes(frame[12:14], "big"), frame[14:]
    if kind == 0x0800:
        source, target = (socket.inet_ntop(socket.AF_INET, packet[at:at + 4]) for at in (12, 16))
        return f"{source} > {target} protocol {packet[9]}, {len(packet)} bytes"
    if kind == 0x86DD:
        source, target = (socket.inet_ntop(socket.AF_INET6, packet[at:at + 16]) for at in (8, 24))
        return f"{source} > {target} next header {packet[6]}, {len(packet)} bytes"
    return f"ethertype {kind:#06x}, {len(packet)} bytes"


def _is_error_about_ipsec(frame: bytes) -> bool:
    """Return whether this is an ICMP error that quotes IKE, ESP or AH: it shows nothing that was not public before."""
    kind, packet = int.from_bytes(frame[12:14], "big"), frame[14:]
    if kind == 0x0800 and packet[9] == 1:
        icmp = packet[(packet[0] & 15) * 4:]
        quoted = icmp[8:]
        return icmp[0] in _ICMP_ERRORS and _has_ipsec_ports(quoted[9], quoted[(quoted[0] & 15) * 4:])
    if kind == 0x86DD and packet[6] == 58:
        return packet[40] in _ICMP6_ERRORS and _has_ipsec_ports(packet[54], packet[88:])
    return False


def _has_ipsec_ports(protocol: int, header: bytes) -> bool:
    in_udp = protocol == 17 and any(int.from_bytes(header[at:at + 2], "big") in (500, 4500) for at in (0, 2))
    return in_udp or protocol in (50, 51)
