"""A datagram on the simulated network, and the box in its way that changes where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from ipsecd.ike.wire.header import IkeHeader
from ipsecd.sa import Endpoint


@dataclass(frozen=True)
class Datagram:
    """One datagram on the wire."""

    source: Endpoint
    destination: Endpoint
    data: bytes

    @property
    def header(self) -> IkeHeader:
        return IkeHeader.parse(self.data)


class Nat:
    """Maps each inside endpoint to a port of its own (RFC 4787: endpoint-independent); `rebind` forgets it all."""

    def __init__(self, outside: str) -> None:
        self.outside = outside
        self._ports = count(40000)
        self._out: dict[Endpoint, Endpoint] = {}
        self._in: dict[Endpoint, Endpoint] = {}

    def leave(self, datagram: Datagram) -> Datagram:
        return Datagram(self.leave_from(datagram.source), datagram.destination, datagram.data)

    def leave_from(self, source: Endpoint) -> Endpoint:
        """Return what the outside sees of a source."""
        mapped = self._out.get(source)
        if mapped is None:
            mapped = self._out[source] = Endpoint(self.outside, next(self._ports))
            self._in[mapped] = source
        return mapped

    def enter(self, datagram: Datagram) -> Datagram | None:
        inside = self._in.get(datagram.destination)
        return Datagram(datagram.source, inside, datagram.data) if inside else None

    def rebind(self) -> None:
        self._out.clear()
        self._in.clear()
