"""Entries of the ordered SPD as nft sets: boxes of addresses, protocol and ports, cut so that none overlap.

Neighbouring entries of one action share their sets, so that rules grow with changes of action, not with entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ipsecd.intervals import Box, disjoint
from ipsecd.policy import Action, Policy, SpdEntry
from ipsecd.selectors import HAS_PORTS, ICMP_PROTOCOLS, TrafficSelector

GENERATION = "%"                                    # stands in names where the number of the generation goes
_PORTLESS = tuple((low, high) for low, high in ((0, 0), (2, 5), (7, 16), (18, 32), (34, 57), (59, 131), (133, 135),
                                                (137, 255)))  # what HAS_PORTS and ICMP_PROTOCOLS leave


@dataclass(frozen=True, slots=True)
class Run:
    """A set shared by neighbouring entries of one action: see the head of this file."""

    action: Action
    interface: str | None
    version: int
    shape: str                                      # of _SHAPES
    remote_first: bool
    name: str


# Which fields a set has after the two addresses.
_SHAPES = {"a": (), "p": ("inet_proto",), "i": ("inet_proto", "inet_service"),
           "t": ("inet_proto", "inet_service", "inet_service")}


class Sets:
    """Named sets as they are found."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, kind: str, elements: Sequence[str], *, interval: bool = True) -> None:
        """Add a set of the nft type `kind`."""
        flags = " flags interval;" if interval else ""
        body = f" elements = {{ {', '.join(elements)} }};" if elements else ""
        self._lines.append(f"set {name}{GENERATION} {{ type {kind};{flags}{body} }}")

    def text(self) -> str:
        """Return the nft text of all."""
        return "\n".join(self._lines)


def compile_runs(policy: Policy, sets: Sets) -> list[Run]:
    """Add the sets of every entry to `sets`; return them in the order of the SPD."""
    boxes: dict[tuple[int, int, str], list[Box]] = {}
    heads: list[tuple[Action, str | None]] = []
    for entry in policy.entries:
        head = entry.action, entry.interface
        if not heads or heads[-1] != head:
            heads.append(head)
        for version, shape, box in entry_boxes(entry):
            boxes.setdefault((len(heads) - 1, version, shape), []).append(box)
    runs: list[Run] = []
    for (number, version, shape), found in boxes.items():
        # The kernel walks every element whose first field matches: let that be the more varied side.
        remote_first = len({b[1] for b in found}) > len({b[0] for b in found})
        name = f"s{number}_{version}{shape}"
        elements = [element(version, (b[1], b[0], *b[2:]) if remote_first else b) for b in disjoint(found)]
        address = f"ipv{version}_addr"
        sets.add(name, " . ".join((address, address, *_SHAPES[shape])), elements)
        runs.append(Run(*heads[number], version, shape, remote_first, name))
    return runs


def entry_boxes(entry: SpdEntry) -> Iterator[tuple[int, str, Box]]:
    """Yield (family, shape, box) of one entry: local, remote, then protocol and ports as the shape has them."""
    for local in entry.local:
        for remote in entry.remote:
            if local.version != remote.version:
                continue
            if local.protocol and remote.protocol and local.protocol != remote.protocol:
                continue
            addresses = (local.low, local.high), (remote.low, remote.high)
            for shape, upper in _upper_layers(local, remote):
                yield local.version, shape, addresses + upper


def _upper_layers(local: TrafficSelector, remote: TrafficSelector) -> Iterator[tuple[str, Box]]:
    """Yield what a pair of selectors says about protocol and ports (RFC 4301 4.4.1.1)."""
    protocol = local.protocol or remote.protocol
    if local.any_port and remote.any_port:
        yield ("p", ((protocol, protocol),)) if protocol else ("a", ())
        return
    if local.opaque or remote.opaque:
        # Reassembled packets hide their ports only where the protocol has none.
        if all(s.opaque or s.any_port for s in (local, remote)):
            yield from (("p", (span,)) for span in _PORTLESS if not protocol or span[0] <= protocol <= span[1])
        return
    ours, theirs = (local.port_low, local.port_high), (remote.port_low, remote.port_high)
    icmp = max(ours[0], theirs[0]), min(ours[1], theirs[1])     # one type and code serves both sides
    for number in (protocol,) if protocol else (*ICMP_PROTOCOLS, *sorted(HAS_PORTS)):
        if number not in ICMP_PROTOCOLS:
            yield "t", ((number, number), ours, theirs)
        elif icmp[0] <= icmp[1]:
            yield "i", ((number, number), icmp)


def element(version: int, box: Box) -> str:
    """Return a set element; the fields whose bounds are addresses are the first two at most."""
    kind = IPv4Address if version == 4 else IPv6Address
    texts: list[str] = []
    for index, (low, high) in enumerate(box):
        first, last = (kind(low), kind(high)) if index < 2 else (low, high)
        texts.append(f"{first}" if low == high else f"{first}-{last}")
    return " . ".join(texts)
